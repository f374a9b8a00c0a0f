r"""Schedule: events regrouped into waves, with the result of one event at a time.

Phases alternate: even ones hold waves of gossip, odd ones are one wave of updates each. An event goes to the earliest
place, a pair (phase, wave within the phase), that keeps for every row of x

    read after write     it reads a row in a later wave than the last older event that writes it,
    write after write    it writes a row in a later wave than the last older event that writes it,
    write after read     it writes a row in the same or a later wave than each older event that reads it,

where all reads of a wave see the state before the wave. An update reads and writes the actor's row; a push reads both
rows and writes the receiver's; a pull is a push of the peer; a meeting reads and writes both. An update of a message,
with the data of a node, reads and writes the rows of both. A split takes from its sender what it brings, so that it
reads and writes both rows, but it is one line, as a push.

Notation: m events, W waves, P phases, n nodes.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numba import njit, uint64

from batchednodes.events.timeline import MEET, PULL, SPLIT, UPDATE, Events
from batchednodes.numerics import huge_pages

_BITS = 32
"""A place is one integer, phase * 2^32 + wave. Rows remember that of an update as the last place of its phase."""

_WAVE = (1 << _BITS) - 1
"""The bits of a place that number the wave."""


@dataclass(frozen=True)
class Schedule:
    """Waves of a window, phase by phase; empty phases and waves do not occur."""

    wave: Int32[np.ndarray, " m"]
    """Number of the wave of each event."""
    waves: Int64[np.ndarray, " W1"]
    """Wave k holds waves[k + 1] - waves[k] events: order[waves[k]:waves[k + 1]]."""
    phases: Int64[np.ndarray, " P1"]
    """Phase q holds the waves phases[q], ..., phases[q + 1] - 1: one wave of updates, or waves of gossip."""
    updates: Bool[np.ndarray, " W"]
    """Whether wave k is one of updates."""

    @property
    def order(self) -> Int32[np.ndarray, " m"]:
        """Indices into the events, wave by wave, in time order within a wave."""
        return np.argsort(self.wave, kind="stable").astype(np.int32)


def schedule(events: Events, n: int) -> Schedule:
    """Returns the earliest-place schedule of a window's events on n rows.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.timeline import PUSH, UPDATE, Events
        >>> from batchednodes.events.waves import schedule
        >>> kind = np.array([UPDATE, UPDATE, UPDATE, PUSH, PUSH, PUSH, UPDATE], np.int8)
        >>> actor, peer = np.array([[0, 1, 2, 0, 2, 1, 0], [-1, -1, -1, 1, 3, 2, -1]], np.int32)
        >>> plan = schedule(Events(np.arange(7.0), kind, actor, peer, np.array([0, 0, 0, -1, -1, -1, 1])), n=4)
        >>> [wave.tolist() for wave in np.split(plan.order, plan.waves[1:-1])]  # 5, of 1 to 2, waits for 3, of 0 to 1
        [[0, 1, 2], [3, 4], [5], [6]]
        >>> plan.updates.tolist()
        [True, False, False, True]
    """
    rows, (place,) = np.full((n, 2), -1, np.int64), huge_pages.empty(len(events), np.int64)
    wave = place.view(np.int32)[: len(events)]  # that of an event is written when its place, and those after, are read
    sizes = np.zeros(2 * np.count_nonzero(events.kind == UPDATE) + 2, np.int64)
    base = _place(events.kind, events.actor, events.peer, rows, place, sizes)
    waves, updates = _rank(place, base, wave), np.zeros(base[-1], np.bool_)
    updates[base[1:-1:2]] = True  # odd phases
    return Schedule(wave, waves, np.unique(base), updates)  # phase 0 is empty if all nodes update before they gossip


@njit(nogil=True, cache=True)
@no_type_check
def _place(kind, actor, peer, rows, place, sizes):  # noqa: ANN001, ANN202  (numba infers the types)
    """Writes the place of each event; returns the number of waves before each phase, and of all.

    Each row knows the last places that wrote it and read it; one that was written has also been read. Before all
    events that is place -1, of phase -1, which counts as one of updates. `sizes` receives the waves of each phase.
    """
    for e in range(kind.size):
        i, j, one = uint64(actor[e]), uint64(peer[e]), uint64(1)  # an index without a sign needs no check
        if kind[e] == UPDATE:
            k = j if peer[e] >= 0 else i
            phase = ((max(rows[i, one], rows[k, one]) >> _BITS) + 1) | 1  # the next odd one
            at = phase << _BITS
            rows[i, 0] = rows[i, one] = ((phase + 1) << _BITS) - 1  # the next place is one of gossip
            rows[k, 0] = rows[k, one] = rows[i, 0]
        else:
            if kind[e] == PULL:
                i, j = j, i
            at = max(max(rows[i, 0], rows[j, 0]) + 1, rows[j, one])
            if kind[e] == MEET or kind[e] == SPLIT:
                at = max(at, rows[i, one])
                rows[i, 0] = at
            rows[j, 0] = at
            rows[i, one], rows[j, one] = max(rows[i, one], at), max(rows[j, one], at)
            phase = at >> _BITS
        place[e], q, size = at, uint64(phase), (at & _WAVE) + 1
        if size > sizes[q]:  # seldom: else what one event writes, the next would wait to read
            sizes[q] = size
    return np.append(0, np.cumsum(sizes[: np.flatnonzero(sizes)[-1] + 1])) if kind.size else np.zeros(1, np.int64)


@njit(nogil=True, cache=True)
@no_type_check
def _rank(place, base, wave):  # noqa: ANN001, ANN202
    """Writes the number of the wave of each place; returns where each wave begins if they lie one after the other."""
    begins = np.zeros(base[-1] + 1, np.int64)
    for e in range(place.size):
        k = base[uint64(place[e] >> _BITS)] + (place[e] & _WAVE)
        wave[e] = k
        begins[uint64(k + 1)] += 1
    for k in range(begins.size - 1):
        begins[k + 1] += begins[k]
    return begins
