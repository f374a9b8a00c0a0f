r"""Stand-ins: what is called in place of some functions of PyTorch while a module's forward runs.

Dropout draws by address. What `torch.func.vmap` carries one row at a time only is composed of what it carries whole,
and what writes into a tensor of its own gets one that has rows where the weights do.

Notation: q queries, s keys, d features of a head, V rows of a table.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Float, Int64
from torch import Tensor
from torch.overrides import TorchFunctionMode

from batchednodes.models.dropout import alpha_drop, drop, kept
from batchednodes.numerics.tape import recurrent

Function = Callable[..., Any]


class StandIns(TorchFunctionMode):
    """One forward pass with stand-ins."""

    def __init__(
        self, key: Int64[Tensor, ""] | None, stacked: bool, like: Tensor | None = None, guarded: bool = False
    ) -> None:
        """Begins a forward pass.

        Args:
            key: of the minibatch step, by which masks are drawn; None: they keep everything.
            stacked: whether the pass runs under vmap.
            like: a tensor that has rows there, as tensors that are made in the pass shall have; None: they are left.
            guarded: whether rows are looked up such that an index out of range cannot reach those of another node.
        """
        super().__init__()
        self.key, self.stacked, self.like, self.guarded = key, stacked, like, guarded
        self.masks, self.used = 0, False

    def __torch_function__(
        self, func: Function, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Returns what a function, or its stand-in, returns; this mode is off inside."""
        kwargs = kwargs or {}
        if func in _STAND_INS:
            return _STAND_INS[func](self, func, *args, **kwargs)
        if isinstance(func, FunctionType) and func.__globals__ is vars(F):
            with self:
                return _inside(func)(*args, **kwargs)
        out = func(*args, **kwargs)
        return self.anchored(out) if self.like is not None and func in _MAKERS else out

    def anchored(self, made: Tensor) -> Tensor:
        """Returns a copy of a tensor that has rows where `like` has."""
        assert self.like is not None
        return self.like.new_empty(made.shape, dtype=made.dtype, device=made.device).copy_(made)

    def mask(self, x: Tensor, shape: Sequence[int], p: float) -> Tensor:
        """Returns the next dropout mask of the pass, on the device of x; it keeps with probability 1 - p."""
        self.masks, self.used = self.masks + 1, True
        if self.key is None:
            return torch.ones(*shape, dtype=torch.bool, device=x.device)
        return kept(self.key, self.masks - 1, shape, p)


@functools.cache
def _inside(func: FunctionType) -> FunctionType:
    """Returns a function of torch.nn.functional that runs its body under a function mode in place of asking it."""
    asks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    inner = FunctionType(func.__code__, vars(F) | dict.fromkeys(asks, _no), func.__name__, func.__defaults__)
    inner.__kwdefaults__ = func.__kwdefaults__
    return inner


def _no(*_: object) -> bool:
    return False


# ---------------------------------------------------------------------------------------------------------- dropout


def _dropout(mode: StandIns, func: Function, input: Tensor, p: float | int, train: bool) -> Tensor:
    """Stands in for dropout of elements, or of whole channels, plain or alpha, in place or not."""
    if not train or p == 0:
        return input
    name = func.__name__
    shape = [*input.shape[:2], *(1 for _ in input.shape[2:])] if name.startswith("feature") else input.shape
    made = (alpha_drop if "alpha" in name else drop)(input, mode.mask(input, shape, p), p)
    return input.copy_(made) if name.endswith("_") else made


def _native_dropout(
    mode: StandIns,
    func: Function,
    input: Tensor,
    p: float | int,
    train: bool | None,
) -> tuple[Tensor, Tensor]:
    if train is False or p == 0:
        return input, torch.ones_like(input, dtype=torch.bool)
    mask = mode.mask(input, input.shape, p)
    return drop(input, mask, p), mask


def _recurrent(mode: StandIns, func: Function, *args: Any) -> Any:
    """Stands in for an LSTM, GRU or RNN: layers with dropout between them run one after the other."""
    if func is torch.lstm and mode.stacked:
        mode.used = True
        if recurrent.takes(args):
            return _layers(mode, recurrent.layers, *args)
        with _without_onednn():  # whose LSTM takes one row at a time
            return _layers(mode, func, *args)
    return _layers(mode, func, *args)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Lets PyTorch compose what oneDNN has whole; `torch.backends.mkldnn.flags` warns of GPUs."""
    on = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(on)


def _layers(mode: StandIns, func: Function, *args: Any) -> Any:
    """Returns what layers of an LSTM, GRU or RNN give."""
    packed = isinstance(args[3], list | tuple)
    inputs, (states, weights, biases, layers, p, train, both, *rest) = args[: 1 + packed], args[1 + packed :]
    if not train or p == 0 or layers == 1:
        return func(*args)
    each, ways, ends = len(weights) // layers, 1 + both, []
    single = isinstance(states, Tensor)
    for k in range(layers):
        part = slice(k * ways, (k + 1) * ways)
        begin = states[part] if single else [state[part] for state in states]
        out, *end = func(*inputs, begin, weights[k * each : (k + 1) * each], biases, 1, 0.0, train, both, *rest)
        ends.append(end)
        if k + 1 < layers:
            out = drop(out, mode.mask(out, out.shape, p), p)
        inputs = out, *inputs[1:]
    return inputs[0], *(torch.cat(parts) for parts in zip(*ends, strict=True))


# -------------------------------------------------------------------------------------------------------- attention


def _attention(
    mode: StandIns,
    func: Function,
    query: Float[Tensor, "... q d"],
    key: Float[Tensor, "... s d"],
    value: Float[Tensor, "... s v"],
    attn_mask: Tensor | None = None,
    dropout_p: float | int = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "... q v"]:
    """Stands in for scaled dot-product attention: softmax(scale Q K') V, with dropout of the weights."""
    mode.used = True
    if not mode.stacked and dropout_p == 0:
        more = {"scale": scale, "enable_gqa": enable_gqa}
        return func(query, key, value, attn_mask, 0.0, is_causal, **more)
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:  # each query sees the first key
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    weights = scores.softmax(-1) if attn_mask is None else _masked_softmax(scores, attn_mask)
    if dropout_p > 0:
        weights = drop(weights, mode.mask(weights, weights.shape, dropout_p), dropout_p)
    return weights @ value


def _masked_softmax(scores: Float[Tensor, "... q s"], mask: Tensor) -> Float[Tensor, "... q s"]:
    """Returns the softmax of scores where a mask says True, or plus the mask; 0 for a query that sees no key."""
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    blind = (scores == -math.inf).all(-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)


def _left_aligned(mode: StandIns, func: Function, *args: Tensor) -> bool:
    """Stands in for the question whether an encoder may leave padding out, which depends on values: it does not."""
    mode.used = True
    return False


# --------------------------------------------------------------------------------------------------------- products


def _bilinear(
    mode: StandIns,
    func: Function,
    input1: Float[Tensor, "... i"],
    input2: Float[Tensor, "... j"],
    weight: Float[Tensor, "o i j"],
    bias: Tensor | None = None,
) -> Float[Tensor, "... o"]:
    """Stands in for the bilinear form of each output."""
    mode.used = True
    if not mode.stacked:
        return func(input1, input2, weight, bias)
    made = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return made if bias is None else made + bias


def _weight_norm(mode: StandIns, func: Function, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Stands in for weights of length g, in the direction of v, along all dimensions but one; -1: along all."""
    mode.used = True
    if not mode.stacked:
        return func(v, g, dim)
    others = [k for k in range(v.ndim) if k != dim]
    return v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1))


def _view_as_complex(mode: StandIns, func: Function, input: Float[Tensor, "... 2"]) -> Tensor:
    """Stands in for pairs as complex numbers, which may lie at any place of a row."""
    mode.used = True
    return func(input.clone(memory_format=torch.contiguous_format))


# ---------------------------------------------------------------------------------------------------------- writing


def _set(mode: StandIns, func: Function, target: Tensor, index: Any, value: Any) -> None:
    """Stands in for one value at the places of a mask, of which there may be any number."""
    masked = isinstance(index, Tensor) and index.dtype == torch.bool
    if not masked or (isinstance(value, Tensor) and value.ndim > 0):
        return func(target, index, value)
    mode.used = True
    mask = index.view(*index.shape, *(1 for _ in range(target.ndim - index.ndim)))
    target.copy_(torch.where(mask, value, target))
    return None


# ---------------------------------------------------------------------------------------------------------- look-ups


def _embedding(
    mode: StandIns,
    func: Function,
    weight: Float[Tensor, "V d"],
    input: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Stands in for the rows of a table: gradients are dense, and guarded ones look each row up in its own table."""
    mode.used |= sparse
    if mode.guarded and mode.stacked and scale_grad_by_freq:
        raise ValueError("scale_grad_by_freq of an embedding whose indices training may decide; leave it False")
    if not (mode.guarded and mode.stacked):
        return func(weight, input, padding_idx, scale_grad_by_freq, False)
    rows = weight.gather(0, input.reshape(-1, 1).expand(-1, weight.shape[1]))
    rows = rows.view(*input.shape, weight.shape[1])
    return torch.where((input == padding_idx).unsqueeze(-1), rows.detach(), rows)


def _index_fill(mode: StandIns, func: Function, input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """Stands in for rows that are filled with a number, where an index out of range would fill another node's."""
    if not (mode.guarded and mode.stacked):
        return func(input, dim, index, value)
    size = input.shape[dim]
    marks = index.new_zeros(size).scatter(0, torch.where(index < 0, index + size, index).flatten(), 1)
    shape = [-1 if k == dim % input.ndim else 1 for k in range(input.ndim)]
    made = torch.where(marks.view(shape) > 0, value, input)
    return input.copy_(made) if func is Tensor.index_fill_ else made


def _renorm(mode: StandIns, func: Function, *args: object) -> None:
    raise ValueError("max_norm of an embedding, which changes weights in forward; leave it None")


def _bag(
    mode: StandIns,
    func: Function,
    weight: Float[Tensor, "V d"],
    input: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    kind: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...]:
    """Stands in for the sum, mean or maximum of rows of a table over bags of indices."""
    mode.used = True
    if not mode.stacked or scale_grad_by_freq:
        more = (per_sample_weights, include_last_offset, padding_idx)
        return func(weight, input, offsets, scale_grad_by_freq, kind, False, *more)
    bags = offsets.shape[0] - include_last_offset
    places = torch.arange(input.shape[0], device=input.device).unsqueeze(1)
    bag = (places >= offsets[:bags]).sum(1) - 1
    rows = _embedding(mode, torch.embedding, weight, input)
    rows = rows if per_sample_weights is None else rows * per_sample_weights.unsqueeze(1)
    real = torch.ones_like(input, dtype=torch.bool) if padding_idx is None else input != padding_idx
    counts = weight.new_zeros(bags).index_add(0, bag, real.to(weight.dtype)).unsqueeze(1)
    if kind == _MAX:
        most = weight.new_full((bags, weight.shape[1]), -math.inf)
        rows = rows.masked_fill(~real.unsqueeze(1), -math.inf)
        made = most.scatter_reduce(0, bag.unsqueeze(1).expand_as(rows), rows, "amax").masked_fill(counts == 0, 0.0)
    else:
        made = weight.new_zeros(bags, weight.shape[1]).index_add(0, bag, rows.masked_fill(~real.unsqueeze(1), 0.0))
        made = made / counts.clamp(min=1) if kind == _MEAN else made
    return made, bag, counts, counts


def _one_hot(mode: StandIns, func: Function, tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Stands in for one-hot vectors, whose own check of the range asks for values."""
    mode.used = True
    if num_classes < 0:
        raise ValueError("F.one_hot without num_classes, which else depends on the minibatch")
    if not mode.stacked:
        return func(tensor, num_classes)
    return tensor.new_zeros(*tensor.shape, num_classes).scatter(-1, tensor.unsqueeze(-1), 1)


_MEAN, _MAX = 1, 2
"""Numbers by which PyTorch names kinds of bags; 0 is the sum."""

_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")

_STAND_INS: dict[Any, Function] = {
    **{getattr(torch, name + end): _dropout for name in _DROPOUTS for end in ("", "_")},
    **{getattr(torch, name): _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    torch.native_dropout: _native_dropout,
    F.scaled_dot_product_attention: _attention,
    vars(torch)["_nested_tensor_from_mask_left_aligned"]: _left_aligned,
    torch.bilinear: _bilinear,
    vars(torch)["_weight_norm"]: _weight_norm,
    torch.view_as_complex: _view_as_complex,
    Tensor.__setitem__: _set,
    torch.embedding: _embedding,
    torch.embedding_renorm_: _renorm,
    F.one_hot: _one_hot,
    torch.embedding_bag: _bag,
    **dict.fromkeys((torch.index_fill, Tensor.index_fill, Tensor.index_fill_), _index_fill),
}
"""What stands in for which function."""

_MAKERS = {
    *(getattr(torch, name) for name in ("zeros", "ones", "empty", "full", "eye", "tensor", "as_tensor", "asarray")),
    *(getattr(torch, name) for name in ("arange", "linspace", "logspace", "scalar_tensor", "empty_strided", "clone")),
    *(getattr(torch, f"{name}_like") for name in ("zeros", "ones", "empty", "full")),
    *(getattr(Tensor, name) for name in ("clone", "repeat")),
    *(getattr(Tensor, f"new_{name}") for name in ("zeros", "ones", "empty", "full", "tensor")),
}
"""Functions that make a tensor without rows, whatever else has them."""
