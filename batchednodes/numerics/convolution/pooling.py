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
