r"""Layers: what single instructions do along lines, or with rows of a table."""

import math
from collections.abc import Sequence
from dataclasses import replace

from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.tape.assembler import Writer
from batchednodes.numerics.tape.opcodes import Op
from batchednodes.numerics.tape.strides import StridedView, packed

_LONG = 16
"""Numbers that fill a vector, or more: operations along them go line by line."""

_NOWHERE = [[0, 0, 0]] * 3
"""Strides of an instruction that goes through its places by itself."""

_COUNTED = [[0, 0, 1]] * 3
"""Strides of an instruction that counts indices."""


def along(writer: Writer, op: Op, places: Sequence[StridedView], d: int) -> StridedView:
    """Adds a softmax, or its adjoint, along dimension d: the inner one where it lies so and is long, else the outer."""
    shape, last = places[0].shape, places[-1]
    inner = shape[d] >= _LONG and last.strides[d] == 1
    order = [*_others(last, [d]), d] if inner else [d, *(k for k in range(len(shape)) if k != d)]
    laid = [writer.laid(place, order) for place in places]
    out = writer.new(shape, order)
    more = (shape[d], out.size // max(1, shape[d]), int(inner))
    writer.put(op, (1, 1, 1), out, laid[0], laid[1] if len(laid) > 1 else None, _NOWHERE[: 1 + len(laid)], more=more)
    return out


def argmax(writer: Writer, place: StridedView, d: int, shape: Sequence[int]) -> StridedView:
    """Adds which number along dimension d is the largest: integers of a shape."""
    laid = writer.laid(place, [d, *(k for k in range(len(place.shape)) if k != d)])
    out, more = writer.new(tuple(shape), integer=True), (place.shape[d], place.size // max(1, place.shape[d]))
    writer.put(Op.ARGMAX, (1, 1, 1), out, laid, None, _NOWHERE[:2], more=more)
    return out


def normalized(writer: Writer, place: StridedView, dims: int, eps: float) -> StridedView:
    """Adds what lies along the last dimensions less its mean, over the root of its variance and eps."""
    order = _order(place, dims)
    d = math.prod(place.shape[len(place.shape) - dims :])
    m = place.size // max(1, d)
    block = writer.new((place.size + m,))  # with room for one over the roots
    out = StridedView(block.base, place.shape, packed(place.shape, order))
    writer.put(Op.NORM, (1, 1, 1), out, writer.laid(place, order), None, _NOWHERE[:2], eps, (d, m))
    return out


def normalized_back(writer: Writer, g: StridedView, y: StridedView, dims: int) -> StridedView:
    """Adds the adjoint of that at its result y, applied to g."""
    order = _order(y, dims)
    d = math.prod(y.shape[len(y.shape) - dims :])
    out = writer.new(y.shape, order)
    writer.put(Op.NORM_BACK, (1, 1, 1), out, writer.laid(g, order), y, _NOWHERE, more=(d, y.size // max(1, d)))
    return out


def rows(
    writer: Writer, table: StridedView, index: StridedView, shape: tuple[int, ...], integer: bool = False
) -> StridedView:
    """Adds the rows of a table, along its first dimension, at some indices; shape: of the result."""
    table = writer.laid(table, range(len(table.shape)))
    out = writer.new(shape, integer=integer)
    more = (math.prod(table.shape[1:]), table.shape[0])
    writer.put(Op.INDICES if integer else Op.ROWS, (1, 1, index.size), out, table, _counted(index), _COUNTED, more=more)
    return out


def add_rows(writer: Writer, table: StridedView, g: StridedView, index: StridedView, factor: float) -> StridedView:
    """Adds a factor times some rows to those of a table at some indices, in place."""
    g = writer.laid(g, range(len(g.shape)))
    more = (math.prod(table.shape[1:]), table.shape[0])
    writer.put(Op.ADD_ROWS, (1, 1, index.size), table, g, _counted(index), _COUNTED, factor, more)
    return table


def _counted(index: StridedView) -> StridedView:
    """Returns some indices, which lie one after the other.

    Raises:
        UntraceableError: they do not.
    """
    if index.reshaped((index.size,)) != replace(index, shape=(index.size,), strides=(1,)):
        raise UntraceableError("indices do not lie one after the other")
    return index


def _others(place: StridedView, dims: Sequence[int]) -> list[int]:
    """Returns the other dimensions of a place, from the longest step to the shortest."""
    return sorted((k for k in range(len(place.shape)) if k not in dims), key=lambda k: (-place.strides[k], k))


def _order(place: StridedView, dims: int) -> list[int]:
    """Returns an order of dimensions of a place whose innermost are its last ones."""
    last = list(range(len(place.shape) - dims, len(place.shape)))
    return [*_others(place, last), *last]
