r"""Wide convolutions of stacked models, one row after the other, each by the fastest way there is for its sizes.

Where a row has much to do, a call of its own costs nothing beside it. Square kernels that go pixel by pixel are
computed with fewer products (winograd.py), those of one place, or of more weights than places, as one of matrices,
those with strides or few inputs line by line (lines.py), all others by PyTorch's kernels, on the CPU those of oneDNN,
which come near the peak of a core. All is decided by sizes alone, so that a run gives the same bits whenever and
wherever it is resumed.

Notation: w rows, m rows that share their inputs (r' = r // m), b examples, g gradient of the outputs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from batchednodes.numerics.convolution import lines, winograd
from batchednodes.numerics.convolution.panels import LANES
from batchednodes.numerics.convolution.shape import Pair, Shape
from batchednodes.numerics.convolution.threading import each_part, each_row

Way = Literal["tiles", "products", "lines", "library"]
"""How a row is computed: by fewer products (winograd.py), by one of matrices, line by line, or by PyTorch's kernels."""

WORDS: dict[Way, str] = {
    "tiles": "fewer products (Winograd), row by row",
    "products": "a product of matrices, row by row",
    "lines": "line by line, row by row",
    "library": "PyTorch's kernels, row by row",
}
"""What a plan says of each."""

_WORTH = 1 << 20
"""Multiply-adds of a row above which its call costs little: some tens of microseconds beside about as many."""

_OUTPUTS, _INPUTS = 16, 8
"""Channels that fill a vector: with fewer outputs, or fewer inputs of whose gradient is asked, direct.py is faster."""

_THIN = 4
"""Times as much that a row of fewer inputs must have to do."""

_FEW = 8
"""Numbers of a column for each place from which on weights, of which oneDNN makes copies, are the larger part."""


def takes(x: Tensor, work: int, outputs: int, inputs: int, back: bool = False) -> bool:
    """Returns whether rows are computed here; direct.py and matmul.py compute all others.

    Args:
        x: some tensor of the convolution.
        work: multiply-adds of one row.
        outputs: channels of the output.
        inputs: channels of the input.
        back: whether the gradient of inputs is asked for.
    """
    thin = inputs < _INPUTS
    wide = outputs >= _OUTPUTS and work >= (_THIN if thin else 1) * _WORTH and not (thin and back)
    return wide and x.device.type == "cpu" and x.dtype == torch.float32


@functools.lru_cache(4096)
def way(shape: Shape, weight: tuple[int, ...], outputs: tuple[int, ...], b: int) -> Way:
    """Returns how a row is computed, by sizes: those of its weight, o c k k, of its outputs, H' W', and b examples."""
    _, c, *kernel = weight
    if winograd.fits(shape, weight, outputs, b):
        return "tiles"
    narrow = kernel == [1, 1] and shape.padding == (0, 0)
    few = _FEW * b * math.prod(outputs) <= c * math.prod(kernel)
    if shape.groups == 1 and (narrow or few):
        return "products"
    return "lines" if lines.fits(shape, weight, outputs) else "library"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, last: bool) -> Tensor:
    """Returns y [w, b, outputs, H', W'] of x [w / m, b, inputs, H, W] and weight [w, outputs, c, u, v].

    Args:
        last: whether the numbers of a pixel lie side by side in what is computed, see `laid`; so in all functions.
    """
    (w, *sizes), places = weight.shape, shape.outputs(x.shape[3:], weight.shape[3:])
    m, how = w // x.shape[0], way(shape, tuple(sizes), places, x.shape[1])
    if how == "tiles":
        start = weight.new_zeros(weight.shape[:2]) if bias is None else bias.detach().contiguous()
        return _by_tiles(x, weight, start, (shape.padding, False), (sizes[0], *places), last)
    if how == "lines":
        start = weight.new_zeros(weight.shape[:2]) if bias is None else bias.detach().contiguous()
        y = torch.empty(w, x.shape[1], *places, sizes[0])
        arrays, work = [_pixels(x), weight.contiguous().numpy(), start.numpy()], y.numel() * math.prod(sizes[1:])
        each_part(w, work, lines.forward, *arrays, shape.stride, shape.padding, y.numpy())
        return laid(y.permute(0, 1, 4, 2, 3), last)

    def row(r: int) -> Tensor:
        own = None if bias is None else bias[r]
        if how == "products":
            matrix, columns = weight[r].flatten(1), _columns(x[r // m], shape, sizes[2:])
            y = columns @ matrix.T if own is None else torch.addmm(own, columns, matrix.T)
            return laid(y.unflatten(0, (-1, *places)).permute(0, 3, 1, 2), last)
        return laid(F.conv2d(laid(x[r // m], last), laid(weight[r], last), own, *shape.arguments), last)

    return _rows(row, w)


def weight_gradient(g: Tensor, x: Tensor, weight: tuple[int, ...], shape: Shape, last: bool) -> Tensor:
    """Returns the adjoint of `forward` in a weight of some shape, at g, like y."""
    w, o, *_ = weight
    m, how = w // x.shape[0], way(shape, weight[1:], tuple(g.shape[3:]), g.shape[1])
    like = g.new_empty(weight if how in ("tiles", "lines") else weight[1:])
    if how in ("tiles", "lines"):
        work, arrays = g.numel() * math.prod(weight[2:]), [_pixels(t) for t in (g, x)]
        if how == "tiles":
            each_part(w, work, winograd.weight_gradient, *arrays, shape.padding, like.view(*weight[:3], -1).numpy())
        else:
            each_part(w, work, lines.weight_gradient, *arrays, shape.stride, shape.padding, like.numpy())
        return like

    def row(r: int) -> Tensor:
        if how == "products":
            outputs = g[r].permute(0, 2, 3, 1).reshape(-1, o)
            return (outputs.T @ _columns(x[r // m], shape, weight[3:])).view(weight[1:])
        return _gradients(laid(g[r], last), laid(x[r // m], last), like, shape, False).contiguous()

    return _rows(row, w)


def input_gradient(g: Tensor, weight: Tensor, size: tuple[int, int], shape: Shape, last: bool) -> Tensor:
    """Returns the adjoint of `forward` in inputs [w, b, inputs, *size], at g, like y."""
    w, o, c, *kernel = weight.shape
    how = way(shape, tuple(weight.shape[1:]), tuple(g.shape[3:]), g.shape[1])
    if how == "tiles":
        padding, start = (kernel[0] - 1 - shape.padding[0], kernel[1] - 1 - shape.padding[1]), weight.new_zeros(w, c)
        return _by_tiles(g, weight, start, (padding, True), (c, *size), last)
    if how == "lines" and c % LANES == 0:
        out, arrays = torch.empty(w, g.shape[1], *size, c), [_pixels(g), weight.contiguous().numpy()]
        work = g.numel() * math.prod(weight.shape[2:])
        each_part(w, work, lines.input_gradient, *arrays, shape.stride, shape.padding, out.numpy())
        return laid(out.permute(0, 1, 4, 2, 3), last)
    like = blank(g, (g.shape[1], c * shape.groups, *size), last)

    def row(r: int) -> Tensor:
        if how == "products":
            columns = g[r].permute(0, 2, 3, 1).reshape(-1, o) @ weight[r].flatten(1)
            return laid(_images(columns, like, shape, kernel), last)
        return laid(_gradients(laid(g[r], last), like, laid(weight[r], last), shape, True), last)

    return _rows(row, w)


def _by_tiles(
    x: Tensor, weight: Tensor, bias: Tensor, how: tuple[Pair, bool], size: tuple[int, int, int], last: bool
) -> Tensor:
    """Returns the outputs [w, b, *size] by the kernels of Winograd; how: padding, and whether kernels are turned."""
    (w, *sizes), (o, height, width), b = weight.shape, size, x.shape[1]
    y, kernels = torch.empty(w, b, height, width, o), weight.contiguous().view(w, *sizes[:2], -1)
    work = y.numel() * math.prod(sizes[1:])
    each_part(w, work, winograd.forward, _pixels(x), kernels.numpy(), bias.numpy(), *how, y.numpy())
    return laid(y.permute(0, 1, 4, 2, 3), last)


def _pixels(images: Tensor) -> np.ndarray:
    """Returns images [w, b, c, H, W] as an array [w, b, H, W, c], copied where channels do not lie side by side."""
    return images.permute(0, 1, 3, 4, 2).contiguous().numpy()


def _columns(x: Tensor, shape: Shape, kernel: Sequence[int]) -> Tensor:
    """Returns the columns [places, c u v] of images [b, c, H, W]."""
    if tuple(kernel) == (1, 1) and shape.padding == (0, 0):
        return x[:, :, :: shape.stride[0], :: shape.stride[1]].permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    found = F.unfold(x, (kernel[0], kernel[1]), shape.dilation, shape.padding, shape.stride)
    return found.transpose(1, 2).flatten(0, 1)


def _images(columns: Tensor, like: Tensor, shape: Shape, kernel: Sequence[int]) -> Tensor:
    """Returns the adjoint of `_columns` in images like some."""
    (b, c, *size), stride = like.shape, shape.stride
    if tuple(kernel) == (1, 1) and shape.padding == (0, 0):
        out = torch.zeros_like(like)
        some = out[:, :, :: stride[0], :: stride[1]]
        some.copy_(columns.view(b, *some.shape[2:], c).permute(0, 3, 1, 2))
        return out
    found = columns.unflatten(0, (b, -1)).transpose(1, 2)
    return F.fold(found, (size[0], size[1]), (kernel[0], kernel[1]), shape.dilation, shape.padding, stride)


def laid(images: Tensor, last: bool) -> Tensor:
    """Returns images [..., channels, H, W] of which the channels of a pixel lie side by side, or all of a channel."""
    if not last:
        return images.contiguous()
    turned = images.movedim(-3, -1)
    return images if turned.is_contiguous() else turned.contiguous().movedim(-1, -3)


def blank(like: Tensor, shape: Sequence[int], last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Returns images [..., channels, H, W] of a shape whose numbers are not set, laid out as `laid` says."""
    *others, c, height, width = shape
    if not last:
        return like.new_empty(tuple(shape), dtype=dtype)
    made = torch.empty((*others, height, width, c), dtype=dtype or like.dtype, device=like.device)
    return made.movedim(-1, -3)


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
