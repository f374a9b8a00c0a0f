r"""LSTM of stacked models on the CPU: products of all rows at once or row by row, where vmap has PyTorch compose them.

    i, f, o = sigmoid, g = tanh  of  W_i x_t + W h_{t-1} + b,     c_t = f c_{t-1} + i g,     h_t = o tanh c_t

What inputs give is one product for all steps, and so are the gradients of both weights; the recurrence between is one
kernel a row (lstm.py), which a tape has as one instruction.

Notation: w rows, t steps, b examples, i inputs, h units; c cells, g gradients.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import torch.nn.functional as F  # noqa: N812
from numba import njit
from torch import Tensor
from torch.autograd import Function
from torch.library import custom_op

from batchednodes.numerics.convolution.stacking import apart, rows
from batchednodes.numerics.convolution.threading import each_part
from batchednodes.numerics.tape import lstm
from batchednodes.numerics.tape.assembler import Writer
from batchednodes.numerics.tape.opcodes import Op
from batchednodes.numerics.tape.strides import StridedView, packed

_STACKED = 3
"""Dimensions of stacked weights."""


@njit(nogil=True, cache=True)
@no_type_check
def _forward(pre, blocks, b, h, back, first, last):  # noqa: ANN001, ANN202
    """Fills blocks [w, k] of rows first to last; pre [w, t, b 4 h]."""
    for r in range(first, last):
        lstm.forward(pre[r].ctypes.data, blocks[r], pre.shape[1], b, h, back)


@njit(nogil=True, cache=True)
@no_type_check
def _backward(g, blocks, out, b, h, back, first, last):  # noqa: ANN001, ANN202
    """Writes out [w, k] of rows first to last; g [w, t, b h]."""
    for r in range(first, last):
        lstm.backward(g[r].ctypes.data, blocks[r].ctypes.data, out[r], g.shape[1], b, h, back)


@custom_op("batchednodes::lstm", mutates_args=())
def _lstm(
    pre: Tensor, weight: Tensor, bias: Tensor, first: Tensor, cell: Tensor, back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns outputs [w, t, b, h], those and the cells [w, b, h] after the last step, and a block for the gradient.

    Args:
        pre: what inputs give [w, t, b, 4 h].
        weight: W [w, 4 h, h].
        bias: [w, 4 h].
        first, cell: outputs and cells before the first step [w, b, h].
        back: whether time goes from the last step to the first.
    """
    w, t, b, width = pre.shape
    h = width // 4
    blocks = pre.new_empty(w, lstm.size(t, b, h))
    _, _, cells, outputs, weights, _, biases, _ = lstm.places(t, b, h)
    slot = t * b * h if back else 0
    for value, at in ((cell, cells + slot), (first, outputs + slot), (weight, weights), (bias, biases)):
        blocks[:, at : at + value[0].numel()] = value.detach().flatten(1)
    lines = pre.detach().reshape(w, t, b * width).numpy()
    each_part(w, weight.numel() * t * b, _forward, lines, blocks.numpy(), b, h, back)
    made = blocks[:, outputs:weights].view(w, t + 1, b, h)
    some = blocks[:, cells:outputs].view(w, t + 1, b, h)
    slot = 0 if back else t
    return made[:, :-1].clone() if back else made[:, 1:].clone(), made[:, slot].clone(), some[:, slot].clone(), blocks


@_lstm.register_fake
def _lstm_fake(
    pre: Tensor, weight: Tensor, bias: Tensor, first: Tensor, cell: Tensor, back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w, t, b, width = pre.shape
    h = width // 4
    return (pre.new_empty(w, t, b, h), pre.new_empty(w, b, h), pre.new_empty(w, b, h),
            pre.new_empty(w, lstm.size(t, b, h)))  # fmt: skip


@custom_op("batchednodes::lstm_gradient", mutates_args=())
def _gradient(
    g: Tensor, g_last: Tensor, g_cell: Tensor, block: Tensor, back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of pre, the bias, and outputs and cells before the first step."""
    (w, t, b, h), width = g.shape, 4 * g.shape[3]
    made = g.new_empty(w, (t * b + 1) * width + 2 * b * h)
    pre, bias, first, cell = made.split([t * b * width, width, b * h, b * h], 1)
    first.copy_(g_last.detach().flatten(1))
    cell.copy_(g_cell.detach().flatten(1))
    lines = g.detach().reshape(w, t, b * h).numpy()
    each_part(w, t * b * width * h * w, _backward, lines, block.detach().numpy(), made.numpy(), b, h, back)
    parts = (pre, (w, t, b, width)), (bias, (w, width)), (first, (w, b, h)), (cell, (w, b, h))
    a, c, d, e = (part.reshape(shape) for part, shape in parts)
    return a.clone(), c.clone(), d.clone(), e.clone()


@_gradient.register_fake
def _gradient_fake(
    g: Tensor, g_last: Tensor, g_cell: Tensor, block: Tensor, back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w, t, b, h = g.shape
    return g.new_empty(w, t, b, 4 * h), g.new_empty(w, 4 * h), g.new_empty(w, b, h), g.new_empty(w, b, h)


class _Lstm(Function):
    """Outputs of a layer in one direction, those and cells after its last step, and what the gradient reads."""

    @staticmethod
    def forward(
        pre: Tensor, weight: Tensor, bias: Tensor, first: Tensor, cell: Tensor, back: bool
    ) -> tuple[Tensor, ...]:
        tensors = (pre, weight, bias, first, cell)
        if weight.ndim == _STACKED:
            return _lstm(*tensors, back)
        return tuple(made[0] for made in _lstm(*(t[None] for t in tensors), back))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.back = inputs
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(output[-1], *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradients.apply(*gradients[:3], *ctx.saved_tensors, ctx.back), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, back = args
        n, stacked = info.batch_size, args[1].ndim - (in_dims[1] is not None) == _STACKED
        tensors = [rows(t, dim, n, stacked) for t, dim in zip(tensors, in_dims, strict=False)]
        return tuple(apart(t, n, stacked) for t in _Lstm.apply(*tensors, back)), (0, 0, 0, 0)


class _Gradients(Function):
    """Gradients of all that a layer in one direction is computed from."""

    @staticmethod
    def forward(
        g: Tensor, g_last: Tensor, g_cell: Tensor, block: Tensor, pre: Tensor, weight: Tensor, bias: Tensor,
        first: Tensor, cell: Tensor, back: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        tensors = (g, g_last, g_cell, block)
        alone = weight.ndim != _STACKED
        made = _gradient(*(t[None] for t in tensors), back) if alone else _gradient(*tensors, back)
        of_pre, of_bias, of_first, of_cell = (m[0] for m in made) if alone else made
        t, b, h = g.shape[-3:]
        start = lstm.places(t, b, h)[3] + (b * h if back else 0)
        before = block.narrow(-1, start, t * b * h).unflatten(-1, (t * b, h))
        turned = before.transpose(-1, -2) @ of_pre.flatten(-3, -2)  # a tape makes it as the weight lies
        return of_pre, turned.transpose(-1, -2), of_bias, of_first, of_cell

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.back = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, g_last, g_cell, _, *tensors = ctx.saved_tensors

        def plain(*all_: Tensor) -> tuple[Tensor, ...]:
            pull = torch.func.vjp(lambda *given: _composed(*given, back=ctx.back), *all_[3:])[1]
            return pull(all_[:3])

        pull = torch.func.vjp(plain, g, g_last, g_cell, *tensors)[1]
        of_g, of_last, of_cell, *others = pull(gradients)
        return of_g, of_last, of_cell, None, *others, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, back = args
        n, stacked = info.batch_size, args[5].ndim - (in_dims[5] is not None) == _STACKED
        tensors = [rows(t, dim, n, stacked) for t, dim in zip(tensors, in_dims, strict=False)]
        return tuple(apart(t, n, stacked) for t in _Gradients.apply(*tensors, back)), (0, 0, 0, 0, 0)


def _composed(
    pre: Tensor, weight: Tensor, bias: Tensor, h: Tensor, c: Tensor, back: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns outputs, and those and cells after the last step, by operations with gradients."""
    steps = pre.unbind(-3)
    made = []
    for step in reversed(steps) if back else steps:
        i, f, g, o = (step + bias.unsqueeze(-2) + h @ weight.transpose(-1, -2)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        made.append(h)
    return torch.stack(made[::-1] if back else made, -3), h, c


def takes(args: Sequence[Any]) -> bool:
    """Returns whether `layers` computes what `torch.lstm` does with some arguments.

    It does for real inputs of one length on a CPU, and outputs that are not projected.
    """
    if isinstance(args[1], Tensor):  # inputs of several lengths
        return False
    x, _, weights, biased, layers, _, _, both, _ = args
    if x.device.type != "cpu" or not x.numel():
        return False
    return x.dtype in (torch.float32, torch.float64) and len(weights) == (2 + 2 * biased) * layers * (1 + both)


def layers(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, count: int, p: float, train: bool,
    both: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns what `torch.lstm` gives for the same arguments, without dropout between layers."""
    each, ways, ends = 2 + 2 * biased, 1 + both, []
    x = x.transpose(0, 1) if batch_first else x
    for k in range(count):
        made = []
        for way in range(ways):
            q = k * ways + way
            own, weight, *biases = weights[q * each : (q + 1) * each]
            bias = biases[0] + biases[1] if biased else weight.new_zeros(weight.shape[0])
            out, *end, _ = _Lstm.apply(F.linear(x, own), weight, bias, states[0][q], states[1][q], way == 1)
            made.append(out)
            ends.append(end)
        x = torch.cat(made, -1) if both else made[0]
    first, second = (torch.stack(parts) for parts in zip(*ends, strict=True))
    return x.transpose(0, 1) if batch_first else x, first, second


def forward(
    writer: Writer, pre: StridedView, weight: StridedView, bias: StridedView, first: StridedView, cell: StridedView,
    back: bool,
) -> list[StridedView]:  # fmt: skip
    """Adds the instruction of `_lstm`; returns the places of what it gives."""
    alone = len(pre.shape) == _STACKED
    m, (t, b, width) = 1 if alone else pre.shape[0], pre.shape[-3:]
    h = width // 4
    _, _, cells, outputs, weights, _, biases, end = lstm.places(t, b, h)
    block, old, new = writer.new((m, end)), t * b * h if back else 0, 0 if back else t * b * h

    def part(at: int, *shape: int) -> StridedView:
        view = StridedView(block.base, (m, *shape), (end, *packed(shape)), at)
        return view.without([0]) if alone else view

    writer.add(Op.COPY, part(cells + old, b, h), cell)
    writer.add(Op.COPY, part(outputs + old, b, h), first)
    writer.add(Op.COPY, part(weights, width, h), weight)
    writer.add(Op.COPY, part(biases, width), bias)
    _put(writer, Op.LSTM, block, writer.laid(pre, range(len(pre.shape))), None, (t, b, h, back))
    made = part(outputs + (0 if back else b * h), t, b, h)
    return [made, part(outputs + new, b, h), part(cells + new, b, h), part(0, end)]


def backward(
    writer: Writer, g: StridedView, g_last: StridedView, g_cell: StridedView, block: StridedView, back: bool
) -> list[StridedView]:
    """Adds the instruction of `_gradient`; returns the places of what it gives."""
    alone = len(g.shape) == _STACKED
    m, (t, b, h) = 1 if alone else g.shape[0], g.shape[-3:]
    bias = t * b * 4 * h
    first, end = bias + 4 * h, bias + 4 * h + 2 * b * h
    made = writer.new((m, end))

    def part(at: int, *shape: int) -> StridedView:
        view = StridedView(made.base, (m, *shape), (end, *packed(shape)), at)
        return view.without([0]) if alone else view

    writer.add(Op.COPY, part(first, b, h), g_last)
    writer.add(Op.COPY, part(first + b * h, b, h), g_cell)
    _put(writer, Op.LSTM_BACK, made, writer.laid(g, range(len(g.shape))), block, (t, b, h, back))
    return [part(0, t, b, 4 * h), part(bias, 4 * h), part(first, b, h), part(first + b * h, b, h)]


def _put(
    writer: Writer, op: Op, out: StridedView, a: StridedView, b: StridedView | None, more: tuple[int, ...]
) -> None:
    """Adds an instruction with a turn for each entry of the first dimension of what lies without gaps."""
    m = out.shape[0]
    places = [place for place in (out, a, b) if place is not None]
    writer.put(op, (m, 1, 1), out, a, b, [[place.size // m, 0, 0] for place in places], more=more)
