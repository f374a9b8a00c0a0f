r"""Timing by rounds: integer steps, as in gossipy. In each round every node makes contact at a step of its own.

Step t lies in (t, t + 1] and happens at its end, at time t + 1 [s]. In one step all nodes that are due send, in an
order drawn anew for each round, then the messages arrive whose time has come, in the order in which they were sent,
then their replies. Nodes train when a model comes (`gossip.on_receipt`), and once at the start. Where the graph
changes, it is that of time t: with a period of R [s], graphs change with the rounds.

Gossipy deviates: a gaussian period begins at step 0 for all nodes, so that all send then; here at a random step.

Notation: n nodes, R steps of a round, P steps of a node's period, t step, e contacts.

Reference:
    R. Ormandi, I. Hegedus, M. Jelasity, "Gossip learning with linear models on fully distributed data", Concurrency and
    Computation 25(4), 2013.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int32, Int64

from batchednodes.numerics import rng
from batchednodes.numerics.values import count
from batchednodes.topology import Networks, PeerLists


class Timing:
    """When nodes act."""


@dataclass(frozen=True)
class Continuous(Timing):
    """In continuous time, each by its own clocks.

    Example:
        >>> import batchednodes
        >>> from batchednodes.events.rounds import Continuous
        >>> batchednodes.Config().timing == Continuous()
        True
    """


@dataclass(frozen=True)
class Rounds(Timing):
    """In whole steps of 1 s, each node once a round or so; takes the place of `gossip.clock`.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.rounds import Calendar, Rounds
        >>> from batchednodes.topology import Networks
        >>> batch = Networks(offsets=np.array([0, 3]), seeds=np.array([0], np.uint64))
        >>> Calendar(batch, (Rounds(steps=100),)).rate().tolist()  # each node makes one contact in 100 steps of 1 s
        [0.01, 0.01, 0.01]
    """

    steps: int = 100
    """Steps of a round R [s]; at least 1."""

    period: Literal["same", "gaussian"] = "same"
    """Steps between two contacts of a node: `same`, R for all; `gaussian`, drawn once for each node with mean R and
    standard deviation R / 10, rounded down, at least 1."""

    first_update: bool = True
    """Whether each node makes one update before anything else, at the first step at which it is there, on or off."""

    def __post_init__(self) -> None:
        count(self.steps, 1, "steps", high=10**9)


Contact = tuple[Float64[np.ndarray, " e"], Int32[np.ndarray, " e"], Int32[np.ndarray, " e"]]
"""Times [s], nodes, and whom they contact."""


@dataclass(frozen=True)
class Calendar:
    """The rounds of a batch of networks.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.rounds import Calendar, Rounds
        >>> from batchednodes.topology import Complete, Networks, stack
        >>> batch = Networks(offsets=np.array([0, 3]), seeds=np.array([0], np.uint64))
        >>> contacts = stack(batch, [Complete().graph(3, 0)])
        >>> calendar = Calendar(batch, (Rounds(steps=10),))
        >>> time, node, other = calendar.contacts(contacts, np.zeros(3, np.int64), 0.0, 20.0)
        >>> sorted(node.tolist())  # in 20 steps each node makes two contacts
        [0, 0, 1, 1, 2, 2]
    """

    networks: Networks
    rounds: tuple[Rounds, ...]
    """Of each network."""

    def contacts(self, contacts: PeerLists, made: Int64[np.ndarray, " n"], start: float, until: float) -> Contact:
        """Returns the contacts of (start, until], in order.

        Args:
            contacts: whom each node may contact.
            made: contacts of each node so far; increased.
            start: begin [s].
            until: end [s].
        """
        parts = [self._of_network(g, contacts, made, start, until) for g in range(self.networks.count)]
        if len(parts) == 1:
            return parts[0]
        time, node, other = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.argsort(time, kind="stable")
        return time[order], node[order], other[order]

    def rate(self) -> Float64[np.ndarray, " n"]:
        """Returns about how many contacts each node makes [1/s]."""
        index = self.networks.index()
        periods = [
            _periods(r, int(seed), index[self.networks.slice(g)])[0]
            for g, (r, seed) in enumerate(zip(self.rounds, self.networks.seeds, strict=True))
        ]
        return 1.0 / np.concatenate(periods)

    def _of_network(self, g: int, contacts: PeerLists, made: np.ndarray, start: float, until: float) -> Contact:
        rounds, nodes, seed = self.rounds[g], self.networks.slice(g), self.networks.seeds[g]
        first, last = math.floor(start), math.floor(until)  # steps t = first, ..., last - 1
        speakers = nodes.start + np.flatnonzero(~contacts.silent()[nodes])
        times, actors = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        index = speakers - nodes.start
        period, phase = _periods(rounds, int(seed), index)
        for k in range(first // rounds.steps, -(-last // rounds.steps)):
            order = np.argsort(rng.draws(int(seed), rng.ROUND, index, k)[0], kind="stable")
            begin, end = max(first, k * rounds.steps), min(last, (k + 1) * rounds.steps)
            step, some = _due(period[order], phase[order], begin, end)
            times.append(step)
            actors.append(speakers[order][some])
        t, i = np.concatenate(times), np.concatenate(actors).astype(np.int32)
        other = _others(t, i, nodes.start, int(seed), contacts, made)
        found = other >= 0
        return (t[found] + 1.0, i[found], other[found])


def _periods(rounds: Rounds, seed: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns period and first step of each node."""
    high, _ = rng.draws(seed, rng.PHASE, index, 0)
    period = np.full(index.size, rounds.steps)
    if rounds.period == "gaussian":
        u = rng.uniforms(seed, rng.PHASE, index, 4)[:, 2:]
        z = np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * math.pi * u[:, 1])
        period = np.maximum(1, np.floor(rounds.steps * (1 + z / 10))).astype(np.int64)
    return period, (rng.units(high) * period).astype(np.int64)


def _due(period: np.ndarray, phase: np.ndarray, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps of begin, ..., end - 1 at which nodes are due, and which, in order of time, then of nodes."""
    next_step = phase + -((phase - begin) // period) * period  # the first one from `begin` on
    counts = np.maximum(0, -((next_step - end) // period))
    some = np.repeat(np.arange(period.size), counts)
    number = np.arange(some.size) - np.repeat(np.cumsum(counts) - counts, counts)
    step = next_step[some] + number * period[some]
    order = np.argsort(step, kind="stable")
    return step[order], some[order]


def _others(
    t: np.ndarray, i: np.ndarray, first: int, seed: int, contacts: PeerLists, made: np.ndarray
) -> Int32[np.ndarray, " e"]:
    """Returns whom nodes contact at some steps, and counts their contacts; -1: nobody."""
    number = made[i] + nth(i) + 1
    sizes = np.bincount(i - first, minlength=0)
    made[first : first + sizes.size] += sizes
    return _peers(t.astype(float), i, number, first, seed, contacts)


def nth(i: Int32[np.ndarray, " e"]) -> Int64[np.ndarray, " e"]:
    """Returns how often each entry of a list of nodes has come before in it.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.rounds import nth
        >>> nth(np.array([3, 5, 3, 3], np.int32)).tolist()
        [0, 0, 1, 2]
    """
    order, number = np.argsort(i, kind="stable"), np.empty(i.size, np.int64)
    sizes = np.bincount(i)
    number[order] = np.arange(i.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return number


def contacted(
    time: Float64[np.ndarray, " e"],
    node: Int32[np.ndarray, " e"],
    number: Int64[np.ndarray, " e"],
    networks: Networks,
    contacts: PeerLists,
) -> Int32[np.ndarray, " e"]:
    """Returns whom nodes of a batch contact at some times, in contacts of some numbers (from 1 on); -1: nobody."""
    other, network = np.full(node.size, -1, np.int32), networks.network_of()[node]
    for g, (first, seed) in enumerate(zip(networks.offsets[:-1].tolist(), networks.seeds.tolist(), strict=True)):
        some = network == g
        if some.any():
            other[some] = _peers(time[some], node[some], number[some], first, seed, contacts)
    return other


def _peers(
    time: np.ndarray, node: np.ndarray, number: np.ndarray, first: int, seed: int, contacts: PeerLists
) -> Int32[np.ndarray, " e"]:
    _, low = rng.draws(seed, rng.GOSSIP, node.astype(np.int64) - first, number)
    return contacts.peers(time, node, low)
