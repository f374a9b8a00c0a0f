r"""Chronology: events that come node by node, in the order of time.

Events are spread almost evenly over a window. So they are dealt into stretches of time of about 4,000 events each,
which fit in the cache next to a core, and then into cells of about half an event; what is left to sort are the few
that share a cell.

Letters: m events.
"""

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int32
from numba import int32, int64, njit, uint32

_STRETCH = 12
"""Logarithm of the events of a stretch: 16 bytes each, read and written, are a quarter of the cache next to a core."""

_CELLS = 1
"""Logarithm of the cells for each event: with more of them few events share one, but their counts fill the cache."""

_LATE, _BITS = 1 << 62, 31
"""An event but its time is one integer, late * 2^62 + node * 2^31 + number: their order is that at one instant."""

_SMALL = 32
"""Events of a cell up to which they are inserted one by one; larger cells go to a merge sort."""

List = tuple[Float64[np.ndarray, " _"], Int32[np.ndarray, " _"], Int32[np.ndarray, " _"]]
"""Times [s], nodes, and a number of each event that is not negative."""


def merged(early: List, late: Sequence[List], start: float, until: float) -> tuple[np.ndarray, ...]:
    """Returns times, whether an event is of the late ones, nodes and numbers of all events in the order of time.

    At one instant early events come before late ones, then the order is that of nodes, then of numbers.

    Args:
        early: events in any order.
        late: likewise.
        start: before all times [s].
        until: the last of all times, or after it [s].
    """
    m = early[0].size + sum(time.size for time, _, _ in late)
    bits = min(_STRETCH, m.bit_length()) + _CELLS
    stretches = min(max(1, m >> _STRETCH), (1 << 31 >> bits) - 1)
    cells = stretches << bits
    grid = (start, cells / (until - start) if until > start else 0.0, np.int32(cells - 1))
    ends = np.zeros(stretches + 1, np.int64)
    for time, _, _ in (early, *late):
        _count(time, *grid, bits, ends)
    np.cumsum(ends, out=ends)
    times, marks, place = np.empty(m), np.empty(m, np.int64), ends[:-1].astype(np.uint64)  # without a sign, no check
    _deal(*early, 0, *grid, bits, place, times, marks)
    for columns in late:
        _deal(*columns, _LATE, *grid, bits, place, times, marks)
    out = np.empty(m), np.empty(m, np.int8), np.empty(m, np.int32), np.empty(m, np.int32)
    _settle(times, marks, *grid, bits, ends, *out)
    return out


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _cell(time, start, width, last):  # noqa: ANN001, ANN202  (numba infers the types)
    return uint32(min(last, int32((time - start) * width)))


@njit(nogil=True, cache=True)
@no_type_check
def _count(time, start, width, last, bits, ends):  # noqa: ANN001, ANN202
    """Adds the events of stretch k to ends[k + 1]."""
    for e in range(time.size):
        ends[(_cell(time[e], start, width, last) >> bits) + 1] += 1


@njit(nogil=True, cache=True)
@no_type_check
def _deal(time, node, number, late, start, width, last, bits, place, times, marks):  # noqa: ANN001, ANN202
    """Puts each event at the next place of its stretch."""
    for e in range(time.size):
        stretch = _cell(time[e], start, width, last) >> bits
        at = place[stretch]
        place[stretch] += 1
        times[at], marks[at] = time[e], late | int64(node[e]) << _BITS | int64(number[e])


@njit(nogil=True, cache=True)
@no_type_check
def _settle(times, marks, start, width, last, bits, ends, time, late, node, number):  # noqa: ANN001, ANN202
    """Sorts each stretch: puts each event at the next place of its cell, then sorts within cells."""
    place, cells, mark = np.empty(1 << bits, np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64)
    for k in range(ends.size - 1):
        part = slice(ends[k], ends[k + 1])
        t, p, to = times[part], marks[part], time[part]
        if t.size > cells.size:
            cells, mark = np.empty(2 * t.size, np.uint32), np.empty(2 * t.size, np.int64)
        for e in range(t.size):
            cells[e] = _cell(t[e], start, width, last) - uint32(k << bits)
        largest = _places(cells[: t.size], place)
        for e in range(t.size):
            at = place[cells[e]]
            place[cells[e]] += 1
            to[at], mark[at] = t[e], p[e]
        _sort(to, mark[: t.size], largest)
        _unpack(mark, late[part], node[part], number[part])


@njit(nogil=True, cache=True)
@no_type_check
def _unpack(mark, late, node, number):  # noqa: ANN001, ANN202
    low = (1 << _BITS) - 1
    for e in range(late.size):
        late[e], node[e], number[e] = mark[e] >= _LATE, (mark[e] >> _BITS) & low, mark[e] & low


@njit(nogil=True, cache=True)
@no_type_check
def _places(cells, place):  # noqa: ANN001, ANN202
    """Writes where each cell begins if they lie one after the other; returns the size of the largest."""
    place[:] = 0
    for e in range(cells.size):
        place[cells[e]] += 1
    total, largest = uint32(0), uint32(0)
    for c in range(place.size):
        size = place[c]
        place[c] = total
        total, largest = total + size, max(largest, size)
    return largest


@njit(nogil=True, cache=True)
@no_type_check
def _sort(time, mark, largest):  # noqa: ANN001, ANN202
    """Sorts by time, then mark, in place what is in the order of cells, of which the largest has some events."""
    if largest > _SMALL:
        order = np.argsort(mark)
        time[:], mark[:] = time[order], mark[order]
        order = np.argsort(time, kind="mergesort")  # stable
        time[:], mark[:] = time[order], mark[order]
        return
    for a in range(1, time.size):
        b = a
        if time[b - 1] >= time[b]:
            t, p = time[a], mark[a]
            while b > 0 and (time[b - 1] > t or (time[b - 1] == t and mark[b - 1] > p)):
                time[b], mark[b] = time[b - 1], mark[b - 1]
                b -= 1
            time[b], mark[b] = t, p
