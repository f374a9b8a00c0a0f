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

from batchednodes.numerics.simd import INT, Emitter
from batchednodes.numerics.tape.ahead import ask
from batchednodes.numerics.tape.opcodes import Finish


def _bytes() -> int:
    """Returns the bytes of a vector register of this machine [B]."""
    return 64 if get_host_cpu_features().get("avx512f", False) else 32


BYTES = _bytes()
"""Bytes of a vector [B]."""


class _Tile:
    """Writes the code of a tile with the arguments of `tile` below; mask: of the numbers of a part; None: all."""

    @no_type_check
    def __init__(self, emit: Emitter, shape: tuple[int, int], args: Sequence[Any], mask: Any) -> None:
        self.emit, self.builder, (self.rows, self.vectors), self.mask = emit, emit.builder, shape, mask
        (self.out, self.out_apart, self.a, self.a_apart, self.a_next, self.b, self.b_next, self.terms, _,
         self.finish, self.c, self.other, self.apart) = args  # fmt: skip

    def write(self) -> None:
        """Writes sums, or what becomes of them."""
        b, sums = self.builder, self._sums()
        ways: list[tuple[Finish, Callable[[Any, int, int], Any]]] = [
            (Finish.STORE, lambda total, *_: total),
            (Finish.ADD_TO, self._added),
            (Finish.BIAS, self._biased),
            (Finish.BIAS_RELU, lambda *at: self._lifted(value := self._biased(*at), value)),
            (Finish.RELU_BACK, lambda total, *at: self._lifted(total, self._load(self.other, self.apart, *at))),
        ]
        blocks, end = [b.append_basic_block() for _ in ways], b.append_basic_block()
        switch = b.switch(self.finish, blocks[0])
        for (finish, change), block in zip(ways, blocks, strict=True):
            if finish != Finish.STORE:
                switch.add_case(INT(int(finish)), block)
            b.position_at_end(block)
            for i, total in enumerate(sums):
                row, v = divmod(i, self.vectors)
                self._store(change(total, row, v), row, v)
            b.branch(end)
        b.position_at_end(end)

    def _sums(self) -> list[Any]:
        """Returns the sums, row by row."""
        b, emit = self.builder, self.emit

        def term(k: Any, sums: list[Any]) -> list[Any]:
            a_at, b_at = b.mul(k, self.a_next), b.mul(k, self.b_next)
            values = [self._load(self.b, b_at, 1, v) for v in range(self.vectors)]
            factors = [emit.fill(self.a, b.add(a_at, b.mul(self.a_apart, INT(r)))) for r in range(self.rows)]
            pairs = [(factor, value) for factor in factors for value in values]
            return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

        return emit.loop(self.terms, [emit.equal(0.0)] * (self.rows * self.vectors), term)

    def _at(self, apart: Any, row: int, v: int) -> Any:
        """Returns the place of a vector of a row, where rows lie apart."""
        return self.builder.add(self.builder.mul(apart, INT(row)), INT(v * self.emit.lanes))

    def _load(self, base: Any, apart: Any, row: int, v: int) -> Any:
        place = self._at(apart, row, v)
        return self.emit.load(base, place) if self.mask is None else self.emit.load_some(base, place, self.mask)

    def _store(self, value: Any, row: int, v: int) -> None:
        place = self._at(self.out_apart, row, v)
        if self.mask is None:
            self.emit.store(value, self.out, place)
        else:
            self.emit.store_some(value, self.out, place, self.mask)

    def _added(self, total: Any, row: int, v: int) -> Any:
        old, c = self._load(self.out, self.out_apart, row, v), self.emit.repeated(self.c)
        return self.builder.fadd(old, self.builder.fmul(c, total))

    def _biased(self, total: Any, row: int, _: int) -> Any:
        return self.builder.fadd(total, self.emit.fill(self.other, self.builder.mul(self.apart, INT(row))))

    def _lifted(self, value: Any, by: Any) -> Any:
        """Returns a value, or zero where another one is not above it."""
        zero = self.emit.equal(0.0)
        return self.builder.select(self.builder.fcmp_ordered("<=", by, zero), zero, value)


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
            _Tile(emit, (rows, vectors), args, emit.first(args[8]) if partly else None).write()
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
    """Returns how many of the rows that are left are computed next: not so few at last that a core waits for sums."""
    if part:
        return 8 if left >= 8 else 4 if left >= 4 else 2 if left >= 2 else 1
    return left - left // 2 if 8 < left < 16 else min(left, 8)


@njit(nogil=True, cache=True)
@no_type_check
def multiply(out, out_apart, a, a_apart, a_next, b, b_next, m, n, terms, size, c, finish, other, apart, next_row):  # noqa: ANN001, ANN201
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
