r"""Max-pooling of stacked models: `F.max_pool2d` where there is one model, a kernel of our own where vmap runs many.

    y[i, j] = max_{u, v} x[i s + u d - p, j s + v d - p]

(stride s, dilation d, padding p, in each direction; x is minus infinity outside). Where several are largest, the first
counts, and a number that is none counts as largest, as in PyTorch.

Letters: k images, x inputs [k, H, W], y outputs, g gradient of the outputs, u v places in a kernel.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numba import njit
from torch import Tensor, nn
from torch.autograd import Function
from torch.library import custom_op

from batchednodes.layers.threads import each_part


def _sizes(inputs: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """Returns height and width of what comes out; numbers: kernel, stride, padding and dilation, and the ceil mode."""
    kernel, stride, padding, dilation, ceil = numbers[0:2], numbers[2:4], numbers[4:6], numbers[6:8], numbers[8]
    sizes = []
    for n, k, s, p, d in zip(inputs, kernel, stride, padding, dilation, strict=True):
        size = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil else 0)) // s + 1
        sizes.append(size - (1 if ceil and (size - 1) * s >= n + p else 0))  # no window begins in the padding
    return sizes


@custom_op("batchednodes::max_pool", mutates_args=())
def _max_pool(x: Tensor, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Returns the largest numbers of windows and where they are in each image [..., H, W], line by line."""
    y, places = (torch.empty_like(t) for t in _max_pool_fake(x, numbers))
    images, most, where = (t.detach().contiguous().flatten(0, -3).numpy() for t in (x, y, places))
    kernel, stride, padding, dilation = (tuple(numbers[k : k + 2]) for k in range(0, 8, 2))
    each_part(
        len(images),
        y.numel() * kernel[0] * kernel[1],
        lambda a, b: _pool(images, kernel, stride, padding, dilation, most, where, a, b),
    )
    return y, places


@_max_pool.register_fake
def _max_pool_fake(x: Tensor, numbers: list[int]) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-2], *_sizes(x.shape[-2:], numbers))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int32)


@custom_op("batchednodes::max_pool_input", mutates_args=())
def _max_pool_input(g: Tensor, places: Tensor, size: list[int]) -> Tensor:
    """Returns the gradient of inputs [..., *size]."""
    out = torch.empty_like(_max_pool_input_fake(g, places, size))
    images, gs, where = (t.detach().contiguous().flatten(-2).flatten(0, -2).numpy() for t in (out, g, places))
    each_part(len(images), images.size, lambda a, b: _scatter(gs, where, images, a, b))
    return out


@_max_pool_input.register_fake
def _max_pool_input_fake(g: Tensor, places: Tensor, size: list[int]) -> Tensor:
    return g.new_empty(*g.shape[:-2], *size)


@njit(nogil=True, cache=True)
@no_type_check
def _pool(x, kernel, stride, padding, dilation, y, places, first, last):  # noqa: ANN001, ANN202
    """Writes images first to last of y and places."""
    tops, _ = _windows(x.shape[1], y.shape[1], kernel[0], stride[0], padding[0], dilation[0])
    lefts, ranges = _windows(x.shape[2], y.shape[2], kernel[1], stride[1], padding[1], dilation[1])
    for k in range(first, last):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[k, i, j] = -np.inf
                places[k, i, j] = tops[i] * x.shape[2] + lefts[j]
            end = min(x.shape[1], i * stride[0] - padding[0] + kernel[0] * dilation[0])
            for u in range(tops[i], end, dilation[0]):
                for v in range(kernel[1]):
                    begin, after = ranges[v]
                    off = begin * stride[1] + v * dilation[1] - padding[1]
                    line, largest, where = x[k, u, off:], y[k, i, begin:after], places[k, i, begin:after]
                    place = np.int32(u * x.shape[2] + off)
                    for j in range(largest.size):
                        value, best = line[j * stride[1]], largest[j]
                        more = (value > best) | (value != value)  # noqa: PLR0124 - true of what is no number
                        largest[j] = value if more else best
                        where[j] = place + np.int32(j * stride[1]) if more else where[j]


@njit(nogil=True, cache=True)
@no_type_check
def _windows(size, outputs, kernel, stride, padding, dilation):  # noqa: ANN001, ANN202
    """Returns the first place inside of each window, and the windows of which each place of the kernel is inside."""
    firsts, ranges = np.empty(outputs, np.int64), np.empty((kernel, 2), np.int64)
    for j in range(outputs):
        off = j * stride - padding
        firsts[j] = off if off >= 0 else off + (dilation - 1 - off) // dilation * dilation
    for v in range(kernel):
        off = v * dilation - padding
        ranges[v, 0] = max(0, (stride - 1 - off) // stride)
        ranges[v, 1] = max(ranges[v, 0], min(outputs, (size - 1 - off) // stride + 1))
    return firsts, ranges


@njit(nogil=True, cache=True)
@no_type_check
def _scatter(g, places, out, first, last):  # noqa: ANN001, ANN202
    """Writes images first to last of out [k, H W]: the sums of g [k, i j] by place."""
    for k in range(first, last):
        image, gs, where = out[k], g[k], places[k]
        for place in range(image.size):
            image[place] = 0
        for e in range(gs.size):
            image[where[e]] += gs[e]


def _fold(tensor: Tensor, dim: int | None, n: int) -> Tensor:
    """Returns a tensor of a vmap over n with that dimension and the next as one, the first."""
    tensor = tensor.expand(n, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


class _MaxPool(Function):
    """Outputs, and their places in the inputs."""

    @staticmethod
    def forward(x: Tensor, numbers: list[int], stacked: bool) -> tuple[Tensor, Tensor]:
        if stacked:
            return _max_pool(x, numbers)
        kernel, stride, padding, dilation = (tuple(numbers[k : k + 2]) for k in range(0, 8, 2))
        return F.max_pool2d_with_indices(x, kernel, stride, padding, dilation, bool(numbers[8]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, _, ctx.stacked = inputs
        ctx.size = list(x.shape[-2:])
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        return _Scatter.apply(gradients[0], places, ctx.size, ctx.stacked), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, numbers: list[int], stacked: bool) -> Any:
        pair = _MaxPool.apply(_fold(x, in_dims[0], info.batch_size), numbers, True)
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in pair), (0, 0)


class _Scatter(Function):
    """Gradient of the inputs."""

    @staticmethod
    def forward(g: Tensor, places: Tensor, size: list[int], stacked: bool) -> Tensor:
        if stacked:
            return _max_pool_input(g, places, size)
        zeros = g.new_zeros(*g.shape[:-2], size[0] * size[1])
        return zeros.scatter_add(-1, places.flatten(-2), g.flatten(-2)).unflatten(-1, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (v,), (places,) = gradients, ctx.saved_tensors
        return v.flatten(-2).gather(-1, places.flatten(-2).long()).view(places.shape), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], g: Tensor, places: Tensor, size: list[int], stacked: bool) -> Any:  # fmt: skip
        n = info.batch_size
        out = _Scatter.apply(_fold(g, in_dims[0], n), _fold(places, in_dims[1], n), size, True)
        return out.unflatten(0, (n, -1)), 0


class MaxPool2d(nn.MaxPool2d):
    """The computation of `nn.MaxPool2d`, with a kernel of our own where many models are stacked."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        settings = (self.kernel_size, self.stride, self.padding, self.dilation)
        pairs = [(s, s) if isinstance(s, int) else tuple(s) for s in settings]
        numbers = [*(int(n) for pair in pairs for n in pair), int(self.ceil_mode)]
        stacked = input if input.ndim == 4 else input[None]
        y, _ = _MaxPool.apply(stacked, numbers, False)
        return y if input.ndim == 4 else y[0]
