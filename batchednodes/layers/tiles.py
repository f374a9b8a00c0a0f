r"""Tiles: the innermost loops of convolutions on the CPU, with sums that stay in the core's vector registers.

A tile is ROWS x VECTORS vectors of sums: 8 of the 16 registers that common cores have, as many as hide the latency of
a multiply-add, beside which the numbers fit that are multiplied. Compilers do not keep such sums in registers from a
plain loop, so their code is given here; it is that of vectors of 32 bytes, which LLVM splits where registers are
narrower. The order of sums is fixed.

Letters: k terms, n numbers along a line.
"""

from typing import Any, no_type_check

import llvmlite.ir
from numba import types
from numba.extending import intrinsic

ir: Any = llvmlite.ir
"""Its types are not written down."""

BYTES = 32
"""Bytes of a vector [B]."""

ROWS = 2
"""Rows of a tile: output channels of a convolution, or whatever its weights are laid out by."""

VECTORS = 4
"""Vectors of a row of a tile."""

_INT = ir.IntType(64)
_LANE = ir.IntType(32)


@no_type_check
class _Emitter:
    """Writes the code of loads, stores and loops; places are counted in numbers, addresses in bytes."""

    def __init__(self, context: Any, builder: Any, number: Any) -> None:
        self.builder = builder
        self.scalar = context.get_value_type(number)
        self.size = number.bitwidth // 8
        self.lanes = BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def at(self, base: Any, place: Any, kind: Any, size: int) -> Any:
        """Returns the pointer to a place after an address."""
        b = self.builder
        return b.inttoptr(b.add(base, b.mul(place, _INT(size))), kind.as_pointer())

    def load(self, base: Any, place: Any) -> Any:
        """Returns the vector that begins at a place."""
        return self.builder.load(self.at(base, place, self.vector, self.size), align=self.size)

    def store(self, vector: Any, base: Any, place: Any) -> None:
        """Writes a vector to a place."""
        self.builder.store(vector, self.at(base, place, self.vector, self.size), align=self.size)

    def integer(self, base: Any, place: Any) -> Any:
        """Returns an entry of an array of int64."""
        return self.builder.load(self.at(base, place, _INT, 8))

    def fill(self, base: Any, place: Any) -> Any:
        """Returns a vector of equal numbers, the one at a place."""
        b, none = self.builder, ir.Constant(self.vector, ir.Undefined)
        number = b.load(self.at(base, place, self.scalar, self.size))
        equal = ir.Constant(ir.VectorType(_LANE, self.lanes), [0] * self.lanes)
        return b.shuffle_vector(b.insert_element(none, number, _LANE(0)), none, equal)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        """Returns total + a b, rounded once where the machine can."""
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(total, product, flags=("contract",))

    def loop(self, count: Any, state: list[Any], body: Any) -> list[Any]:
        """Returns the state after a body (index, state) -> state has run `count` times."""
        b = self.builder
        before, inside, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.cbranch(b.icmp_signed(">", count, _INT(0)), inside, after)
        b.position_at_end(inside)
        index, old = b.phi(_INT), [b.phi(value.type) for value in state]
        new, following, last = body(index, old), b.add(index, _INT(1)), b.block
        for phi, first, second in zip([index, *old], [_INT(0), *state], [following, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(second, last)
        b.cbranch(b.icmp_signed("<", following, count), inside, after)
        b.position_at_end(after)
        results = [b.phi(value.type) for value in state]
        for phi, first, second in zip(results, state, new, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(second, last)
        return results


@intrinsic
@no_type_check
def combine(_, out, apart, x, shifts, w, places, terms, start, number):  # noqa: ANN001, ANN201
    """Sets out[r, n] = start[r] + sum_k w[places[k] + r] x[shifts[k] + n] for the rows r and numbers n of a tile.

    Args:
        out: address of the first number written; rows lie `apart` numbers from each other.
        x: address that shifts [k] are counted from; shifts: address of int64.
        w: address that places [k] are counted from; places: address of int64.
        terms: how many k there are.
        start: address of the ROWS sums to begin with.
        number: any number of the type of out, x, w and start.
    """

    def code(context: Any, builder: Any, _: Any, args: list[Any]) -> Any:
        out, apart, x, shifts, w, places, terms, start, _ = args
        emit = _Emitter(context, builder, number)

        def term(k: Any, sums: list[Any]) -> list[Any]:
            shift, place = emit.integer(shifts, k), emit.integer(places, k)
            values = [emit.load(x, builder.add(shift, _INT(v * emit.lanes))) for v in range(VECTORS)]
            weights = [emit.fill(w, builder.add(place, _INT(r))) for r in range(ROWS)]
            pairs = [(weight, value) for weight in weights for value in values]
            return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

        starts = [emit.fill(start, _INT(r)) for r in range(ROWS) for _ in range(VECTORS)]
        for i, total in enumerate(emit.loop(terms, starts, term)):
            row, v = divmod(i, VECTORS)
            emit.store(total, out, builder.add(builder.mul(apart, _INT(row)), _INT(v * emit.lanes)))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8, number), code


@intrinsic
@no_type_check
def correlate(_, out, g, apart, g_line, x, shifts, x_line, lines, steps, number):  # noqa: ANN001, ANN201
    """Sets out[r, k] = sum_{y, n} g[r, y, n] x[shifts[k] + y x_line + n] for ROWS rows r and VECTORS terms k.

    Each is left as a vector of partial sums, those of equal n modulo its length.

    Args:
        out: address of the first number written.
        g: address of the first row; rows lie `apart` numbers from each other, their lines y `g_line` numbers.
        x: address that shifts [k] are counted from; shifts: address of int64; lines y lie `x_line` numbers apart.
        lines: how many y there are.
        steps: vectors of a line.
        number: any number of the type of out, g and x.
    """

    def code(context: Any, builder: Any, _: Any, args: list[Any]) -> Any:
        out, g, apart, g_line, x, shifts, x_line, lines, steps, _ = args
        emit = _Emitter(context, builder, number)
        firsts = [emit.integer(shifts, _INT(k)) for k in range(VECTORS)]

        def line(y: Any, sums: list[Any]) -> list[Any]:
            g_from, x_from = builder.mul(y, g_line), builder.mul(y, x_line)
            rows = [builder.add(g_from, builder.mul(apart, _INT(r))) for r in range(ROWS)]
            terms = [builder.add(x_from, first) for first in firsts]

            def step(n: Any, sums: list[Any]) -> list[Any]:
                past = builder.mul(n, _INT(emit.lanes))
                gs = [emit.load(g, builder.add(row, past)) for row in rows]
                xs = [emit.load(x, builder.add(term, past)) for term in terms]
                pairs = [(a, b) for a in gs for b in xs]
                return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

            return emit.loop(steps, sums, step)

        zeros = [ir.Constant(emit.vector, None)] * (ROWS * VECTORS)
        for i, total in enumerate(emit.loop(lines, zeros, line)):
            emit.store(total, out, _INT(i * emit.lanes))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9, number), code
