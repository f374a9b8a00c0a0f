r"""Tiles: the innermost loops of convolutions on the CPU, with sums that stay in the core's vector registers.

A tile is ROWS x VECTORS vectors of sums: 8 of the 16 registers that common cores have, as many as hide the latency of
a multiply-add, beside which the numbers fit that are multiplied. They are vectors of 32 bytes, which LLVM splits where
registers are narrower. The order of sums is fixed.

Notation: k terms, n numbers along a line.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter, ir

BYTES = 64 if get_host_cpu_features().get("avx512f", False) else 32
"""Bytes of a vector register of this machine [B]."""

ROWS = 2
"""Rows of a tile: output channels of a convolution, or whatever its weights are laid out by."""

VECTORS = 4
"""Vectors of a row of a tile."""


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

    def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
        out, apart, x, shifts, w, places, terms, start, _ = args
        emit = Emitter(context, builder, number, BYTES)

        def term(k: Any, sums: list[Any]) -> list[Any]:
            shift, place = emit.integer(shifts, k), emit.integer(places, k)
            values = [emit.load(x, builder.add(shift, INT(v * emit.lanes))) for v in range(VECTORS)]
            weights = [emit.fill(w, builder.add(place, INT(r))) for r in range(ROWS)]
            pairs = [(weight, value) for weight in weights for value in values]
            return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

        starts = [emit.fill(start, INT(r)) for r in range(ROWS) for _ in range(VECTORS)]
        for i, total in enumerate(emit.loop(terms, starts, term)):
            row, v = divmod(i, VECTORS)
            emit.store(total, out, builder.add(builder.mul(apart, INT(row)), INT(v * emit.lanes)))
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

    def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
        out, g, apart, g_line, x, shifts, x_line, lines, steps, _ = args
        emit = Emitter(context, builder, number, BYTES)
        firsts = [emit.integer(shifts, INT(k)) for k in range(VECTORS)]

        def line(y: Any, sums: list[Any]) -> list[Any]:
            g_from, x_from = builder.mul(y, g_line), builder.mul(y, x_line)
            rows = [builder.add(g_from, builder.mul(apart, INT(r))) for r in range(ROWS)]
            terms = [builder.add(x_from, first) for first in firsts]

            def step(n: Any, sums: list[Any]) -> list[Any]:
                past = builder.mul(n, INT(emit.lanes))
                gs = [emit.load(g, builder.add(row, past)) for row in rows]
                xs = [emit.load(x, builder.add(term, past)) for term in terms]
                pairs = [(a, b) for a in gs for b in xs]
                return [emit.add_product(total, *pair) for total, pair in zip(sums, pairs, strict=True)]

            return emit.loop(steps, sums, step)

        zeros = [ir.Constant(emit.vector, None)] * (ROWS * VECTORS)
        for i, total in enumerate(emit.loop(lines, zeros, line)):
            emit.store(total, out, INT(i * emit.lanes))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9, number), code
