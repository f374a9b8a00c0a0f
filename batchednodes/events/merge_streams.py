r"""Chronology: events that come node by node, in the order of time.

Events are spread almost evenly over a window. So they are dealt into stretches of time of about 1,000 events each,
which fit in the fastest cache, and then into cells of about half an event; what is left to sort are the few that share
a cell.

Notation: m events, n nodes.
"""

from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64
from numba import int32, int64, njit, uint32, uint64

from batchednodes.numerics import huge_pages
from batchednodes.numerics.host_threads import WORTH, divide
from batchednodes.numerics.logarithm import bits, real

_STRETCH = 10
"""Logarithm of the events of a stretch: 16 bytes each."""

_CELLS = 1
"""Logarithm of the cells for each event: with more of them few events share one, but their counts fill the cache."""

_NODE, _LATE = np.uint64(31), np.uint64(1 << 62)
"""An event but its time is one integer, late * 2^62 + node * 2^31 + number: their order is that at one instant."""

_LOW = np.uint64((1 << 31) - 1)

_EACH = 4
"""Pieces for each thread, of which it takes the next when it is done with one."""

_SMALL = 32
"""Events of a cell up to which they are inserted one by one; larger cells go to a merge sort."""

List = tuple[Float64[np.ndarray, " _"], Int32[np.ndarray, " _"], Int32[np.ndarray, " _"]]
"""Times [s], nodes, and a number of each event that is not negative: of a contact the peer, of an update how many its
node has made since some time before."""


class Columns(NamedTuple):
    """Events as a struct of arrays, see `timeline.Events`; the number is its `count`."""

    time: Float64[np.ndarray, " m"]
    kind: Int8[np.ndarray, " m"]
    actor: Int32[np.ndarray, " m"]
    peer: Int32[np.ndarray, " m"]
    number: Int64[np.ndarray, " m"]

    @staticmethod
    def empty(m: int) -> "Columns":
        """Returns columns for m events."""
        time, number, actor, peer, kind = huge_pages.empty(m, np.float64, np.int64, np.int32, np.int32, np.int8)
        return Columns(time, kind, actor, peer, number)

    def part(self, first: int, last: int) -> "Columns":
        """Returns the columns of the events first, ..., last - 1, as views."""
        return Columns(*(column[first:last] for column in self))


def merge_(
    out: Columns,
    updates: Sequence[List],
    contacts: Sequence[List],
    kind: int,
    before: Int64[np.ndarray, " n"],
    start: float,
    until: float,
    threads: int = 1,
) -> None:
    """Writes all events in the order of time.

    At one instant updates come before contacts, then the order is that of nodes, then of numbers: no two are alike, so
    that each has its place whatever the threads.

    Args:
        out: receives the events.
        updates: in any order.
        contacts: likewise.
        kind: of the contacts; that of updates is 0.
        before: updates of each node to which those numbers add.
        start: before all times [s].
        until: the last of all times, or after it [s].
        threads: at work at once.
    """
    m = out.time.size
    size = min(_STRETCH, m.bit_length()) + _CELLS
    stretches = min(max(1, m >> _STRETCH), (1 << 31 >> size) - 1)
    cells = stretches << size
    grid = (start, cells / (until - start) if until > start else 0.0, np.int32(cells - 1), np.uint32(size))
    marked = [*((one, np.uint64(0)) for one in updates), *((one, _LATE) for one in contacts)]
    share = max(WORTH, -(-m // (_EACH * threads))) if threads > 1 else max(1, m)
    some = _groups(marked, share)
    places, events = np.zeros((len(some), stretches), np.uint64), np.empty((m, 2), np.uint64)
    divide(lambda k: [_count(one[0], grid, places[k]) for one, _ in some[k]], len(some), threads)
    ends = np.zeros(stretches + 1, np.uint64)  # an index without a sign needs no check
    np.cumsum(places.sum(0, dtype=np.uint64), out=ends[1:])
    _shift(places, ends)
    divide(lambda k: [_deal(*one, late, grid, places[k], events) for one, late in some[k]], len(some), threads)
    cuts = np.searchsorted(ends, np.arange(0, m, share)[1:].astype(np.uint64))
    bounds = [*np.unique([0, *cuts]).tolist(), stretches]
    laws = (before, np.int8(kind), out)
    divide(lambda k: _settle(events, grid, ends, bounds[k], bounds[k + 1], *laws), len(bounds) - 1, threads)


def _groups(lists: Sequence[tuple[List, np.uint64]], share: int) -> list[list[tuple[List, np.uint64]]]:
    """Returns lists of events, and their marks, in groups of some events; long ones in parts, short ones together."""
    found, left = list[list[tuple[List, np.uint64]]]([[]]), share
    for (time, node, number), late in lists:
        for a in range(0, time.size, share):
            if left <= 0:
                found.append([])
                left = share
            part = (time[a : a + share], node[a : a + share], number[a : a + share])
            found[-1].append((part, late))
            left -= part[0].size
    return found


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _cell(time, grid):  # noqa: ANN001, ANN202  (numba infers the types)
    start, width, last, _ = grid
    return uint32(min(last, int32((time - start) * width)))


@njit(nogil=True, cache=True)
@no_type_check
def _count(time, grid, sizes):  # noqa: ANN001, ANN202
    """Adds the events of stretch k to sizes[k]."""
    for e in range(time.size):
        sizes[_cell(time[e], grid) >> grid[3]] += uint64(1)


@njit(nogil=True, cache=True)
@no_type_check
def _shift(places, ends):  # noqa: ANN001, ANN202
    """Puts where the events of each list begin in each stretch, list after list, for how many they are."""
    for k in range(places.shape[1]):
        at = ends[k]
        for one in range(places.shape[0]):
            size = places[one, k]
            places[one, k] = at
            at += size


@njit(nogil=True, cache=True)
@no_type_check
def _deal(time, node, number, late, grid, place, events):  # noqa: ANN001, ANN202
    """Puts each event at the next place of its stretch, its time as bits, which have the order of times."""
    for e in range(time.size):
        stretch = _cell(time[e], grid) >> grid[3]
        at = place[stretch]
        place[stretch] = at + uint64(1)
        events[at, 0], events[at, 1] = bits(time[e]), late | uint64(node[e]) << _NODE | uint64(number[e])


@njit(nogil=True, cache=True)
@no_type_check
def _settle(events, grid, ends, first, last, before, kind, out):  # noqa: ANN001, ANN202
    """Sorts stretches first, ..., last - 1: puts each event at the next place of its cell, then sorts within cells."""
    place, cells, to = np.empty(1 << grid[3], np.uint32), np.empty(0, np.uint32), np.empty((0, 2), np.uint64)
    for k in range(first, last):
        some = events[ends[k] : ends[k + 1]]
        m = some.shape[0]
        if m > cells.size:
            cells, to = np.empty(2 * m, np.uint32), np.empty((2 * m, 2), np.uint64)
        place[:] = 0
        for e in range(m):
            cells[e] = _cell(real(some[e, 0]), grid) - (uint32(k) << grid[3])
            place[cells[e]] += uint32(1)
        largest = _begins(place)
        for e in range(m):
            at = place[cells[e]]
            place[cells[e]] = at + uint32(1)
            to[at, 0], to[at, 1] = some[e, 0], some[e, 1]
        _sort(to[:m], largest)
        _unpack(to, before, kind, ends[k], ends[k + 1], out)


@njit(nogil=True, cache=True)
@no_type_check
def _unpack(events, before, kind, first, last, out):  # noqa: ANN001, ANN202
    time, kinds, actor, peer, count = out
    for e in range(last - first):
        mark, at = events[e, 1], first + uint64(e)
        node, number, late = (mark >> _NODE) & _LOW, mark & _LOW, mark >= _LATE
        time[at], actor[at] = real(events[e, 0]), node
        kinds[at] = kind if late else np.int8(0)
        peer[at] = int32(number) if late else int32(-1)
        count[at] = -1 if late else before[node] + int64(number)


@njit(nogil=True, cache=True)
@no_type_check
def _begins(place):  # noqa: ANN001, ANN202
    """Puts where each cell begins, if they lie one after the other, for its size; returns the largest size."""
    total, largest = uint32(0), uint32(0)
    for c in range(place.size):
        size = place[c]
        place[c] = total
        total, largest = total + size, max(largest, size)
    return largest


@njit(nogil=True, cache=True)
@no_type_check
def _sort(events, largest):  # noqa: ANN001, ANN202
    """Sorts by time, then mark, in place what is in the order of cells, of which the largest has some events."""
    if largest > _SMALL:
        for column in (1, 0):  # the second sort keeps the order of the first where times are equal
            events[:] = events[np.argsort(events[:, column], kind="mergesort")]
        return
    for a in range(uint64(1), uint64(events.shape[0])):
        time, b = events[a, 0], a - uint64(1)
        if events[b, 0] >= time:
            mark, b = events[a, 1], a
            while b > 0 and _later(events[b - uint64(1)], time, mark):
                events[b, 0], events[b, 1] = events[b - uint64(1), 0], events[b - uint64(1), 1]
                b -= uint64(1)
            events[b, 0], events[b, 1] = time, mark


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _later(event, time, mark):  # noqa: ANN001, ANN202
    return event[0] > time or (event[0] == time and event[1] > mark)
