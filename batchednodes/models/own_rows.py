r"""Test rows of the nodes' own, on the device: blocks of equally many examples, each of one node, which vmap scores.

Nodes own different numbers of rows. A block is about as wide as a node has rows in the mean, and the last one of a node
is filled up with examples that count for nothing: blocks are at most twice as many as nodes, examples as rows.

Notation: n nodes of all networks, R rows, u blocks, b examples of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from batchednodes.data import OwnTests
from batchednodes.data.own_tests import block_width


@dataclass(frozen=True, eq=False)
class OwnRows:
    """The test rows that nodes of all networks own."""

    features: Tensor
    """Inputs of all nodes [R, ...]."""
    targets: Tensor
    """Labels [R] or [R, ...], or values [R, k]."""
    examples: Int64[Tensor, "u b"]
    """Rows of each block, on the device."""
    counted: Bool[Tensor, "u b"]
    """Which of them count, on the device."""
    nodes: Int64[np.ndarray, " u"]
    """The row of x whose model is tried on each block."""
    sizes: Int64[np.ndarray, " n"]
    """Number of rows of each node."""

    @staticmethod
    def of(features: Tensor, targets: Tensor, sizes: Int64[np.ndarray, " n"]) -> "OwnRows":
        """Returns rows that lie node by node, of which each has some."""
        b = block_width(int(sizes.sum()), sizes.size)
        blocks = -(-sizes // b)
        nodes = np.repeat(np.arange(sizes.size), blocks)
        place = np.arange(nodes.size) - (np.cumsum(blocks) - blocks)[nodes]
        within = place[:, None] * b + np.arange(b)
        counted = within < sizes[nodes][:, None]
        examples = (np.cumsum(sizes) - sizes)[nodes][:, None] + np.where(counted, within, 0)
        rows, counts = (torch.from_numpy(array).to(features.device) for array in (examples, counted))
        return OwnRows(features, targets, rows, counts, nodes, sizes)

    def only(self, rows: Int64[np.ndarray, " _"]) -> "OwnRows":
        """Returns the same of some nodes, rows of x."""
        chosen = np.isin(self.nodes, rows)
        kept = torch.from_numpy(np.flatnonzero(chosen)).to(self.examples.device)
        parts = {"examples": self.examples[kept], "counted": self.counted[kept], "nodes": self.nodes[chosen]}
        return replace(self, **parts, sizes=np.where(np.isin(np.arange(self.sizes.size), rows), self.sizes, 0))

    def means(self, sums: Float64[Tensor, " u"]) -> Float64[np.ndarray, " n"]:
        """Returns the mean over each node's rows of what blocks have sums of, on the host; NaN where it has none."""
        whole = np.bincount(self.nodes, sums.numpy(), minlength=self.sizes.size)
        return np.divide(whole, self.sizes, out=np.full(self.sizes.size, np.nan), where=self.sizes > 0)


def joined(sets: Sequence[OwnTests]) -> tuple[np.ndarray, np.ndarray, Int64[np.ndarray, " n"]]:
    """Returns features, targets and numbers of rows of the nodes of several networks, one after the other."""
    sizes = [np.diff(one.offsets) for one in sets]
    arrays = ([one.features for one in sets], [one.targets for one in sets], sizes)
    return tuple(np.concatenate(parts) for parts in arrays)  # pyright: ignore[reportReturnType]
