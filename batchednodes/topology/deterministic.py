r"""Graphs by formula: complete, ring, chain, hypercube, star, exponential.

Notation: n nodes, i a node.
"""

from dataclasses import dataclass

import numpy as np

from batchednodes.topology.base import Topology
from batchednodes.topology.graph import Graph


@dataclass(frozen=True)
class Complete(Topology):
    """Everyone may contact everyone; takes no memory.

    Example:
        >>> from batchednodes.topology import Complete
        >>> print(Complete().graph(1000, 0))
        None
        >>> Complete().contacts(1000)
        0.0
    """

    def contacts(self, n: int) -> float:
        return 0.0

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns None, which stands for the complete graph: nobody needs a list of everyone else."""
        return None


@dataclass(frozen=True)
class Ring(Topology):
    """A cycle: node i and node i + 1 mod n are neighbours. Two nodes share one edge.

    Example:
        >>> from batchednodes.topology import Ring
        >>> graph = Ring().graph(5, 0)
        >>> graph.indices.reshape(5, 2).tolist()  # the neighbours of nodes 0, 1, ...
        [[1, 4], [0, 2], [1, 3], [2, 4], [0, 3]]
    """

    def contacts(self, n: int) -> float:
        return 2.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {i, i + 1 mod n}."""
        i = np.arange(n)
        return Graph.of(n, i, (i + 1) % n)


@dataclass(frozen=True)
class Chain(Topology):
    """A path: node i and node i + 1 are neighbours, the first and the last have one.

    Example:
        >>> from batchednodes.topology import Chain
        >>> Chain().graph(5, 0).degrees.tolist()
        [1, 2, 2, 2, 1]
    """

    def contacts(self, n: int) -> float:
        return 2.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {i, i + 1}."""
        i = np.arange(n - 1)
        return Graph.of(n, i, i + 1)


@dataclass(frozen=True)
class Hypercube(Topology):
    """Nodes whose numbers differ in one bit are neighbours: log2(n) each.

    Example:
        >>> from batchednodes.topology import Hypercube
        >>> graph = Hypercube().graph(8, 0)
        >>> graph.indices[3 * 5 : 3 * 6].tolist()  # of node 5, in binary 101: 001, 100, 111
        [1, 4, 7]
        >>> Hypercube().graph(6, 0)
        Traceback (most recent call last):
            ...
        ValueError: kind=hypercube needs a number of nodes that is a power of two, got 6 nodes; use 4 or 8 nodes, or ...
    """

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
    """Node 0, the hub, is the neighbour of all others, which have no other.

    Example:
        >>> from batchednodes.topology import Star
        >>> Star().graph(5, 0).degrees.tolist()
        [4, 1, 1, 1, 1]
    """

    def contacts(self, n: int) -> float:
        return 2.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {0, j}."""
        return Graph.of(n, np.zeros(n - 1, np.int64), np.arange(1, n))


@dataclass(frozen=True)
class Exponential(Topology):
    """Directed: node i contacts i + 1, i + 2, i + 4, ... mod n, which reaches everyone in log2(n) steps.

    Example:
        >>> from batchednodes.topology import Exponential
        >>> graph = Exponential().graph(10, 0)
        >>> graph.indices[:4].tolist()  # whom node 0 contacts
        [1, 2, 4, 8]
        >>> graph.directed
        True

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
