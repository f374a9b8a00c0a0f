r"""Pieces: places that are put together from others, or taken apart, along one dimension."""

from collections.abc import Sequence

from batchednodes.numerics.tape.assembler import Writer
from batchednodes.numerics.tape.opcodes import Op
from batchednodes.numerics.tape.strides import StridedView


def joined(writer: Writer, places: Sequence[StridedView], dim: int) -> StridedView:
    """Adds the copies of some places, one after the other along a dimension, into a new block."""
    first, sizes = places[0], [place.shape[dim] for place in places]
    out = _block(writer, (*first.shape[:dim], sum(sizes), *first.shape[dim + 1 :]), dim)
    for k, place in enumerate(places):
        writer.add(Op.COPY, out.part(dim, sum(sizes[:k]), sizes[k]), place)
    return out


def stacked(writer: Writer, places: Sequence[StridedView], dim: int) -> StridedView:
    """Adds the same along a new dimension."""
    shape = places[0].shape
    return joined(writer, [_with_one(place, (*shape[:dim], 1, *shape[dim:])) for place in places], dim)


def placed(writer: Writer, place: StridedView, shape: tuple[int, ...], dim: int, first: int) -> StridedView:
    """Adds a block of zeros, but for the entries from one on along a dimension, which are those of a place.

    The place has that dimension, or lacks it where there is one entry.
    """
    size = place.shape[dim] if len(place.shape) == len(shape) else 1
    source = _with_one(place, (*shape[:dim], size, *shape[dim + 1 :]))
    others = sorted((d for d in range(len(shape)) if d != dim), key=lambda d: (-source.strides[d], d))
    out = writer.new(shape, [dim, *others])
    writer.add(Op.FILL, out)
    writer.add(Op.COPY, out.part(dim, first, size), source)
    return out


def parts(place: StridedView, dim: int, size: int) -> list[StridedView]:
    """Returns the views of as many entries along a dimension at a time; the last one has what is left."""
    n = place.shape[dim]
    return [place.part(dim, first, min(size, n - first)) for first in range(0, n, size)]


def _block(writer: Writer, shape: tuple[int, ...], dim: int) -> StridedView:
    """Returns a new block in which the entries along a dimension lie one after the other."""
    return writer.new(shape, [dim, *(d for d in range(len(shape)) if d != dim)])


def _with_one(place: StridedView, shape: tuple[int, ...]) -> StridedView:
    """Returns the view of a shape with a dimension of 1 that the place may lack."""
    found = place.reshaped(shape)
    assert found is not None
    return found
