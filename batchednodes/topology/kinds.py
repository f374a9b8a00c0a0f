r"""The kinds of graphs: one frozen dataclass each, which makes the graph of n nodes from a seed.

Letters: n nodes, i a node, j its neighbour, p probability of an edge, pairs edges as rows (i, j).
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Int64
from numba import njit

from batchednodes import rng
from batchednodes.topology.graphs import Graph
from batchednodes.values import number, shown

SWEEPS = 4
"""Times that every edge of a random regular graph tries to swap ends, so that it forgets how it was made simple."""


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {shown(value)}")


def _below_n(name: str, value: int, n: int, remedy: str) -> None:
    if value >= n:
        nodes = "1 node" if n == 1 else f"{n} nodes"
        raise ValueError(
            f"{name} must be below the number of nodes, got {name}={value} with {nodes}; use topology {remedy}"
        )


class Topology(ABC):
    """The kind of graph that a network of any size gets."""

    @abstractmethod
    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the graph of n nodes, the same for the same (n, seed); None: complete.

        Args:
            n: number of nodes, at least 1.
            seed: of the network, 0 <= seed < 2^64; only random kinds use it.

        Raises:
            ValueError: the kind does not exist, or is not possible, at this n; the message says what it needs.
        """

    @abstractmethod
    def contacts(self, n: int) -> float:
        """Returns about how many contacts the graph of n nodes stores, an undirected edge as two, without making it."""


@dataclass(frozen=True)
class Complete(Topology):
    """Everyone may contact everyone; takes no memory."""

    def contacts(self, n: int) -> float:
        return 0.0

    def graph(self, n: int, seed: int) -> Graph | None:
        """None: nobody needs a list of everyone else."""
        return None


@dataclass(frozen=True)
class Ring(Topology):
    """A cycle: node i and node i + 1 mod n are neighbours. Two nodes share one edge."""

    def contacts(self, n: int) -> float:
        return 2.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {i, i + 1 mod n}."""
        i = np.arange(n)
        return Graph.of(n, i, (i + 1) % n)


@dataclass(frozen=True)
class Torus(Topology):
    """A grid of rows x columns that wraps around: four neighbours, fewer where a side is shorter than 3."""

    rows: int | None = None
    """Number of rows [nodes]; at least 1, a divisor of n; none given: the most square grid of two rows or more."""

    def __post_init__(self) -> None:
        if self.rows is not None:
            _at_least("rows", self.rows, 1)

    def contacts(self, n: int) -> float:
        return 4.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the grid, numbered row by row."""
        rows = self.rows or max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
        if self.rows is None and rows == 1 and n > 2:
            raise ValueError(
                f"rows must divide the number of nodes, and {n} is prime; "
                f"use {n - 1} or {n + 1} nodes, or topology kind=ring (the same as rows=1)"
            )
        if n % rows:
            raise ValueError(
                f"rows must divide the number of nodes, got rows={rows} with {n} nodes; "
                f"leave rows out or use {n // rows * rows or rows} nodes"
            )
        i, columns = np.arange(n), n // rows
        right = i // columns * columns + (i + 1) % columns
        return Graph.of(n, np.tile(i, 2), np.concatenate([right, (i + columns) % n]))


@dataclass(frozen=True)
class Hypercube(Topology):
    """Nodes whose numbers differ in one bit are neighbours: log2(n) each."""

    def contacts(self, n: int) -> float:
        return float(n * (n.bit_length() - 1))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {i, i xor 2^k}."""
        bits = n.bit_length() - 1
        if n != 2**bits:
            raise ValueError(
                f"kind=hypercube needs a number of nodes that is a power of two, got {n} nodes; "
                f"use {2**bits} or {2 ** (bits + 1)} nodes, or topology kind=k_regular"
            )
        i = np.repeat(np.arange(n), bits)
        return Graph.of(n, i, i ^ np.tile(1 << np.arange(bits), n))


@dataclass(frozen=True)
class Star(Topology):
    """Node 0, the hub, is the neighbour of all others, which have no other."""

    def contacts(self, n: int) -> float:
        return 2.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {0, j}."""
        return Graph.of(n, np.zeros(n - 1, np.int64), np.arange(1, n))


@dataclass(frozen=True)
class KRegular(Topology):
    """A random simple graph in which every node has the same number of neighbours.

    The configuration model pairs n k half-edges at random; each loop or repeated edge (a few, whatever n is) swaps ends
    with a random other edge; then all edges swap ends, four times over, which leaves the graph nearly uniform among all
    such graphs. A degree above (n - 1) / 2 is the complement of a smaller one.

    Reference:
        B. Bollobas, "A probabilistic proof of an asymptotic formula for the number of labelled regular graphs", 1980.
    """

    degree: int = 4
    """Neighbours of each node [nodes]; at least 1, below n; n times degree is even. Connected, as a rule, from 3 on."""

    def __post_init__(self) -> None:
        _at_least("degree", self.degree, 1)

    def contacts(self, n: int) -> float:
        return float(n * min(self.degree, n - 1))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the pairing, once it is simple."""
        _below_n("degree", self.degree, n, "kind=complete or a smaller degree")
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
        fresh = _fresh(n, pairs)
        bad, good = np.flatnonzero(~fresh), np.flatnonzero(fresh)
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
    ok = _fresh(n, np.concatenate([pairs, *new]))[len(pairs) :].reshape(2, -1).all(axis=0)
    pairs[a[ok]], pairs[b[ok]] = new[0, ok], new[1, ok]


def _fresh(n: int, pairs: Int64[np.ndarray, "e 2"]) -> Bool[np.ndarray, " e"]:
    """Returns which pairs are no loops and repeat no earlier pair."""
    keys = np.minimum(*pairs.T) * n + np.maximum(*pairs.T)
    fresh = np.zeros(len(pairs), bool)
    fresh[np.unique(keys, return_index=True)[1]] = True
    return fresh & (pairs[:, 0] != pairs[:, 1])


@dataclass(frozen=True)
class ErdosRenyi(Topology):
    """Each pair of nodes is an edge with the same probability, independently: G(n, p).

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
        if p == 0 or total == 0:
            return Graph.of(n, np.zeros(0, np.int64), np.zeros(0, np.int64))
        draw, parts, last = rng.generator(seed, rng.GRAPH), [], -1
        while last < total:  # pairs are numbered 0 .. total - 1; gaps between edges are geometric
            size = int((total - last) * p + 4 * math.sqrt(total * p)) + 16
            gaps = np.minimum(draw.geometric(p, size), total + 1)
            parts.append(last + np.cumsum(gaps))
            last = int(parts[-1][-1])
        k = np.concatenate(parts)
        k = k[k < total]
        # pair k = j (j - 1) / 2 + i, i < j; the root is exact enough for the floor while 8 k < 2^53, n < 4.7e7
        j = ((1 + np.sqrt(1.0 + 8.0 * k)) / 2).astype(np.int64)
        return Graph.of(n, k - j * (j - 1) // 2, j)


@dataclass(frozen=True)
class WattsStrogatz(Topology):
    """A ring in which each node knows its nearest neighbours; each edge moves its far end with some probability.

    The new end is uniform over the nodes that are no neighbours yet. The number of edges stays n k / 2; an edge that
    has found no free place in 100 draws stays where it is (only where nearly all nodes are neighbours).

    Reference:
        D. J. Watts, S. H. Strogatz, "Collective dynamics of 'small-world' networks", Nature 393, 1998.
    """

    neighbours: int = 4
    """Neighbours of each node on the ring, half on each side [nodes]; even, at least 2, below n."""
    rewire: float = 0.1
    """Probability that an edge is moved [dimensionless], in [0, 1]."""

    def __post_init__(self) -> None:
        _at_least("neighbours", self.neighbours, 2)
        if self.neighbours % 2:
            raise ValueError(f"neighbours must be even (half on each side), got {shown(self.neighbours)}")
        number(self.rewire, 1, "rewire", high=1.0, open_high=False)

    def contacts(self, n: int) -> float:
        return float(n * min(self.neighbours, n - 1))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the ring with some edges moved."""
        _below_n("neighbours", self.neighbours, n, "kind=complete or fewer neighbours")
        draw, half = rng.generator(seed, rng.GRAPH), self.neighbours // 2
        i = np.repeat(np.arange(n), half)
        pairs = np.stack([i, (i + np.tile(np.arange(1, half + 1), n)) % n], axis=1)
        moving = np.flatnonzero(draw.random(len(pairs)) < self.rewire)
        for _ in range(100):
            if not moving.size:
                break
            moved = np.stack([pairs[moving, 0], draw.integers(n, size=moving.size)], axis=1)
            ok = _fresh(n, np.concatenate([pairs, moved]))[len(pairs) :]
            pairs[moving[ok]] = moved[ok]
            moving = moving[~ok]
        return Graph.of(n, *pairs.T)


@dataclass(frozen=True)
class BarabasiAlbert(Topology):
    """A growing graph: each new node picks `attach` distinct others, with chances in proportion to their degrees.

    It grows from a star of attach + 1 nodes, is connected, and has attach (n - attach) edges.

    Reference:
        A.-L. Barabasi, R. Albert, "Emergence of scaling in random networks", Science 286, 1999.
    """

    attach: int = 2
    """Edges that each new node brings [edges]; at least 1, below n."""

    def __post_init__(self) -> None:
        _at_least("attach", self.attach, 1)

    def contacts(self, n: int) -> float:
        return 2.0 * n * min(self.attach, n - 1)

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the grown graph."""
        _below_n("attach", self.attach, n, "kind=complete or a smaller attach")
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


@dataclass(frozen=True)
class Exponential(Topology):
    """Directed: node i contacts i + 1, i + 2, i + 4, ... mod n, which reaches everyone in log2(n) steps.

    Reference:
        B. Ying et al., "Exponential graph is provably efficient for decentralized deep training", NeurIPS 2021.
    """

    def contacts(self, n: int) -> float:
        return float(n * (n - 1).bit_length())

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the contacts i + 2^k mod n, 2^k < n."""
        hops = 1 << np.arange((n - 1).bit_length())  # 2^k < n
        i = np.repeat(np.arange(n), hops.size)
        return Graph.of(n, i, (i + np.tile(hops, n)) % n, directed=True)
