r"""Transposes: numbers copied from columns to rows, in square tiles that stay in vector registers.

Of two rows, neighbours are interleaved; after log2 of the size of a tile times, each with that half a tile below, its
rows are columns.

Notation: m rows and n columns of what is copied.
"""

from typing import Any, no_type_check

from numba import njit, types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter, ir
from batchednodes.numerics.tape.matmul import BYTES


def _interleaved(emit: Emitter, a: Any, b: Any) -> list[Any]:
    """Returns the numbers of two vectors one by one in turn, as two vectors."""
    half, lane = emit.lanes // 2, ir.IntType(32)
    found = []
    for first in (0, half):
        places = [k for i in range(first, first + half) for k in (i, emit.lanes + i)]
        found.append(emit.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(lane, emit.lanes), places)))
    return found


@intrinsic
@no_type_check
def _tile(_, source, apart, out, out_apart, number):  # noqa: ANN001, ANN202
    """Copies the transpose of a square tile of as many numbers as a vector has.

    Args:
        source: address of the tile, whose rows lie `apart` numbers from each other.
        out: address of the result, likewise.
        number: any number of their type.
    """

    @no_type_check
    def code(context: Any, builder: Any, _: Any, args: Any) -> Any:
        emit = Emitter(context, builder, number, BYTES)
        source, apart, out, out_apart, _ = args
        rows = [emit.load(source, builder.mul(apart, INT(k))) for k in range(emit.lanes)]
        half = emit.lanes // 2
        for _ in range(half.bit_length()):
            rows = [row for k in range(half) for row in _interleaved(emit, rows[k], rows[half + k])]
        for k, row in enumerate(rows):
            emit.store(row, out, builder.mul(out_apart, INT(k)))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, number), code


@njit(nogil=True, cache=True)
@no_type_check
def transpose(source, apart, m, n, out, out_apart, size, number):  # noqa: ANN001, ANN201
    """Copies the transpose of some numbers, at least a tile; tiles that do not fit in meet others.

    Args:
        source: address of the numbers, whose rows lie `apart` numbers from each other.
        m: rows.
        n: columns.
        out: address of the result, whose rows lie `out_apart` numbers from each other.
        size: bytes of a number [B].
        number: any number of their type.
    """
    lanes = BYTES // size
    for j in range(0, n, lanes):
        j = min(j, n - lanes)
        for i in range(0, m, lanes):
            i = min(i, m - lanes)
            _tile(source + (i * apart + j) * size, apart, out + (j * out_apart + i) * size, out_apart, number)
