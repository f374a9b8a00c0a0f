r"""Traffic: the timeline of networks whose messages take time, get lost, or find nobody.

    clocks -> what nodes do by themselves -> messages: what is sent, and what arrives -> events

Everything here is independent of the models, so the events of a window are known before any of them runs.

Notation: n nodes, m events, q parts of a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.events.availability import ALWAYS, PER_MESSAGE, open_presences
from batchednodes.events.links.loss import open_channels
from batchednodes.events.messages import loop, pauses
from batchednodes.events.messages.records import (
    DELIVERED,
    EVENT,
    LOST,
    MESSAGES,
    OFFLINE,
    SENT,
    SLOTS,
    EventBuffer,
    InFlight,
    MessageColumns,
    MessageLaws,
    copied,
    opened,
    under_way,
    widened,
)
from batchednodes.events.rounds import Calendar
from batchednodes.events.timeline import ALONE, PUSH, UPDATE, Clocks, Events, Timeline

RECEIPTS = {
    "merge": loop.MERGE,
    "merge_update": loop.MERGE_UPDATE,
    "update_merge": loop.UPDATE_MERGE,
    "update": loop.REPLACE,
}
"""What a node does with a model that comes, by the name of the setting."""

_UPDATES = {loop.MERGE: 0, loop.MERGE_UPDATE: 1, loop.UPDATE_MERGE: 2, loop.REPLACE: 1}
"""Updates for each model that comes."""


@dataclass(frozen=True)
class InFlightEstimate:
    """What is under way in a run, at most, as far as it is known before."""

    flying: float
    """Models at once."""
    pools: Int64[np.ndarray, " g"]
    """Rows of x for snapshots of each network."""
    room: int
    """Messages that there must be room for."""
    exact: bool
    """Whether the messages of the whole run were followed; else it is an estimate, and a run that needs more grows."""


_ROOM = 256
"""Messages that there is room for at first, beside those that nodes bring."""


@dataclass(frozen=True)
class MessageTimeline(Timeline):
    """The laws of all events of a batch of networks with messages under way."""

    laws: MessageLaws
    pauses: bool
    """Whether nodes do not compute while they are off."""
    joiners: Int64[np.ndarray, " j"]
    """Nodes that come late, and begin with a neighbour's model."""
    calendar: Calendar | None
    """Where time goes by rounds: when nodes make contact."""
    parts: int
    """Parts of a model that have ages of their own."""
    forecast: InFlightEstimate
    """What is under way, at most."""

    @property
    def slots(self) -> int:
        """Rows of x for snapshots, with which a run begins."""
        return int(self.forecast.pools.sum())

    def begin(self) -> Clocks:
        clocks, n = super().begin(), self.networks.n
        in_flight = opened(n, self.parts, self.forecast.pools.copy(), _ROOM + self.joiners.size + self._burst())
        open_presences(self.laws, in_flight)
        open_channels(self.laws, in_flight)
        loop.enter(self.joiners, self.laws, in_flight)
        if self._works_by_itself():
            following = pauses.begin(self.update.compiled(), self.pauses, self.laws, in_flight)
            clocks = replace(clocks, next_update=following)
        return replace(clocks, in_flight=in_flight)

    def taking(self, steps: Int64[np.ndarray, " n"]) -> "MessageTimeline":
        """Returns the same for updates of some minibatch steps, which ages count; nothing else depends on them."""
        nodes = self.laws.nodes.copy()
        nodes["steps"] = steps
        return replace(self, laws=self.laws._replace(nodes=nodes))

    def window(self, clocks: Clocks, until: float) -> tuple[Events, Clocks]:
        assert clocks.in_flight is not None
        in_flight = copied(clocks.in_flight)
        acts, after = self.acts(clocks, in_flight, until)
        parts = list(self.run_events(acts, in_flight, until, 2 * len(acts) + 1024))
        return _joined([events for events, _ in parts]), kept(after, parts[-1][1])

    def acts(self, clocks: Clocks, in_flight: InFlight, until: float) -> tuple[Events, Clocks]:
        """Returns what nodes do by themselves up to some time, in order, and the clocks then; changes `in_flight`."""
        nodes = in_flight.nodes
        return self._acts(
            replace(clocks, updates=nodes["ticks"].copy(), gossips=nodes["made"].copy()), in_flight, until
        )

    def run_events(
        self, acts: Events, in_flight: InFlight, until: float, room: int
    ) -> Iterator[tuple[np.ndarray, InFlight]]:
        """Yields the events up to some time, in lists of about as many as have room, and what is then in flight.

        What is given is changed, until there must be more room for messages.
        """
        first, spare, peers = 0, self._burst(), self.contacts.choice()
        columns = (acts.time, acts.kind, acts.actor, acts.peer)
        while first >= 0:
            if in_flight.head[MESSAGES] < spare or in_flight.head[SLOTS] + loop.ROOM > in_flight.link.size:
                in_flight = widened(in_flight, max(spare, in_flight.messages.size))
            out = EventBuffer(np.empty(room + loop.ROOM, EVENT), np.zeros(1, np.int64))
            first = loop.run(*columns, first, until, peers, self.laws, in_flight, out, spare)
            yield out.events[: out.size[0]], in_flight

    def _acts(self, clocks: Clocks, in_flight: InFlight, until: float) -> tuple[Events, Clocks]:
        """Returns what nodes do by themselves up to some time, in order, and the clocks after it."""
        if self.calendar is None and not self._works_by_itself():
            return super().window(clocks, until)
        silent = self.gossip.silence(np.ones(self.networks.n, bool)) if self.calendar else self.gossip
        base = Timeline(
            self.networks, self.contacts, self.update, silent, self.exchange, self.schemes, threads=self.threads
        )
        if self.at_update is not None and self.at_update.any():
            base = replace(base, gossip=self.gossip.silence(self.at_update != ALONE))
        if self._works_by_itself():
            base = replace(base, update=self.update.silence(np.ones(self.networks.n, bool)))
            others, after = base.window(replace(clocks, next_update=np.full(self.networks.n, np.inf)), until)
        else:
            others, after = base.window(clocks, until)
        lists = [(others.time, others.kind, others.actor, others.peer)]
        if self._works_by_itself():
            time, actor, following = self._worked(clocks, in_flight, until)
            lists.insert(0, (time, np.full(time.size, UPDATE, np.int8), actor, np.full(time.size, -1, np.int32)))
            after = replace(after, next_update=following, updates=in_flight.nodes["ticks"])
        if self.calendar is not None:
            lists = [*self._opening(clocks.time, until), *lists]
            made = after.gossips.copy()
            time, actor, other = self.calendar.contacts(self.contacts, made, clocks.time, until)
            lists.append((time, np.full(time.size, PUSH, np.int8), actor, other))
            after = replace(after, gossips=made)
        time, kind, actor, other = (np.concatenate(columns) for columns in zip(*lists, strict=True))
        order = np.argsort(time, kind="stable")
        events = Events(time[order], kind[order], actor[order], other[order], np.full(time.size, -1))
        return self._answered(events, clocks, after)

    def _opening(self, start: float, until: float) -> list[tuple[np.ndarray, ...]]:
        """Returns the updates with which nodes begin, at the end of their first step."""
        assert self.calendar is not None
        wanted = np.repeat([r.first_update for r in self.calendar.rounds], self.networks.sizes)
        time = np.maximum(1.0, np.ceil(self.laws.nodes["join"]))
        stays = time < self.laws.nodes["leave"]
        nodes = np.flatnonzero(wanted & stays & (start < time) & (time <= until)).astype(np.int32)
        return [(time[nodes], np.full(nodes.size, UPDATE, np.int8), nodes, np.full(nodes.size, -1, np.int32))]

    def _worked(self, clocks: Clocks, in_flight: InFlight, until: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns times and nodes of updates up to some time, and when the next of each node comes."""
        room = 64 + int(1.2 * (until - clocks.time) * float(self.update.rate.sum()))
        while True:
            time, actor, trial, following = (
                np.empty(room),
                np.empty(room, np.int32),
                copied(in_flight),
                clocks.next_update.copy(),
            )
            laws = (self.update.compiled(), until, self.pauses, self.laws)
            size = pauses.emit(*laws, trial, following, time, actor)
            if size <= room:
                in_flight.nodes[:] = trial.nodes
                order = np.argsort(time[:size], kind="stable")
                return time[order], actor[order], following
            room *= 2

    def _works_by_itself(self) -> bool:
        """Returns whether updates depend on when nodes are on, or there."""
        laws = self.laws.nodes
        away = (laws["law"] != ALWAYS) & (laws["law"] != PER_MESSAGE)
        return bool((self.pauses and away.any()) or (laws["join"] > 0).any() or np.isfinite(laws["leave"]).any())

    def _burst(self) -> int:
        """Returns how many messages one step of the loop may send."""
        return 4 + int((self.laws.nodes["capacity"] * (self.laws.nodes["flow"] > 0)).max(initial=0))

    def expected(self, span: float) -> tuple[float, float]:
        """Returns about how many updates and contacts to expect in a long span of time [s], those on receipt too."""
        updates, contacts = super().expected(span)
        if self.calendar is not None:
            contacts = span * float(self.speed().sum())
        models = contacts * (2 if self.exchange in ("push_pull", "meet") else 1)
        trained = max(_UPDATES[int(r)] for r in np.unique(self.laws.nodes["receipt"]))
        return updates + (models * trained if trained else 0.0), contacts

    def speed(self) -> Float64[np.ndarray, " n"]:
        """Returns about how many contacts each node makes while it is on [1/s]."""
        if self.calendar is not None:
            return self.calendar.rate() * self.contacts.share
        return self._capacity.rate * self.contacts.share

    def peaks(self) -> list[float]:
        if self.calendar is None:
            return super().peaks()
        return [1.0 / r.steps for r in self.calendar.rounds]


def accounts(in_flight: InFlight, laws: MessageLaws) -> list[dict[str, int]]:
    """Returns the message accounts of each network: sent = delivered + lost + offline + in flight."""
    flying = under_way(in_flight, laws.nodes["network"])
    columns = {"sent": SENT, "delivered": DELIVERED, "lost": LOST, "offline": OFFLINE}
    rows = [{name: int(counts[at]) for name, at in columns.items()} for counts in in_flight.accounts]
    return [row | {"in_flight": int(count)} for row, count in zip(rows, flying, strict=True)]


def kept(after: Clocks, in_flight: InFlight) -> Clocks:
    """Returns the clocks after a window, with what is in flight."""
    nodes = in_flight.nodes
    nodes["ticks"], nodes["made"] = after.updates, after.gossips
    return replace(after, updates=nodes["updates"].copy(), gossips=nodes["contacts"].copy(), in_flight=in_flight)


def _joined(outs: list[np.ndarray]) -> Events:
    """Returns the events of a window."""
    events = outs[0] if len(outs) == 1 else np.concatenate(outs)
    columns = [np.ascontiguousarray(events[name]) for name in EVENT.names or ()]
    return Events(*columns[:5], message=MessageColumns(*columns[5:]))
