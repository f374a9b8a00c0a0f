r"""Convolutions of 3 x 3 and 5 x 5 kernels by fewer products, on the CPU in float32: those of Winograd.

A tile of 2 x 2 outputs depends on one of N x N inputs, N = k + 1. With fixed matrices A, B and C

    outputs = A' [ sum_c (C w C') * (B' x B) ] A          (* entry by entry)

takes N^2 products of a pair of channels where 4 k^2 are common: 16 of 36, or 36 of 100. Each of the N^2 entries is a
product of matrices, channels by tiles. The gradients of w and x are the adjoints of the same. Images have the channels
of a pixel side by side; all that a few tiles need stays in the second cache. Rounding is that of sums in another order
for 3 x 3, some ten times that for 5 x 5.

Notation: w rows, m rows that share their inputs (r' = r // m), b examples, c input and o output channels, k size of the
kernel, N side of a tile of inputs, T tiles at a time.

Reference:
    A. Lavin, S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from batchednodes.numerics.convolution.panels import LANES, ROWS, image, multiply, pad
from batchednodes.numerics.convolution.shape import Shape
from batchednodes.numerics.simd import INT, Emitter, ir

_SCRATCH = 1 << 17
"""Numbers of the tiles taken at a time, in and out: half of a common core's own cache."""

_MOST = 32
"""Tiles taken at a time, at most."""

_TILES = 64
"""Tiles of a row below which to transform its weights costs more than is won."""

_CHANNELS = 256
"""Channels above which the transformed weights of a row do not fit into the second cache, nor its tiles beside them."""

Matrix = tuple[tuple[Any, ...], ...]
"""Rows of numbers."""

_IN = {
    3: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    5: ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1)),
}  # fmt: skip
"""B' by k."""

_WEIGHT = {
    3: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    5: ((1 / 4, 0, 0, 0, 0), (-1 / 6,) * 5, (-1 / 6, 1 / 6, -1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6, 1 / 3, 2 / 3), (1 / 24, -1 / 12, 1 / 6, -1 / 3, 2 / 3), (0, 0, 0, 0, 1)),
}  # fmt: skip
"""C by k."""

_OUT = {
    3: ((1, 1, 1, 0), (0, 1, -1, -1)),
    5: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 1)),
}
"""A' by k. Second entries are 1: what is added to the entry (1, 1) of N x N is added to all outputs."""


def fits(shape: Shape, weight: Sequence[int], outputs: Sequence[int], b: int) -> bool:
    """Returns whether these kernels compute a convolution faster than others would, by its sizes.

    Args:
        shape: its settings.
        weight: sizes of a row's weight, o c k k.
        outputs: height and width of outputs; even numbers of pixels, as then those of the inputs are.
        b: examples.
    """
    o, c, k, across = weight
    plain = shape == Shape((1, 1), shape.padding, (1, 1), 1) and k == across and k in _IN and max(shape.padding) < k
    wide = o % LANES == 0 and c % LANES == 0 and max(o, c) <= _CHANNELS
    even = all(n % 2 == 0 for n in outputs)
    return plain and wide and even and b * outputs[0] * outputs[1] >= 4 * _TILES


def _sums(emit: Emitter, matrix: Matrix, vectors: Sequence[Any]) -> list[Any]:
    """Returns the products of a matrix and a column of vectors, as few operations."""
    found = []
    for row in matrix:
        total = None
        for factor, vector in sorted(zip(row, vectors, strict=True), key=lambda pair: -pair[0]):
            if factor == 0:
                continue
            if total is None:
                total = vector if factor == 1 else emit.builder.fmul(vector, _constant(emit, factor))
            elif abs(factor) == 1:
                total = (emit.builder.fadd if factor == 1 else emit.builder.fsub)(total, vector)
            else:
                total = emit.add_product(total, vector, _constant(emit, factor))
        found.append(total)
    return found


def _constant(emit: Emitter, number: Any) -> Any:
    return ir.Constant(emit.vector, [number] * emit.lanes)


def _transform(matrix: Matrix) -> Any:
    """Returns the function that puts M D M' in place of each square D of vectors, for a constant matrix M."""

    @intrinsic
    @no_type_check
    def transform(_, source, down, across, out, out_down, out_across, vectors, number):  # noqa: ANN001, ANN202
        """Transforms squares that lie side by side.

        Args:
            source: address of the first one; its rows lie `down` numbers, its columns `across` numbers apart.
            out: address of the first result, likewise.
            vectors: how many.
            number: any number of the type of all.
        """

        @no_type_check
        def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            source, down, across, out, out_down, out_across, vectors, _ = args
            emit, n = Emitter(context, builder, number, LANES * 4), range(len(matrix[0]))

            def place(first: Any, down: Any, across: Any, i: int, j: int) -> Any:
                return builder.add(first, builder.add(builder.mul(down, INT(i)), builder.mul(across, INT(j))))

            def each(v: Any, _: list[Any]) -> list[Any]:
                first = builder.mul(v, INT(LANES))
                columns = [
                    _sums(emit, matrix, [emit.load(source, place(first, down, across, i, j)) for i in n]) for j in n
                ]
                for i, row in enumerate(zip(*columns, strict=True)):
                    for j, made in enumerate(_sums(emit, matrix, row)):
                        emit.store(made, out, place(first, out_down, out_across, i, j))
                return []

            emit.loop(vectors, [], each)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7, number), code

    return transform


def _turned(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


_in_3, _in_5 = (_transform(_IN[k]) for k in (3, 5))
_weight_3, _weight_5 = (_transform(_WEIGHT[k]) for k in (3, 5))
_out_3, _out_5 = (_transform(_OUT[k]) for k in (3, 5))
_back_3, _back_5 = (_transform(_turned(_OUT[k])) for k in (3, 5))
_sum_3, _sum_5 = (_transform(_turned(_WEIGHT[k])) for k in (3, 5))


@njit(nogil=True, cache=True)
@no_type_check
def _together(tiles, side, channels):  # noqa: ANN001, ANN202
    """Returns how many tiles are taken at a time."""
    room = _SCRATCH // (side * side * channels)
    return max(2 * ROWS, min(_MOST, room, tiles + ROWS - 1) // ROWS * ROWS)


@njit(nogil=True, cache=True)
@no_type_check
def _places(b, down, across):  # noqa: ANN001, ANN202
    """Returns example, row and column of the first output of each tile."""
    out, t = np.empty((b * down * across, 3), np.int64), 0
    for e in range(b):
        for i in range(down):
            for j in range(across):
                out[t, 0], out[t, 1], out[t, 2] = e, 2 * i, 2 * j
                t += 1
    return out


@njit(nogil=True, cache=True)
@no_type_check
def _blank(entries, numbers):  # noqa: ANN001, ANN202
    """Returns zeros for some numbers of each entry, and from where on the first begins with a line of the cache.

    Entries lie `numbers + LANES` apart, since lines that are a power of two apart push each other out.
    """
    out = np.zeros(entries * (numbers + LANES) + LANES, np.float32)
    return out, out.ctypes.data + (-out.ctypes.data) % (LANES * 4)


@njit(nogil=True, cache=True)
@no_type_check
def _inputs(x, k, padding, places, padded, held, out, apart):  # noqa: ANN001, ANN202
    """Writes B' D B of some tiles to out, entries `apart` numbers apart; returns which example is held.

    Args:
        x: images [b, H, W, c].
        places: examples, and the first pixels, of the tiles.
        padded: room for an image with the zeros around it.
        held: number of the example that it holds.
    """
    (_, height, width, c), number = x.shape, x[0, 0, 0, 0]
    down = padded.shape[1]
    for s in range(len(places)):
        e = places[s, 0]
        if e != held:
            pad(x[e].reshape(height, width * c), padding[0], padding[1] * c, padded)
            held = e
        source, to = padded.ctypes.data + (places[s, 1] * down + places[s, 2] * c) * 4, out + s * c * 4
        if k == 3:
            _in_3(source, down, c, to, (k + 1) * apart, apart, c // LANES, number)
        else:
            _in_5(source, down, c, to, (k + 1) * apart, apart, c // LANES, number)
    return held


@njit(nogil=True, cache=True)
@no_type_check
def _weights(weight, turned, packed, out, apart):  # noqa: ANN001, ANN202
    """Writes C w C' of weights [o, c, k k] to out, entries [o / LANES, c, LANES] `apart` numbers apart.

    Turned: of the kernels upside down [c, o, k k].
    """
    squares, k = weight.shape[2], 3 if weight.shape[2] == 9 else 5
    for f in range(0, weight.shape[0], LANES):
        for g in range(weight.shape[1]):
            for q in range(squares):
                for i in range(LANES):
                    if turned:
                        packed[squares - 1 - q, g // LANES, f + i, g % LANES] = weight[f + i, g, q]
                    else:
                        packed[q, f // LANES, g, i] = weight[f + i, g, q]
    source, size = packed.ctypes.data, packed[0].size
    if k == 3:
        _weight_3(source, k * size, size, out, (k + 1) * apart, apart, size // LANES, packed[0, 0, 0, 0])
    else:
        _weight_5(source, k * size, size, out, (k + 1) * apart, apart, size // LANES, packed[0, 0, 0, 0])


@njit(nogil=True, cache=True)
@no_type_check
def forward(x, weight, bias, padding, turned, y, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of y [w, b, H', W', o] of x [w / m, b, H, W, c] and bias [w, o].

    Args:
        weight: [w, o, c, k k]; turned: [w, c, o, k k], of kernels upside down, which gives the gradient of inputs.
        padding: zeros above and to the left of images.
        turned: whether it is so.
    """
    k, m, (_, b, height, width, o) = 3 if weight.shape[3] == 9 else 5, weight.shape[0] // x.shape[0], y.shape
    side, entries, c, places = k + 1, (k + 1) ** 2, x.shape[4], _places(b, height // 2, width // 2)
    padded = image(height + k - 1, (width + k - 1) * c)
    most = _together(len(places), side, c + o)
    packed, number = np.empty((k * k, o // LANES, c, LANES), x.dtype), padded[0, 0]
    kept_w, weights = _blank(entries, c * o)
    kept_i, ins = _blank(entries, most * c)
    kept_o, outs = _blank(entries, most * o)
    start, w_apart, in_apart, out_apart = np.zeros((2, o), x.dtype), c * o + LANES, most * c + LANES, most * o + LANES
    for r in range(first, last):
        _weights(weight[r], turned, packed, weights, w_apart)
        start[1], held = bias[r], -1
        for t in range(0, len(places), most):
            some = min(most, len(places) - t)
            held = _inputs(x[r // m], k, padding, places[t : t + some], padded, held, ins, in_apart)
            for n in range(entries):
                begin = start.ctypes.data + (o * 4 if n == side + 1 else 0)
                multiply(outs + n * out_apart * 4, o, begin, 0, ins + n * in_apart * 4, c, 1, weights + n * w_apart * 4,
                          c * LANES, LANES, o, most, c, number)  # fmt: skip
            for s in range(some):
                line = (r * b + places[t + s, 0]) * height + places[t + s, 1]
                to = y.ctypes.data + (line * width + places[t + s, 2]) * o * 4
                if k == 3:
                    _out_3(outs + s * o * 4, side * out_apart, out_apart, to, width * o, o, o // LANES, number)
                else:
                    _out_5(outs + s * o * 4, side * out_apart, out_apart, to, width * o, o, o // LANES, number)
    kept_w[0] = kept_i[0] = kept_o[0] = 0  # addresses do not keep them until here


@njit(nogil=True, cache=True)
@no_type_check
def weight_gradient(g, x, padding, out, first, last):  # noqa: ANN001, ANN201
    """Writes rows first to last of out [w, o, c, k k], the adjoint of `forward` in weight, at g [w, b, H', W', o]."""
    k, m, (_, b, height, width, o) = 3 if out.shape[3] == 9 else 5, g.shape[0] // x.shape[0], g.shape
    side, entries, c, places = k + 1, (k + 1) ** 2, x.shape[4], _places(b, height // 2, width // 2)
    padded = image(height + k - 1, (width + k - 1) * c)
    most = _together(len(places), side, c + o)
    packed, number = np.empty((k * k, c, o), x.dtype), padded[0, 0]
    kept_w, sums = _blank(entries, c * o)
    kept_i, ins = _blank(entries, most * c)
    kept_o, backs = _blank(entries, most * o)
    w_apart, in_apart, out_apart, size = c * o + LANES, most * c + LANES, most * o + LANES, c * o
    for r in range(first, last):
        kept_w[:], held = 0, -1
        for t in range(0, len(places), most):
            some = min(most, len(places) - t)
            held = _inputs(x[r // m], k, padding, places[t : t + some], padded, held, ins, in_apart)
            for s in range(some):
                line = (r * b + places[t + s, 0]) * height + places[t + s, 1]
                source = g.ctypes.data + (line * width + places[t + s, 2]) * o * 4
                if k == 3:
                    _back_3(source, width * o, o, backs + s * o * 4, side * out_apart, out_apart, o // LANES, number)
                else:
                    _back_5(source, width * o, o, backs + s * o * 4, side * out_apart, out_apart, o // LANES, number)
            for n in range(entries):
                total = sums + n * w_apart * 4
                multiply(total, o, total, o, ins + n * in_apart * 4, 1, c, backs + n * out_apart * 4, LANES, o, o, c,
                          some, number)  # fmt: skip
        to = packed.ctypes.data
        if k == 3:
            _sum_3(sums, side * w_apart, w_apart, to, k * size, size, size // LANES, number)
        else:
            _sum_5(sums, side * w_apart, w_apart, to, k * size, size, size // LANES, number)
        for f in range(0, o, LANES):
            for h in range(c):
                for i in range(f, f + LANES):
                    for q in range(k * k):
                        out[r, i, h, q] = packed[q, h, i]
    kept_w[0] = kept_i[0] = kept_o[0] = 0  # addresses do not keep them until here
