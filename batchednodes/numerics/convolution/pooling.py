r"""Pooling of images on the CPU: the largest number of each window, and its adjoint, in place of PyTorch's kernels.

They give the same numbers and the same places, but go along the channels of a pixel, which lie side by side.

Notation: n images, c channels, i j places of windows, H W pixels.
"""

from typing import no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.library import custom_op

from batchednodes.numerics.convolution.library import blank, laid
from batchednodes.numerics.convolution.threading import each_part


@njit(nogil=True, cache=True)
@no_type_check
def _largest(x, kernel, stride, padding, dilation, y, places, first, last):  # noqa: ANN001, ANN202
    """Writes y and places [n, i, j, c], numbers of pixels in an image of x [n, H, W, c], for images first to last.

    A number that is none is the largest.
    """
    height, width, channels = x.shape[1:]
    for n in range(first, last):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                begun = False
                for u in range(kernel[0]):
                    row = i * stride[0] - padding[0] + u * dilation[0]
                    for v in range(kernel[1]):
                        column = j * stride[1] - padding[1] + v * dilation[1]
                        if row < 0 or row >= height or column < 0 or column >= width:
                            continue
                        for c in range(channels):
                            value = x[n, row, column, c]
                            larger = (value > y[n, i, j, c]) | (value != value) | (not begun)
                            y[n, i, j, c] = value if larger else y[n, i, j, c]
                            places[n, i, j, c] = row * width + column if larger else places[n, i, j, c]
                        begun = True


@njit(nogil=True, cache=True)
@no_type_check
def _scatter(g, places, out, first, last):  # noqa: ANN001, ANN202
    """Writes out [n, H W, c]: the sum of g [n, i j, c] over the windows of each place, for images first to last."""
    out[first:last] = 0
    for n in range(first, last):
        for window in range(g.shape[1]):
            for c in range(g.shape[2]):
                out[n, places[n, window, c], c] += g[n, window, c]


def _pixels(images: Tensor) -> np.ndarray:
    """Returns images [n, c, H, W] as an array [n, H, W, c], copied where their channels do not lie side by side."""
    return laid(images.detach(), True).permute(0, 2, 3, 1).numpy()


def largest(x: Tensor, size: list[int], windows: list[int]) -> tuple[Tensor, Tensor]:
    """Returns the largest number of each window of images [n, c, H, W], and its place: a pixel's number.

    Args:
        x: images of float32 or float64 on the CPU.
        size: of what is returned: [n, c, *size], the channels of a pixel side by side.
        windows: kernel, stride, padding and dilation, two numbers each.
    """
    y, places = _max_pool_fake(x, size, windows)
    pairs = [(windows[k], windows[k + 1]) for k in range(0, len(windows), 2)]
    arrays = [_pixels(t) for t in (y, places)]
    each_part(len(x), y.numel() * windows[0] * windows[1], _largest, _pixels(x), *pairs, *arrays)
    return y, places


max_pool = custom_op("batchednodes::max_pool", largest, mutates_args=())


@max_pool.register_fake
def _max_pool_fake(x: Tensor, size: list[int], windows: list[int]) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], *size)
    return blank(x, shape, True), blank(x, shape, True, torch.int64)


def largest_gradient(g: Tensor, places: Tensor, size: list[int]) -> Tensor:
    """Returns the gradient of images [n, c, *size] of which `largest` gave places, at g, like those."""
    out = _max_pool_input_fake(g, places, size)
    n, c = g.shape[:2]
    each_part(n, out.numel(), _scatter, *(_pixels(t).reshape(n, -1, c) for t in (g, places, out)))
    return out


max_pool_input = custom_op("batchednodes::max_pool_input", largest_gradient, mutates_args=())


@max_pool_input.register_fake
def _max_pool_input_fake(g: Tensor, places: Tensor, size: list[int]) -> Tensor:
    return blank(g, (*g.shape[:2], *size), True)


@njit(nogil=True, cache=True)
@no_type_check
def _halve(x, y, places, first, last):  # noqa: ANN001, ANN202
    """Writes the largest number of each window of 2 x 2 of x [n, H, W], or 0, to y [n, i, j], for images first to last.

    Its place in the window, 0 to 3 line by line, goes to places, and -1 where all are 0 or less; NaN is the largest.
    """
    zero = x.dtype.type(0)
    for n in range(first, last):
        for i in range(y.shape[1]):
            upper, lower, out, to = x[n, 2 * i], x[n, 2 * i + 1], y[n, i], places[n, i]
            for j in range(out.size):
                best, k = upper[np.uintp(2 * j)], np.int8(0)
                value = upper[np.uintp(2 * j + 1)]
                larger = (value > best) | (value != value)
                best, k = (value if larger else best), (np.int8(1) if larger else k)
                value = lower[np.uintp(2 * j)]
                larger = (value > best) | (value != value)
                best, k = (value if larger else best), (np.int8(2) if larger else k)
                value = lower[np.uintp(2 * j + 1)]
                larger = (value > best) | (value != value)
                best, k = (value if larger else best), (np.int8(3) if larger else k)
                none = best <= 0
                out[np.uintp(j)] = zero if none else best
                to[np.uintp(j)] = np.int8(-1) if none else k


@njit(nogil=True, cache=True)
@no_type_check
def _double(g, places, out, first, last):  # noqa: ANN001, ANN202
    """Writes out [n, H, W]: g [n, i, j] at the place of each window and 0 elsewhere, for images first to last."""
    zero = out.dtype.type(0)
    for n in range(first, last):
        out[n, 2 * g.shape[1] :] = 0
        for i in range(g.shape[1]):
            upper, lower, source, at = out[n, 2 * i], out[n, 2 * i + 1], g[n, i], places[n, i]
            upper[2 * source.size :] = 0
            lower[2 * source.size :] = 0
            for j in range(source.size):
                value, k = source[np.uintp(j)], at[np.uintp(j)]
                upper[np.uintp(2 * j)] = value if k == 0 else zero
                upper[np.uintp(2 * j + 1)] = value if k == 1 else zero
                lower[np.uintp(2 * j)] = value if k == 2 else zero
                lower[np.uintp(2 * j + 1)] = value if k == 3 else zero


def _planes(images: Tensor) -> np.ndarray:
    """Returns images [n, c, H, W] as an array [n c, H, W]."""
    return images.detach().contiguous().flatten(0, 1).numpy()


def halved(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ReLU of the largest number of each window of 2 x 2, one beside the other, and its place in the window.

    Args:
        x: images [n, c, H, W] of float32 or float64 on the CPU; what is left of an odd size is in no window.
    """
    y, places = _relu_pool_fake(x)
    each_part(x.shape[0] * x.shape[1], x.numel(), _halve, *(_planes(t) for t in (x, y, places)))
    return y, places


relu_pool = custom_op("batchednodes::relu_pool", halved, mutates_args=())


@relu_pool.register_fake
def _relu_pool_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int8)


def halved_gradient(g: Tensor, places: Tensor, size: list[int]) -> Tensor:
    """Returns the gradient of images [n, c, *size] of which `halved` gave places, at g, like those."""
    out = _relu_pool_input_fake(g, places, size)
    each_part(g.shape[0] * g.shape[1], out.numel(), _double, *(_planes(t) for t in (g, places, out)))
    return out


relu_pool_input = custom_op("batchednodes::relu_pool_input", halved_gradient, mutates_args=())


@relu_pool_input.register_fake
def _relu_pool_input_fake(g: Tensor, places: Tensor, size: list[int]) -> Tensor:
    return g.new_empty(*g.shape[:2], *size)
