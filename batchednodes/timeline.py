r"""Timeline: the events of a span of simulated time, in time order.

Every node has two clocks, one for updates and one for gossip. The k-th gap of a node's clock comes from the draw at
(seed, stream, node, k), and the peer of its k-th gossip from the second half of the draw k + 1; so the events do not
depend on how the time axis is cut into windows, nor on other nodes or networks.

Letters: n nodes, m events, k number of an event among those of its node and clock.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64
from numba import njit, uint64

from batchednodes import rng
from batchednodes.clocks import Gaps
from batchednodes.topology import Contacts, Networks, peer

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
    """Time of the next contact of each node [s]."""
    gossips: Int64[np.ndarray, " n"]
    """Contacts that each node has begun so far."""


@dataclass(frozen=True)
class Timeline:
    """The laws of all events of a batch of networks; frozen: what changes with time is in `Clocks`."""

    networks: Networks
    contacts: Contacts
    update: Gaps
    gossip: Gaps
    exchange: str

    def begin(self) -> Clocks:
        """Returns the clocks at t = 0: every node begins to compute, and waits for its first contact."""
        zeros = np.zeros(self.networks.n, np.int64)
        update, gossip = (_first(*self._clock(stream)) for stream in (rng.UPDATE, rng.GOSSIP))
        return Clocks(0.0, update, zeros, gossip, zeros)

    def window(self, clocks: Clocks, until: float) -> tuple[Events, Clocks]:
        """Returns the events of (clocks.time, until] in time order, and the clocks after them."""
        u = _actions(self._clock(rng.UPDATE), clocks.next_update, clocks.updates, clocks.time, until)
        g = _actions(self._clock(rng.GOSSIP), clocks.next_gossip, clocks.gossips, clocks.time, until)
        c = self.contacts
        peers = _peers(g.actor, g.bits, c.start, c.size, c.complete, c.indptr, c.indices)
        time = np.concatenate([u.time, g.time])
        order = time_order(time, clocks.time, until)
        kinds = np.repeat(np.array([UPDATE, EXCHANGES[self.exchange]], np.int8), [u.time.size, g.time.size])
        columns = (kinds, (u.actor, g.actor), (np.full(u.time.size, -1, np.int32), peers), (u.count, g.count))
        kind, actor, peer_, count = (np.concatenate(c)[order] if isinstance(c, tuple) else c[order] for c in columns)
        return Events(time[order], kind, actor, peer_, count), Clocks(until, u.next, u.counts, g.next, g.counts)

    def expected(self, span: float) -> tuple[float, float]:
        """Returns the expected numbers of updates and of gossips in a long span of time [s], by renewal rates."""
        return span * float(self.update.rate.sum()), span * float(self._gossip().rate.sum())

    def _gossip(self) -> Gaps:
        return self.gossip.silence(self.contacts.silent())

    def _clock(self, stream: int) -> "_Clock":
        gaps, networks = self.update if stream == rng.UPDATE else self._gossip(), self.networks
        return _Clock(gaps.shift, gaps.scale, networks.seeds[networks.network_of()], networks.local(), stream)


class _Clock(NamedTuple):
    """One kind of clock of all nodes: laws of the gaps, and addresses of the draws."""

    shift: np.ndarray
    scale: np.ndarray
    seeds: np.ndarray
    local: np.ndarray
    stream: int


@dataclass(frozen=True)
class _Actions:
    """What one kind of clock did in a window, node by node, and where it stands after."""

    time: np.ndarray
    actor: np.ndarray
    count: np.ndarray
    bits: np.ndarray
    next: np.ndarray
    counts: np.ndarray


def _actions(clock: _Clock, following: np.ndarray, counts: np.ndarray, start: float, until: float) -> _Actions:
    """Returns the actions of one kind of clock in (start, until]; asks for more room until all of them fit."""
    with np.errstate(divide="ignore"):
        expected = float(((until - start) / (clock.shift + clock.scale)).sum())
    room = int(expected + 6 * math.sqrt(expected)) + following.size // 8 + 64
    while True:
        out = _Actions(np.empty(room), np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room, np.uint64),
                       following.copy(), counts.copy())  # fmt: skip
        written = (out.time, out.actor, out.count, out.bits, out.next, out.counts)
        size = _emit(clock.shift, clock.scale, clock.seeds, clock.local, clock.stream, until, *written)
        if size <= room:
            return _Actions(out.time[:size], out.actor[:size], out.count[:size], out.bits[:size], out.next, out.counts)
        room = 2 * room


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _gap(shift, scale, bits):  # noqa: ANN001, ANN202
    return shift - scale * math.log(rng.unit(bits)) if scale > 0.0 else shift


@njit(nogil=True, cache=True)
@no_type_check
def _first(shift, scale, seeds, local, stream):  # noqa: ANN001, ANN202
    out = np.empty(shift.size)
    for i in range(shift.size):
        bits, _ = rng.block(seeds[i], stream, local[i], uint64(0))
        out[i] = _gap(shift[i], scale[i], bits)
    return out


@njit(nogil=True, cache=True)
@no_type_check
def _emit(shift, scale, seeds, local, stream, until, time, actor, count, bits, following, counts):  # noqa: ANN001, ANN202
    """Writes each node's actions up to `until`, node by node; returns their number, or one more than fit."""
    m = 0
    for i in range(shift.size):
        t, k = following[i], counts[i]
        while t <= until:
            if m == time.size:
                return m + 1
            high, low = rng.block(seeds[i], stream, local[i], uint64(k + 1))
            time[m], actor[m], count[m], bits[m] = t, i, k, low
            m += 1
            k += 1
            t = t + _gap(shift[i], scale[i], high) if scale[i] > 0.0 else (k + 1) * shift[i]  # exact multiples
        following[i], counts[i] = t, k
    return m


@njit(nogil=True, cache=True)
@no_type_check
def _peers(actor, bits, start, size, complete, indptr, indices):  # noqa: ANN001, ANN202
    out = np.empty(actor.size, np.int32)
    for e in range(actor.size):
        out[e] = peer(actor[e], bits[e], start, size, complete, indptr, indices)
    return out


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
