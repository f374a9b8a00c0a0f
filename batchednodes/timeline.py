r"""Timeline: the events of a span of simulated time, in time order.

Every node updates by its own clock, whose k-th gap comes from the draw at (seed, stream, node, k). Contacts are drawn
likewise, by the gossip scheme of the network, which may look at the updates (schemes/). So the events do not depend on
how the time axis is cut into windows, nor on other networks.

Letters: n nodes, m events, k number of an event among those of its node and clock.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64
from numba import njit, uint64

from batchednodes import rng
from batchednodes.clocks import Gaps, gap
from batchednodes.schemes import Scheme, Speech, Stage, Voices
from batchednodes.topology import Contacts, Networks

UPDATE, PUSH, PULL, MEET = range(4)
"""Kinds of event. At one instant updates come before gossip, then the order is that of node numbers."""

EXCHANGES = {"push": PUSH, "pull": PULL, "meet": MEET}


@dataclass(frozen=True)
class Events:
    """Events in time order, as a struct of arrays."""

    time: Float64[np.ndarray, " m"]
    """Instant of the event [s]."""
    kind: Int8[np.ndarray, " m"]
    """UPDATE, PUSH, PULL or MEET."""
    actor: Int32[np.ndarray, " m"]
    """The node that completes an update, or contacts a peer."""
    peer: Int32[np.ndarray, " m"]
    """The node contacted; -1 for updates."""
    count: Int64[np.ndarray, " m"]
    """Number of the event among those of the actor's clock: 0, 1, 2, ..."""

    def __len__(self) -> int:
        return self.time.size


@dataclass(frozen=True)
class Clocks:
    """Where the clocks of all nodes stand: with the settings, all that the rest of the timeline depends on."""

    time: float
    """Events up to this time, included, have been made [s]."""
    next_update: Float64[np.ndarray, " n"]
    """Time of the next update of each node [s]."""
    updates: Int64[np.ndarray, " n"]
    """Updates of each node so far."""
    next_gossip: Float64[np.ndarray, " n"]
    """Time of the next contact of each node [s]; inf: it is silent; of `age_aware`, that of the network's first node
    is the next contact of anyone."""
    gossips: Int64[np.ndarray, " n"]
    """Contacts that each node has made so far."""
    draws: Int64[np.ndarray, " n"]
    """What a gossip scheme remembers, as all below: draws used, see `Voices`."""
    stamp: Float64[np.ndarray, " n"]
    """Time of an update [s]."""
    order: Int32[np.ndarray, " n"]
    """Nodes by age."""
    awake: Int32[np.ndarray, " n"]
    """Nodes that share a capacity."""

    def voices(self) -> Voices:
        """Returns a copy of what the gossip schemes remember, for them to write into."""
        kept = (self.next_gossip, self.draws, self.gossips, self.stamp, self.order, self.awake)
        return Voices(*(array.copy() for array in kept))


def _clocks(time: float, next_update: np.ndarray, updates: np.ndarray, v: Voices) -> Clocks:
    return Clocks(time, next_update, updates, v.next, v.made, v.draws, v.stamp, v.order, v.awake)


@dataclass(frozen=True)
class Timeline:
    """The laws of all events of a batch of networks; frozen: what changes with time is in `Clocks`."""

    networks: Networks
    contacts: Contacts
    update: Gaps
    gossip: Gaps
    exchange: str
    schemes: tuple[Scheme, ...]
    """Who may transmit in each network."""

    def begin(self) -> Clocks:
        """Returns the clocks at t = 0: every node begins to compute, and waits for its first contact."""
        n, counts = self.networks.n, np.zeros((3, self.networks.n), np.int64)
        order, awake = np.arange(n, dtype=np.int32), np.full(n, -1, np.int32)
        voices = Voices(np.full(n, math.inf), counts[0], counts[1], np.zeros(n), order, awake)
        first = _first(self.update.shift, self.update.scale, *self._addresses())
        for scheme, stage in zip(self.schemes, self._stages(_Actions.none(n), 0.0, 0.0), strict=True):
            scheme.begin_(stage, voices)
        return _clocks(0.0, first, counts[2], voices)

    def window(self, clocks: Clocks, until: float) -> tuple[Events, Clocks]:
        """Returns the events of (clocks.time, until] in time order, and the clocks after them."""
        u = self._updates(clocks, until)
        voices, stages = clocks.voices(), self._stages(u, clocks.time, until)
        spoken = [scheme.contacts_(stage, voices) for scheme, stage in zip(self.schemes, stages, strict=True)]
        said = Speech(*(np.concatenate(columns) for columns in zip(*spoken, strict=True)))
        time = np.concatenate([u.time, said.time])
        order = time_order(time, clocks.time, until)
        kinds = np.repeat(np.array([UPDATE, EXCHANGES[self.exchange]], np.int8), [u.time.size, said.time.size])
        columns = ((u.actor, said.actor), (np.full(u.time.size, -1, np.int32), said.peer), (u.count, said.number))
        actor, peer, count = (np.concatenate(column)[order] for column in columns)
        return Events(time[order], kinds[order], actor, peer, count), _clocks(until, u.next, u.counts, voices)

    def expected(self, span: float) -> tuple[float, float]:
        """Returns about how many updates and contacts to expect in a long span of time [s], by renewal rates."""
        capacity, slices = self._capacity(), [self.networks.slice(g) for g in range(self.networks.count)]
        contacts = [
            scheme.expected(capacity.part(nodes), self.update.part(nodes))
            for scheme, nodes in zip(self.schemes, slices, strict=True)
        ]
        return span * float(self.update.rate.sum()), span * sum(contacts)

    def peaks(self) -> list[float]:
        """Returns the largest rate at which any one node of each network ever transmits [1/s]."""
        capacity = self._capacity()
        return [scheme.peak(capacity.part(self.networks.slice(g))) for g, scheme in enumerate(self.schemes)]

    def _capacity(self) -> Gaps:
        return self.gossip.silence(self.contacts.silent())

    def _addresses(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the seed of each node's network, and the node's number in it."""
        return self.networks.seeds[self.networks.network_of()], self.networks.local()

    def _stages(self, u: "_Actions", start: float, until: float) -> Iterator[Stage]:
        """Yields what the scheme of each network sees of a window, given all updates, node by node."""
        capacity, meet = self._capacity(), self.exchange == "meet"
        bounds = np.searchsorted(u.actor, self.networks.offsets)
        for g, seed in enumerate(self.networks.seeds):
            nodes, part = self.networks.slice(g), slice(bounds[g], bounds[g + 1])
            updates = (u.time[part], u.actor[part])
            yield Stage(nodes.start, nodes.stop, seed, capacity, self.contacts, meet, *updates, start, until)

    def _updates(self, clocks: Clocks, until: float) -> "_Actions":
        """Returns the updates of a window; asks for more room until all of them fit."""
        laws = (self.update.shift, self.update.scale, *self._addresses())
        expected = (until - clocks.time) * float(self.update.rate.sum())
        room = int(expected + 6 * math.sqrt(expected)) + self.networks.n // 8 + 64
        while True:
            out = _Actions(np.empty(room), np.empty(room, np.int32), np.empty(room, np.int64),
                           clocks.next_update.copy(), clocks.updates.copy())  # fmt: skip
            size = _emit(*laws, until, out.time, out.actor, out.count, out.next, out.counts)
            if size <= room:
                return _Actions(out.time[:size], out.actor[:size], out.count[:size], out.next, out.counts)
            room = 2 * room


@dataclass(frozen=True)
class _Actions:
    """The updates of a window, node by node, and where the clocks stand after."""

    time: np.ndarray
    actor: np.ndarray
    count: np.ndarray
    next: np.ndarray
    counts: np.ndarray

    @staticmethod
    def none(n: int) -> "_Actions":
        """Returns no updates of n nodes."""
        nothing = (np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int64))
        return _Actions(*nothing, np.zeros(n), np.zeros(n, np.int64))


@njit(nogil=True, cache=True)
@no_type_check
def _first(shift, scale, seeds, local):  # noqa: ANN001, ANN202  (numba infers the types)
    out = np.empty(shift.size)
    for i in range(shift.size):
        bits, _ = rng.block(seeds[i], rng.UPDATE, local[i], uint64(0))
        out[i] = gap(shift[i], scale[i], bits)
    return out


@njit(nogil=True, cache=True)
@no_type_check
def _emit(shift, scale, seeds, local, until, time, actor, count, following, counts):  # noqa: ANN001, ANN202
    """Writes each node's updates up to `until`, node by node; returns their number, or one more than fit."""
    m = 0
    for i in range(shift.size):
        t, k = following[i], counts[i]
        while t <= until:
            if m == time.size:
                return m + 1
            bits, _ = rng.block(seeds[i], rng.UPDATE, local[i], uint64(k + 1))
            time[m], actor[m], count[m] = t, i, k
            m += 1
            k += 1
            t = t + gap(shift[i], scale[i], bits) if scale[i] > 0.0 else (k + 1) * shift[i]  # exact multiples
        following[i], counts[i] = t, k
    return m


@njit(nogil=True, cache=True)
@no_type_check
def time_order(time, start, until):  # noqa: ANN001, ANN201
    """Returns the stable order of times in [start, until]: buckets of equal width, each then sorted.

    Events are spread almost evenly over a window, so this is linear; where they are not, a merge sort bounds it.
    """
    m = time.size
    bucket, ends = np.empty(m, np.int64), np.zeros(m + 2, np.int64)
    width = m / (until - start) if until > start else 0.0
    for e in range(m):
        bucket[e] = min(m, max(0, int((time[e] - start) * width)))
        ends[bucket[e] + 1] += 1
    for b in range(m + 1):
        ends[b + 1] += ends[b]
    order, place = np.empty(m, np.int64), ends[: m + 1].copy()
    for e in range(m):
        order[place[bucket[e]]] = e
        place[bucket[e]] += 1
    for b in range(m + 1):
        _sort(order, time, ends[b], ends[b + 1])
    return order


@njit(nogil=True, cache=True)
@no_type_check
def _sort(order, time, first, last):  # noqa: ANN001, ANN202
    """Sorts order[first:last] by time, stably."""
    if last - first > 32:
        part = order[first:last].copy()
        order[first:last] = part[np.argsort(time[part], kind="mergesort")]
        return
    for a in range(first + 1, last):
        e, b = order[a], a - 1
        while b >= first and time[order[b]] > time[e]:
            order[b + 1] = order[b]
            b -= 1
        order[b + 1] = e
