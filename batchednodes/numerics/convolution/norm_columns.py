r"""Normalisation on the CPU: the innermost loops, down the columns of an example, some vectors of columns at a time.

Of an example x [l, k] and the gradient g of its normalised values, by lines of k numbers (mean, a, s, then two more),

    moments:   sum (x - x_0), sum (x - x_0)^2,        x_0 the first line,
    products:  sum v (x - mean), sum v,
    gradient:  a v - slope (x - mean) - shift,

where v = g, or with ReLU after the normalisation, what it lets through: v = 0 where a x + s <= 0.

Notation: l lines of k numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

from numba import types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter, ir

_BYTES = 64
"""Bytes of a vector [B]."""

_VECTORS = 2
"""Vectors of columns at a time: their sums, and what the sums take, stay in registers."""


class _Columns:
    """Code for some vectors of columns, of which those beyond the last are left out."""

    def __init__(self, emit: Emitter, width: Any, block: Any) -> None:
        """Begins at a block of columns; width: numbers of a line."""
        b = emit.builder
        self.emit, self.width = emit, width
        step = _VECTORS * emit.lanes
        self.places = [b.add(b.mul(block, INT(step)), INT(v * emit.lanes)) for v in range(_VECTORS)]
        self.masks = [emit.first(b.sub(width, place)) for place in self.places]

    def load(self, base: Any, line: Any) -> list[Any]:
        """Returns the vectors of a line."""
        b, emit = self.emit.builder, self.emit
        first = b.mul(self.width, line)
        return [
            emit.load_some(base, b.add(first, place), mask) for place, mask in zip(self.places, self.masks, strict=True)
        ]

    def store(self, vectors: Sequence[Any], base: Any, line: Any) -> None:
        """Writes them."""
        b = self.emit.builder
        first = b.mul(self.width, line)
        for vector, place, mask in zip(vectors, self.places, self.masks, strict=True):
            self.emit.store_some(vector, base, b.add(first, place), mask)

    def through(self, g: Any, x: Any, line: Any, lines: Any) -> list[Any]:
        """Returns what ReLU lets through of a line of g; lines: vectors of mean, a and s."""
        b, none = self.emit.builder, ir.Constant(self.emit.vector, None)
        _, a, s = lines
        found = []
        for value, at, slope, start in zip(self.load(g, line), self.load(x, line), a, s, strict=True):
            found.append(b.select(b.fcmp_ordered("<=", self.emit.add_product(start, at, slope), none), none, value))
        return found


def _blocks(emit: Emitter, width: Any, body: Callable[[_Columns], None]) -> None:
    """Writes the loop over all columns."""
    b, step = emit.builder, _VECTORS * emit.lanes
    blocks = b.sdiv(b.add(width, INT(step - 1)), INT(step))

    def block(k: Any, _: list[Any]) -> list[Any]:
        body(_Columns(emit, width, k))
        return []

    emit.loop(blocks, [], block)


@intrinsic
@no_type_check
def moments(_, x, height, width, out, number):  # noqa: ANN001, ANN201
    """Writes both sums to the two lines from an address on; x, too, is an address; number: any of their type."""

    @no_type_check
    def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
        x, height, width, out, _ = args
        emit = Emitter(context, builder, number, _BYTES)

        def columns(some: _Columns) -> None:
            base = some.load(x, INT(0))

            def line(i: Any, sums: list[Any]) -> list[Any]:
                apart = [builder.fsub(value, first) for value, first in zip(some.load(x, i), base, strict=True)]
                firsts = [builder.fadd(total, d) for total, d in zip(sums[:_VECTORS], apart, strict=True)]
                squares = [emit.add_product(total, d, d) for total, d in zip(sums[_VECTORS:], apart, strict=True)]
                return [*firsts, *squares]

            sums = emit.loop(height, [ir.Constant(emit.vector, None)] * (2 * _VECTORS), line)
            some.store(sums[:_VECTORS], out, INT(0))
            some.store(sums[_VECTORS:], out, INT(1))

        _blocks(emit, width, columns)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4, number), code


def _products(relu: bool) -> Any:
    """Returns the function that sums, with ReLU or without."""

    @intrinsic
    @no_type_check
    def products(_, g, x, height, width, lines, number):  # noqa: ANN001, ANN202
        """Writes both sums to the fourth and fifth line from an address on, that of the lines."""

        @no_type_check
        def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            g, x, height, width, lines, _ = args
            emit = Emitter(context, builder, number, _BYTES)

            def columns(some: _Columns) -> None:
                known = [some.load(lines, INT(k)) for k in range(3)]

                def line(i: Any, sums: list[Any]) -> list[Any]:
                    passed = some.through(g, x, i, known) if relu else some.load(g, i)
                    apart = [builder.fsub(value, mean) for value, mean in zip(some.load(x, i), known[0], strict=True)]
                    pairs = zip(sums[:_VECTORS], passed, apart, strict=True)
                    seconds = [builder.fadd(total, v) for total, v in zip(sums[_VECTORS:], passed, strict=True)]
                    return [*(emit.add_product(*pair) for pair in pairs), *seconds]

                sums = emit.loop(height, [ir.Constant(emit.vector, None)] * (2 * _VECTORS), line)
                some.store(sums[:_VECTORS], lines, INT(3))
                some.store(sums[_VECTORS:], lines, INT(4))

            _blocks(emit, width, columns)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5, number), code

    return products


def _gradient(relu: bool) -> Any:
    """Returns the function that writes the gradient, with ReLU or without."""

    @intrinsic
    @no_type_check
    def gradient(_, g, x, height, width, lines, out, number):  # noqa: ANN001, ANN202
        """Writes the gradient of x to an address; lines: that of mean, a, s, slope and shift."""

        @no_type_check
        def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
            g, x, height, width, lines, out, _ = args
            emit = Emitter(context, builder, number, _BYTES)

            def columns(some: _Columns) -> None:
                known = [some.load(lines, INT(k)) for k in range(5)]

                def line(i: Any, _: list[Any]) -> list[Any]:
                    passed = some.through(g, x, i, known[:3]) if relu else some.load(g, i)
                    made = []
                    for v, value, mean, a, slope, shift in zip(
                        passed, some.load(x, i), known[0], known[1], known[3], known[4], strict=True
                    ):
                        along = emit.add_product(shift, slope, builder.fsub(value, mean))
                        made.append(builder.fsub(builder.fmul(a, v), along))
                    some.store(made, out, i)
                    return []

                emit.loop(height, [], line)

            _blocks(emit, width, columns)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6, number), code

    return gradient


products, products_relu = _products(relu=False), _products(relu=True)
gradient, gradient_relu = _gradient(relu=False), _gradient(relu=True)
