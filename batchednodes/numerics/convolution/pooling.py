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
def _inside(place, kernel, stride, padding, dilation, size):  # noqa: ANN001, ANN202
    """Returns the first pixel of a window along one direction that is inside of an image, and one past the last."""
    first = place * stride - padding
    past = min(first + (kernel - 1) * dilation + 1, size)
    return first + max(0, (-first + dilation - 1) // dilation) * dilation, past


@njit(nogil=True, cache=True)
@no_type_check
def _largest(x, kernel, stride, padding, dilation, y, places, first, last):  # noqa: ANN001, ANN202
    """Writes y and places [n, i, j, c], numbers of pixels in an image of x [n, H, W, c], for images first to last.

    A number that is none is the largest.
    """
    height, width, channels = x.shape[1:]
    for n in range(first, last):
        for i in range(y.shape[1]):
            top, bottom = _inside(i, kernel[0], stride[0], padding[0], dilation[0], height)
            for j in range(y.shape[2]):
                left, right = _inside(j, kernel[1], stride[1], padding[1], dilation[1], width)
                window = (top, bottom, dilation[0]), (left, right, dilation[1])
                if channels == 1:
                    y[n, i, j, 0], places[n, i, j, 0] = _largest_of(x[n], *window)
                else:
                    _largest_of_each(x[n], *window, y[n, i, j], places[n, i, j])


@njit(nogil=True, cache=True)
@no_type_check
def _largest_of(x, rows, columns):  # noqa: ANN001, ANN202
    """Returns the largest number of a window of x [H, W, 1], and its place."""
    best, at = x[rows[0], columns[0], 0], rows[0] * x.shape[1] + columns[0]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            value = x[row, column, 0]
            if value > best or value != value:
                best, at = value, row * x.shape[1] + column
    return best, at


@njit(nogil=True, cache=True)
@no_type_check
def _largest_of_each(x, rows, columns, y, places):  # noqa: ANN001, ANN202
    """Writes the largest numbers of a window of x [H, W, c] to y [c], and their places."""
    for c in range(y.size):
        y[c] = x[rows[0], columns[0], c]
        places[c] = rows[0] * x.shape[1] + columns[0]
    for row in range(rows[0], rows[1], rows[2]):
        for column in range(columns[0], columns[1], columns[2]):
            source, place = x[row, column], row * x.shape[1] + column
            for c in range(y.size):
                value, old = source[c], y[c]
                larger = value > old or value != value
                y[c] = value if larger else old
                places[c] = place if larger else places[c]


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


def largest(x: Tensor, size: list[int], windows: list[int], last: bool) -> tuple[Tensor, Tensor]:
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


max_pool = custom_op("batchednodes::max_pool", largest, mutates_args=())


@max_pool.register_fake
def _max_pool_fake(x: Tensor, size: list[int], windows: list[int], last: bool) -> tuple[Tensor, Tensor]:
    return _images(x, size, last, x.dtype), _images(x, size, last, torch.int64)


def largest_gradient(g: Tensor, places: Tensor, size: list[int], last: bool) -> Tensor:
    """Returns the gradient of images [n, c, *size] of which `max_pool` gave places, at g, like those."""
    out = _max_pool_input_fake(g, places, size, last)
    arrays = [_inner(t.detach(), last).flatten(1, 2).numpy() for t in (g, places, out)]
    each_part(len(arrays[0]), out.numel(), _scatter, *arrays)
    return out


max_pool_input = custom_op("batchednodes::max_pool_input", largest_gradient, mutates_args=())


@max_pool_input.register_fake
def _max_pool_input_fake(g: Tensor, places: Tensor, size: list[int], last: bool) -> Tensor:
    return _images(g, size, last, g.dtype)
