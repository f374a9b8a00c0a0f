r"""Convolutions of stacked models by PyTorch's own kernels, one row after the other: on the CPU those of oneDNN.

Where a row has much to do, a call of its own costs nothing beside it, and these kernels come near the peak of a core.
Which rows go this way is decided by sizes alone, so that a run gives the same bits whenever and wherever it is resumed.

Notation: w rows, m rows that share their inputs (r' = r // m), b examples, g gradient of the outputs.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from batchednodes.numerics.convolution.shape import Shape
from batchednodes.numerics.convolution.threading import each_row

_WORTH = 1 << 20
"""Multiply-adds of a row above which its call costs little: some tens of microseconds beside about as many."""

_OUTPUTS, _INPUTS = 16, 8
"""Channels that fill a vector: with fewer outputs, or fewer inputs of whose gradient is asked, ours are faster."""


def takes(x: Tensor, work: int, outputs: int, inputs: int = _INPUTS) -> bool:
    """Returns whether rows are computed here; direct.py and matmul.py compute all others.

    Args:
        x: some tensor of the convolution.
        work: multiply-adds of one row.
        outputs: channels of the output.
        inputs: channels of the input, where its gradient is asked for.
    """
    wide = outputs >= _OUTPUTS and inputs >= _INPUTS
    return wide and work >= _WORTH and x.device.type == "cpu" and x.dtype == torch.float32


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, last: bool) -> Tensor:
    """Returns y [w, b, outputs, H', W'] of x [w / m, b, inputs, H, W] and weight [w, outputs, c, u, v].

    Args:
        last: whether the numbers of a pixel lie side by side in what is computed, see `laid`; so in all functions.
    """
    m = weight.shape[0] // x.shape[0]

    def row(r: int) -> Tensor:
        own = None if bias is None else bias[r]
        return laid(F.conv2d(laid(x[r // m], last), laid(weight[r], last), own, *shape.arguments), last)

    return _rows(row, len(weight))


def weight_gradient(g: Tensor, x: Tensor, weight: tuple[int, ...], shape: Shape, last: bool) -> Tensor:
    """Returns the adjoint of `forward` in a weight of some shape, at g, like y."""
    m, like = g.shape[0] // x.shape[0], g.new_empty(weight[1:])
    return _rows(lambda r: _gradients(laid(g[r], last), laid(x[r // m], last), like, shape, False).contiguous(), len(g))


def input_gradient(g: Tensor, weight: Tensor, size: tuple[int, int], shape: Shape, last: bool) -> Tensor:
    """Returns the adjoint of `forward` in inputs [w, b, inputs, *size], at g, like y."""
    like = blank(g, (g.shape[1], weight.shape[2] * shape.groups, *size), last)
    return _rows(lambda r: laid(_gradients(laid(g[r], last), like, laid(weight[r], last), shape, True), last), len(g))


def laid(images: Tensor, last: bool) -> Tensor:
    """Returns images [..., channels, H, W] of which the channels of a pixel lie side by side, or all of a channel."""
    if not last:
        return images.contiguous()
    return images.movedim(-3, -1).contiguous().movedim(-1, -3)


def blank(like: Tensor, shape: Sequence[int], last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Returns images [..., channels, H, W] of a shape whose numbers are not set, laid out as `laid` says."""
    *others, c, height, width = shape
    if not last:
        return like.new_empty(tuple(shape), dtype=dtype)
    return like.new_empty((*others, height, width, c), dtype=dtype).movedim(-1, -3)


def _gradients(g: Tensor, x: Tensor, weight: Tensor, shape: Shape, of_inputs: bool) -> Tensor:
    """Returns the gradient of inputs or of weights of one row; of what it is, only the shape matters."""
    stride, padding, dilation, groups = shape.arguments
    mask = [of_inputs, not of_inputs, False]
    found = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, (0, 0), groups, mask
    )
    return found[0 if of_inputs else 1]


def _rows(row: Callable[[int], Tensor], w: int) -> Tensor:
    """Returns what a function gives for each of w rows as one tensor, laid out as each is."""
    found: list[Tensor] = [torch.empty(0)] * w

    def part(first: int, last: int) -> None:
        for r in range(first, last):
            found[r] = row(r)

    each_row(w, part)
    return found[0][None] if w == 1 else torch.stack(found)
