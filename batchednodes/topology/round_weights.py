r"""The gossip matrices of synchronous rounds: their interface, and those of a graph and the weights of its edges.

In round k every node r takes a weighted mean, x_r <- sum_s W[r, s] x_s, over itself and whoever sends to it: s with an
edge s -> r where nodes push, r -> s where they pull. The weights of the edges are those of `network.weights`; what they
leave to 1, in its row (column for column-stochastic W), is the weight of a node's own model. Uniform weights count a
node's own model as one neighbour: 1 / (1 + d). Of m mixings in a round, W is the product of their matrices.

Notation: n nodes, k round, m mixings of a round, W gossip matrix, d neighbours of a node.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Float64, Int64

from batchednodes.numerics.values import shown
from batchednodes.topology.graph import Graph
from batchednodes.topology.peer_sampler import PeerSampler, rounds
from batchednodes.topology.weights import NEAR, UniformWeights, Weights

Stochasticity = Literal["row", "column", "double"]
"""Whether the rows of W sum to 1 (a mean of models), its columns (mass is kept), or both (the mean model is kept)."""


class RoundLaw(ABC):
    """By which matrices one network mixes, round by round, and who takes part."""

    @abstractmethod
    def matrix(self, k: int) -> "scipy.sparse.csr_array | Float64[np.ndarray, ' n'] | None":
        """Returns W of round k [n, n], with its diagonal; a vector: each row of W is that; None: W is 1/n everywhere.

        Raises:
            ValueError: there is no such matrix.
        """

    @abstractmethod
    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        """Returns how many models each node sends in round k."""

    def check(self) -> None:
        """Raises ValueError if there are no such matrices."""
        self.matrix(0)

    def union(self) -> Graph | None:
        """Returns whom each node may ever mix with; None: everyone."""
        return None

    def part(self, k: int) -> Int64[np.ndarray, " m"] | None:
        """Returns the nodes that update in round k, in increasing order; None: all."""
        return None

    @property
    def answered(self) -> bool:
        """Returns whether each model that is sent has an answer of its size, the mean that a server makes."""
        return False

    @property
    def few(self) -> bool:
        """Returns whether rounds repeat, so that their matrices can be kept."""
        return False

    def repeats(self, k: int) -> int:
        """Returns a number that only rounds with the same matrix have in common."""
        return k


def received(w: "scipy.sparse.csr_array") -> Int64[np.ndarray, " n"]:
    """Returns how many others mix in each node's model: the entries of its column of W off the diagonal."""
    found = w.tocoo()
    return np.bincount(found.col[found.row != found.col], minlength=w.shape[0])


@dataclass(frozen=True, eq=False)
class RoundWeights(RoundLaw):
    """The gossip matrices of one network by the weights of its edges.

    Example:
        >>> from batchednodes.topology import MetropolisHastings, Ring, RoundWeights
        >>> rounds = RoundWeights(4, Ring().graph(4, 0), MetropolisHastings(), "double", False, 1.0)
        >>> rounds.matrix(0).toarray().round(2)
        array([[0.33, 0.33, 0.  , 0.33],
               [0.33, 0.33, 0.33, 0.  ],
               [0.  , 0.33, 0.33, 0.33],
               [0.33, 0.  , 0.33, 0.33]])
    """

    n: int
    """Number of nodes."""
    graph: Graph | PeerSampler | None
    """Who may contact whom; None: everyone, and W is 1/n everywhere."""
    weights: Weights
    """The weights of the edges."""
    stochasticity: Stochasticity
    """Whether rows, columns or both of W must sum to 1."""
    pull: bool
    """Whether a node takes the models of its neighbours, or they take its own."""
    period: float
    """Time of a round [s]."""
    mixings: int = 1
    """How many mixings a round has, m, each in an equal part of its time: there the graph may have changed."""

    def check(self) -> None:
        """Raises ValueError if a round of a fixed graph, or a cycle, or the first one, has no such matrix."""
        for k in range((self.graph.cycle or 1) if isinstance(self.graph, PeerSampler) else 1):
            self.matrix(k)

    def matrix(self, k: int) -> "scipy.sparse.csr_array | None":
        """Returns W of round k [n, n], with its diagonal; None: 1/n everywhere.

        Raises:
            ValueError: the weights leave less than nothing to a node's own model, or do not sum to 1 as they must.
        """
        if self.graph is None:
            return None
        return self._fixed if isinstance(self.graph, Graph) else _product(self._parts(k))

    def union(self) -> Graph | None:
        return self.graph.union() if isinstance(self.graph, PeerSampler) else self.graph

    @property
    def few(self) -> bool:
        """Returns whether rounds repeat, so that their matrices can be kept."""
        return not isinstance(self.graph, PeerSampler) or self.graph.cycle is not None

    def repeats(self, k: int) -> int:
        """Returns a number that only rounds with the same matrix have in common."""
        if not isinstance(self.graph, PeerSampler):
            return 0
        begins, cycle = np.array([self._begin(k, m) for m in range(self.mixings)]), self.graph.cycle
        turns = rounds(begins, self.graph.seconds).tolist()
        if cycle is None:
            return turns[0] if self.mixings == 1 else k
        return functools.reduce(lambda number, turn: number * cycle + turn % cycle, turns, 0)

    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        """Returns how many models each node sends in round k: the entries of its columns of W off the diagonals."""
        if self.graph is None:
            return np.full(self.n, self.mixings * (self.n - 1))
        if not self.few:
            return self._counted(k)
        key = self.repeats(k)
        if key not in self._sent:
            self._sent[key] = self._counted(k)
            self._sent[key].setflags(write=False)
        return self._sent[key]

    def _counted(self, k: int) -> Int64[np.ndarray, " n"]:
        return functools.reduce(np.add, map(received, self._parts(k)))

    @functools.cached_property
    def _sent(self) -> dict[int, Int64[np.ndarray, " n"]]:
        """What rounds that repeat send."""
        return {}

    def _parts(self, k: int) -> "list[scipy.sparse.csr_array]":
        """Returns W of each mixing of round k, on a graph that is stored."""
        if isinstance(self.graph, Graph):
            return [self._once] * self.mixings
        assert self.graph is not None
        begins = [self._begin(k, m) for m in range(self.mixings)]
        return [self._of(self.graph.at(begin), self.graph.weights(begin)) for begin in begins]

    def _begin(self, k: int, m: int) -> float:
        """Returns a time in mixing m of round k, just after its begin [s]: multiples of periods are rounded."""
        return (k + m / self.mixings) * self.period * (1 + 1e-12)

    @functools.cached_property
    def _fixed(self) -> "scipy.sparse.csr_array":
        return _product(self._parts(0))

    @functools.cached_property
    def _once(self) -> "scipy.sparse.csr_array":
        assert isinstance(self.graph, Graph)
        return self._of(self.graph)

    def _of(self, graph: Graph, own: Float64[np.ndarray, " e"] | None = None) -> "scipy.sparse.csr_array":
        """Returns W of a graph, whose edges have weights of their own, or those of `network.weights`."""
        column, uniform = self.stochasticity == "column", isinstance(self.weights, UniformWeights)
        if uniform and own is not None:
            return self._completed(scipy.sparse.csr_array((own, graph.indices, graph.indptr), shape=(self.n, self.n)))
        chooser = self.weights.chooser(graph)
        edges = graph.adjacency() if chooser is None else chooser.probabilities()
        w = scipy.sparse.csr_array(edges, dtype=float, copy=True)
        w.eliminate_zeros()
        w = w if self.pull else w.T.tocsr()
        if uniform:
            counts = 1.0 + np.bincount(w.tocoo().col if column else w.tocoo().row, minlength=self.n)
            w.data = 1.0 / (counts[w.indices] if column else np.repeat(counts, np.diff(w.indptr)))
        return self._completed(w)

    def _completed(self, w: "scipy.sparse.csr_array") -> "scipy.sparse.csr_array":
        """Returns W with what the weights of others leave to each node's own model."""
        own = 1.0 - np.asarray(w.sum(axis=0 if self.stochasticity == "column" else 1)).ravel()
        low = np.flatnonzero(own < -NEAR)
        if low.size:
            raise ValueError(
                f"kind must leave a node's own model a weight of at least 0, got {own[low[0]]:g} for node "
                f"{low[0]}; use kind metropolis_hastings, or a smaller value"
            )
        w = scipy.sparse.csr_array(w + scipy.sparse.diags_array(np.where(np.abs(own) < NEAR, 0.0, own)))
        self._check_double(w)
        w.eliminate_zeros()
        w.sort_indices()
        return w

    def _check_double(self, w: "scipy.sparse.csr_array") -> None:
        if self.stochasticity != "double":
            return
        for axis, name in ((1, "rows"), (0, "columns")):
            sums = np.asarray(w.sum(axis=axis)).ravel()
            bad = np.flatnonzero(np.abs(sums - 1) > NEAR)
            if bad.size:
                raise ValueError(
                    f"kind must give doubly stochastic weights with this algorithm.kind, got {name} that sum to "
                    f"{shown(float(sums[bad[0]]))} for node {bad[0]}; use kind metropolis_hastings, edges both ways"
                )


def _product(parts: "list[scipy.sparse.csr_array]") -> "scipy.sparse.csr_array":
    """Returns W of several mixings, the first of them first."""
    w = functools.reduce(lambda done, one: one @ done, parts)
    w.sort_indices()
    return w
