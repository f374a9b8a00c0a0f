r"""Product: small matrix products on the CPU, whose sums stay in the core's vector registers.

    out[i, j] = sum_k a[i, k] b[k, j]

in tiles of some rows i by one or two vectors along j, where out and b lie without gaps; a lies anyhow, since its
numbers are taken one by one. Each sum goes through k in order, whatever the tile.

Notation: m rows, n columns, k terms.
"""

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter, ir
from batchednodes.numerics.tape.ahead import ask
from batchednodes.numerics.tape.opcodes import Finish


def _bytes() -> int:
    """Returns the bytes of a vector register of this machine [B]."""
    return 64 if get_host_cpu_features().get("avx512f", False) else 32


BYTES = _bytes()
"""Bytes of a vector [B]."""


def _write_tile(emit: Emitter, rows: int, vectors: int, args: Sequence[Any], mask: Any) -> None:
    """Writes the code of a tile with the arguments of `tile` below; mask: of the numbers of a part; None: all."""
    builder, (out, out_apart, a, a_apart, a_next, b, b_next, terms, _, finish, c, other, apart) = emit.builder, args

    def load(base: Any, place: Any) -> Any:
        return emit.load(base, place) if mask is None else emit.load_some(base, place, mask)

    def term(k: Any, sums: list[Any]) -> list[Any]:
        a_at, b_at = builder.mul(k, a_next), builder.mul(k, b_next)
        values = [load(b, builder.add(b_at, INT(v * emit.lanes))) for v in range(vectors)]
        factors = [emit.fill(a, builder.add(a_at, builder.mul(a_apart, INT(r)))) for r in range(rows)]
        pairs = [(factor, value) for factor in factors for value in values]
        return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

    zero = ir.Constant(emit.vector, None)
    sums = emit.loop(terms, [zero] * (rows * vectors), term)

    def write(change: Callable[[Any, int, int], Any]) -> None:
        for i, total in enumerate(sums):
            row, v = divmod(i, vectors)
            place = builder.add(builder.mul(out_apart, INT(row)), INT(v * emit.lanes))
            if mask is None:
                emit.store(change(total, row, v), out, place)
            else:
                emit.store_some(change(total, row, v), out, place, mask)

    def own(row: int, v: int) -> Any:
        return load(out, builder.add(builder.mul(out_apart, INT(row)), INT(v * emit.lanes)))

    def beside(row: int, v: int) -> Any:
        return load(other, builder.add(builder.mul(apart, INT(row)), INT(v * emit.lanes)))

    def biased(total: Any, row: int, _: int) -> Any:
        return builder.fadd(total, emit.fill(other, builder.mul(apart, INT(row))))

    def lifted(value: Any, by: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<=", by, zero), zero, value)

    def rectified(total: Any, row: int, v: int) -> Any:
        value = biased(total, row, v)
        return lifted(value, value)

    ways: dict[Finish, Callable[[Any, int, int], Any]] = {
        Finish.ADD_TO: lambda total, row, v: builder.fadd(own(row, v), builder.fmul(emit.equal(c), total)),
        Finish.BIAS: biased,
        Finish.BIAS_RELU: rectified,
        Finish.RELU_BACK: lambda total, row, v: lifted(total, beside(row, v)),
    }
    end = builder.append_basic_block()
    blocks = {way: builder.append_basic_block() for way in ways}
    plain = builder.append_basic_block()
    switch = builder.switch(finish, plain)
    for way, block in blocks.items():
        switch.add_case(INT(int(way)), block)
    for block, change in [(plain, lambda total, *_: total), *((blocks[way], ways[way]) for way in ways)]:
        builder.position_at_end(block)
        write(change)
        builder.branch(end)
    builder.position_at_end(end)


def _tile(rows: int, vectors: int, partly: bool) -> Any:
    """Returns the function that computes a tile; partly: it has one vector, of which only some numbers are there."""

    @intrinsic
    @no_type_check
    def tile(_, out, out_apart, a, a_apart, a_next, b, b_next, terms, left, finish, number, other, apart):  # noqa: ANN001, ANN202
        """Computes the tile that begins at some addresses.

        Args:
            out: address of the result, whose rows lie `out_apart` numbers from each other.
            a: address of the first factor, with rows `a_apart` and terms `a_next` numbers apart.
            b: address of the second one, with terms `b_next` numbers apart.
            terms: how many.
            left: numbers of a vector that are there, in a part of one.
            finish: what becomes of sums, see `Finish`.
            number: c of what becomes of them.
            other: address of its operand, whose rows lie `apart` numbers from each other.
        """

        @no_type_check
        def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            emit = Emitter(context, builder, number, BYTES)
            _write_tile(emit, rows, vectors, args, emit.first(args[8]) if partly else None)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 10, number, *[types.intp] * 2), code

    return tile


_wide_1, _wide_2, _wide_3, _wide_4, _wide_5, _wide_6, _wide_7, _wide_8 = (_tile(k, 2, False) for k in range(1, 9))
_part_1, _part_2, _part_4, _part_8 = (_tile(rows, 1, True) for rows in (1, 2, 4, 8))


@njit(nogil=True, cache=True)
@no_type_check
def _part(rows, to, out_apart, source, a_apart, a_next, b, b_next, terms, left, finish, c, other, apart):  # noqa: ANN001, ANN202
    """Computes some rows, 8, 4, 2 or 1, of the columns of a part of a vector."""
    if rows == 8:
        _part_8(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, finish, c, other, apart)
    elif rows == 4:
        _part_4(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, finish, c, other, apart)
    elif rows == 2:
        _part_2(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, finish, c, other, apart)
    else:
        _part_1(to, out_apart, source, a_apart, a_next, b, b_next, terms, left, finish, c, other, apart)


@njit(nogil=True, cache=True)
@no_type_check
def _wide(rows, to, out_apart, source, a_apart, a_next, b, b_next, terms, finish, c, other, apart):  # noqa: ANN001, ANN202
    """Computes some rows, 8 at most, of the columns of two vectors."""
    if rows == 8:
        _wide_8(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    elif rows == 4:
        _wide_4(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    elif rows == 5:
        _wide_5(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    elif rows == 6:
        _wide_6(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    elif rows == 7:
        _wide_7(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    elif rows == 3:
        _wide_3(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    elif rows == 2:
        _wide_2(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)
    else:
        _wide_1(to, out_apart, source, a_apart, a_next, b, b_next, terms, 0, finish, c, other, apart)


@njit(inline="always", nogil=True, cache=True)
@no_type_check
def _some(left, part):  # noqa: ANN001, ANN202
    """Returns how many of the rows that are left are computed next."""
    if part:
        return 8 if left >= 8 else 4 if left >= 4 else 2 if left >= 2 else 1
    if left < 8 or left >= 16:
        return min(left, 8)
    return left - left // 2 if left > 8 else 8  # few rows keep a core waiting


@njit(nogil=True, cache=True)
@no_type_check
def multiply(  # noqa: ANN201, PLR0913
    out, out_apart, a, a_apart, a_next, b, b_next, m, n, terms, size, c, finish, other, apart, next_row  # noqa: ANN001
):
    """Writes a product, or what becomes of its sums.

    Args:
        out: address of the result [m, n], whose rows lie `out_apart` numbers from each other.
        a: address of the first factor [m, k], with rows `a_apart` and terms `a_next` numbers apart.
        b: address of the second one [k, n], with terms `b_next` numbers apart.
        m: rows; n: columns; terms: k.
        size: bytes of a number [B].
        c: a number, of the type of all.
        finish: what becomes of sums, see `Finish`.
        other: address of its operand, whose rows lie `apart` numbers from each other.
        next_row: what is asked for ahead meanwhile, see `ahead.py`.
    """
    lanes, j = BYTES // size, 0
    while j < n:
        left = 0 if n - j >= 2 * lanes else min(n - j, lanes)
        i = 0
        at = j * size if finish == Finish.RELU_BACK else 0
        while i < m:
            rows = _some(m - i, left > 0)
            to, source, beside = out + (i * out_apart + j) * size, a + i * a_apart * size, other + i * apart * size + at
            ask(next_row)
            if left > 0:
                _part(rows, to, out_apart, source, a_apart, a_next, b + j * size, b_next, terms, left, finish, c,
                      beside, apart)  # fmt: skip
            else:
                _wide(rows, to, out_apart, source, a_apart, a_next, b + j * size, b_next, terms, finish, c,
                      beside, apart)  # fmt: skip
            i += rows
        j += left if left > 0 else 2 * lanes
