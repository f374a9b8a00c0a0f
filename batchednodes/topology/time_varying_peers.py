r"""Choosers of graphs that change: all rounds of a cycle, a new matching, or new peers, each round.

What is random in a round comes from the addresses (seed, stream, node, round), so it does not depend on which contacts
ask for it, or in which order.

Notation: n nodes, m contacts, r round, k peers of a node in a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import scipy
from jaxtyping import Float64, Int32, Int64
from numba import njit

from batchednodes.numerics import rng
from batchednodes.topology.graph import Graph
from batchednodes.topology.peer_sampler import PeerSampler, rounds
from batchednodes.topology.peer_sampling_kernels import CYCLE, MATCHING, NEW_PEERS, PeerRule, listed, match, new_peer


@dataclass(frozen=True, eq=False)
class Cycle(PeerSampler):
    """A few graphs in turn: round r has the graph r mod their number; peers are uniform among its neighbours.

    Example:
        >>> from batchednodes.topology import Chain, Ring, Star
        >>> from batchednodes.topology.time_varying_peers import Cycle
        >>> rounds = Cycle.of(period=10.0, graphs=[Star().graph(4, 0), Chain().graph(4, 0)])
        >>> rounds.at(9.0).degrees.tolist(), rounds.at(10.0).degrees.tolist()
        ([3, 1, 1, 1], [1, 2, 2, 1])
        >>> rounds.union().degrees.tolist()
        [3, 2, 3, 2]
    """

    period: float
    """Length of a round [s]."""
    n: int
    """Number of nodes."""
    indptr: Int64[np.ndarray, " rows1"]
    """Where the contacts of row r n + i, of node i in round r, begin; and the end of the last."""
    indices: Int32[np.ndarray, " e"]
    """The contacts."""
    directed: bool
    """Whether i may contact j in a round in which j may not contact i."""
    own: Float64[np.ndarray, " e"] | None = None
    """Weights of the contacts in synchronous rounds; None: uniform ones."""

    @classmethod
    def of(cls, period: float, graphs: Sequence[Graph], own: Float64[np.ndarray, " e"] | None = None) -> "Cycle":
        """Returns the cycle of one or more graphs of n nodes each; own: weights of all their contacts, in order."""
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([graph.degrees for graph in graphs]))])
        indices = np.concatenate([graph.indices for graph in graphs])
        return cls(period, graphs[0].n, indptr, indices, any(graph.directed for graph in graphs), own)

    @property
    def cycle(self) -> int:
        return (self.indptr.size - 1) // self.n

    def peers(self, time: np.ndarray, node: np.ndarray, bits: np.ndarray) -> Int32[np.ndarray, " m"]:
        out = np.empty(time.size, np.int32)
        _listed(rounds(time, self.period) % self.cycle * self.n + node, bits, self.indptr, self.indices, out)
        return out

    def share(self) -> Float64[np.ndarray, " n"]:
        return (np.diff(self.indptr) > 0).reshape(self.cycle, self.n).mean(axis=0)

    def union(self) -> Graph | None:
        return Graph.of(self.n, *self._pairs(), directed=self.directed)

    def probabilities(self) -> "scipy.sparse.csr_array":
        degrees = np.diff(self.indptr)
        weights = np.repeat(1 / (np.maximum(degrees, 1) * self.cycle), degrees)
        return scipy.sparse.coo_array((weights, self._pairs()), shape=(self.n, self.n)).tocsr()  # sums over rounds

    @property
    def seconds(self) -> float:
        return self.period

    def at(self, time: float) -> Graph:
        indptr = self._rows(time)
        return Graph(self.n, indptr - indptr[0], self.indices[indptr[0] : indptr[-1]], directed=self.directed)

    def rule(self) -> PeerRule:
        return PeerRule(CYCLE, self.indptr, self.indices, period=self.period, count=self.cycle)

    def weights(self, time: float) -> Float64[np.ndarray, " e"] | None:
        indptr = self._rows(time)
        return None if self.own is None else self.own[indptr[0] : indptr[-1]]

    def _rows(self, time: float) -> Int64[np.ndarray, " n1"]:
        """Returns where the contacts of each node begin at some time, and the end of the last."""
        first = int(rounds(np.array([time]), self.period)[0]) % self.cycle * self.n
        return self.indptr[first : first + self.n + 1]

    def _pairs(self) -> tuple[Int64[np.ndarray, " e"], Int32[np.ndarray, " e"]]:
        return np.repeat(np.arange(self.indptr.size - 1) % self.n, np.diff(self.indptr)), self.indices


@njit(nogil=True, cache=True)
@no_type_check
def _listed(row, bits, indptr, indices, out):  # noqa: ANN001, ANN202  (numba infers the types)
    for e in range(row.size):
        out[e] = listed(bits[e], row[e], indptr, indices)


@dataclass(frozen=True, eq=False)
class Matchings(PeerSampler):
    """A uniformly random perfect matching each round; of an odd number of nodes a random one has no partner."""

    period: float
    """Length of a round [s]."""
    n: int
    """Number of nodes."""
    seed: int
    """Seed of the network."""

    def peers(self, time: np.ndarray, node: np.ndarray, bits: np.ndarray) -> Int32[np.ndarray, " m"]:
        turn, out = rounds(time, self.period), np.empty(time.size, np.int32)
        _matched(np.uint64(self.seed), self.n, turn, node, np.argsort(turn, kind="stable"), out)
        return out

    def share(self) -> Float64[np.ndarray, " n"]:
        return np.full(self.n, 1.0 - self.n % 2 / self.n)

    def union(self) -> Graph | None:
        return None

    def probabilities(self) -> "scipy.sparse.csr_array":
        return _alike(self.n, 1.0 - self.n % 2 / self.n)

    @property
    def seconds(self) -> float:
        return self.period

    def at(self, time: float) -> Graph:
        i = np.arange(self.n, dtype=np.int32)
        j = self.peers(np.full(self.n, time), i, np.zeros(self.n, np.uint64))
        return Graph.of(self.n, i[i < j], j[i < j])

    def rule(self) -> PeerRule:
        return PeerRule(MATCHING, seed=self.seed, period=self.period)


@njit(nogil=True, cache=True)
@no_type_check
def _matched(seed, n, turn, node, order, out):  # noqa: ANN001, ANN202
    """Writes the partner of each contact's node."""
    row, partner, now = np.empty(n, np.int32), np.empty(n, np.int32), np.int64(-1)
    for e in order:
        if turn[e] != now:
            now = turn[e]
            match(seed, now, row, partner)
        out[e] = partner[node[e]]


@dataclass(frozen=True, eq=False)
class NewPeers(PeerSampler):
    """Each node draws some peers anew each round, uniformly among all others, without replacement."""

    period: float
    """Length of a round [s]."""
    n: int
    """Number of nodes."""
    seed: int
    """Seed of the network."""
    degree: int
    """Peers of a node in a round; at least 1, below n."""

    def peers(self, time: np.ndarray, node: np.ndarray, bits: np.ndarray) -> Int32[np.ndarray, " m"]:
        out = np.empty(time.size, np.int32)
        _drawn(np.uint64(self.seed), (self.n, self.degree), rounds(time, self.period), node, bits, out)
        return out

    def share(self) -> Float64[np.ndarray, " n"]:
        return np.ones(self.n)

    def union(self) -> Graph | None:
        return None

    def probabilities(self) -> "scipy.sparse.csr_array":
        return _alike(self.n, 1.0)

    @property
    def seconds(self) -> float:
        return self.period

    def at(self, time: float) -> Graph:
        i = np.repeat(np.arange(self.n, dtype=np.int32), self.degree)
        place = np.tile(np.arange(self.degree), self.n)
        turn, j = int(rounds(np.array([time]), self.period)[0]), np.empty(i.size, np.int32)
        _listing(np.uint64(self.seed), (self.n, self.degree), turn, i, place, j)
        return Graph.of(self.n, i, j, directed=True)

    def rule(self) -> PeerRule:
        return PeerRule(NEW_PEERS, seed=self.seed, period=self.period, count=self.degree)


@njit(nogil=True, cache=True)
@no_type_check
def _drawn(seed, sizes, turn, node, bits, out):  # noqa: ANN001, ANN202
    """Writes for each contact one of its node's k peers of the round."""
    n, k = sizes
    chosen = np.empty(k, np.int64)
    for e in range(node.size):
        out[e] = new_peer(seed, n, turn[e], node[e], rng.below(bits[e], k), chosen)


@njit(nogil=True, cache=True)
@no_type_check
def _listing(seed, sizes, turn, node, place, out):  # noqa: ANN001, ANN202
    """Writes the peers of each node in a round, by their places."""
    n, k = sizes
    chosen = np.empty(k, np.int64)
    for e in range(node.size):
        out[e] = new_peer(seed, n, turn, node[e], place[e], chosen)


def _alike(n: int, share: float) -> "scipy.sparse.csr_array":
    """Returns the probabilities where all others are contacted alike."""
    others = np.ones((n, n)) - np.eye(n)
    return scipy.sparse.csr_array(share / max(n - 1, 1) * others)
