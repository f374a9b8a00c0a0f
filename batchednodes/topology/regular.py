r"""Random regular graphs.

Notation: n nodes, pairs edges as rows (i, j).
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from batchednodes.numerics import rng
from batchednodes.topology.base import Topology, at_least, below_n
from batchednodes.topology.graph import Graph

SWEEPS = 4
"""Times that every edge of a random regular graph tries to swap ends, so that it forgets how it was made simple."""


@dataclass(frozen=True)
class KRegular(Topology):
    """A random simple graph in which every node has the same number of neighbours.

    The configuration model pairs n k half-edges at random; each loop or repeated edge (a few, whatever n is) swaps ends
    with a random other edge; then all edges swap ends, four times over, which leaves the graph nearly uniform among all
    such graphs. A degree above (n - 1) / 2 is the complement of a smaller one.

    Example:
        >>> from batchednodes.topology import KRegular
        >>> graph = KRegular(degree=3).graph(1000, 0)
        >>> set(graph.degrees.tolist()), graph.is_connected
        ({3}, True)

    Reference:
        B. Bollobas, "A probabilistic proof of an asymptotic formula for the number of labelled regular graphs", 1980.
    """

    degree: int = 4
    """Neighbours of each node [nodes]; at least 1, below n; n times degree is even. Connected, as a rule, from 3 on."""

    def __post_init__(self) -> None:
        at_least("degree", self.degree, 1)

    def contacts(self, n: int) -> float:
        return float(n * min(self.degree, n - 1))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the pairing, once it is simple."""
        below_n("degree", self.degree, n, "kind=complete or a smaller degree")
        if n * self.degree % 2:
            raise ValueError(
                f"degree times the number of nodes must be even, got degree={self.degree} with {n} nodes; "
                f"use an even degree or {n + 1} nodes"
            )
        draw = rng.generator(seed, rng.GRAPH)
        sparse = min(self.degree, n - 1 - self.degree)
        pairs = next(p for p in (_paired(n, sparse, draw) for _ in itertools.count()) if p is not None)
        if sparse == self.degree:
            return Graph.of(n, *pairs.T)
        absent = np.ones((n, n), bool)
        absent[pairs[:, 0], pairs[:, 1]] = absent[pairs[:, 1], pairs[:, 0]] = False
        return Graph.of(n, *np.nonzero(absent))


def _paired(n: int, degree: int, draw: np.random.Generator) -> Int64[np.ndarray, "e 2"] | None:
    """Returns the edges of a random regular graph, or None where 1,000 rounds of swaps have not made it simple."""
    pairs = draw.permutation(np.repeat(np.arange(n), degree)).reshape(-1, 2)
    for _ in range(1000):
        simple = fresh(n, pairs)
        bad, good = np.flatnonzero(~simple), np.flatnonzero(simple)
        if not bad.size:
            break
        size = min(bad.size, good.size)
        _swap_(pairs, n, bad[:size], draw.choice(good, size, replace=False), draw)
    else:
        return None
    for _ in range(SWEEPS):
        edges, half = draw.permutation(len(pairs)), len(pairs) // 2
        _swap_(pairs, n, edges[:half], edges[half : 2 * half], draw)
    return pairs


def _swap_(pairs: Int64[np.ndarray, "e 2"], n: int, a: np.ndarray, b: np.ndarray, draw: np.random.Generator) -> None:
    """Replaces edges a = {i, j}, b = {k, l} by {i, k}, {j, l} or {i, l}, {j, k}, where both are then simple."""
    k = draw.integers(2, size=b.size)
    new = np.stack([np.stack([pairs[a, 0], pairs[b, k]], 1), np.stack([pairs[a, 1], pairs[b, 1 - k]], 1)])
    ok = fresh(n, np.concatenate([pairs, *new]))[len(pairs) :].reshape(2, -1).all(axis=0)
    pairs[a[ok]], pairs[b[ok]] = new[0, ok], new[1, ok]


def fresh(n: int, pairs: Int64[np.ndarray, "e 2"]) -> Bool[np.ndarray, " e"]:
    """Returns which pairs are no loops and repeat no earlier pair."""
    keys = np.minimum(*pairs.T) * n + np.maximum(*pairs.T)
    first = np.zeros(len(pairs), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first & (pairs[:, 0] != pairs[:, 1])
