r"""Random graphs: Erdos-Renyi, small worlds, growing graphs.

Notation: n nodes, i a node, j its neighbour, p probability of an edge, pairs edges as rows (i, j).
"""

import math
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Int64
from numba import njit

from batchednodes.numerics import rng
from batchednodes.numerics.values import number, shown
from batchednodes.topology.base import Topology, at_least, below_n
from batchednodes.topology.graph import Graph
from batchednodes.topology.regular import fresh


@dataclass(frozen=True)
class ErdosRenyi(Topology):
    """Each pair of nodes is an edge with the same probability, independently: G(n, p).

    Example:
        >>> from batchednodes.topology import ErdosRenyi
        >>> graph = ErdosRenyi(probability=0.1).graph(100, 0)
        >>> round(graph.degrees.mean())  # about a tenth of the 99 others
        10

    Reference:
        V. Batagelj, U. Brandes, "Efficient generation of large random networks", Phys. Rev. E 71, 2005 (gap sampling).
    """

    probability: int | float | str = "min(1, 2*log(n)/n)"
    """Probability of an edge [dimensionless], in [0, 1]; a number or an expression in n. Connected, as a rule, above
    log(n)/n."""

    def __post_init__(self) -> None:
        if not isinstance(self.probability, str):
            self._p(1)

    def _p(self, n: int) -> float:
        return number(self.probability, n, "probability", high=1.0, open_high=False)

    def contacts(self, n: int) -> float:
        return self._p(n) * n * (n - 1)

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges met by geometric gaps."""
        p, total = self._p(n), n * (n - 1) // 2
        k = met(total, p, rng.generator(seed, rng.GRAPH))
        # pair k = j (j - 1) / 2 + i, i < j; the root is exact enough for the floor while 8 k < 2^53, n < 4.7e7
        j = ((1 + np.sqrt(1.0 + 8.0 * k)) / 2).astype(np.int64)
        return Graph.of(n, k - j * (j - 1) // 2, j)


def met(total: int, p: float, draw: np.random.Generator) -> Int64[np.ndarray, " e"]:
    """Returns which of the pairs 0 .. total - 1 are edges, each with probability p, by the geometric gaps between them.

    Reference:
        V. Batagelj, U. Brandes, "Efficient generation of large random networks", Phys. Rev. E 71, 2005.
    """
    if p == 0 or total == 0:
        return np.zeros(0, np.int64)
    parts, last = [], -1
    while last < total:
        size = int((total - last) * p + 4 * math.sqrt(total * p)) + 16
        gaps = np.minimum(draw.geometric(p, size), total + 1)
        parts.append(last + np.cumsum(gaps))
        last = int(parts[-1][-1])
    k = np.concatenate(parts)
    return k[k < total]


@dataclass(frozen=True)
class WattsStrogatz(Topology):
    """A ring in which each node knows its nearest neighbours; each edge moves its far end with some probability.

    The new end is uniform over the nodes that are no neighbours yet. The number of edges stays n k / 2; an edge that
    has found no free place in 100 draws stays where it is (only where nearly all nodes are neighbours).

    Example:
        >>> from batchednodes.topology import WattsStrogatz
        >>> ring, small_world = (WattsStrogatz(4, rewire).graph(200, 0) for rewire in (0.0, 0.2))
        >>> small_world.spectral_gap() > 10 * ring.spectral_gap()  # a few long edges, and news travels fast
        True

    Reference:
        D. J. Watts, S. H. Strogatz, "Collective dynamics of 'small-world' networks", Nature 393, 1998.
    """

    neighbours: int = 4
    """Neighbours of each node on the ring, half on each side [nodes]; even, at least 2, below n."""
    rewire: float = 0.1
    """Probability that an edge is moved [dimensionless], in [0, 1]."""

    def __post_init__(self) -> None:
        at_least("neighbours", self.neighbours, 2)
        if self.neighbours % 2:
            raise ValueError(f"neighbours must be even (half on each side), got {shown(self.neighbours)}")
        number(self.rewire, 1, "rewire", high=1.0, open_high=False)

    def contacts(self, n: int) -> float:
        return float(n * min(self.neighbours, n - 1))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the ring with some edges moved."""
        below_n("neighbours", self.neighbours, n, "kind=complete or fewer neighbours")
        draw, half = rng.generator(seed, rng.GRAPH), self.neighbours // 2
        i = np.repeat(np.arange(n), half)
        pairs = np.stack([i, (i + np.tile(np.arange(1, half + 1), n)) % n], axis=1)
        moving = np.flatnonzero(draw.random(len(pairs)) < self.rewire)
        for _ in range(100):
            if not moving.size:
                break
            moved = np.stack([pairs[moving, 0], draw.integers(n, size=moving.size)], axis=1)
            ok = fresh(n, np.concatenate([pairs, moved]))[len(pairs) :]
            pairs[moving[ok]] = moved[ok]
            moving = moving[~ok]
        return Graph.of(n, *pairs.T)


@dataclass(frozen=True)
class BarabasiAlbert(Topology):
    """A growing graph: each new node picks `attach` distinct others, with chances in proportion to their degrees.

    It grows from a star of attach + 1 nodes, is connected, and has attach (n - attach) edges.

    Example:
        >>> from batchednodes.topology import BarabasiAlbert
        >>> degrees = BarabasiAlbert(attach=2).graph(1000, 0).degrees
        >>> degrees.min().item(), degrees.mean().item(), degrees.max().item() > 40  # few have many neighbours
        (2, 3.992, True)

    Reference:
        A.-L. Barabasi, R. Albert, "Emergence of scaling in random networks", Science 286, 1999.
    """

    attach: int = 2
    """Edges that each new node brings [edges]; at least 1, below n."""

    def __post_init__(self) -> None:
        at_least("attach", self.attach, 1)

    def contacts(self, n: int) -> float:
        return 2.0 * n * min(self.attach, n - 1)

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the grown graph."""
        below_n("attach", self.attach, n, "kind=complete or a smaller attach")
        ends = np.zeros((self.attach * (n - self.attach), 2), np.int64)
        ends[: self.attach, 1] = np.arange(1, self.attach + 1)  # the star
        _attach(np.uint64(seed), n, self.attach, ends.reshape(-1))
        return Graph.of(n, *ends.T)


@njit(nogil=True, cache=True)
@no_type_check
def _attach(seed: np.uint64, n: int, m: int, ends: np.ndarray) -> None:
    """Fills in the edges of nodes m + 1 .. n - 1: a uniform entry of `ends` is a node in proportion to its degree."""
    for i in range(m + 1, n):
        first, found, tries = 2 * m * (i - m), 0, 0  # 2 m (i - m) ends are older than node i
        while found < m:
            j = ends[rng.below(rng.block(seed, rng.GRAPH, i, tries)[0], first)]
            tries += 1
            new = True
            for k in range(found):
                new = new and ends[first + 2 * k] != j
            if new:
                ends[first + 2 * found], ends[first + 2 * found + 1] = j, i
                found += 1
