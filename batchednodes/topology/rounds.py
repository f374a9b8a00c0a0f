r"""Choosers of graphs that change: all rounds of a cycle, a new matching, or new peers, each round.

What is random in a round comes from the addresses (seed, stream, node, round), so it does not depend on which contacts
ask for it, or in which order.

Letters: n nodes, m contacts, r round, k peers of a node in a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import scipy
from jaxtyping import Float64, Int32, Int64
from numba import njit, uint64

from batchednodes import rng
from batchednodes.topology.chooser import Chooser, rounds
from batchednodes.topology.graphs import Graph


@dataclass(frozen=True, eq=False)
class Cycle(Chooser):
    """A few graphs in turn: round r has the graph r mod their number; peers are uniform among its neighbours."""

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

    @classmethod
    def of(cls, period: float, graphs: Sequence[Graph]) -> "Cycle":
        """Returns the cycle of one or more graphs of n nodes each."""
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([graph.degrees for graph in graphs]))])
        indices = np.concatenate([graph.indices for graph in graphs])
        return cls(period, graphs[0].n, indptr, indices, any(graph.directed for graph in graphs))

    @property
    def length(self) -> int:
        """Number of rounds."""
        return (self.indptr.size - 1) // self.n

    def peers(self, time: np.ndarray, node: np.ndarray, bits: np.ndarray) -> Int32[np.ndarray, " m"]:
        out = np.empty(time.size, np.int32)
        _listed(rounds(time, self.period) % self.length * self.n + node, bits, self.indptr, self.indices, out)
        return out

    def share(self) -> Float64[np.ndarray, " n"]:
        return (np.diff(self.indptr) > 0).reshape(self.length, self.n).mean(axis=0)

    def union(self) -> Graph | None:
        return Graph.of(self.n, *self._pairs(), directed=self.directed)

    def probabilities(self) -> "scipy.sparse.csr_array":
        degrees = np.diff(self.indptr)
        weights = np.repeat(1 / (np.maximum(degrees, 1) * self.length), degrees)
        return scipy.sparse.coo_array((weights, self._pairs()), shape=(self.n, self.n)).tocsr()  # sums over rounds

    def _pairs(self) -> tuple[Int64[np.ndarray, " e"], Int32[np.ndarray, " e"]]:
        return np.repeat(np.arange(self.indptr.size - 1) % self.n, np.diff(self.indptr)), self.indices


@njit(nogil=True, cache=True)
@no_type_check
def _listed(row, bits, indptr, indices, out):  # noqa: ANN001, ANN202  (numba infers the types)
    for e in range(row.size):
        first = indptr[row[e]]
        many = indptr[row[e] + 1] - first
        out[e] = indices[first + rng.below(bits[e], many)] if many > 0 else -1


@dataclass(frozen=True, eq=False)
class Matchings(Chooser):
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


@njit(nogil=True, cache=True)
@no_type_check
def _matched(seed, n, turn, node, order, out):  # noqa: ANN001, ANN202
    """Writes the partner of each contact's node; the matching is that of neighbours in a shuffled row of all nodes."""
    row, partner, now = np.empty(n, np.int32), np.empty(n, np.int32), np.int64(-1)
    for e in order:
        if turn[e] != now:
            now = turn[e]
            for i in range(n):
                row[i] = i
            for i in range(n - 1, 0, -1):  # Fisher and Yates
                j = rng.below(rng.block(seed, rng.GRAPH_ROUND, i, uint64(now))[0], i + 1)
                row[i], row[j] = row[j], row[i]
            partner[row[n - 1]] = -1
            for i in range(1, n, 2):
                partner[row[i - 1]], partner[row[i]] = row[i], row[i - 1]
        out[e] = partner[node[e]]


@dataclass(frozen=True, eq=False)
class NewPeers(Chooser):
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


@njit(nogil=True, cache=True)
@no_type_check
def _drawn(seed, sizes, turn, node, bits, out):  # noqa: ANN001, ANN202
    """Writes for each contact one of its node's k peers of the round, the s-th; only the first s + 1 are drawn.

    The a-th peer is the b-th of those that are left; to find it, it steps over the chosen ones in their order.
    """
    n, k = sizes
    chosen = np.empty(k, np.int64)
    for e in range(node.size):
        last = np.int64(0)
        for a in range(rng.below(bits[e], k) + 1):
            address = uint64(turn[e]) * uint64(k) + uint64(a)
            last = rng.below(rng.block(seed, rng.GRAPH_ROUND, node[e], address)[0], n - 1 - a)
            place = 0
            while place < a and last >= chosen[place]:
                last, place = last + 1, place + 1
            for b in range(a, place, -1):
                chosen[b] = chosen[b - 1]
            chosen[place] = last
        out[e] = last + 1 if last >= node[e] else last  # skips the node itself


def _alike(n: int, share: float) -> "scipy.sparse.csr_array":
    """Returns the probabilities where all others are contacted alike."""
    others = np.ones((n, n)) - np.eye(n)
    return scipy.sparse.csr_array(share / max(n - 1, 1) * others)
