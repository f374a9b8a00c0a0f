r"""GroupNorm of stacked models: `F.group_norm` where there is one model, a kernel of our own where vmap runs many.

    y = max(a x + s, 0)  or  a x + s,   a = weight / sqrt(var + eps),   s = bias - mean a

with mean and variance of each example and group. The gradient takes them from x again, which costs less than to keep
what lies between. ReLU belongs to it where a program finds that nothing else reads y.

Notation: w rows, b examples, c channels, d channels of a group, g gradient of y, l lines of an image of W pixels each.
"""

from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numba import njit
from torch import Tensor, nn
from torch.autograd import Function
from torch.library import custom_op

from batchednodes.numerics.convolution.library import blank, laid
from batchednodes.numerics.convolution.stacking import apart, rows
from batchednodes.numerics.convolution.threading import each_part

_STACKED = 2
"""Dimensions of stacked weights; inputs have three more."""

_LINE = 256
"""Numbers of a line, at most, where a pixel has fewer channels."""

_COST = 4
"""Passes over x that the kernel makes: counted as multiply-adds, of which a vector is done as fast as it is read."""


@njit(nogil=True, cache=True)
@no_type_check
def _folded(line, channels, out):  # noqa: ANN001, ANN202
    """Writes the sums of a line [W c] over its pixels to out [c]."""
    out[:] = 0
    for k in range(0, line.size, channels):
        for c in range(channels):
            out[c] += line[k + c]


@njit(nogil=True, cache=True)
@no_type_check
def _coefficients(x, weight, bias, groups, eps, lines, sums):  # noqa: ANN001, ANN202
    """Writes mean, a and s of one example x [l, W c] to lines [at least 3, W c], 1 / sqrt(var + eps) to sums[2] [c].

    Sums go along lines in the type of x, and on in float64.
    """
    channels, (height, width) = weight.size, x.shape
    d, mean, total = channels // groups, lines[0], lines[1]
    for squares in (False, True):
        total[:] = 0
        for i in range(height):
            line = x[i]
            if squares:
                for k in range(width):
                    total[k] += (line[k] - mean[k]) * (line[k] - mean[k])
            else:
                for k in range(width):
                    total[k] += line[k]
        _folded(total, channels, sums[int(squares)])
        for k in range(groups):
            part = slice(k * d, (k + 1) * d)
            average = sums[int(squares), part].sum() * channels / (d * height * width)
            sums[int(squares), part] = average
        if not squares:
            for k in range(width):
                mean[k] = sums[0, k % channels]
    for c in range(channels):
        sums[2, c] = 1 / np.sqrt(sums[1, c] + eps)
    for k in range(0, width, channels):
        for c in range(channels):
            lines[1, k + c] = weight[c] * sums[2, c]
            lines[2, k + c] = bias[c] - sums[0, c] * weight[c] * sums[2, c]


@njit(nogil=True, cache=True)
@no_type_check
def _forward(x, weight, bias, groups, eps, relu, y, first, last):  # noqa: ANN001, ANN202
    """Writes rows first to last of y [w, b, l, W c], like x; weight and bias [w, c]."""
    (_, b, height, width), low = x.shape, x.dtype.type(0 if relu else -np.inf)
    lines, sums = np.empty((3, width), x.dtype), np.empty((3, weight.shape[1]))
    a, s = lines[1], lines[2]
    for r in range(first, last):
        for e in range(b):
            _coefficients(x[r, e], weight[r], bias[r], groups, eps, lines, sums)
            for i in range(height):
                line, to = x[r, e, i], y[r, e, i]
                for k in range(width):
                    value = line[k] * a[k] + s[k]
                    to[k] = low if value < low else value


@njit(nogil=True, cache=True)
@no_type_check
def _backward(g, x, weight, bias, groups, eps, relu, out, of_weight, of_bias, first, last):  # noqa: ANN001, ANN202
    """Writes rows first to last of the gradients of x, weight and bias, at g, like y."""
    (_, b, height, width), channels = x.shape, weight.shape[1]
    lines, sums, d = np.empty((5, width), x.dtype), np.empty((3, channels)), channels // groups
    mean, a, slope, shift = lines[0], lines[1], lines[3], lines[4]
    for r in range(first, last):
        total = np.zeros((2, channels))
        for e in range(b):
            _coefficients(x[r, e], weight[r], bias[r], groups, eps, lines, sums)
            _products(g[r, e], x[r, e], lines, relu, out[r, e], channels, sums)
            total[0] += sums[0] * sums[2]
            total[1] += sums[1]
            for k in range(groups):
                part, inverse = slice(k * d, (k + 1) * d), sums[2, k * d] * channels / (d * height * width)
                along = inverse * (weight[r, part] * sums[0, part]).sum() * sums[2, k * d] * sums[2, k * d]
                sums[1, part] = inverse * (weight[r, part] * sums[1, part]).sum()
                sums[0, part] = along
            for k in range(width):
                slope[k], shift[k] = sums[0, k % channels], sums[1, k % channels]
            for i in range(height):
                line, to = x[r, e, i], out[r, e, i]
                for k in range(width):
                    to[k] = a[k] * to[k] - slope[k] * (line[k] - mean[k]) - shift[k]
        of_weight[r], of_bias[r] = total[0], total[1]


@njit(nogil=True, cache=True)
@no_type_check
def _products(g, x, lines, relu, out, channels, sums):  # noqa: ANN001, ANN202
    """Writes what ReLU lets through of g to out, its sum (x - mean) out and sum out to sums [2, c].

    Args:
        lines: mean, a and s, and room for two more.
    """
    mean, a, s, first, second = lines[0], lines[1], lines[2], lines[3], lines[4]
    first[:], second[:] = 0, 0
    for i in range(x.shape[0]):
        line, source, to = x[i], g[i], out[i]
        if relu:
            for k in range(line.size):
                to[k] = 0 if line[k] * a[k] + s[k] <= 0 else source[k]
        else:
            to[:] = source
        for k in range(line.size):
            first[k] += to[k] * (line[k] - mean[k])
        for k in range(line.size):
            second[k] += to[k]
    _folded(first, channels, sums[0])
    _folded(second, channels, sums[1])


def _lines(images: Tensor) -> np.ndarray:
    """Returns images [w, b, c, H, W] as lines [w, b, l, W c], copied where channels do not lie side by side.

    What a line needs stays in the first cache, and is long enough for vectors.
    """
    w, b, c, height, width = images.shape
    pixels = next((k for k in range(max(1, _LINE // c), 1, -1) if height * width % k == 0), 1)
    array = laid(images.detach(), True).permute(0, 1, 3, 4, 2).numpy()
    return array.reshape(w, b, height * width // pixels, pixels * c)


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> Tensor:
    """Returns y [w, b, c, H, W] of stacked x, weight and bias [w, c]; `last`: laid out as `library.laid` says."""
    y, arrays = blank(x, x.shape, True), [t.detach().contiguous().numpy() for t in (weight, bias)]
    each_part(len(x), _COST * x.numel(), _forward, _lines(x), *arrays, groups, eps, relu, _lines(y))
    return laid(y, last)


_norm = custom_op("batchednodes::group_norm", normalised, mutates_args=())


@_norm.register_fake
def _norm_fake(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> Tensor:
    return blank(x, x.shape, last)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, weight and bias."""
    out, of_weight, of_bias = blank(x, x.shape, True), torch.empty_like(weight), torch.empty_like(bias)
    arrays = [t.detach().contiguous().numpy() for t in (weight, bias)]
    made = [_lines(out), of_weight.numpy(), of_bias.numpy()]
    each_part(len(x), 2 * _COST * x.numel(), _backward, _lines(g), _lines(x), *arrays, groups, eps, relu, *made)
    return laid(out, last), of_weight, of_bias


_gradients = custom_op("batchednodes::group_norm_gradient", gradients, mutates_args=())


@_gradients.register_fake
def _gradients_fake(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return blank(x, x.shape, last), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


class _GroupNorm(Function):
    """y, without ReLU."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        if weight.ndim == _STACKED:
            return _norm(x, weight, bias, groups, eps)
        return F.group_norm(x, groups, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.groups, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradients.apply(gradients[0], *ctx.saved_tensors, ctx.groups, ctx.eps), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        *tensors, groups, eps = args
        n, stacked = info.batch_size, args[1].ndim - (in_dims[1] is not None) == _STACKED
        tensors = [rows(t, dim, n, stacked) for t, dim in zip(tensors, in_dims, strict=False)]
        return apart(_GroupNorm.apply(*tensors, groups, eps), n, stacked), 0


class _Gradients(Function):
    """Gradients of x, weight and bias."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, ...]:
        if weight.ndim == _STACKED:
            return _gradients(g, x, weight, bias, groups, eps)
        return _adjoint(g, x, weight, groups, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, _, ctx.groups, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def plain(g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            return _adjoint(g, x, weight, ctx.groups, ctx.eps)

        pull = torch.func.vjp(plain, *ctx.saved_tensors)[1]
        return *pull(gradients), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, groups, eps = args
        n, stacked = info.batch_size, args[2].ndim - (in_dims[2] is not None) == _STACKED
        tensors = [rows(t, dim, n, stacked) for t, dim in zip(tensors, in_dims, strict=False)]
        return tuple(apart(t, n, stacked) for t in _Gradients.apply(*tensors, groups, eps)), (0, 0, 0)


def _adjoint(g: Tensor, x: Tensor, weight: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, weight and bias of one model or of stacked ones, by operations with gradients."""
    parts = (groups, x.shape[-3] // groups)
    back, images = g.unflatten(-3, parts), x.unflatten(-3, parts)
    w = weight.unflatten(-1, parts)[..., None, :, :, None, None]
    var, mean = torch.var_mean(images, (-3, -2, -1), correction=0, keepdim=True)
    inverse = (var + eps).rsqrt()
    apart_ = (images - mean) * inverse
    first, second = ((w * t).mean((-3, -2, -1), keepdim=True) for t in (back, back * apart_))
    of_x = inverse * (w * back - first - apart_ * second)
    sums = [t.sum((-5, -2, -1)).flatten(-2) for t in (back * apart_, back)]
    return of_x.flatten(-4, -3), sums[0], sums[1]


class GroupNorm(nn.GroupNorm):
    """The computation of `nn.GroupNorm`, with a kernel of our own where many models are stacked."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns images [b, c, H, W] normalised; anything else as `nn.GroupNorm` does."""
        ours = input.device.type == "cpu" and input.dtype in (torch.float32, torch.float64)
        if not ours or input.ndim != 4 or self.weight is None or self.bias is None:
            return super().forward(input)
        return _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)
