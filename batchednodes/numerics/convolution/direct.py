r"""Convolutions of stacked models, directly on the CPU: the kernels, for a part of the rows each.

    y[r, e, o, i, j] = bias[r, o] + sum_{c, u, v} weight[r, o, c, u, v] x[r', e, c, i s + u d - p, j s + v d - p]

(stride s, dilation d, padding p, in each direction; x is 0 outside), and its two adjoints. Examples are laid side by
side as the last dimension of a scratch copy, so that a line of an image is one long run of numbers, whatever the
stride, the dilation and the kernel: columns are sorted by their remainder modulo the stride.

Notation: w rows, m rows that share their inputs (r' = r // m), b examples, c input channels and o output channels of a
group, u v places in a kernel, s stride, d dilation, p padding.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.numerics.convolution.register_tiles import BYTES, ROWS, VECTORS, combine, correlate

_SCRATCH = 1 << 18
"""Bytes of a scratch copy above which fewer examples are taken at a time [B]: half of a common core's own cache."""

_TOGETHER = 16
"""Examples taken at a time, at most: with them lines of ten numbers already fill several vectors."""


@njit(nogil=True, cache=True)
@no_type_check
def _up(a, b):  # noqa: ANN001, ANN202
    """Returns a rounded up to a multiple of b."""
    return (a + b - 1) // b * b


@njit(nogil=True, cache=True)
@no_type_check
def _together(b, line, lines, size):  # noqa: ANN001, ANN202
    """Returns how many of b examples are taken at a time, if one takes some lines of some numbers of some bytes."""
    return max(1, min(b, _TOGETHER, _SCRATCH // (line * lines * size)))


@njit(nogil=True, cache=True)
@no_type_check
def _pack(image, rows, stride, pad, left, wide, out):  # noqa: ANN001, ANN202
    """Copies images [e, c, H, W] to out as [c, rows, stride, wide, e], from `pad` rows and `left` columns outside."""
    e, c, height, width = image.shape
    for place in range(c * rows * stride * wide * e):
        out[place] = 0
    for k in range(c):
        for y in range(pad, min(rows, height + pad)):
            for s in range(stride):
                first = ((k * rows + y) * stride + s) * wide
                for t in range(e):
                    line = image[t, k, y - pad]
                    for q in range((left - s + stride - 1) // stride, min(wide, (width + left - s - 1) // stride + 1)):
                        out[(first + q) * e + t] = line[q * stride + s - left]


@njit(nogil=True, cache=True)
@no_type_check
def _unpack(line, left, stride, wide, e, out):  # noqa: ANN001, ANN202
    """Copies the columns of one line [stride, wide, e] from column `left` on to out [e, columns]."""
    for t in range(e):
        to = out[t]
        for s in range(stride):
            for q in range((left - s + stride - 1) // stride, (to.size + left - s - 1) // stride + 1):
                to[q * stride + s - left] = line[(s * wide + q) * e + t]


@njit(nogil=True, cache=True)
@no_type_check
def _shifts(channels, kernel, rows, stride, dilation, wide, e, out):  # noqa: ANN001, ANN202
    """Writes where each term (c, u, v) begins in a packed copy; what is left of out stays as it is."""
    k = 0
    for c in range(channels):
        for u in range(kernel[0]):
            for v in range(kernel[1]):
                at = v * dilation[1]
                line = (c * rows + u * dilation[0]) * stride[1] + at % stride[1]
                out[k] = (line * wide + at // stride[1]) * e
                k += 1


@njit(nogil=True, cache=True)
@no_type_check
def _lines(g, out):  # noqa: ANN001, ANN202
    """Copies images [e, o, H, W] to out [at least o, H, at least W e], with zeros up to the end of each line."""
    e, o, height, width = g.shape
    for k in range(o):
        for y in range(height):
            line = out[k, y]
            for t in range(e):
                source = g[t, k, y]
                for j in range(width):
                    line[j * e + t] = source[j]
            for j in range(width * e, line.size):
                line[j] = 0


@njit(nogil=True, cache=True)
@no_type_check
def _line(x, at, shifts, w, places, terms, start, out, place, run):  # noqa: ANN001, ANN202
    """Sets run numbers of out[f] from a place on, and some after them, to start[f] + sum_k w[k, f] x[at + shifts[k]].

    Args:
        w: flat; weights [k, f] begin at places[k].
        terms: how many k there are.
    """
    size, apart, tile = x.itemsize, out.shape[1], VECTORS * BYTES // x.itemsize
    to, source, weights, starts = out.ctypes.data, x.ctypes.data + at * size, w.ctypes.data, start.ctypes.data
    first, second = shifts.ctypes.data, places.ctypes.data
    for n in range(0, run, tile):
        for f in range(0, out.shape[0], ROWS):  # inside, since all rows read the same numbers of x
            combine(to + (f * apart + place + n) * size, apart, source + n * size, first, weights + f * size, second,
                    terms, starts + f * size, x[0])  # fmt: skip


@njit(nogil=True, cache=True)
@no_type_check
def forward(x, weight, bias, stride, padding, dilation, groups, y, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of y [w, b, groups o, i, j]; x [w / m, b, groups c, H, W], bias [w, groups o]."""
    o, c, kernel, (height, width) = weight.shape[1] // groups, weight.shape[2], weight.shape[3:], y.shape[3:]
    b, m, tile, channels = x.shape[1], weight.shape[0] // x.shape[0], VECTORS * BYTES // x.itemsize, _up(o, ROWS)
    rows = (height - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1
    wide = ((width - 1) * stride[1] + (kernel[1] - 1) * dilation[1]) // stride[1] + 1
    together = _together(b, stride[1] * wide, c * rows, x.itemsize)
    packed = np.zeros(c * rows * stride[1] * wide * together + tile, x.dtype)
    line = np.empty((channels, _up(width * together, tile)), x.dtype)
    terms = c * kernel[0] * kernel[1]
    w, start = np.zeros((terms, channels), x.dtype), np.zeros(channels, x.dtype)
    shifts, places = np.zeros(terms, np.int64), np.arange(terms) * channels
    for task in range(first * groups, last * groups):
        r, k = divmod(task, groups)
        start[:o] = bias[r, k * o : (k + 1) * o]
        for f in range(o):
            w[:, f] = weight[r, k * o + f].ravel()
        for e in range(0, b, together):
            some = slice(e, min(e + together, b))
            n = some.stop - e
            _pack(x[r // m, some, k * c : (k + 1) * c], rows, stride[1], padding[0], padding[1], wide, packed)
            _shifts(c, kernel, rows, stride, dilation, wide, n, shifts)
            for i in range(height):
                at = i * stride[0] * stride[1] * wide * n
                _line(packed, at, shifts, w, places, terms, start, line, 0, width * n)
                for f in range(o):
                    _unpack(line[f], 0, 1, width, n, y[r, some, k * o + f, i])


@njit(nogil=True, cache=True)
@no_type_check
def weight_gradient(g, x, stride, padding, dilation, groups, out, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of out, like `weight`: the adjoint of `forward` in weight, at g, like `y`."""
    o, c, kernel, (height, width) = out.shape[1] // groups, out.shape[2], out.shape[3:], g.shape[3:]
    b, m, lanes, terms = x.shape[1], out.shape[0] // x.shape[0], BYTES // x.itemsize, c * kernel[0] * kernel[1]
    rows = (height - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1
    wide = ((width - 1) * stride[1] + (kernel[1] - 1) * dilation[1]) // stride[1] + 1
    together = _together(b, stride[1] * wide, c * rows, x.itemsize)
    packed = np.zeros(c * rows * stride[1] * wide * together + lanes, x.dtype)
    lines = np.zeros((_up(o, ROWS), height, _up(width * together, lanes)), x.dtype)
    sums, shifts = np.zeros((lines.shape[0], _up(terms, VECTORS)), x.dtype), np.zeros(_up(terms, VECTORS), np.int64)
    for task in range(first * groups, last * groups):
        r, k = divmod(task, groups)
        sums[:] = 0
        for e in range(0, b, together):
            some = slice(e, min(e + together, b))
            n = some.stop - e
            _pack(x[r // m, some, k * c : (k + 1) * c], rows, stride[1], padding[0], padding[1], wide, packed)
            _shifts(c, kernel, rows, stride, dilation, wide, n, shifts)
            _lines(g[r, some, k * o : (k + 1) * o], lines)
            _add_products(lines, packed, shifts, stride[0] * stride[1] * wide * n, _up(width * n, lanes) // lanes, sums)
        for f in range(o):
            out[r, k * o + f] = sums[f, :terms].reshape(out.shape[2:])


@njit(nogil=True, cache=True)
@no_type_check
def _add_products(lines, x, shifts, apart, steps, sums):  # noqa: ANN001, ANN202
    """Adds sum_{y, n} lines[f, y, n] x[shifts[k] + y apart + n] to sums[f, k]; steps: vectors of a line."""
    size, (_, height, run) = x.itemsize, lines.shape
    parts = np.empty((ROWS, VECTORS, BYTES // size), x.dtype)
    to, source, other, first = parts.ctypes.data, lines.ctypes.data, x.ctypes.data, shifts.ctypes.data
    for f in range(0, sums.shape[0], ROWS):
        for k in range(0, sums.shape[1], VECTORS):
            row = source + f * height * run * size
            correlate(to, row, height * run, run, other, first + k * 8, apart, height, steps, x[0])
            for i in range(ROWS):
                for j in range(VECTORS):
                    sums[f + i, k + j] += parts[i, j].sum()


@njit(nogil=True, cache=True)
@no_type_check
def input_gradient(g, weight, stride, padding, dilation, groups, out, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of out [w, b, groups c, H, W]: the adjoint of `forward` in x, at g, like `y`."""
    o, c, kernel, (height, width) = weight.shape[1] // groups, weight.shape[2], weight.shape[3:], g.shape[3:]
    b, tile, channels = g.shape[1], VECTORS * BYTES // g.itemsize, _up(c, ROWS)
    left = (kernel[1] - 1) * dilation[1] // stride[1]
    columns = _up(padding[1] + out.shape[4], stride[1]) // stride[1]
    wide = left + max(columns, width)
    together = _together(b, wide, o * height, g.itemsize)
    packed = np.zeros(o * height * wide * together + tile, g.dtype)
    line = np.empty((channels, stride[1] * columns * together + tile), g.dtype)
    w, start = np.zeros((o, kernel[0], kernel[1], channels), g.dtype), np.zeros(channels, g.dtype)
    shifts, places = np.zeros((2, o * kernel[0] * kernel[1]), np.int64)
    for task in range(first * groups, last * groups):
        r, k = divmod(task, groups)
        for f in range(c):
            w[..., f] = weight[r, k * o : (k + 1) * o, f]
        for e in range(0, b, together):
            some = slice(e, min(e + together, b))
            n = some.stop - e
            _pack(g[r, some, k * o : (k + 1) * o], height, 1, 0, left, wide, packed)
            for i in range(out.shape[3]):
                for s in range(stride[1]):
                    at = (i + padding[0], s, left)
                    terms = _reached(at, w.shape, stride, dilation, height, wide, n, shifts, places)
                    _line(packed, 0, shifts, w, places, terms, start, line, s * columns * n, columns * n)
                for f in range(c):
                    _unpack(line[f], padding[1], stride[1], columns, n, out[r, some, k * c + f, i])


@njit(nogil=True, cache=True)
@no_type_check
def _reached(at, shape, stride, dilation, height, wide, e, shifts, places):  # noqa: ANN001, ANN202
    """Writes the terms (o, u, v) from which row at[0] and columns at[1] modulo the stride get something; their number.

    Args:
        at: row, remainder of columns, columns to the left of the first in the packed copy.
        shape: of the weights [o, u, v, channels].
        height: lines of g, each `wide` columns of e examples in the packed copy.
    """
    (row, remainder, left), (o, kernel, across, channels), terms = at, shape, 0
    for u in range(kernel):
        y, off = divmod(row - u * dilation[0], stride[0])
        if off == 0 and 0 <= y < height:
            for v in range(across):
                back, off = divmod(v * dilation[1] - remainder, stride[1])
                if off == 0:
                    for f in range(o):
                        shifts[terms] = ((f * height + y) * wide + left - back) * e
                        places[terms] = ((f * kernel + u) * across + v) * channels
                        terms += 1
    return terms
