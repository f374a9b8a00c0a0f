r"""Timeline: the events of a span of simulated time, in time order.

Every node updates by its own clock, whose k-th gap comes from the draw at (seed, stream, node, k). Contacts are drawn
likewise, by the gossip scheme of the network, which may look at the updates (schemes/). So the events do not depend on
how the time axis is cut into windows, nor on other networks.

Notation: n nodes, m events, k number of an event among those of its node and clock.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64

from batchednodes.events.gaps import Gaps
from batchednodes.events.merge_streams import Columns, merge_
from batchednodes.events.messages.records import InFlight, MessageColumns
from batchednodes.events.messages.records import check as check_in_flight
from batchednodes.events.rounds import contacted, nth
from batchednodes.events.schemes import ContactList, Scheme, SchemeState, SchemeWindow
from batchednodes.events.update_times import Updates, first_updates, updates
from batchednodes.numerics.host_threads import WORTH, divide
from batchednodes.numerics.targets import is_own, returned
from batchednodes.topology import Networks, PeerLists, RoundWeights

UPDATE, PUSH, PULL, MEET, SPLIT, ROUND = range(6)
"""Kinds of event. At one instant updates come before gossip, then the order is that of node numbers. A split is a push
that takes from its sender what it brings; a round mixes all nodes of the network whose first node is the actor."""

ALONE, BEFORE, AFTER = range(3)
"""Whether a node makes a contact at each of its updates, and on which side of it; alone: it makes none then."""

EXCHANGES = {"push": PUSH, "pull": PULL, "meet": MEET, "push_pull": PUSH, "split": SPLIT}


_PART, _PART_NODE = 1 << 18, 4
"""About how many events are made at once, and how many more for each node: more would not fit in the cache between the
passes over them, fewer would have each pass look at all nodes for little."""


_SMALL = WORTH // 4
"""Events of a network, from which on its contacts are worth a thread: fewer take less time than to ask for them."""


@dataclass(frozen=True)
class Events:
    """Events in time order, as a struct of arrays."""

    time: Float64[np.ndarray, " m"]
    """Instant of the event [s]."""
    kind: Int8[np.ndarray, " m"]
    """UPDATE, PUSH, PULL, MEET, SPLIT or ROUND."""
    actor: Int32[np.ndarray, " m"]
    """The node that completes an update, or contacts a peer."""
    peer: Int32[np.ndarray, " m"]
    """The node contacted; -1 for updates and rounds."""
    count: Int64[np.ndarray, " m"]
    """Number of the update among those of its node, or of the round: 0, 1, 2, ...; -1 for contacts."""
    message: MessageColumns | None = None
    """What else is to be known where messages are under way; None where models are exchanged at once."""

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
    """What a gossip scheme remembers, as all below: draws used, see `SchemeState`."""
    stamp: Float64[np.ndarray, " n"]
    """Time of an update [s]."""
    order: Int32[np.ndarray, " n"]
    """Nodes by age."""
    awake: Int32[np.ndarray, " n"]
    """Nodes that share a capacity."""
    in_flight: InFlight | None = None
    """What is under way; None where models are exchanged at once."""

    def check(self, network: Int32[np.ndarray, " n"]) -> None:
        """Checks that clocks which were read are such that no compiled loop leaves its arrays, or makes up the past.

        Args:
            network: number of the network of each node, in increasing order.

        Raises:
            ValueError: they are not; the message says which.
        """
        for name in ("updates", "gossips", "draws"):
            if (getattr(self, name) < 0).any():
                raise ValueError(f"clocks.{name} must not be negative")
        for name, low in (("next_update", self.time), ("next_gossip", self.time), ("stamp", 0.0)):
            if not (getattr(self, name) >= low).all():
                raise ValueError(f"clocks.{name} must be times from {low:g} [s] on")
        lists = np.lexsort((self.order, network))  # each network's nodes are listed where its clocks lie
        if (self.order[lists] != np.arange(network.size)).any():
            raise ValueError("clocks.order must list each node of a network once")
        awake = self.awake >= 0
        if self.awake.max(initial=-1) >= network.size or (network[self.awake[awake]] != network[awake]).any():
            raise ValueError("clocks.awake must list nodes of each network")
        if self.in_flight is not None:
            check_in_flight(self.in_flight)

    def state(self) -> SchemeState:
        """Returns a copy of what the gossip schemes remember, for them to write into."""
        kept = (self.next_gossip, self.draws, self.gossips, self.stamp, self.order, self.awake)
        return SchemeState(*(array.copy() for array in kept))


def _clocks(time: float, next_update: np.ndarray, updates: np.ndarray, v: SchemeState) -> Clocks:
    return Clocks(time, next_update, updates, v.next, v.made, v.draws, v.stamp, v.order, v.awake)


@dataclass(frozen=True)
class Timeline:
    """The laws of all events of a batch of networks; frozen: what changes with time is in `Clocks`.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.clocks import Deterministic, Never
        >>> from batchednodes.events.schemes import Uniform
        >>> from batchednodes.events.timeline import Timeline
        >>> from batchednodes.topology import Complete, Networks, stack
        >>> batch = Networks(offsets=np.array([0, 2]), seeds=np.array([0], np.uint64))
        >>> laws = (Deterministic([1, 2]).gaps(2, 0, "update.clock"), Never().gaps(2, 0, "gossip.clock"))
        >>> timeline = Timeline(batch, stack(batch, [Complete().graph(2, 0)]), *laws, "push", (Uniform(),))
        >>> events, clocks = timeline.window(timeline.begin(), until=4.0)
        >>> list(zip(events.time.tolist(), events.actor.tolist()))
        [(1.0, 0), (2.0, 0), (2.0, 1), (3.0, 0), (4.0, 0), (4.0, 1)]
    """

    networks: Networks
    contacts: PeerLists
    update: Gaps
    gossip: Gaps
    exchange: str
    schemes: tuple[Scheme, ...]
    """Who may transmit in each network."""
    at_update: Int8[np.ndarray, " n"] | None = field(default=None, kw_only=True)
    """Where contacts are made at updates: for each node ALONE, BEFORE or AFTER; its gossip law then says how many, as
    its updates do; None: nowhere."""
    to_all: tuple[RoundWeights | None, ...] | None = field(default=None, kw_only=True)
    """Of each network whose nodes contact all neighbours at updates, how much each neighbour counts; None: of none."""
    threads: int = field(default=1, kw_only=True)
    """Threads that make the events; they never change an event."""

    def begin(self) -> Clocks:
        """Returns the clocks at t = 0: every node begins to compute, and waits for its first contact."""
        n, counts = self.networks.n, np.zeros((3, self.networks.n), np.int64)
        order, awake = np.arange(n, dtype=np.int32), np.full(n, -1, np.int32)
        state = SchemeState(np.full(n, math.inf), counts[0], counts[1], np.zeros(n), order, awake)
        first = first_updates(self.update, *self._addresses())
        for scheme, window in zip(self.schemes, self._windows(Updates.none(n), self._capacity, 0.0, 0.0), strict=True):
            if not self._answers(window.first):
                scheme.begin_(window, state)
        return _clocks(0.0, first, counts[2], state)

    def window(self, clocks: Clocks, until: float) -> tuple[Events, Clocks]:
        """Returns the events of (clocks.time, until] in time order, and the clocks after them."""
        start, expected, m, start_clocks = clocks.time, sum(self.expected(until - clocks.time)), 0, clocks
        parts = max(1, int(expected / (_PART * self.threads + _PART_NODE * self.networks.n)))
        capacity, out = self._capacity, Columns.empty(int(expected + 6 * math.sqrt(expected)) if parts > 1 else 0)
        for k in range(parts):
            end = until if k == parts - 1 else start + (until - start) * (k + 1) / parts
            u, spoken, following = self._part(clocks, capacity, end)
            first, m = m, m + u.size + sum(contacts.time.size for contacts in spoken)
            if m > out.time.size:
                out = _copied(out, first, m if parts == 1 else 2 * m)
            now, kind = out.part(first, m), EXCHANGES[self.exchange]
            merge_(now, u.lists, spoken, kind, clocks.updates, clocks.time, end, self.threads)
            clocks = following
        return self._answered(Events(*out.part(0, m)), start_clocks, clocks)

    def _answered(self, events: Events, before: Clocks, after: Clocks) -> tuple[Events, Clocks]:
        """Returns the events with the contacts that are made at updates, and the clocks after them."""
        if self.at_update is None or not self.at_update.any():
            return events, after
        gossips = after.gossips.copy()
        return with_contacts(events, self, self.at_update, before.updates, gossips), replace(after, gossips=gossips)

    def _part(self, clocks: Clocks, capacity: Gaps, until: float) -> tuple[Updates, list[ContactList], Clocks]:
        """Returns the updates and the contacts of a part of a window, node by node, and the clocks after them."""
        laws = (self.networks.offsets, self.networks.seeds, self.update)
        u = updates(*laws, until, clocks.next_update, clocks.updates, until - clocks.time, self.threads)
        state, stages = clocks.state(), self._windows(u, capacity, clocks.time, until)
        speakers = zip(self.schemes, stages, strict=True)
        works = [
            work
            for scheme, window in speakers
            if not self._answers(window.first)
            for work in _said(scheme, window, state, self.threads)
        ]
        spoken = [ContactList.none()] * len(works)

        def speak(k: int) -> None:
            spoken[k] = works[k]()

        many = self.threads > 1 and sum(self.expected(until - clocks.time)) > _SMALL * len(works)
        divide(speak, len(works), self.threads if many else 1)
        return u, spoken, _clocks(until, u.next, u.counts, state)

    def expected(self, span: float) -> tuple[float, float]:
        """Returns about how many updates and contacts to expect in a long span of time [s], by renewal rates."""
        capacity, slices = self._capacity, [self.networks.slice(g) for g in range(self.networks.count)]
        if self.contacts.choosers:
            capacity = capacity.thinned(self.contacts.share)
        with np.errstate(over="ignore", invalid="ignore"):  # infinitely many: a plan refuses them
            contacts = [
                returned(
                    scheme.expected(capacity.part(nodes), self.update.part(nodes)),
                    (float, int),
                    scheme,
                    "expected",
                    "gossip.scheme",
                )
                for scheme, nodes in zip(self.schemes, slices, strict=True)
            ]
            return span * float(self.update.rate.sum()), span * sum(contacts)

    def peaks(self) -> list[float]:
        """Returns the largest rate at which any one node of each network ever transmits [1/s]."""
        capacity = self._capacity
        return [scheme.peak(capacity.part(self.networks.slice(g))) for g, scheme in enumerate(self.schemes)]

    def _answers(self, node: int) -> bool:
        """Returns whether a node, and its network, makes contact at updates."""
        return self.at_update is not None and int(self.at_update[node]) != ALONE

    @functools.cached_property
    def _capacity(self) -> Gaps:
        """The laws of contacts; a node that has nobody to contact makes none."""
        return self.gossip.silence(self.contacts.silent())

    def _addresses(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the seed of each node's network, and the node's number in it."""
        return self.networks.seeds[self.networks.network_of()], self.networks.index()

    def _windows(self, u: Updates, capacity: Gaps, start: float, until: float) -> Iterator[SchemeWindow]:
        """Yields what the scheme of each network sees of a window, given all updates, node by node."""
        meet = self.exchange == "meet"
        blind = all(scheme.independent and not is_own(type(scheme)) for scheme in self.schemes)
        times, actors, _ = Updates.none(0).lists[0] if blind else u.joined()
        bounds = np.searchsorted(actors, self.networks.offsets)
        for g, seed in enumerate(self.networks.seeds):
            nodes, part = self.networks.slice(g), slice(bounds[g], bounds[g + 1])
            seen = (times[part], actors[part])
            yield SchemeWindow(nodes.start, nodes.stop, seed, capacity, self.contacts, meet, *seen, start, until)


def _said(scheme: Scheme, window: SchemeWindow, state: SchemeState, threads: int) -> list[Callable[[], ContactList]]:
    """Returns what makes the contacts of a network in a window; those of a user's own scheme are made, and checked.

    That, and what chooses peers, may be Python that was never written for several threads.
    """
    if not is_own(type(scheme)) and window.first not in window.contacts.choosers:
        return scheme.works_(window, state, threads)
    contacts = scheme.contacts_(window, state)
    if is_own(type(scheme)):
        window.check(contacts)
    return [lambda: contacts]


def _copied(columns: Columns, size: int, room: int) -> Columns:
    """Returns the columns of some events in memory with room for more."""
    out = Columns.empty(room)
    for target, column in zip(out, columns, strict=True):
        target[:size] = column[:size]
    return out


def with_contacts(
    events: Events, laws: Timeline, at_update: Int8[np.ndarray, " n"], before: np.ndarray, made: np.ndarray
) -> Events:
    """Returns events with a contact beside each update of the nodes that make one then.

    Args:
        events: in time order; without messages under way.
        laws: of the timeline.
        at_update: of each node, ALONE, BEFORE or AFTER.
        before: updates of each node before these events; they number its contacts.
        made: contacts of each node; those made here are added.
    """
    update = np.flatnonzero((events.kind == UPDATE) & (at_update[events.actor] != ALONE))
    time, node = events.time[update], events.actor[update]
    other = contacted(time, node, before[node] + nth(node) + 1, laws.networks, laws.contacts)
    entry = np.flatnonzero(other >= 0)
    other = other[entry]
    if laws.to_all is not None:
        entry, other = _with_all(entry, other, node, laws)
    update, time, node = update[entry], time[entry], node[entry]
    made += np.bincount(node, minlength=made.size)
    at = update + (at_update[node] == AFTER)
    kind = np.full(at.size, EXCHANGES[laws.exchange], np.int8)
    columns = (time, kind, node, other, np.full(at.size, -1))
    kept = (events.time, events.kind, events.actor, events.peer, events.count)
    time, kind, actor, peer, count = (np.insert(a, at, b) for a, b in zip(kept, columns, strict=True))
    return Events(time, kind, actor, peer, count)


def _with_all(entry: np.ndarray, other: np.ndarray, node: np.ndarray, laws: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Returns contacts, of entries of a list of nodes with others, with all neighbours where nodes contact all."""
    assert laws.to_all is not None
    everyone = np.repeat([w is not None for w in laws.to_all], laws.networks.sizes)[node]
    whole, theirs = laws.contacts.all_peers(node[everyone])
    one = ~everyone[entry]
    entry, other = np.append(entry[one], np.flatnonzero(everyone)[whole]), np.append(other[one], theirs)
    order = np.argsort(entry, kind="stable")
    return entry[order], other[order]
