r"""Convolutions with strides or of few inputs, along the lines of images, on the CPU in float32.

Where the channels of a pixel lie side by side, what a line u of the kernel sees of an image is one run of k c numbers,
for each place of a line of outputs, whatever the stride is, s c numbers after that of the place before:

    y[i, j] = bias + sum_u W_u run(i s + u, j s),

a product of matrices for each u. The gradients of W and x are its adjoints.

Notation: w rows, m rows that share their inputs (r' = r // m), b examples, c input and o output channels, u v places in
a kernel of k lines of l numbers, s stride.
"""

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.numerics.convolution.panels import LANES, ROWS, image, multiply, pad
from batchednodes.numerics.convolution.shape import Shape

_PAIRS = 1 << 13
"""Pairs of channels above which weights, taken anew for each line, do not stay in the second cache."""


def fits(shape: Shape, weight: Sequence[int], outputs: Sequence[int]) -> bool:
    """Returns whether these kernels compute a convolution faster than others would, by its sizes.

    Args:
        shape: its settings.
        weight: sizes of a row's weight, o c k l.
        outputs: height and width of outputs.
    """
    o, c, *_ = weight
    plain = shape.dilation == (1, 1) and shape.groups == 1 and (c < LANES or max(shape.stride) > 1)
    return plain and o % LANES == 0 and outputs[1] % ROWS == 0 and c * o <= _PAIRS


@njit(nogil=True, cache=True)
@no_type_check
def _padded(size, kernel, stride, padding, outputs, c):  # noqa: ANN001, ANN202
    """Returns zeros for an image [H, W] with all that its outputs see, and a line more, since tiles read on."""
    height = max((outputs[0] - 1) * stride[0] + kernel[0], size[0] + padding[0])
    width = max((outputs[1] - 1) * stride[1] + kernel[1], size[1] + padding[1])
    return image(height + 1, width * c)


@njit(nogil=True, cache=True)
@no_type_check
def forward(x, weight, bias, stride, padding, y, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of y [w, b, H', W', o]; x [w / m, b, H, W, c], weight [w, o, c, k, l], bias [w, o]."""
    (w, o, c, k, across), (_, b, height, width, _) = weight.shape, y.shape
    m, terms, number = w // x.shape[0], across * c, x[0, 0, 0, 0, 0]
    packed = np.empty((k, o // LANES, across, c, LANES), x.dtype)
    padded = _padded(x.shape[2:4], (k, across), stride, padding, (height, width), c)
    down, start, weights = padded.shape[1], bias.ctypes.data, packed.ctypes.data
    for r in range(first, last):
        for f in range(o):
            for h in range(c):
                for u in range(k):
                    for v in range(across):
                        packed[u, f // LANES, v, h, f % LANES] = weight[r, f, h, u, v]
        for e in range(b):
            pad(x[r // m, e].reshape(x.shape[2], -1), padding[0], padding[1] * c, padded)
            for i in range(height):
                to = y.ctypes.data + ((r * b + e) * height + i) * width * o * 4
                for u in range(k):
                    source, panel = padded.ctypes.data + (i * stride[0] + u) * down * 4, weights + u * terms * o * 4
                    begin, apart = (to, o) if u else (start + r * o * 4, 0)
                    multiply(to, o, begin, apart, source, stride[1] * c, 1, panel, terms * LANES, LANES, o, width,
                             terms, number)  # fmt: skip


@njit(nogil=True, cache=True)
@no_type_check
def weight_gradient(g, x, stride, padding, out, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of out [w, o, c, k, l], the adjoint of `forward` in weight, at g [w, b, H', W', o]."""
    (w, o, c, k, across), (_, b, height, width, _) = out.shape, g.shape
    m, number, rows = w // x.shape[0], x[0, 0, 0, 0, 0], (across * c + ROWS - 1) // ROWS * ROWS
    sums = np.empty((k, rows, o), x.dtype)
    padded = _padded(x.shape[2:4], (k, across), stride, padding, (height, width), c)
    down = padded.shape[1]
    for r in range(first, last):
        sums[:] = 0
        for e in range(b):
            pad(x[r // m, e].reshape(x.shape[2], -1), padding[0], padding[1] * c, padded)
            for i in range(height):
                line = g.ctypes.data + ((r * b + e) * height + i) * width * o * 4
                for u in range(k):
                    source, to = (
                        padded.ctypes.data + (i * stride[0] + u) * down * 4,
                        sums.ctypes.data + u * rows * o * 4,
                    )
                    multiply(to, o, to, o, source, 1, stride[1] * c, line, LANES, o, o, rows, width, number)
        for f in range(o):
            for h in range(c):
                for u in range(k):
                    for v in range(across):
                        out[r, f, h, u, v] = sums[u, v * c + h, f]


@njit(nogil=True, cache=True)
@no_type_check
def input_gradient(g, weight, stride, padding, out, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of out [w, b, H, W, c], the adjoint of `forward` in x; c: a multiple of LANES."""
    (_, o, c, k, across), (_, b, height, width, _), number = weight.shape, g.shape, g[0, 0, 0, 0, 0]
    packed = np.empty((k, across, c // LANES, o, LANES), g.dtype)
    padded = _padded(out.shape[2:4], (k, across), stride, padding, (height, width), c)
    down, lines = padded.shape[1], out.shape[2]
    for r in range(first, last):
        for f in range(o):
            for h in range(c):
                for u in range(k):
                    for v in range(across):
                        packed[u, v, h // LANES, f, h % LANES] = weight[r, f, h, u, v]
        for e in range(b):
            padded[:] = 0
            for i in range(height):
                line = g.ctypes.data + ((r * b + e) * height + i) * width * o * 4
                for u in range(k):
                    for v in range(across):
                        to = padded.ctypes.data + ((i * stride[0] + u) * down + v * c) * 4
                        multiply(to, stride[1] * c, to, stride[1] * c, line, o, 1,
                                 packed.ctypes.data + (u * across + v) * o * c * 4, o * LANES, LANES, c, width, o,
                                 number)  # fmt: skip
            pad(padded, -padding[0], -padding[1] * c, out[r, e].reshape(lines, -1))
