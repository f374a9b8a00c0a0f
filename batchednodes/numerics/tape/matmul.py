r"""Product: small matrix products on the CPU, whose sums stay in the core's vector registers.

    out[i, j] = sum_k a[i, k] b[k, j]

in tiles of some rows i by one or two vectors along j, where out and b lie without gaps; a lies anyhow, since its
numbers are taken one by one. Each sum goes through k in order, whatever the tile.

Notation: m rows, n columns, k terms.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter, ir


def _bytes() -> int:
    """Returns the bytes of a vector register of this machine [B]."""
    return 64 if get_host_cpu_features().get("avx512f", False) else 32


BYTES = _bytes()
"""Bytes of a vector [B]."""


def _write_tile(emit: Emitter, rows: int, vectors: int, args: Sequence[Any], mask: Any) -> None:
    """Writes the code of a tile with the arguments of `tile` below; mask: of the numbers of a part; None: all."""
    builder, (out, out_apart, a, a_apart, a_next, b, b_next, terms, *_) = emit.builder, args

    def term(k: Any, sums: list[Any]) -> list[Any]:
        a_at, b_at = builder.mul(k, a_next), builder.mul(k, b_next)
        places = [builder.add(b_at, INT(v * emit.lanes)) for v in range(vectors)]
        values = [emit.load(b, place) if mask is None else emit.load_some(b, place, mask) for place in places]
        factors = [emit.fill(a, builder.add(a_at, builder.mul(a_apart, INT(r)))) for r in range(rows)]
        pairs = [(factor, value) for factor in factors for value in values]
        return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

    zeros = [ir.Constant(emit.vector, None)] * (rows * vectors)
    for i, total in enumerate(emit.loop(terms, zeros, term)):
        row, v = divmod(i, vectors)
        place = builder.add(builder.mul(out_apart, INT(row)), INT(v * emit.lanes))
        if mask is None:
            emit.store(total, out, place)
        else:
            emit.store_some(total, out, place, mask)


def _tile(rows: int, vectors: int, partly: bool) -> Any:
    """Returns the function that computes a tile; partly: it has one vector, of which only some numbers are there."""

    @intrinsic
    @no_type_check
    def tile(_, out, out_apart, a, a_apart, a_next, b, b_next, terms, left, number):  # noqa: ANN001, ANN202
        """Computes the tile that begins at some addresses.

        Args:
            out: address of the result, whose rows lie `out_apart` numbers from each other.
            a: address of the first factor, with rows `a_apart` and terms `a_next` numbers apart.
            b: address of the second one, with terms `b_next` numbers apart.
            terms: how many.
            left: numbers of a vector that are there, in a part of one.
            number: any number of the type of all.
        """

        @no_type_check
        def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            emit = Emitter(context, builder, number, BYTES)
            _write_tile(emit, rows, vectors, args, emit.first(args[8]) if partly else None)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9, number), code

    return tile


_wide_8, _wide_4, _wide_2, _wide_1 = (_tile(rows, 2, False) for rows in (8, 4, 2, 1))
_part_8, _part_4, _part_2, _part_1 = (_tile(rows, 1, True) for rows in (8, 4, 2, 1))


@njit(nogil=True, cache=True)
@no_type_check
def _columns(out, out_apart, a, a_apart, a_next, b, b_next, m, terms, left, size, number):  # noqa: ANN001, ANN202
    """Computes all rows of some columns: two vectors of them, or one of which some numbers are there."""
    i = 0
    while i < m:
        to, source, rows = out + i * out_apart * size, a + i * a_apart * size, m - i
        if left > 0:
            if rows >= 8:
                _part_8(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
            elif rows >= 4:
                _part_4(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
            elif rows >= 2:
                _part_2(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
            else:
                _part_1(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
        elif rows >= 8:
            _wide_8(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
        elif rows >= 4:
            _wide_4(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
        elif rows >= 2:
            _wide_2(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
        else:
            _wide_1(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, number)
        i += 8 if rows >= 8 else 4 if rows >= 4 else 2 if rows >= 2 else 1


@njit(nogil=True, cache=True)
@no_type_check
def multiply(out, out_apart, a, a_apart, a_next, b, b_next, m, n, terms, size, number):  # noqa: ANN001, ANN201
    """Writes a product.

    Args:
        out: address of the result [m, n], whose rows lie `out_apart` numbers from each other.
        a: address of the first factor [m, k], with rows `a_apart` and terms `a_next` numbers apart.
        b: address of the second one [k, n], with terms `b_next` numbers apart.
        m: rows; n: columns; terms: k.
        size: bytes of a number [B].
        number: any number of the type of all.
    """
    lanes, j = BYTES // size, 0
    while j < n:
        left = 0 if n - j >= 2 * lanes else min(n - j, lanes)
        _columns(out + j * size, out_apart, a, a_apart, a_next, b + j * size, b_next, m, terms, left, size, number)
        j += left if left > 0 else 2 * lanes
