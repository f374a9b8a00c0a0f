r"""GroupNorm of stacked models: `F.group_norm` where there is one model, a kernel of our own where vmap runs many.

    y = max(a x + s, 0)  or  a x + s,   a = weight / sqrt(var + eps),   s = bias - mean a

with mean and variance of each example and group. The gradient takes them from x again, which costs less than to keep
what lies between. ReLU belongs to it where a program finds that nothing else reads y.

Notation: w rows, b examples, c channels, d channels of a group, g gradient of y, l lines of an image of W pixels each.
"""

import functools
from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numba import njit
from torch import Tensor, nn
from torch.autograd import Function
from torch.library import custom_op

from batchednodes.numerics.convolution.library import blank, laid
from batchednodes.numerics.convolution.norm_columns import (
    gradient,
    gradient_relu,
    moments,
    products,
    products_relu,
)
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
def _moments(x, groups, lines, sums):  # noqa: ANN001, ANN202
    """Writes mean and variance of each group of one example x [l, W c] to sums[:2] [c], for its channels.

    Sums of differences from the first line go along columns in the type of x, and on in float64: so one pass is enough.

    Args:
        lines: room for two lines.
    """
    channels, (height, width), base, first, second = sums.shape[1], x.shape, x[0], lines[0], lines[1]
    d = channels // groups
    moments(x.ctypes.data, height, width, lines.ctypes.data, x[0, 0])
    sums[:2] = 0
    for k in range(0, width, channels):
        for c in range(channels):
            sums[0, c] += np.float64(base[k + c]) + np.float64(first[k + c]) / height
    for j in range(groups):
        sums[0, j * d : (j + 1) * d] = sums[0, j * d : (j + 1) * d].sum() * channels / (d * width)
    for k in range(0, width, channels):
        for c in range(channels):
            total, apart = np.float64(first[k + c]), np.float64(base[k + c]) - sums[0, c]
            sums[1, c] += second[k + c] + 2 * total * apart + height * apart * apart
    for j in range(groups):
        sums[1, j * d : (j + 1) * d] = sums[1, j * d : (j + 1) * d].sum() * channels / (d * width * height)


@njit(nogil=True, cache=True)
@no_type_check
def _coefficients(x, weight, bias, groups, eps, lines, sums):  # noqa: ANN001, ANN202
    """Writes mean, a and s of one example x [l, W c] to lines [at least 3, W c], 1 / sqrt(var + eps) to sums[2] [c]."""
    _moments(x, groups, lines, sums)
    for c in range(weight.size):
        sums[2, c] = 1 / np.sqrt(sums[1, c] + eps)
        sums[1, c] = bias[c] - sums[0, c] * weight[c] * sums[2, c]
    for k in range(0, x.shape[1], weight.size):
        for c in range(weight.size):
            lines[0, k + c] = sums[0, c]
            lines[1, k + c] = weight[c] * sums[2, c]
            lines[2, k + c] = sums[1, c]


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
    (_, b, height, width), channels, item = x.shape, weight.shape[1], x.itemsize
    lines, sums, d = np.empty((5, width), x.dtype), np.empty((3, channels)), channels // groups
    slope, shift, number, example = lines[3], lines[4], lines[0, 0], height * width * item
    for r in range(first, last):
        total = np.zeros((2, channels))
        for e in range(b):
            at, source, to = (r * b + e) * example, lines.ctypes.data, out.ctypes.data
            _coefficients(x[r, e], weight[r], bias[r], groups, eps, lines, sums)
            if relu:
                products_relu(g.ctypes.data + at, x.ctypes.data + at, height, width, source, number)
            else:
                products(g.ctypes.data + at, x.ctypes.data + at, height, width, source, number)
            _folded(slope, channels, sums[0])
            _folded(shift, channels, sums[1])
            total[0] += sums[0] * sums[2]
            total[1] += sums[1]
            for k in range(groups):
                part, inverse = slice(k * d, (k + 1) * d), sums[2, k * d] * channels / (d * height * width)
                along = inverse * (weight[r, part] * sums[0, part]).sum() * sums[2, k * d] * sums[2, k * d]
                sums[1, part] = inverse * (weight[r, part] * sums[1, part]).sum()
                sums[0, part] = along
            for k in range(0, width, channels):
                for c in range(channels):
                    slope[k + c], shift[k + c] = sums[0, c], sums[1, c]
            if relu:
                gradient_relu(g.ctypes.data + at, x.ctypes.data + at, height, width, source, to + at, number)
            else:
                gradient(g.ctypes.data + at, x.ctypes.data + at, height, width, source, to + at, number)
        of_weight[r], of_bias[r] = total[0], total[1]


def _lines(images: Tensor) -> np.ndarray:
    """Returns images [w, b, c, H, W] as lines [w, b, l, W c], copied where channels do not lie side by side.

    What a line needs stays in the first cache, and is long enough for vectors.
    """
    w, b, c, height, width = images.shape
    pixels = _pixels(c, height * width)
    lines = images.detach().permute(0, 1, 3, 4, 2).contiguous().numpy()
    return lines.reshape(w, b, height * width // pixels, pixels * c)


@functools.lru_cache(1024)
def _pixels(channels: int, places: int) -> int:
    """Returns how many pixels make a line, of so many in an image."""
    return next((k for k in range(max(1, _LINE // channels), 1, -1) if places % k == 0), 1)


def normalised(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> Tensor:
    """Returns y [w, b, c, H, W] of stacked x, weight and bias [w, c]; `last`: laid out as `library.laid` says."""
    w, y, arrays = x.shape[0], blank(x, x.shape, True), [t.detach().contiguous().numpy() for t in (weight, bias)]
    each_part(w, _COST * x.numel(), _forward, _lines(x), *arrays, groups, eps, relu, _lines(y))
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
    w, out, of_weight, of_bias = x.shape[0], blank(x, x.shape, True), torch.empty_like(weight), torch.empty_like(bias)
    arrays = [t.detach().contiguous().numpy() for t in (weight, bias)]
    made = [_lines(out), of_weight.numpy(), of_bias.numpy()]
    each_part(w, 2 * _COST * x.numel(), _backward, _lines(g), _lines(x), *arrays, groups, eps, relu, *made)
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
