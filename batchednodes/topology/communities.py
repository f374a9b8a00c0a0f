r"""Graphs with structure in blocks or in space: stochastic blocks, two cliques, random geometric graphs.

Notation: n nodes, i < j the ends of an edge, p probability of an edge.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Int64

from batchednodes.numerics import rng
from batchednodes.numerics.values import number, shown
from batchednodes.topology.base import Topology, at_least
from batchednodes.topology.graph import Graph
from batchednodes.topology.random import met


@dataclass(frozen=True)
class StochasticBlock(Topology):
    """Each pair of nodes is an edge independently, with one probability inside a block and another between blocks.

    Example:
        >>> from batchednodes.topology import StochasticBlock
        >>> blocks = StochasticBlock(blocks=[2, 3], p_in=1.0, p_out=0.0)
        >>> blocks.graph(5, 0).components()[1].tolist()  # which part each node belongs to
        [0, 0, 1, 1, 1]

    Reference:
        P. W. Holland, K. B. Laskey, S. Leinhardt, "Stochastic blockmodels: first steps", Social Networks 5(2), 1983.
    """

    blocks: int | list[int] = 2
    """Number of blocks, as equal as can be; or the size of each [nodes], with sum n; at least 1. Nodes of a block have
    numbers one after the other."""
    p_in: int | float | str = "min(1, 4*log(n)/n)"
    """Probability of an edge inside a block [dimensionless], in [0, 1]; a number or an expression in n."""
    p_out: int | float | str = "min(1, 0.5*log(n)/n)"
    """Probability of an edge between blocks [dimensionless], in [0, 1]; a number or an expression in n."""

    def __post_init__(self) -> None:
        for size in self.blocks if isinstance(self.blocks, list) else [self.blocks]:
            at_least("blocks", size, 1)
        for key in ("p_in", "p_out"):
            if not isinstance(getattr(self, key), str):
                self._p(key, 1)

    def _p(self, key: str, n: int) -> float:
        return number(getattr(self, key), n, key, high=1.0, open_high=False)

    def sizes(self, n: int) -> Int64[np.ndarray, " b"]:
        """Returns the number of nodes of each block.

        Raises:
            ValueError: there are more blocks than nodes, or their sizes have another sum than n.
        """
        if isinstance(self.blocks, list):
            if sum(self.blocks) != n:
                raise ValueError(
                    f"blocks must have the number of nodes as their sum, got a sum of {shown(sum(self.blocks))} with "
                    f"{n} nodes"
                )
            return np.array(self.blocks, np.int64)
        if self.blocks > n:
            raise ValueError(f"blocks must be at most the number of nodes, {n}, got {shown(self.blocks)}")
        return n // self.blocks + (np.arange(self.blocks) < n % self.blocks)

    def contacts(self, n: int) -> float:
        inside = float((self.sizes(n).astype(float) ** 2).sum())
        return self._p("p_in", n) * (inside - n) + self._p("p_out", n) * (float(n) ** 2 - inside)

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges met by geometric gaps through all pairs inside blocks, then through all between them.

        Node j has as many pairs with smaller nodes of its block as these are, and likewise with those of older blocks;
        the pairs of all j lie one after the other.
        """
        sizes, draw = self.sizes(n), rng.generator(seed, rng.GRAPH)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # of the block of each node
        parts = []
        for p, low, many in (
            (self._p("p_in", n), first, np.arange(n) - first),
            (self._p("p_out", n), np.zeros(n, np.int64), first),
        ):
            ends = np.cumsum(many)
            k = met(int(ends[-1]), p, draw)
            j = np.searchsorted(ends, k, side="right")
            parts.append(np.stack([low[j] + k - (ends[j] - many[j]), j], axis=1))
        return Graph.of(n, *np.concatenate(parts).T)


@dataclass(frozen=True)
class TwoCliques(Topology):
    """Two halves, in each of which all are neighbours, joined by few edges: a barbell, which mixes slowly.

    Example:
        >>> from batchednodes.topology import Ring, TwoCliques
        >>> graph = TwoCliques().graph(10, 0)
        >>> graph.degrees.tolist()  # nodes 0 and 5 are joined
        [5, 4, 4, 4, 4, 5, 4, 4, 4, 4]
        >>> round(graph.spectral_gap(), 3), round(Ring().graph(10, 0).spectral_gap(), 3)
        (0.05, 0.127)

    Reference:
        D. Aldous, J. A. Fill, "Reversible Markov chains and random walks on graphs", 2002, chapter 5: the barbell.
    """

    bridges: int = 1
    """Edges between the halves [edges]: the k-th joins the k-th nodes of both; at least 1, at most n / 2."""

    def __post_init__(self) -> None:
        at_least("bridges", self.bridges, 1)

    def contacts(self, n: int) -> float:
        return n * n / 2

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the pairs inside 0 .. h - 1 and inside h .. n - 1, and the bridges {k, h + k}; h = n - n // 2."""
        half = n - n // 2
        if self.bridges > n - half:
            raise ValueError(
                f"bridges must be at most half of the nodes, got bridges={shown(self.bridges)} with "
                f"{n} node{'s' if n > 1 else ''}; use fewer bridges"
            )
        one, two, k = np.triu_indices(half, 1), np.triu_indices(n - half, 1), np.arange(self.bridges)
        ends = zip(one, (x + half for x in two), (k, k + half), strict=True)
        i, j = (np.concatenate(end) for end in ends)
        return Graph.of(n, i, j)


@dataclass(frozen=True)
class RandomGeometric(Topology):
    """Nodes lie at random in the unit square; those within some distance are neighbours.

    Connected, as a rule, where pi radius^2 is above log(n) / n.

    Example:
        >>> from batchednodes.topology import RandomGeometric
        >>> [RandomGeometric(radius).graph(100, 0).components()[0] for radius in (0.05, 0.1, 0.2)]  # in how many parts
        [67, 22, 1]

    Reference:
        P. Gupta, P. R. Kumar, "Critical power for asymptotic connectivity in wireless networks", 1999.
    """

    radius: int | float | str = "sqrt(log(n)/n)"
    """Largest distance of neighbours [sides of the square]; non-negative and finite; a number or an expression in n."""

    def __post_init__(self) -> None:
        if not isinstance(self.radius, str):
            self._r(1)

    def _r(self, n: int) -> float:
        return number(self.radius, n, "radius")

    def contacts(self, n: int) -> float:
        return n * n * min(1.0, math.pi * min(1.0, self._r(n)) ** 2)

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the close pairs, found with a k-d tree; node i lies at the draw of its own address."""
        points = rng.uniforms(seed, rng.GRAPH, np.arange(n), 2)
        pairs = scipy.spatial.KDTree(points).query_pairs(min(2.0, self._r(n)), output_type="ndarray")
        return Graph.of(n, *pairs.astype(np.int64).reshape(-1, 2).T)
