r"""Contact probabilities: with whom a contact of a node is, on a graph that is stored.

A contact of node i is with its neighbour j with probability P[i, j]; with probability P[i, i] it is with nobody: then
no contact is made, and the clock ticks on. So weights thin the gossip capacity of the nodes.

Notation: n nodes, e contacts, m contacts that are made, P contact probabilities, d degrees, L Laplacian of the graph,
with eigenvalues 0 = l_1 <= l_2 <= ... <= l_n.
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import scipy
from jaxtyping import Float64, Int32, Int64
from numba import njit

from batchednodes.data.paths import read_text
from batchednodes.numerics.values import number, shown
from batchednodes.topology.graph import DENSE, Graph, largest_modulus, second_modulus, some_vector
from batchednodes.topology.peer_sampler import PeerSampler
from batchednodes.topology.peer_sampling_kernels import WEIGHTED, PeerRule, weighted

_REAL = r"[+-]?(?:\d{1,20}\.?\d{0,20}|\.\d{1,20})(?:[eE][+-]?\d{1,3})?"
_ROW = re.compile(rf"\s*(\d{{1,9}})\s*,\s*(\d{{1,9}})\s*,\s*({_REAL})\s*", re.ASCII)

NEAR = 1e-9
"""How far from 1 a row of given weights may sum and still be one that always finds a peer: decimals are rounded."""

MARGIN = 1e-3
"""By which a sum of eigenvalues must be below a bound: the largest one is found from below."""


class Weights(ABC):
    """The kind of contact probabilities that a graph gets."""

    @abstractmethod
    def chooser(self, graph: Graph) -> PeerSampler | None:
        """Returns what chooses peers on a graph; None: uniformly, without a clock tick lost.

        Raises:
            ValueError: the kind does not fit the graph, or a file cannot be read.
        """


@dataclass(frozen=True)
class UniformWeights(Weights):
    """All neighbours alike: P[i, j] = 1 / d_i; every tick of a clock is a contact.

    Example:
        >>> from batchednodes.topology import Ring, UniformWeights
        >>> UniformWeights().chooser(Ring().graph(4, 0)) is None  # each tick is a contact with a uniform neighbour
        True
    """

    def chooser(self, graph: Graph) -> PeerSampler | None:
        return None


@dataclass(frozen=True)
class MetropolisHastings(Weights):
    """P[i, j] = 1 / (1 + max(d_i, d_j)): symmetric, so that hubs are contacted no more often than others.

    Example:
        >>> from batchednodes.topology import MetropolisHastings, Star
        >>> chooser = MetropolisHastings().chooser(Star().graph(4, 0))
        >>> chooser.probabilities().toarray()
        array([[0.  , 0.25, 0.25, 0.25],
               [0.25, 0.  , 0.  , 0.  ],
               [0.25, 0.  , 0.  , 0.  ],
               [0.25, 0.  , 0.  , 0.  ]])
        >>> chooser.share().tolist()  # leaves let most of their ticks pass
        [0.75, 0.25, 0.25, 0.25]

    Reference:
        L. Xiao, S. Boyd, S. Lall, "A scheme for robust distributed sensor fusion based on average consensus",
        IPSN 2005.
    """

    def chooser(self, graph: Graph) -> PeerSampler | None:
        _refuse_directed(graph)
        own = np.repeat(graph.degrees, graph.degrees)
        return Weighted.of(graph, 1 / (1.0 + np.maximum(own, graph.degrees[graph.indices])))


@dataclass(frozen=True)
class MaxDegree(Weights):
    """P[i, j] = 1 / (1 + d_max), d_max the largest degree: symmetric, the same for all edges.

    Example:
        >>> from batchednodes.topology import Chain, MaxDegree
        >>> chooser = MaxDegree().chooser(Chain().graph(4, 0))
        >>> chooser.share().round(2).tolist()
        [0.33, 0.67, 0.67, 0.33]

    Reference:
        L. Xiao, S. Boyd, S.-J. Kim, "Distributed average consensus with least-mean-square deviation", J. Parallel
        Distrib. Comput. 67(1), 2007.
    """

    def chooser(self, graph: Graph) -> PeerSampler | None:
        _refuse_directed(graph)
        return Weighted.of(graph, np.full(graph.indices.size, 1 / (1.0 + graph.degrees.max())))


@dataclass(frozen=True)
class Laplacian(Weights):
    """P = I - a L with the constant a that contracts fastest: 2 / (l_2 + l_n), or 1 / d_max where that is less.

    Above 1 / d_max, P[i, i] of a hub would be no probability. The slowest factor of P, max(1 - a l_2, a l_n - 1), is
    convex in a, so the least a where it binds is the best that is left.

    Example:
        >>> from batchednodes.topology import Laplacian, Ring
        >>> chooser = Laplacian().chooser(Ring().graph(4, 0))  # eigenvalues 0, 2, 2, 4 of L: a = 2 / (2 + 4)
        >>> chooser.probabilities().toarray().round(3)[0].tolist()
        [0.0, 0.333, 0.0, 0.333]

    Reference:
        L. Xiao, S. Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53(1), 2004.
    """

    def chooser(self, graph: Graph) -> PeerSampler | None:
        _refuse_directed(graph)
        return Weighted.of(graph, np.full(graph.indices.size, best_constant(graph)))


@dataclass(frozen=True)
class ConstantWeights(Weights):
    """P[i, j] = a for each neighbour, the same for all edges.

    Example:
        >>> from batchednodes.topology import ConstantWeights, Ring
        >>> ConstantWeights(0.3).chooser(Ring().graph(5, 0)).share().tolist()
        [0.6, 0.6, 0.6, 0.6, 0.6]
        >>> ConstantWeights(0.6).chooser(Ring().graph(5, 0))
        Traceback (most recent call last):
            ...
        ValueError: value must be at most 1 / d_max = 0.5, d_max the largest degree, got 0.6; use a smaller one
    """

    value: float = 0.25
    """a, the weight of each neighbour; in (0, 1], at most 1 / d_max; dimensionless."""

    def __post_init__(self) -> None:
        number(self.value, 1, "value", high=1.0, open_low=True, open_high=False)

    def chooser(self, graph: Graph) -> PeerSampler | None:
        most = int(graph.degrees.max(initial=0))
        if most * self.value > 1 + NEAR:
            raise ValueError(
                f"value must be at most 1 / d_max = {1 / most:g}, d_max the largest degree, got {shown(self.value)}; "
                "use a smaller one"
            )
        return Weighted.of(graph, np.full(graph.indices.size, float(self.value)))


@dataclass(frozen=True)
class GivenWeights(Weights):
    """The user's own probabilities, from a text file of rows i,j,probability; contacts without a row are never made.

    Example:
        >>> import numpy as np
        >>> from batchednodes.topology import Chain, GivenWeights
        >>> np.savetxt("weights.csv", [(0, 1, 1.0), (1, 0, 0.7), (1, 2, 0.3), (2, 1, 0.5)], "%g", ",")
        >>> GivenWeights("weights.csv").chooser(Chain().graph(3, 0)).probabilities().toarray()
        array([[0. , 1. , 0. ],
               [0.7, 0. , 0.3],
               [0. , 0.5, 0. ]])
    """

    path: str
    """The file, relative to the working directory; '#' begins a comment, and a first line of names is skipped; node i
    contacts j with this probability, at least 0; (i, j) is in the graph, and rows of i sum to at most 1."""

    def chooser(self, graph: Graph) -> PeerSampler | None:
        """Returns the chooser with the probabilities that the file gives.

        Raises:
            ValueError: the file cannot be read, names what is no contact of the graph or one twice, or gives a node
                probabilities that sum to more than 1.
        """
        lines, i, j, p = self._rows()
        keys = np.repeat(np.arange(graph.n), graph.degrees) * graph.n + graph.indices
        own = np.where(np.maximum(i, j) < graph.n, i * graph.n + j, -1)
        place = np.searchsorted(keys, own)
        for r in np.flatnonzero(np.append(keys, -2)[place] != own)[:1]:
            raise ValueError(self._bad(int(lines[r]), "name a contact of network.topology", f"{i[r]}, {j[r]}"))
        if np.bincount(place, minlength=1).max() > 1:
            r = np.setdiff1d(np.arange(own.size), np.unique(own, return_index=True)[1])[0]
            raise ValueError(self._bad(int(lines[r]), "give a contact once", f"{i[r]}, {j[r]} again"))
        weight = np.zeros(keys.size)
        weight[place] = p
        made = Weighted.of(graph, weight)
        high = np.flatnonzero(made.share() > 1 + NEAR)
        if high.size:
            raise ValueError(
                f"path: probabilities of a node in {shown(self.path)} must sum to at most 1, got "
                f"{made.share()[high[0]]:g} for node {high[0]}"
            )
        return made

    def _rows(self) -> tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, " r"], Int64[np.ndarray, " r"], np.ndarray]:
        """Returns the line, the nodes and the probability of each row."""
        rows = [row.partition("#")[0] for row in read_text(self.path, "of weights").splitlines()]
        if rows and re.fullmatch(r"[A-Za-z_, \t]+", rows[0]):
            rows[0] = ""
        found = [_ROW.fullmatch(row) for row in rows]
        for k, (row, match) in enumerate(zip(rows, found, strict=True), 1):
            if match is None and row.strip():
                raise ValueError(self._bad(k, "be two node numbers and a probability", shown(row.strip())))
        lines = np.array([k for k, match in enumerate(found, 1) if match is not None], np.int64)
        i, j = (np.array([match[side] for match in found if match is not None], np.int64) for side in (1, 2))
        p = np.array([float(match[3]) for match in found if match is not None], float)
        for r in np.flatnonzero(~((p >= 0) & (p <= 1)))[:1]:
            raise ValueError(
                self._bad(int(lines[r]), "give a probability in [0, 1]", rows[lines[r] - 1].split(",")[2].strip())
            )
        return lines, i, j, p

    def _bad(self, line: int, rule: str, got: str) -> str:
        return f"path: line {line} of {shown(self.path)} must {rule}, got {got}"


@dataclass(frozen=True, eq=False)
class Weighted(PeerSampler):
    """Peers with given probabilities on a fixed graph."""

    graph: Graph
    """Whom each node may contact."""
    upto: Float64[np.ndarray, " e"]
    """Probability of each contact of a node, added to those of its contacts before."""

    @classmethod
    def of(cls, graph: Graph, weight: Float64[np.ndarray, " e"]) -> "Weighted":
        """Returns the chooser for probabilities in the order of the graph's contacts.

        Nodes whose probabilities sum to 1 but for rounding always find a peer.

        Raises:
            ValueError: there is not one probability for each contact, or one is negative.
        """
        if weight.shape != graph.indices.shape or not (weight >= 0).all():
            rule = f"one number, at least 0, for each of the graph's {graph.indices.size} contacts"
            least = f"{weight.min(initial=math.inf):g} the least of shape {list(weight.shape)}"
            raise ValueError(f"probabilities must be {rule}, got {least}")
        upto = np.empty(weight.size)
        _add(graph.indptr, weight, upto)
        return cls(graph, upto)

    def peers(self, time: np.ndarray, node: np.ndarray, bits: np.ndarray) -> Int32[np.ndarray, " m"]:
        out = np.empty(node.size, np.int32)
        _found(node, bits, self.graph.indptr, self.graph.indices, self.upto, out)
        return out

    def share(self) -> Float64[np.ndarray, " n"]:
        out, some = np.zeros(self.graph.n), self.graph.degrees > 0
        out[some] = self.upto[self.graph.indptr[1:][some] - 1]
        return out

    def union(self) -> Graph | None:
        p = self.probabilities()
        p.eliminate_zeros()
        return Graph(self.graph.n, p.indptr.astype(np.int64), p.indices.astype(np.int32), directed=True)

    def probabilities(self) -> "scipy.sparse.csr_array":
        first = self.graph.indptr[:-1][self.graph.degrees > 0]
        weight = np.diff(self.upto, prepend=0.0)
        weight[first] = self.upto[first]
        shape = (self.graph.n, self.graph.n)
        return scipy.sparse.csr_array((weight, self.graph.indices.copy(), self.graph.indptr.copy()), shape=shape)

    def rule(self) -> PeerRule:
        return PeerRule(WEIGHTED, self.graph.indptr, self.graph.indices, self.upto)


@njit(nogil=True, cache=True)
@no_type_check
def _add(indptr, weight, upto):  # noqa: ANN001, ANN202  (numba infers the types)
    """Adds up the probabilities of each node; what is 1 but for rounding becomes 1."""
    for i in range(indptr.size - 1):
        total = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            total += weight[e]
            upto[e] = total
        if abs(total - 1) <= NEAR:
            for e in range(indptr[i], indptr[i + 1]):
                upto[e] = 1.0 if upto[e] == total else min(upto[e], 1.0)


@njit(nogil=True, cache=True)
@no_type_check
def _found(node, bits, indptr, indices, upto, out):  # noqa: ANN001, ANN202
    for e in range(node.size):
        out[e] = weighted(bits[e], node[e], indptr, indices, upto)


def best_constant(graph: Graph) -> float:
    """Returns the a for which I - a L contracts fastest and has no negative entry; dimensionless; 0 without edges.

    Example:
        >>> from batchednodes.topology import Ring, Star
        >>> from batchednodes.topology.weights import best_constant
        >>> round(best_constant(Ring().graph(3, 0)), 3)  # 1/3: one round of averages reaches the mean
        0.333
        >>> round(best_constant(Star().graph(5, 0)), 3)  # at most 1/4, which leaves the hub nothing
        0.25
    """
    if graph.indices.size == 0:
        return 0.0
    d = graph.degrees.max()
    if graph.n <= DENSE:
        values = np.linalg.eigvalsh((scipy.sparse.diags_array(1.0 * graph.degrees) - graph.adjacency()).toarray())
        low, high = values[1], values[-1]
    else:
        half = (scipy.sparse.diags_array(1.0 * graph.degrees) - graph.adjacency()).tocsr() / (2 * d)  # in [0, 1]
        lazy = (scipy.sparse.eye_array(graph.n) - half).tocsr()
        high = 2 * d * largest_modulus(half, some_vector(graph.n))
        most = graph.n / (graph.n - 1) * graph.degrees.min()  # l_2 is at most that (Fiedler 1973)
        if most + high < (1 - MARGIN) * 2 * d or not graph.is_connected:
            low = 0.0
        else:
            low = 2 * d * (1 - second_modulus(lazy, directed=False))
    return float(min(2 / (max(0.0, low) + high), 1 / d))


def _refuse_directed(graph: Graph) -> None:
    if graph.directed:
        raise ValueError("kind must be uniform or given where edges lead one way only, as in this network.topology")
