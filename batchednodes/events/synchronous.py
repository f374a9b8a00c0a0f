r"""Synchronous rounds: nodes update, then all mix, at each multiple of a period. A barrier between two rounds.

Notation: n nodes, d neighbours of each, g networks, k round (0, 1, ...), T period [s]; round k happens at (k + 1) T.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from batchednodes.events.rounds import Timing
from batchednodes.events.timeline import ROUND, UPDATE, Clocks, Events, Timeline
from batchednodes.numerics.values import count, number
from batchednodes.topology import RoundLaw


@dataclass(frozen=True)
class Synchronous(Timing):
    """In synchronous rounds: at each multiple of the period all nodes update, then all mix by `network.weights`.

    Takes the place of `update.clock` and `gossip.clock`. With uniform weights, a node's own model counts as much as
    that of each neighbour; on the complete graph a round is the mean of all models (all-reduce). Where the graph
    changes, a round has the graph of the time at which it begins; each of several mixings, that of the time at which
    its part of the round begins. W of a round is their product, which is made: of m mixings up to d^m entries a row.

    Example:
        >>> import batchednodes
        >>> rounds = {"kind": "synchronous", "period": 0.5}
        >>> run = batchednodes.train({"network.nodes": 3, "timing": rounds, "run.until": 2})
        >>> int(run.metrics["updates"].iloc[-1])  # three nodes, four rounds
        12
        >>> bool(run.metrics["consensus_distance"].max() < 1e-6)  # a round on the complete graph is a mean
        True
    """

    period: float = 1.0
    """Time of a round T [s]; positive and finite."""

    mixings: int = 1
    """How many times all nodes mix in a round (multi-gossip); at least 1, at most 1,000; of algorithms whose mixing is
    a product with W. Where the graph changes, the parts of a round have the graphs of k T, (k + 1 / mixings) T, ..."""

    def __post_init__(self) -> None:
        number(self.period, 1, "period", open_low=True, unit="s")
        count(self.mixings, 1, "mixings", high=1000)


@dataclass(frozen=True)
class Barriers(Timeline):
    """The rounds of a batch of networks."""

    period: Float64[np.ndarray, " g"] = field(kw_only=True)
    """Time of a round of each network [s]."""
    weights: tuple[RoundLaw, ...] = field(kw_only=True)
    """By which each network mixes, and who takes part."""

    def begin(self) -> Clocks:
        """Returns the clocks at t = 0: every node begins to compute."""
        n, counts = self.networks.n, np.zeros((3, self.networks.n), np.int64)
        first = np.repeat(self.period, self.networks.sizes)
        silent, order = np.full(n, math.inf), np.arange(n, dtype=np.int32)
        return Clocks(0.0, first, counts[0], silent, counts[1], counts[2], np.zeros(n), order, np.full(n, -1, np.int32))

    def window(self, clocks: Clocks, until: float) -> tuple[Events, Clocks]:
        updates, gossips = clocks.updates.copy(), clocks.gossips.copy()
        following, parts = clocks.next_update.copy(), [_none()]
        for g, (first, period) in enumerate(zip(self.networks.offsets[:-1].tolist(), self.period, strict=True)):
            done, nodes = round(clocks.next_update[first] / period) - 1, self.networks.slice(g)
            due = np.arange(done, max(done, math.floor(until / period) + 1))
            for k in due[(due + 1) * period <= until].tolist():
                parts.append(self._round(g, k, updates))
                gossips[nodes] += self.weights[g].sent(k)
                following[nodes] = (k + 2) * period
        after = Clocks(until, following, updates, clocks.next_gossip, gossips, clocks.draws, clocks.stamp,
                       clocks.order, clocks.awake)  # fmt: skip
        return _joined(parts), after

    def _round(self, g: int, k: int, updates: np.ndarray) -> Events:
        """Returns the events of a round, updates before the mixing, and counts these."""
        nodes, some = self.networks.slice(g), self.weights[g].part(k)
        actors = np.arange(nodes.start, nodes.stop) if some is None else nodes.start + some
        counts = np.append(updates[actors], k)
        updates[actors] += 1
        kind = np.full(actors.size + 1, UPDATE, np.int8)
        kind[-1] = ROUND
        time, peer = np.full(kind.size, (k + 1) * self.period[g]), np.full(kind.size, -1, np.int32)
        return Events(time, kind, np.append(actors, nodes.start).astype(np.int32), peer, counts)

    def expected(self, span: float) -> tuple[float, float]:
        """Returns how many updates, and models sent, to expect in a span of time [s]."""
        sent = [float(law.sent(0).sum()) for law in self.weights]
        parts = [law.part(0) for law in self.weights]
        sizes = [n if some is None else some.size for some, n in zip(parts, self.networks.sizes.tolist(), strict=True)]
        return span * float((sizes / self.period).sum()), span * float((sent / self.period).sum())

    def peaks(self) -> list[float]:
        return [float(w.sent(0).max() / period) for w, period in zip(self.weights, self.period, strict=True)]


def _none() -> Events:
    """Returns no events."""
    kind, node = np.zeros(0, np.int8), np.zeros(0, np.int32)
    return Events(np.zeros(0), kind, node, node, np.zeros(0, np.int64))


def _joined(parts: list[Events]) -> Events:
    """Returns the events of all rounds: at one instant all updates, in the order of nodes, then the rounds."""
    columns = ("time", "kind", "actor", "peer", "count")
    time, kind, actor, peer, count = (np.concatenate([getattr(p, name) for p in parts]) for name in columns)
    order = np.lexsort((actor, kind != UPDATE, time))
    return Events(time[order], kind[order], actor[order], peer[order], count[order])
