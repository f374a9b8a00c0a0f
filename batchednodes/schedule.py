r"""Schedule: events regrouped into waves, with the result of one event at a time.

Phases alternate: even ones hold waves of gossip, odd ones are one wave of updates each. An event goes to the earliest
place, a pair (phase, wave within the phase), that keeps for every row of x

    read after write     it reads a row in a later wave than the last older event that writes it,
    write after write    it writes a row in a later wave than the last older event that writes it,
    write after read     it writes a row in the same or a later wave than each older event that reads it,

where all reads of a wave see the state before the wave. An update reads and writes the actor's row; a push reads both
rows and writes the receiver's; a pull is a push of the peer; a meeting reads and writes both.

Letters: m events, W waves, P phases, n nodes.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Int64
from numba import njit

from batchednodes.timeline import MEET, PULL, UPDATE, Events

_BITS = 32
"""A place is one integer, phase * 2^32 + wave."""


@dataclass(frozen=True)
class Schedule:
    """Waves of a window, phase by phase; empty phases and waves do not occur."""

    order: Int64[np.ndarray, " m"]
    """Indices into the events, wave by wave, in time order within a wave."""
    waves: Int64[np.ndarray, " W1"]
    """Wave k holds the events order[waves[k]:waves[k + 1]]."""
    phases: Int64[np.ndarray, " P1"]
    """Phase q holds the waves phases[q], ..., phases[q + 1] - 1: one wave of updates, or waves of gossip."""

    def wave_of(self) -> Int64[np.ndarray, " m"]:
        """Returns the wave of each event, in the order of the events."""
        out = np.empty(self.order.size, np.int64)
        out[self.order] = np.repeat(np.arange(self.waves.size - 1), np.diff(self.waves))
        return out


def schedule(events: Events, n: int) -> Schedule:
    """Returns the earliest-place schedule of a window's events on n rows."""
    place = _place(events.kind, events.actor, events.peer, n)
    wave, phase_of_wave = _rank(place)
    order, waves = _group(wave, phase_of_wave.size)
    phases = np.concatenate([[0], np.flatnonzero(np.diff(phase_of_wave)) + 1, [phase_of_wave.size]])
    return Schedule(order, waves, phases if phase_of_wave.size else np.zeros(1, np.int64))


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _gossip_place(place):  # noqa: ANN001, ANN202
    """Returns the first place for a gossip that must come after `place`."""
    if (place >> _BITS) % 2 == 0:
        return place + 1
    return ((place >> _BITS) + 1) << _BITS


@njit(nogil=True, cache=True)
@no_type_check
def _place(kind, actor, peer, n):  # noqa: ANN001, ANN202
    """Returns the place of each event; `write` and `read` hold the last places that wrote and read each row."""
    write, read = np.full(n, -1, np.int64), np.full(n, -1, np.int64)  # phase -1 counts as one of updates
    place = np.empty(kind.size, np.int64)
    for e in range(kind.size):
        i, j = actor[e], peer[e]
        if kind[e] == UPDATE:
            phase = max(write[i], read[i]) >> _BITS
            phase += 1 if phase % 2 == 0 else 2
            place[e] = phase << _BITS
            write[i] = read[i] = place[e]
            continue
        if kind[e] == PULL:
            i, j = j, i
        at = max(_gossip_place(max(write[i], write[j])), read[j])
        if kind[e] == MEET:
            at = max(at, read[i])
            write[i] = at
        place[e] = write[j] = at
        read[i], read[j] = max(read[i], at), max(read[j], at)
    return place


@njit(nogil=True, cache=True)
@no_type_check
def _rank(place):  # noqa: ANN001, ANN202
    """Numbers the places that occur; returns the number of each event's place, and the phase of each number."""
    phases = 0
    for e in range(place.size):
        phases = max(phases, (place[e] >> _BITS) + 1)
    base = np.zeros(phases + 1, np.int64)
    mask = (1 << _BITS) - 1
    for e in range(place.size):
        q = place[e] >> _BITS
        base[q + 1] = max(base[q + 1], (place[e] & mask) + 1)
    phase = np.empty(base.sum(), np.int64)
    for q in range(phases):
        base[q + 1] += base[q]
        phase[base[q] : base[q + 1]] = q
    wave = np.empty(place.size, np.int64)
    for e in range(place.size):
        wave[e] = base[place[e] >> _BITS] + (place[e] & mask)
    return wave, phase


@njit(nogil=True, cache=True)
@no_type_check
def _group(wave, count):  # noqa: ANN001, ANN202
    """Returns the events sorted by wave, stably, and where each wave begins."""
    begins = np.zeros(count + 1, np.int64)
    for e in range(wave.size):
        begins[wave[e] + 1] += 1
    for k in range(count):
        begins[k + 1] += begins[k]
    order, next_ = np.empty(wave.size, np.int64), begins.copy()
    for e in range(wave.size):
        order[next_[wave[e]]] = e
        next_[wave[e]] += 1
    return order, begins
