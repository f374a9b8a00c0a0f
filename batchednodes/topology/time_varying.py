r"""Kinds of graphs that change from round to round: round r lasts from r to r + 1 periods.

A contact at time t is with a neighbour in the graph of round floor(t / period); a node that has none then makes no
contact, and its clock ticks on.

Notation: n nodes, i a node, r round, k neighbours.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from batchednodes.numerics.values import number
from batchednodes.topology.base import Changing, at_least, below_n
from batchednodes.topology.base_k_plus_1 import Edges, base_graph
from batchednodes.topology.graph import Graph
from batchednodes.topology.peer_sampler import PeerSampler
from batchednodes.topology.time_varying_peers import Cycle, Matchings, NewPeers


@dataclass(frozen=True)
class OnePeerExponential(Changing):
    """Directed: in round r node i contacts i + 2^(r mod log2 n), the logarithm rounded up.

    Example:
        >>> from batchednodes.topology import OnePeerExponential
        >>> rounds = OnePeerExponential(period=1.0).graph(8, 0)
        >>> [int(rounds.at(time).indices[0]) for time in (0.0, 1.0, 2.0, 3.0)]  # whom node 0 may contact
        [1, 2, 4, 1]

    Reference:
        B. Ying et al., "Exponential graph is provably efficient for decentralized deep training", NeurIPS 2021.
    """

    period: int | float | str = 1.0
    """Length of a round [s]; positive and finite; a number or an expression in n."""

    def __post_init__(self) -> None:
        _check(self.period)

    def seconds(self, n: int) -> float:
        return _seconds(self.period, n)

    def contacts(self, n: int) -> float:
        return float(n * (n - 1).bit_length())

    def graph(self, n: int, seed: int) -> Graph | PeerSampler | None:
        """Returns the rounds; of one node, one round without contacts."""
        i = np.arange(n)
        hops = [1 << r for r in range(max(1, (n - 1).bit_length()))]
        return Cycle.of(self.seconds(n), [Graph.of(n, i, (i + hop) % n, directed=True) for hop in hops])


@dataclass(frozen=True)
class RandomMatching(Changing):
    """A new uniformly random perfect matching each round; of an odd number of nodes one is left out.

    Example:
        >>> from batchednodes.topology import RandomMatching
        >>> rounds = RandomMatching(period=1.0).graph(6, seed=1)
        >>> rounds.at(0.0).indices.tolist()  # the partner of each node
        [3, 4, 5, 0, 1, 2]
        >>> rounds.at(1.0).indices.tolist()
        [1, 0, 3, 2, 5, 4]

    Reference:
        S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52(6), 2006:
        the synchronous model, in which nodes meet in disjoint pairs.
    """

    period: int | float | str = 1.0
    """Length of a round [s]; positive and finite; a number or an expression in n. The work of a round is about n."""

    def __post_init__(self) -> None:
        _check(self.period)

    def seconds(self, n: int) -> float:
        return _seconds(self.period, n)

    def contacts(self, n: int) -> float:
        return 0.0

    def graph(self, n: int, seed: int) -> Graph | PeerSampler | None:
        """Returns what draws the matchings."""
        return Matchings(self.seconds(n), n, seed)


@dataclass(frozen=True)
class RandomPeers(Changing):
    """Directed: each round every node draws some peers anew, uniformly among all others (k-out).

    Example:
        >>> from batchednodes.topology import RandomPeers
        >>> rounds = RandomPeers(degree=2).graph(5, 0)
        >>> rounds.at(0.0).indices.reshape(5, 2).tolist()
        [[3, 4], [2, 4], [0, 3], [1, 2], [0, 3]]
    """

    degree: int = 2
    """Peers of each node in a round [nodes]; at least 1, below n."""
    period: int | float | str = 1.0
    """Length of a round [s]; positive and finite; a number or an expression in n."""

    def __post_init__(self) -> None:
        at_least("degree", self.degree, 1)
        _check(self.period)

    def seconds(self, n: int) -> float:
        return _seconds(self.period, n)

    def contacts(self, n: int) -> float:
        return 0.0

    def graph(self, n: int, seed: int) -> Graph | PeerSampler | None:
        """Returns what draws the peers."""
        below_n("degree", self.degree, n, "kind=complete or a smaller degree")
        return NewPeers(self.seconds(n), n, seed, self.degree)


@dataclass(frozen=True)
class BaseGraph(Changing):
    """The Base-(k+1) graph: a cycle of graphs of degree k at most; synchronous mixing reaches the mean in one cycle.

    Synchronous rounds have the weights of its edges where `network.weights` is uniform; contacts are uniform.

    Example:
        >>> from batchednodes.topology import BaseGraph
        >>> rounds = BaseGraph(degree=2).graph(9, 0)
        >>> rounds.cycle  # in so many rounds all nodes come to their mean
        2
        >>> rounds.at(0.0).degrees.tolist()
        [2, 2, 2, 2, 2, 2, 2, 2, 2]

    Reference:
        Y. Takezawa et al., "Beyond exponential graph: communication-efficient topologies for decentralized learning via
        finite-time convergence", NeurIPS 2023.
    """

    degree: int = 1
    """The most neighbours of a node in a round, k [nodes]; at least 1, below n."""
    period: int | float | str = 1.0
    """Length of a round [s]; positive and finite; a number or an expression in n."""

    def __post_init__(self) -> None:
        at_least("degree", self.degree, 1)
        _check(self.period)

    def seconds(self, n: int) -> float:
        return _seconds(self.period, n)

    def contacts(self, n: int) -> float:
        """Returns an upper bound: there are 2 log(n) / log(k + 1) + 2 rounds or fewer."""
        k = min(self.degree, max(1, n - 1))
        return n * k * (2 * math.log(n) / math.log(k + 1) + 2)

    def graph(self, n: int, seed: int) -> Graph | PeerSampler | None:
        """Returns the rounds."""
        below_n("degree", self.degree, n, "kind=complete or a smaller degree")
        found = base_graph(n, self.degree)
        return Cycle.of(
            self.seconds(n), [Graph.of(n, *e[:2]) for e in found], np.concatenate([_both(e) for e in found])
        )


def _both(edges: Edges) -> Float64[np.ndarray, " e"]:
    """Returns the weights of edges in both directions, in the order in which a graph lists its contacts."""
    order = np.lexsort((np.append(edges.j, edges.i), np.append(edges.i, edges.j)))
    return np.tile(edges.weight, 2)[order]


def _seconds(period: float | str, n: int) -> float:
    return number(period, n, "period", open_low=True, unit="s")


def _check(period: float | str) -> None:
    if not isinstance(period, str):
        _seconds(period, 1)
