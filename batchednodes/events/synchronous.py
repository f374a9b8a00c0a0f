r"""Synchronous rounds: all nodes update, then all mix, at each multiple of a period. A barrier between two rounds.

Notation: n nodes, g networks, k round (0, 1, ...), T period [s]; round k happens at time (k + 1) T.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.events.rounds import Timing
from batchednodes.events.timeline import ROUND, UPDATE, Clocks, Events, Timeline
from batchednodes.numerics.values import number
from batchednodes.topology import RoundWeights


@dataclass(frozen=True)
class Synchronous(Timing):
    """In synchronous rounds: at each multiple of the period all nodes update, then all mix by `network.weights`.

    Takes the place of `update.clock` and `gossip.clock`. With uniform weights, a node's own model counts as much as
    that of each neighbour; on the complete graph a round is the mean of all models (all-reduce). Where the graph
    changes, a round has the graph of the time at which it begins.

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

    def __post_init__(self) -> None:
        number(self.period, 1, "period", open_low=True, unit="s")


@dataclass(frozen=True)
class Barriers(Timeline):
    """The rounds of a batch of networks."""

    period: Float64[np.ndarray, " g"] = field(kw_only=True)
    """Time of a round of each network [s]."""
    weights: tuple[RoundWeights, ...] = field(kw_only=True)
    """By which each network mixes."""

    def begin(self) -> Clocks:
        """Returns the clocks at t = 0: every node begins to compute."""
        n, counts = self.networks.n, np.zeros((3, self.networks.n), np.int64)
        first = np.repeat(self.period, self.networks.sizes)
        silent, order = np.full(n, math.inf), np.arange(n, dtype=np.int32)
        return Clocks(0.0, first, counts[0], silent, counts[1], counts[2], np.zeros(n), order, np.full(n, -1, np.int32))

    def window(self, clocks: Clocks, until: float) -> tuple[Events, Clocks]:
        updates, gossips = clocks.updates.copy(), clocks.gossips.copy()
        times, networks, numbers = [], [], []
        for g, (first, period) in enumerate(zip(self.networks.offsets[:-1], self.period, strict=True)):
            done = int(updates[first])
            due = np.arange(done, max(done, math.floor(until / period) + 1))
            due = due[(due + 1) * period <= until]
            times.append((due + 1) * period)
            networks.append(np.full(due.size, g))
            numbers.append(due)
            nodes = self.networks.slice(g)
            updates[nodes] += due.size
            for k in due.tolist():
                gossips[nodes] += self.weights[g].sent(k)
        columns = (np.concatenate(a) for a in (times, networks, numbers))
        following = (updates + 1) * np.repeat(self.period, self.networks.sizes)
        after = Clocks(until, following, updates, clocks.next_gossip, gossips, clocks.draws, clocks.stamp,
                       clocks.order, clocks.awake)  # fmt: skip
        return self._events(*columns), after

    def _events(self, time: np.ndarray, network: np.ndarray, k: Int64[np.ndarray, " r"]) -> Events:
        """Returns the events of some rounds: at one instant all updates, in the order of nodes, then the rounds."""
        sizes, firsts = self.networks.sizes[network], self.networks.offsets[network]
        actor = np.repeat(firsts, sizes) + np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        lists = (
            (np.repeat(time, sizes), np.zeros(actor.size, np.int8), actor, np.repeat(k, sizes)),
            (time, np.full(time.size, ROUND, np.int8), firsts, k),
        )
        at, kind, node, count = (np.concatenate(columns) for columns in zip(*lists, strict=True))
        order = np.lexsort((node, kind != UPDATE, at))
        peer = np.full(at.size, -1, np.int32)
        return Events(at[order], kind[order], node[order].astype(np.int32), peer, count[order])

    def expected(self, span: float) -> tuple[float, float]:
        """Returns how many updates, and models sent, to expect in a span of time [s]."""
        sent = [float(weights.sent(0).sum()) for weights in self.weights]
        return span * float((self.networks.sizes / self.period).sum()), span * float((sent / self.period).sum())

    def peaks(self) -> list[float]:
        return [float(w.sent(0).max() / period) for w, period in zip(self.weights, self.period, strict=True)]
