r"""Trees: a binary tree, and two of them over the same nodes.

Notation: n nodes, i a node.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from batchednodes.topology.base import Topology
from batchednodes.topology.graph import Graph


@dataclass(frozen=True)
class BinaryTree(Topology):
    """A balanced binary tree: node i has the children 2 i + 1 and 2 i + 2; node 0 is the root.

    Example:
        >>> from batchednodes.topology import BinaryTree
        >>> BinaryTree().graph(7, 0).degrees.tolist()  # the root, two children, four leaves
        [2, 3, 3, 1, 1, 1, 1]
    """

    def contacts(self, n: int) -> float:
        return 2.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges {i, (i - 1) // 2}."""
        i = np.arange(1, n)
        return Graph.of(n, i, (i - 1) // 2)


@dataclass(frozen=True)
class DoubleBinaryTree(Topology):
    """Two binary trees over the same nodes, as in NCCL: the inner nodes of one are leaves of the other.

    Both have depth about log2(n), and no node more than four neighbours. (Of an odd number of nodes, node 0 is an inner
    node of both.)

    Example:
        >>> from batchednodes.topology import BinaryTree, DoubleBinaryTree
        >>> BinaryTree().graph(64, 0).degrees.min().item()  # a leaf hangs by one edge
        1
        >>> DoubleBinaryTree().graph(64, 0).degrees.min().item()  # and is an inner node of the other tree
        2

    Reference:
        P. Sanders, J. Speck, J. L. Traff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan",
        Parallel Computing 35(12), 2009.
    """

    def contacts(self, n: int) -> float:
        return 4.0 * n

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges of the in-order tree and of the same tree with its numbers mirrored, or moved by one."""
        i, parent = np.arange(1, n), in_order(n)
        pairs = np.stack([i, parent], axis=1)
        other = n - 1 - pairs if n % 2 == 0 else (pairs + 1) % n
        return Graph.of(n, *np.concatenate([pairs, other]).T)


def in_order(n: int) -> Int64[np.ndarray, " _"]:
    """Returns the parents of nodes 1 .. n - 1 in a binary tree that is numbered in order, whose leaves are odd.

    Above the root hangs node 0. The lowest bit that is set in a number says how high the node stands.
    """
    i = np.arange(1, n)
    bit = i & -i
    up = (i ^ bit) | (bit << 1)
    return np.where(up < n, up, i ^ bit)
