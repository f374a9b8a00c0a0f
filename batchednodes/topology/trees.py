r"""Trees: a binary tree, and two of them over the same nodes.

Notation: n nodes, i a node.
"""

from dataclasses import dataclass
from typing import Any

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

    def graph(self, n: int, seed: int) -> Graph:
        """Returns the edges of both trees."""
        return Graph.of(n, *np.concatenate(two_trees(n)).T)


def in_order(n: int) -> Int64[np.ndarray, " _"]:
    """Returns the parents of nodes 1 .. n - 1 in a binary tree that is numbered in order, whose leaves are odd.

    Above the root hangs node 0. The lowest bit that is set in a number says how high the node stands.
    """
    return _above(np.arange(1, n), n)


def two_trees(n: int) -> tuple[Int64[np.ndarray, "e 2"], Int64[np.ndarray, "e 2"]]:
    """Returns the edges of the in-order tree, and of the same tree with its numbers mirrored, or moved by one."""
    pairs = np.stack([np.arange(1, n), in_order(n)], axis=1)
    return pairs, n - 1 - pairs if n % 2 == 0 else (pairs + 1) % n


def joined(i: Any, j: Any, n: Any) -> tuple[Any, Any]:
    """Returns whether the first tree of the double binary tree of n nodes has the edge {i, j}, and whether the second.

    Example:
        >>> from batchednodes.topology.trees import joined
        >>> [joined(i, j, 4) for i, j in ((0, 2), (1, 2), (1, 3))]  # 1 - 2 is an edge of both
        [(True, False), (True, True), (False, True)]

    Args:
        i: numbers of nodes: integers, or arrays or tensors of them; as j and n.
        j: those of others.
        n: how many nodes there are.
    """
    even = (n % 2 == 0) * 1
    a, b = (even * (n - 1 - end) + (1 - even) * ((end + n - 1) % n) for end in (i, j))
    first, second = ((_above(i, n) == j) | (_above(j, n) == i) for i, j in ((i, j), (a, b)))
    return first, second


def _above(i: Any, n: Any) -> Any:
    """Returns the parents of nodes in the tree that is numbered in order; of node 0 itself."""
    bit = i & -i
    low = i ^ bit
    up = low | (bit << 1)
    return low + (up - low) * (up < n)
