"""Strided views: where the numbers of one row of a wave lie while its tape runs, and how loops go through them."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

RANK = 3
"""Loops of an instruction, one in the other, at most."""

_SHORT = 8
"""Numbers along the innermost loop below which another order of loops is looked for."""


@dataclass(frozen=True)
class StridedView:
    """A tensor of one row: a view of an argument of the tape, or of numbers that the tape keeps for itself."""

    base: int
    """Number of the argument, or of the tape's own block."""
    shape: tuple[int, ...]
    """Without the dimension of rows."""
    strides: tuple[int, ...]
    """Numbers between neighbours along each dimension; 0: the same number again."""
    offset: int = 0
    """Numbers before the first one."""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def permuted(self, order: Sequence[int]) -> "StridedView":
        """Returns the view with its dimensions in another order."""
        return replace(self, shape=tuple(self.shape[d] for d in order), strides=tuple(self.strides[d] for d in order))

    def expanded(self, shape: tuple[int, ...]) -> "StridedView":
        """Returns the view with dimensions of 1 repeated, and further ones before them, as far as a shape asks."""
        missing = len(shape) - len(self.shape)
        strides = (*[0] * missing, *self.strides)
        sizes = (*[1] * missing, *self.shape)
        kept = [0 if old == 1 else stride for old, stride in zip(sizes, strides, strict=True)]
        return replace(self, shape=shape, strides=tuple(kept))

    def part(self, dim: int, first: int, size: int) -> "StridedView":
        """Returns the view of some entries along a dimension."""
        shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
        return replace(self, shape=shape, offset=self.offset + first * self.strides[dim])

    def without(self, dims: Sequence[int]) -> "StridedView":
        """Returns the view of the first entry along some dimensions, which are left out."""
        kept = [d for d in range(len(self.shape)) if d not in dims]
        return self.permuted(kept)

    def packed(self, shape: tuple[int, ...]) -> "StridedView":
        """Returns the view of another shape of numbers that lie without gaps."""
        return replace(self, shape=shape, strides=packed(shape))

    def looked_up(self, shape: tuple[int, ...], dim: int) -> "tuple[StridedView, tuple[int, int]]":
        """Returns the view of the entries 0 along a dimension for indices of a shape, their distance, and how many."""
        strides = tuple(0 if d == dim else stride for d, stride in enumerate(self.strides))
        return replace(self, shape=shape, strides=strides), (self.strides[dim], self.shape[dim])

    def reshaped(self, shape: tuple[int, ...]) -> "StridedView | None":
        """Returns the view of another shape; None: its entries do not lie so that there is one."""
        strides = _reshaped(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=shape, strides=strides)


def packed(shape: tuple[int, ...], order: Sequence[int] | None = None) -> tuple[int, ...]:
    """Returns the strides of a shape without gaps, where the last dimension of an order is the innermost."""
    strides, step = [0] * len(shape), 1
    for d in reversed(range(len(shape)) if order is None else order):
        strides[d] = step
        step *= shape[d]
    return tuple(strides)


def joining(place: StridedView, shape: tuple[int, ...]) -> list[int]:
    """Returns an order of dimensions in which a place has a view of another shape; the innermost stays, if it can."""
    ends, groups, total = set(accumulate(shape, operator.mul)), [list[int]()], 1
    for d, size in enumerate(place.shape):
        groups[-1].append(d)
        total *= size
        if total in ends:  # here a dimension of the other shape ends, too
            groups.append([])
    inner = [any(place.strides[d] == 1 and place.shape[d] > 1 for d in group) for group in groups]
    steps = [max((place.strides[d] for d in group), default=0) for group in groups]
    return [d for k in sorted(range(len(groups)), key=lambda k: (inner[k], -steps[k])) for d in groups[k]]


def favoured(places: Sequence[StridedView], shape: tuple[int, ...]) -> list[int]:
    """Returns the order of dimensions for a new result of some shape, from the places that it is computed from.

    That of the largest place, if its innermost dimension is long enough for vectors; else the longest is innermost.
    """
    whole = [place for place in places if place.shape == shape and place.size == _spread(place)]
    if whole:
        order = sorted(range(len(shape)), key=lambda d: (-whole[0].strides[d], d))
        if not order or shape[order[-1]] >= min(_SHORT, max(shape)):
            return order
    return sorted(range(len(shape)), key=lambda d: (shape[d], d))


def _spread(place: StridedView) -> int:
    """Returns how many different numbers a place has."""
    return math.prod(size for size, stride in zip(place.shape, place.strides, strict=True) if stride or size == 1)


def loops(places: Sequence[StridedView], lined: bool = True) -> tuple[list[int], list[list[int]]] | None:
    """Returns the sizes of RANK loops through places of one shape, outermost first, and each place's strides.

    If lined, the first place's numbers lie without gaps along the innermost loop; neighbouring dimensions that all
    places go through as through one become one. None: there are more loops.
    """
    shape, first = places[0].shape, places[0].strides
    order = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: (-first[d], d))
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in places]
    for d in order:
        steps = [place.strides[d] for place in places]
        if sizes and all(own[-1] == step * shape[d] for own, step in zip(strides, steps, strict=True)):
            sizes[-1] *= shape[d]
            for own, step in zip(strides, steps, strict=True):
                own[-1] = step
        else:
            sizes.append(shape[d])
            for own, step in zip(strides, steps, strict=True):
                own.append(step)
    missing = RANK - len(sizes)
    if missing < 0 or (lined and sizes and strides[0][-1] != 1):
        return None
    return [*[1] * missing, *sizes], [[*[0] * missing, *own] for own in strides]


def _reshaped(old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the strides of another shape of the same entries in the same order; None: there are none."""
    if math.prod(old) == 0:
        return None
    runs: list[list[int]] = []  # [size, stride] of entries that lie at one distance from each other, outermost first
    for size, stride in zip(old, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == stride * size:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    found: list[int] = []
    left, stride = 1, 1
    for size in reversed(new):
        if left == 1 and size != 1:
            if not runs:
                return None
            left, stride = runs.pop()
        if left % size:
            return None
        found.append(stride)
        left, stride = left // size, stride * size
    return tuple(reversed(found))
