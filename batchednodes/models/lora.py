r"""LoRA: layers of a frozen module with two thin trainable matrices beside their weights.

A layer computes with W and then adds s B A x, of A [r, inputs] and B [outputs, r]: where many models are computed at
once, W is one matrix for all of them, and what each has of its own are two thin products. A module keeps its structure
and the names of what it holds: layers get another class, and the parameters `lora_A` and `lora_B` beside their own.

Notation: r rank, s scale, b examples, t queries, k keys, e width of attention, h heads.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Float
from torch import Tensor, nn

from batchednodes.numerics.values import shown

A, B = "lora_A", "lora_B"
"""Names of the parameters of an adapted layer; they are those of PEFT's files."""

_KEY = "task.model.adapter"

_NAMED = 5
"""The most layers that a message names."""


def _matrices(layer: Any) -> tuple[Tensor, Tensor]:
    """Returns A and B."""
    return layer.lora_A, layer.lora_B


def _scaled(layer: Any, made: Tensor) -> Tensor:
    """Returns s times what A makes."""
    return made if layer.lora_scale == 1.0 else made * layer.lora_scale


class AdaptedLinear(nn.Linear):
    """W x + s B A x + bias."""

    def forward(self, input: Tensor) -> Tensor:
        down, up = _matrices(self)
        return super().forward(input) + F.linear(_scaled(self, F.linear(input, down)), up)


class AdaptedEmbedding(nn.Embedding):
    """Row i of W + s (B A)', of A [r, rows] and B [columns, r]."""

    def forward(self, input: Tensor) -> Tensor:
        down, up = _matrices(self)
        return super().forward(input) + F.linear(_scaled(self, F.embedding(input, down.T, self.padding_idx)), up)


class AdaptedConv2d(nn.Conv2d):
    """The convolution by W, plus one by A and one of 1 x 1 by s B after it."""

    def forward(self, input: Tensor) -> Tensor:
        down, up = _matrices(self)
        made = _scaled(self, self._conv_forward(input, down, None))  # with stride and padding
        return super().forward(input) + F.conv2d(made, up)


class AdaptedAttention(nn.MultiheadAttention):
    """Attention whose packed projection has an adapter."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns outputs, and weights where they are asked for; arguments as of PyTorch's own."""
        unbatched = query.ndim == 2
        q, k, v = self._projected(*self._batches_first(query, key, value))
        mask = _both(attn_mask, key_padding_mask, (*q.shape[:3], k.shape[2]), q)
        p = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), p, self.training)
            made = weights @ v
        else:
            weights, made = None, F.scaled_dot_product_attention(q, k, v, mask, p)
        made = self.out_proj(made.transpose(1, 2).flatten(2))
        made = made if self.batch_first or unbatched else made.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if unbatched:
            made, weights = made.squeeze(0), None if weights is None else weights.squeeze(0)
        return made, weights

    def _batches_first(self, *inputs: Tensor) -> list[Tensor]:
        """Returns inputs [b, t, e]; what is one tensor stays one."""
        made: dict[int, Tensor] = {}
        for x in inputs:
            turned = x if self.batch_first else x.transpose(0, 1) if x.ndim == 3 else x
            made.setdefault(id(x), turned.unsqueeze(0) if x.ndim == 2 else turned)
        return [made[id(x)] for x in inputs]

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        """Returns queries, keys and values [b, h, t, e / h]."""
        weight, bias, (down, up) = self.in_proj_weight, self.in_proj_bias, _matrices(self)
        if inputs[0] is inputs[1] is inputs[2]:
            made = F.linear(inputs[0], weight, bias) + F.linear(_scaled(self, F.linear(inputs[0], down)), up)
            parts = [*made.chunk(3, -1)]
        else:
            biases = [None, None, None] if bias is None else bias.chunk(3)
            each = zip(inputs, weight.chunk(3), biases, up.chunk(3), strict=True)
            parts = [F.linear(x, w, c) + F.linear(_scaled(self, F.linear(x, down)), own) for x, w, c, own in each]
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]


def _both(mask: Tensor | None, padding: Tensor | None, shape: Sequence[int], like: Tensor) -> Tensor | None:
    """Returns what is added to scores for a mask [t, k] or [b h, t, k] and keys that are padding [b, k]."""
    found = None if mask is None else _added(mask, like)
    if found is not None and found.ndim == 3:
        found = found.view(shape)
    if padding is not None:
        own = _added(padding.view(-1, 1, 1, shape[-1]), like)
        found = own if found is None else found + own
    return found


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Returns numbers to add for a mask, which keeps out what it calls True."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


_ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: AdaptedLinear,
    nn.Embedding: AdaptedEmbedding,
    nn.Conv2d: AdaptedConv2d,
    nn.MultiheadAttention: AdaptedAttention,
}
"""Classes with adapters for classes of PyTorch."""


# --------------------------------------------------------------------------------------------------------- adapting


def adapt_(module: nn.Module, targets: Sequence[str], rank: int, scale: float, trains: Sequence[str]) -> None:
    """Freezes a module, puts adapters of zeros into some of its layers, and lets nothing but these and a rest train.

    Args:
        module: of a user's; changed.
        targets: what names of layers end with, or patterns of that.
        rank: of the adapters.
        scale: factor of what they add.
        trains: the same, of modules or parameters that train besides.

    Raises:
        ValueError: nothing has such a name, or a layer cannot have adapters, or none of that rank.
    """
    known = dict(module.named_modules())
    inside = {f"{name}.out_proj" if name else "out_proj" for name, m in known.items() if _is_attention(m)}
    chosen = dict.fromkeys(name for pattern in targets for name in _targeted(pattern, known, inside))
    heads = [name for pattern in trains for name in _trained(pattern, module)]
    module.requires_grad_(False)
    tensors = Counter(id(w) for part in module.modules() for w in part.parameters(recurse=False))
    for name in chosen:
        layer = known[name]
        _check(name, layer, tensors)
        _add_(name, layer, rank, scale)
        layer.__class__ = _ADAPTED[type(layer)]
    for name in heads:
        module.get_parameter(name).requires_grad_(True)
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0  # else it would compute with weights alone in evaluation mode


def _targeted(pattern: str, known: dict[str, nn.Module], inside: set[str]) -> list[str]:
    """Returns the names of the layers that a pattern means."""
    found = [name for name in known if _ends(name, pattern)]
    able = [name for name in found if type(known[name]) in _ADAPTED and name not in inside]
    if able:
        return able
    rule = f"{_KEY}.targets must "
    if found:
        name, kinds = found[0], ", ".join(kind.__name__ for kind in _ADAPTED)
        got = f"got {shown(pattern)}, which means {type(known[name]).__name__} at {name or 'the top'!r}"
        fix = "; attention computes with its weight alone" if name in inside else ""
        raise ValueError(f"{rule}mean layers of type {kinds}, {got}{fix}")
    names = [name or "*" for name, part in known.items() if type(part) in _ADAPTED and name not in inside]
    raise ValueError(f"{rule}be ends of names of layers, got {shown(pattern)}, which none has{_near(pattern, names)}")


def _trained(pattern: str, module: nn.Module) -> list[str]:
    """Returns the names of the parameters that a pattern means, by their own names or those of what holds them."""
    names = [name for name, w in module.named_parameters() if w.is_floating_point()]
    parts = {name: [name[:at] for at, letter in enumerate(name) if letter == "."] for name in names}
    found = [name for name in names if any(_ends(one, pattern) for one in (name, *parts[name]))]
    if not found:
        rule = f"{_KEY}.trains must be ends of names of modules or parameters, got {shown(pattern)}, which none has"
        owners = [name.rpartition(".")[0] or name for name in names]
        raise ValueError(rule + _near(pattern, [*dict.fromkeys([*owners, *names])]))
    return found


def _ends(name: str, pattern: str) -> bool:
    """Returns whether a name, from its beginning or a dot on, is as a pattern says."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _near(pattern: str, names: Sequence[str]) -> str:
    """Returns which name may be meant, or which there are."""
    ends = dict.fromkeys(end for name in names for end in (name.rpartition(".")[2], name))
    near = difflib.get_close_matches(pattern, ends, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    some = ", ".join(dict.fromkeys(names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
    return f"; there are {some}" if names else "; it has none"


def _is_attention(part: nn.Module) -> bool:
    return isinstance(part, nn.MultiheadAttention)


def _check(name: str, layer: nn.Module, tensors: Counter[int]) -> None:
    """Refuses a layer whose computation is not that of two products beside one."""
    why = None
    if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or {*layer.dilation} != {1} or layer.padding_mode != "zeros"):
        why = "groups, dilation or a padding_mode"
    elif isinstance(layer, nn.MultiheadAttention) and (
        layer.in_proj_weight is None or layer.bias_k is not None or layer.add_zero_attn
    ):
        why = "kdim, vdim, add_bias_kv or add_zero_attn"
    elif isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        why = "max_norm or scale_grad_by_freq"
    elif any(tensors[id(w)] > 1 for w in layer.parameters(recurse=False)):
        why = "a weight that another layer has too"
    if why:
        got = f"got {type(layer).__name__} at {name or 'the top'!r} with {why}"
        raise ValueError(f"{_KEY}.targets must mean layers of plain products, {got}; leave it out")


def weight(layer: nn.Module) -> Any:
    """Returns the weight beside which a layer has adapters."""
    return layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight


def _sides(layer: nn.Module) -> list[int]:
    """Returns how many numbers a layer puts out, and the shape of what it takes."""
    shape = weight(layer).shape
    return [*reversed(shape)] if isinstance(layer, nn.Embedding) else [*shape]


def _add_(name: str, layer: Any, rank: int, scale: float) -> None:
    """Adds the parameters of an adapter to a layer."""
    like = weight(layer)
    out, *inputs = _sides(layer)
    most = min(out, math.prod(inputs))
    if rank > most:
        got = f"the smaller side of {type(layer).__name__} at {name or 'the top'!r}, got {rank}"
        raise ValueError(f"{_KEY}.rank must be at most {most}, {got}; lower it, or leave that out of targets")
    layer.register_parameter(A, nn.Parameter(like.new_zeros(rank, *inputs)))
    layer.register_parameter(B, nn.Parameter(like.new_zeros(out, rank, *(1 for _ in inputs[1:]))))
    layer.lora_scale = scale


# ------------------------------------------------------------------------------------------------- what it then has


def adapted(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields name and layer of all that has an adapter."""
    return ((name, part) for name, part in module.named_modules() if A in part._parameters)


def others(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and value of what trains besides adapters."""
    for name, w in module.named_parameters():
        if w.requires_grad and name.rpartition(".")[2] not in (A, B):
            yield name, w


def draw_(module: nn.Module, named: Mapping[str, Tensor]) -> None:
    """Writes initial values of adapters, which add nothing, by PyTorch's generator.

    Args:
        module: an adapted one.
        named: what is written, by names of parameters.
    """
    for name, layer in adapted(module):
        word = B if isinstance(layer, nn.Embedding) else A  # as in PEFT
        drawn = torch.empty(getattr(layer, word).shape)
        drawn = nn.init.normal_(drawn) if word == B else nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))
        named[f"{name}.{word}" if name else word].copy_(drawn)


def delta(layer: Any) -> Float[Tensor, "..."]:
    """Returns what an adapter adds to the weight of its layer: s B A, in the shape of the weight."""
    with torch.no_grad():
        product = layer.lora_scale * (layer.lora_B.flatten(1) @ layer.lora_A.flatten(1))
        return product.T if isinstance(layer, nn.Embedding) else product.view_as(weight(layer))


def merged(module: nn.Module, plain: nn.Module) -> nn.Module:
    """Returns a module as it was before it was adapted, with the sums of weights, and all else that was trained.

    Args:
        module: the adapted one.
        plain: the module before; changed.
    """
    plain.to(next(module.parameters()))
    with torch.no_grad():
        for name, w in others(module):
            plain.get_parameter(name).copy_(w)
        for name, layer in adapted(module):
            weight(plain.get_submodule(name)).add_(delta(layer))
    return plain
