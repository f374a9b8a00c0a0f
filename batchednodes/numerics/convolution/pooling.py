r"""Pooling of images on the CPU: the largest number of each window, and its adjoint, in place of PyTorch's kernels.

They give the same numbers and the same places, but go along the channels of a pixel where these lie side by side.

Notation: n images, c channels, i j places of windows, H W pixels.
"""

from typing import no_type_check

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
                        place = row * width + column
                        if not begun:
                            for c in range(channels):
                                y[n, i, j, c] = x[n, row, column, c]
                                places[n, i, j, c] = place
                        else:
                            for c in range(channels):
                                value = x[n, row, column, c]
                                larger = value > y[n, i, j, c] or value != value
                                y[n, i, j, c] = value if larger else y[n, i, j, c]
                                places[n, i, j, c] = place if larger else places[n, i, j, c]
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


def _inner(images: Tensor, last: bool) -> Tensor:
    """Returns images [n, c, H, W] as [n, H, W, c] or, where channels are not to be last, [n c, H, W, 1]."""
    return laid(images, True).permute(0, 2, 3, 1) if last else images.contiguous().flatten(0, 1).unsqueeze(-1)


def _images(x: Tensor, size: list[int], last: bool, dtype: torch.dtype) -> Tensor:
    return blank(x, (*x.shape[:2], *size), last, dtype)


@custom_op("batchednodes::max_pool", mutates_args=())
def max_pool(x: Tensor, size: list[int], windows: list[int], last: bool) -> tuple[Tensor, Tensor]:
    """Returns the largest number of each window of images [n, c, H, W], and its place: a pixel's number.

    Args:
        x: images of float32 or float64 on the CPU.
        size: of what is returned: [n, c, *size].
        windows: kernel, stride, padding and dilation, two numbers each.
        last: whether the channels of a pixel lie side by side in what is computed.
    """
    y, places = _max_pool_fake(x, size, windows, last)
    pairs = [(windows[k], windows[k + 1]) for k in range(0, len(windows), 2)]
    images, *out = (_inner(t.detach(), last).numpy() for t in (x, y, places))
    each_part(len(images), y.numel() * windows[0] * windows[1], _largest, images, *pairs, *out)
    return y, places


@max_pool.register_fake
def _max_pool_fake(x: Tensor, size: list[int], windows: list[int], last: bool) -> tuple[Tensor, Tensor]:
    return _images(x, size, last, x.dtype), _images(x, size, last, torch.int64)


@custom_op("batchednodes::max_pool_input", mutates_args=())
def max_pool_input(g: Tensor, places: Tensor, size: list[int], last: bool) -> Tensor:
    """Returns the gradient of images [n, c, *size] of which `max_pool` gave places, at g, like those."""
    out = _max_pool_input_fake(g, places, size, last)
    arrays = [_inner(t.detach(), last).flatten(1, 2).numpy() for t in (g, places, out)]
    each_part(len(arrays[0]), out.numel(), _scatter, *arrays)
    return out


@max_pool_input.register_fake
def _max_pool_input_fake(g: Tensor, places: Tensor, size: list[int], last: bool) -> Tensor:
    return _images(g, size, last, g.dtype)
