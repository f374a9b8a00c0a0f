r"""Label skew by counting: nodes that hold few labels.

Notation: n nodes, K labels that occur, k labels of a node.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from batchednodes.data.partitions.base import (
    ORDER,
    SHARES,
    Partition,
    Shards,
    by_label,
    check_labels,
    check_room,
    gather,
    near_equal,
    of_owners,
)
from batchednodes.data.sources.base import Dataset, DataSizes
from batchednodes.numerics import rng
from batchednodes.numerics.values import check_sizes

_KEYS = 1 << 22
"""Random keys that are held at once, to choose labels by."""


@dataclass(frozen=True)
class LabelShards(Partition):
    """Rows sorted by label and cut into equal shards, which are dealt at random: few labels a node. For labels only.

    Example:
        >>> from batchednodes.data import LabelShards, Sklearn
        >>> digits = Sklearn("digits").load(10, seed=0)
        >>> counts = LabelShards(shards_per_node=2).split(digits, 10, seed=0).counts(digits.targets, 10)
        >>> (counts > 0).sum(axis=1).max().item() <= 4  # a shard may reach over the end of a label
        True

    Reference:
        H. B. McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
    """

    shards_per_node: int = 2
    """Shards of each node; at least 1, and at most the number of samples of a node."""

    def __post_init__(self) -> None:
        check_sizes(shards_per_node=self.shards_per_node)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_room(sizes, n)
        check_labels(sizes, "shards")
        samples, each = sizes.samples, self.shards_per_node
        if n * each > samples:
            raise ValueError(
                f"task.partition.shards_per_node must be at most {samples // n} (of {samples} training samples, for "
                f"{n} nodes), got {each}: give more data, fewer nodes or fewer shards"
            )

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        labels, each = dataset.targets, self.shards_per_node
        cuts = near_equal(len(labels), n * each)
        dealt = rng.generator(seed, rng.PARTITION, ORDER).permutation(n * each)
        sizes = np.diff(cuts)[dealt]
        offsets = np.concatenate([[0], np.cumsum(sizes)[each - 1 :: each]])
        return Shards(gather(by_label(labels, seed), cuts[:-1][dealt], sizes), offsets)


@dataclass(frozen=True)
class LabelsPerNode(Partition):
    r"""Each node holds exactly k labels ("#C = k"); the rows of a label are divided at random among those who hold it.

    The labels go round once, in random order, so that each has a holder: node i holds the one of number i modulo K. All
    others of a node are drawn at random, without repetition. A label's rows are divided to within one row; sizes
    differ where labels differ in how many rows and holders they have. For labels only.

    Example:
        >>> from batchednodes.data import LabelsPerNode, Sklearn
        >>> iris = Sklearn("iris").load(6, seed=0)
        >>> LabelsPerNode(labels=2).split(iris, 6, seed=0).counts(iris.targets, 3).tolist()
        [[13, 0, 8], [0, 10, 8], [0, 10, 8], [13, 0, 8], [14, 10, 0], [0, 10, 8]]

    Reference:
        Q. Li, Y. Diao, Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022.
    """

    labels: int = 2
    """Labels k of each node; at least 1, at most those that occur in the data."""

    def __post_init__(self) -> None:
        check_sizes(labels=self.labels)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_room(sizes, n)
        check_labels(sizes, "labels_per_node")
        self._fits(sizes.outputs)

    def _fits(self, found: int) -> None:
        if self.labels > found:
            raise ValueError(f"task.partition.labels must be at most the {found} labels of the data, got {self.labels}")

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        present, labels = np.unique(dataset.targets, return_inverse=True)
        self._fits(len(present))
        if n * self.labels < len(present):
            raise ValueError(
                f"task.partition.labels must be at least {-(-len(present) // n)}, so that {n} nodes hold all "
                f"{len(present)} labels, got {self.labels}: raise it, or network.nodes"
            )
        node, label = _held(len(present), n, self.labels, seed)
        holders, rows = np.bincount(label, minlength=len(present)), np.bincount(labels, minlength=len(present))
        short = np.flatnonzero(holders > rows)
        if short.size:
            k = short[0]
            raise ValueError(
                f"network.nodes must be so few that each holder of a label has a row of it, got {n}, where label "
                f"{present[k]} has {rows[k]} rows for {holders[k]} nodes: give more data, fewer nodes, or lower "
                "task.partition.labels"
            )
        order = np.lexsort((node, label))
        node, label = node[order], label[order]
        place = np.arange(len(label)) - (np.cumsum(holders) - holders)[label]
        total, parts = rows[label], holders[label]
        counts = (place + 1) * total // parts - place * total // parts
        return of_owners(by_label(labels, seed), np.repeat(node, counts), n)


def _held(types: int, n: int, each: int, seed: int) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    """Returns the pairs of a node and a label, 0 <= label < types, that it holds: `each` of every node."""
    once = np.arange(max(n, types))
    due = rng.generator(seed, rng.PARTITION, ORDER).permutation(types)[once % types]
    draws, held, block = rng.generator(seed, rng.PARTITION, SHARES), [], max(1, _KEYS // types)
    for first in range(0, n, block):
        keys = draws.random((min(block, n - first), types))
        mine = (once % n >= first) & (once % n < first + len(keys))
        keys[(once % n)[mine] - first, due[mine]] = -1.0  # before all others
        held.append(np.argpartition(keys, each - 1, axis=1)[:, :each])
    return np.repeat(np.arange(n), each), np.concatenate(held).reshape(-1)
