r"""Lines of a window, from its events and their schedule: two passes, each in some threads at once.

The first goes through the events in the order of time, and puts each line at the next place of its wave; of an update
it puts down row and event only. The second goes through waves of updates, which lie together in the cache: it sorts
each by row, and looks up what is to be known of each event there. A wave has each row once, so that the order is the
same whatever the threads.

Notation: m events, e lines, W waves, u updates.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from numba import int64, njit, uint64

from batchednodes.events.timeline import MEET, PUSH, SPLIT, UPDATE, Events
from batchednodes.numerics.host_threads import WORTH, divide

_EACH = 4
"""Pieces for each thread, of which it takes the next when it is done with one."""

_BITS, _FEW = 11, 24
"""Most bits by which rows are sorted at once, whose counts fit in the fastest cache; and rows that are inserted one by
one, since there are fewer than counts."""

_LOW = (1 << 32) - 1
"""A row and an event are one number, row * 2^32 + event."""


class Columns(NamedTuple):
    """Where the lines go."""

    rows: Int64[np.ndarray, "3 e"]
    """Receivers, senders, actors, see `GossipPhase`."""
    times: Float64[np.ndarray, " e"]
    """Instant of each line [s]."""
    counts: Int64[np.ndarray, " u"]
    """Number of each update among those of its node, wave by wave."""
    order: Int64[np.ndarray, " _"]
    """Event of each line, where messages are under way; else no room is needed."""


def fill_(
    out: Columns,
    events: Events,
    wave: Int32[np.ndarray, " m"],
    waves: Int64[np.ndarray, " W1"],
    updates: Bool[np.ndarray, " W"],
    threads: int = 1,
) -> None:
    """Writes the line of each event, or both lines of a meeting, wave by wave.

    Contacts are in the order of time, updates in that of their rows, so that a wave goes through memory from end to
    end: they commute.

    Args:
        out: receives them.
        events: of a window; fewer than 2^31.
        wave: of each event.
        waves: where the lines of each wave begin, and the end of the last.
        updates: whether each wave is one of updates.
        threads: at work at once.
    """
    m = len(events)
    share = max(WORTH, -(-m // (_EACH * threads))) if threads > 1 else max(1, m)
    firsts = [*range(0, m, share), m]
    places = np.zeros((len(firsts) - 1, updates.size), np.uint64)
    if len(places) > 1:
        divide(lambda k: _count(firsts[k], firsts[k + 1], events.kind, wave, places[k]), len(places), threads)
    places = waves[:-1].astype(np.uint64) + np.cumsum(places, 0, np.uint64) - places
    columns = (events.kind, events.actor, events.peer, events.time)
    node = events.actor if events.message is None else events.message.node
    divide(lambda k: _put(firsts[k], firsts[k + 1], *columns, node, wave, places[k], *out), len(places), threads)
    numbers = np.append(0, np.cumsum(np.where(updates, np.diff(waves), 0)))
    cuts = [*np.unique([0, *np.searchsorted(waves, firsts[1:-1])]).tolist(), updates.size]
    bits, looked = max(1, int(events.actor.max(initial=0)).bit_length()), (events.time, events.count, node)
    divide(
        lambda k: _by_row(cuts[k], cuts[k + 1], updates, waves, numbers, bits, *looked, *out), len(cuts) - 1, threads
    )


@njit(nogil=True, cache=True)
@no_type_check
def _count(first, last, kind, wave, sizes):  # noqa: ANN001, ANN202  (numba infers the types)
    """Adds the lines of events first, ..., last - 1 to the sizes of their waves."""
    for e in range(first, last):
        sizes[uint64(wave[e])] += uint64(1) + uint64(kind[e] == MEET)


@njit(nogil=True, cache=True)
@no_type_check
def _put(first, last, kind, actor, peer, time, node, wave, place, rows, times, counts, order):  # noqa: ANN001, ANN202
    """Puts the lines of contacts at the next places of their waves, and row and event of each update."""
    (receivers, senders, actors), carried = rows, order.size > 0
    for e in range(first, last):
        k = uint64(wave[e])
        at = place[k]
        place[k] = at + uint64(1)
        if kind[e] == UPDATE:
            receivers[at] = int64(actor[e]) << 32 | e
            continue
        i, j = actor[e], peer[e]
        times[at], actors[at] = time[e], node[e]
        if carried:
            order[at] = e
        if kind[e] == PUSH or kind[e] == SPLIT:
            receivers[at], senders[at] = j, i
        else:
            receivers[at], senders[at] = i, j
            if kind[e] == MEET:
                at = place[k]
                place[k] = at + uint64(1)
                receivers[at], senders[at], actors[at], times[at] = j, i, i, time[e]
                if carried:
                    actors[at - uint64(1)], order[at] = j, e


@njit(nogil=True, cache=True)
@no_type_check
def _by_row(first, last, updates, waves, numbers, bits, time, count, node, rows, times, counts, order):  # noqa: ANN001, ANN202
    """Sorts those of waves first, ..., last - 1 which are updates by row, and writes their lines and counts."""
    (receivers, senders, actors), carried = rows, order.size > 0
    spare, sizes = np.empty(0, np.int64), np.empty(1 << _BITS, np.uint64)
    for k in range(first, last):
        if not updates[k]:
            continue
        begin, w, number = uint64(waves[k]), waves[k + 1] - waves[k], uint64(numbers[k])
        if w > spare.size:
            spare = np.empty(2 * w, np.int64)
        found = _sort(receivers[begin : begin + uint64(w)], spare[:w], bits, sizes)
        for q in range(uint64(w)):
            at, e = begin + q, uint64(found[q] & _LOW)
            receivers[at] = senders[at] = found[q] >> 32
            actors[at], times[at], counts[number + q] = node[e], time[e], count[e]
            if carried:
                order[at] = e


@njit(nogil=True, cache=True)
@no_type_check
def _sort(keys, spare, bits, sizes):  # noqa: ANN001, ANN202
    """Returns keys in the order of their rows, of some bits, either in their place or in the spare one; both change."""
    w = uint64(keys.size)
    if w <= _FEW:
        for a in range(uint64(1), w):
            key, b = keys[a], a
            while b > 0 and keys[b - uint64(1)] > key:
                keys[b] = keys[b - uint64(1)]
                b -= uint64(1)
            keys[b] = key
        return keys
    most = min(_BITS, int64(np.ceil(np.log2(w))) + 1)
    passes = (bits + most - 1) // most
    step = (bits + passes - 1) // passes
    mask = (1 << step) - 1
    for k in range(passes):
        shift = 32 + k * step
        sizes[: mask + 1] = 0
        for a in range(w):
            sizes[uint64((keys[a] >> shift) & mask)] += uint64(1)
        total = uint64(0)
        for c in range(uint64(mask + 1)):
            size = sizes[c]
            sizes[c] = total
            total += size
        for a in range(w):
            c = uint64((keys[a] >> shift) & mask)
            spare[sizes[c]] = keys[a]
            sizes[c] += uint64(1)
        keys, spare = spare, keys
    return keys
