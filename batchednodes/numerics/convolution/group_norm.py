r"""GroupNorm of stacked models: `F.group_norm` where there is one model, a kernel of our own where vmap runs many.

    y = max(a x + s, 0)  or  a x + s,   a = weight / sqrt(var + eps),   s = bias - mean a

with mean and variance of each example and group. The gradient takes them from x again, which costs less than to keep
what lies between. ReLU belongs to it where a program finds that nothing else reads y.

Notation: w rows, b examples, c channels, d channels of a group, g gradient of y, l pixels.
"""

from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numba import njit
from torch import Tensor, nn
from torch.autograd import Function
from torch.library import custom_op

from batchednodes.numerics.convolution.library import laid
from batchednodes.numerics.convolution.stacking import apart, rows
from batchednodes.numerics.convolution.threading import each_part

_STACKED = 2
"""Dimensions of stacked weights; inputs have three more."""

_COST = 4
"""Passes over x that the kernel makes: counted as multiply-adds, of which a vector is done as fast as it is read."""


@njit(nogil=True, cache=True)
@no_type_check
def _moments(x, groups, eps, mean, inverse, sums):  # noqa: ANN001, ANN202
    """Writes mean and 1 / sqrt(var + eps) of each group of one example x [H, W, c], for each of its channels [c]."""
    height, width, channels = x.shape
    d, line = channels // groups, np.empty(channels, x.dtype)
    for squares in (False, True):
        sums[:] = 0
        for i in range(height):
            line[:] = 0
            for j in range(width):
                if squares:
                    for c in range(channels):
                        line[c] += (x[i, j, c] - mean[c]) * (x[i, j, c] - mean[c])
                else:
                    for c in range(channels):
                        line[c] += x[i, j, c]
            for c in range(channels):
                sums[c] += line[c]
        for k in range(groups):
            part = slice(k * d, (k + 1) * d)
            average = sums[part].sum() / (d * height * width)
            if squares:
                inverse[part] = 1 / np.sqrt(average + eps)
            else:
                mean[part] = average


@njit(nogil=True, cache=True)
@no_type_check
def _forward(x, weight, bias, groups, eps, relu, y, first, last):  # noqa: ANN001, ANN202
    """Writes rows first to last of y [w, b, H, W, c], like x; weight and bias [w, c]."""
    (_, b, height, width, channels), low = x.shape, x.dtype.type(0 if relu else -np.inf)
    own, sums = np.empty((4, channels), x.dtype), np.empty(channels)
    mean, inverse, a, s = own[0], own[1], own[2], own[3]
    for r in range(first, last):
        for e in range(b):
            _moments(x[r, e], groups, eps, mean, inverse, sums)
            for c in range(channels):
                a[c] = weight[r, c] * inverse[c]
                s[c] = bias[r, c] - mean[c] * a[c]
            for i in range(height):
                for j in range(width):
                    for c in range(channels):
                        value = x[r, e, i, j, c] * a[c] + s[c]
                        y[r, e, i, j, c] = low if value < low else value


@njit(nogil=True, cache=True)
@no_type_check
def _backward(g, x, weight, bias, groups, eps, relu, out, of_weight, of_bias, first, last):  # noqa: ANN001, ANN202
    """Writes rows first to last of the gradients of x, weight and bias, at g, like y."""
    (_, b, height, width, channels), low = x.shape, x.dtype.type(0 if relu else -np.inf)
    own, sums = np.empty((6, channels), x.dtype), np.empty((3, channels))
    mean, inverse, a, s, slope, shift = own[0], own[1], own[2], own[3], own[4], own[5]
    d = channels // groups
    for r in range(first, last):
        total = np.zeros((2, channels))
        for e in range(b):
            _moments(x[r, e], groups, eps, mean, inverse, sums[2])
            for c in range(channels):
                a[c] = weight[r, c] * inverse[c]
                s[c] = bias[r, c] - mean[c] * a[c]
            _products(g[r, e], x[r, e], mean, a, s, low, sums)
            for c in range(channels):
                total[0, c] += sums[0, c] * inverse[c]
                total[1, c] += sums[1, c]
            for k in range(groups):
                part, pixels = slice(k * d, (k + 1) * d), d * height * width
                along = (weight[r, part] * sums[0, part]).sum() * inverse[k * d] / pixels
                slope[part] = -inverse[k * d] * inverse[k * d] * along
                shift[part] = -inverse[k * d] * (weight[r, part] * sums[1, part]).sum() / pixels
            for i in range(height):
                for j in range(width):
                    for c in range(channels):
                        value = x[r, e, i, j, c]
                        back = x.dtype.type(0) if value * a[c] + s[c] <= low else g[r, e, i, j, c]
                        out[r, e, i, j, c] = a[c] * back + slope[c] * (value - mean[c]) + shift[c]
        of_weight[r], of_bias[r] = total[0], total[1]


@njit(nogil=True, cache=True)
@no_type_check
def _products(g, x, mean, a, s, low, sums):  # noqa: ANN001, ANN202
    """Writes sum_l g (x - mean) and sum_l g of one example to sums [2, c], where a x + s is above a number."""
    (height, width, channels), line = x.shape, np.empty((2, x.shape[2]), x.dtype)
    sums[:2] = 0
    for i in range(height):
        line[:] = 0
        for j in range(width):
            for c in range(channels):
                value = x[i, j, c]
                back = x.dtype.type(0) if value * a[c] + s[c] <= low else g[i, j, c]
                line[0, c] += back * (value - mean[c])
                line[1, c] += back
        for c in range(channels):
            sums[0, c] += line[0, c]
            sums[1, c] += line[1, c]


def _pixels(images: Tensor) -> np.ndarray:
    """Returns images [w, b, c, H, W] as an array [w, b, H, W, c], copied where its channels do not lie side by side."""
    return laid(images.detach(), True).permute(0, 1, 3, 4, 2).numpy()


@custom_op("batchednodes::group_norm", mutates_args=())
def _norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> Tensor:
    """Returns y [w, b, c, H, W] of stacked x, weight and bias [w, c]; `last`: laid out as `library.laid` says."""
    y, arrays = laid(torch.empty_like(x), True), [t.detach().contiguous().numpy() for t in (weight, bias)]
    each_part(len(x), _COST * x.numel(), _forward, _pixels(x), *arrays, groups, eps, relu, _pixels(y))
    return laid(y, last)


@_norm.register_fake
def _norm_fake(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> Tensor:
    return laid(x.new_empty(x.shape), last)


@custom_op("batchednodes::group_norm_gradient", mutates_args=())
def _gradients(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, weight and bias."""
    out, of_weight, of_bias = laid(torch.empty_like(x), True), torch.empty_like(weight), torch.empty_like(bias)
    arrays = [t.detach().contiguous().numpy() for t in (weight, bias)]
    made = [_pixels(out), of_weight.numpy(), of_bias.numpy()]
    each_part(len(x), 2 * _COST * x.numel(), _backward, _pixels(g), _pixels(x), *arrays, groups, eps, relu, *made)
    return laid(out, last), of_weight, of_bias


@_gradients.register_fake
def _gradients_fake(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False, last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return laid(x.new_empty(x.shape), last), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


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
        def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
            return _adjoint(*tensors, ctx.groups, ctx.eps)

        _, pull = torch.func.vjp(plain, *ctx.saved_tensors)
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
