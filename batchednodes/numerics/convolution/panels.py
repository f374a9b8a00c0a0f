r"""Products of panels, and padded images: what kernels for images with the channels of a pixel side by side share.

A product of matrices, in float32, is computed in tiles whose sums stay in the core's vector registers. The second
factor lies in panels: for some vector of columns, all rows one after the other.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter

LANES = 16
"""Channels that are computed together: a vector's; numbers of columns are multiples of it."""

ROWS = 8
"""Rows of a tile of sums in registers; numbers of rows are multiples of it."""


def _tile(vectors: int) -> Any:
    """Returns the function that computes ROWS rows of a product, some vectors of each."""

    @intrinsic
    @no_type_check
    def tile(_, out, out_apart, start, start_apart, a, a_apart, a_next, b, b_apart, b_next, terms, number):  # noqa: ANN001, ANN202
        """Sets out[i, j] = start[i, j] + sum_k a[i, k] b[k, j].

        Args:
            out: address of the result; start: of what sums begin with; rows lie `..._apart` numbers from each other.
            a: address of the first factor, with rows `a_apart` and terms `a_next` numbers apart.
            b: address of the second one, with vectors `b_apart` and terms `b_next` numbers apart.
            terms: how many.
            number: any number of the type of all.
        """

        @no_type_check
        def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            out, out_apart, start, start_apart, a, a_apart, a_next, b, b_apart, b_next, terms, _ = args
            emit = Emitter(context, builder, number, LANES * 4)

            def place(apart: Any, i: int, v: int) -> Any:
                return builder.add(builder.mul(apart, INT(i)), INT(v * LANES))

            def term(k: Any, sums: list[Any]) -> list[Any]:
                a_at, b_at = builder.mul(k, a_next), builder.mul(k, b_next)
                values = [emit.load(b, builder.add(b_at, builder.mul(b_apart, INT(v)))) for v in range(vectors)]
                factors = [emit.fill(a, builder.add(a_at, builder.mul(a_apart, INT(i)))) for i in range(ROWS)]
                pairs = [(factor, value) for factor in factors for value in values]
                return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

            places = [(i, v) for i in range(ROWS) for v in range(vectors)]
            sums = [emit.load(start, place(start_apart, *at)) for at in places]
            for at, total in zip(places, emit.loop(terms, sums, term), strict=True):
                emit.store(total, out, place(out_apart, *at))
            return context.get_dummy_value()

        return types.void(*[types.intp] * 11, number), code

    return tile


_tile_1, _tile_2 = _tile(1), _tile(2)


@njit(nogil=True, cache=True)
@no_type_check
def multiply(out, out_apart, start, start_apart, a, a_apart, a_next, b, b_apart, b_next, n, rows, terms, number):  # noqa: ANN001, ANN201
    """Sets out [rows, n] = start + sum_k a[i, k] b[k, j] for vectors of j; arguments as of `_tile`, in its numbers."""
    for j in range(0, n, 2 * LANES):
        values = b + j // LANES * b_apart * 4
        for i in range(0, rows, ROWS):
            to, source, first = out + (i * out_apart + j) * 4, a + i * a_apart * 4, start + (i * start_apart + j) * 4
            if j + LANES < n:
                _tile_2(
                    to, out_apart, first, start_apart, source, a_apart, a_next, values, b_apart, b_next, terms, number
                )
            else:
                _tile_1(
                    to, out_apart, first, start_apart, source, a_apart, a_next, values, b_apart, b_next, terms, number
                )


@njit(nogil=True, cache=True)
@no_type_check
def image(height, width):  # noqa: ANN001, ANN201
    """Returns zeros [height, width], of which the first begins with a line of the cache."""
    out = np.zeros(height * width + LANES, np.float32)
    first = (-out.ctypes.data) % (LANES * 4) // 4
    return out[first : first + height * width].reshape(height, width)


@njit(nogil=True, cache=True)
@no_type_check
def pad(image, top, left, out):  # noqa: ANN001, ANN201
    """Writes an image [H, W c] into the middle of a larger one, from some pixels on, as far as there is room."""
    for i in range(max(0, -top), min(image.shape[0], out.shape[0] - top)):
        begin, end = max(0, -left), min(image.shape[1], out.shape[1] - left)
        line, to = image[i, begin:end], out[top + i, left + begin : left + end]
        for k in range(line.size):
            to[k] = line[k]
