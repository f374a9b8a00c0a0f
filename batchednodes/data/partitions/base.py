r"""Shards: which node owns which training rows, and what all partitions share.

Every row is owned by exactly one node, and every node owns at least one row. The shards are ragged: flat rows and
offsets, no padding.

Notation: n nodes, S training samples, R = S rows, i node.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from batchednodes.data.sources.base import Dataset, DataSizes
from batchednodes.numerics import rng
from batchednodes.numerics.values import shown

ROWS, SHARES, SLOTS, ORDER, REPAIR, NOISE, TEST_NOISE, TEST_NODES, OWN_TESTS, OWN_NOISE = range(10)
"""What a draw of the stream `rng.PARTITION` is for, of a partition or a shift: the second part of its address."""

_LEAST = 1e-9
"""The smallest concentration: nodes then hold one label each."""

_REAL = "one that asks for no labels, such as iid or natural,"


@dataclass(frozen=True, eq=False)
class Shards:
    """The rows of each node: node i owns rows[offsets[i]:offsets[i + 1]].

    Example:
        >>> from batchednodes.data import IID, LinearRegression
        >>> shards = IID().split(LinearRegression(samples_per_node=4).load(3, seed=0), 3, seed=0)
        >>> shards.sizes.tolist()
        [4, 4, 4]
        >>> shards.rows[shards.offsets[1] : shards.offsets[2]].tolist()  # what node 1 owns
        [10, 1, 2, 6]
    """

    rows: Int64[np.ndarray, " R"]
    """Indices into the training samples, node by node."""

    offsets: Int64[np.ndarray, " ends"]
    """Where each node's rows begin, and R at the end: n + 1 entries."""

    @property
    def sizes(self) -> Int64[np.ndarray, " n"]:
        """Number of rows of each node."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Int64[np.ndarray, " R"]:
        """The node that owns each training sample."""
        node = np.empty(len(self.rows), dtype=np.int64)
        node[self.rows] = np.repeat(np.arange(len(self.offsets) - 1), self.sizes)
        return node

    def counts(self, targets: Int64[np.ndarray, " S"], classes: int) -> Int64[np.ndarray, "n classes"]:
        """Returns how many rows of each label each node owns."""
        n = len(self.offsets) - 1
        node = np.repeat(np.arange(n), self.sizes)
        return np.bincount(node * classes + targets[self.rows], minlength=n * classes).reshape(n, classes)


class Partition(ABC):
    """How the training rows are dealt to the nodes."""

    @abstractmethod
    def check(self, sizes: DataSizes, n: int) -> None:
        """Checks all that is known before the data are loaded.

        Raises:
            ValueError: there are more nodes than samples, or the partition does not suit such data.
        """

    @abstractmethod
    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        """Returns the rows of each of n nodes: a pure function of (self, dataset, n, seed).

        Raises:
            ValueError: as `check` does, or the partition does not suit the labels or owners of these data.
        """


# ----------------------------------------------------------------------------------------------------------- checks


def check_room(sizes: DataSizes, n: int) -> None:
    """Raises ValueError unless every node can own a sample."""
    if n > sizes.samples:
        raise ValueError(
            f"network.nodes must be at most the number of training samples, {sizes.samples}, got {n}: "
            f"give more data, or fewer nodes (network.nodes={sizes.samples})"
        )


def check_labels(sizes: DataSizes, kind: str) -> None:
    """Raises ValueError unless each sample has one label."""
    if sizes.target_shape:
        shape = list(sizes.target_shape)
        raise ValueError(
            f"task.partition.kind must be {_REAL} where each sample has labels of shape {shape}, got {kind}: {kind} "
            "deals by one label a sample"
        )
    if not sizes.is_classes:
        raise ValueError(
            f"task.partition.kind must be {_REAL} when the targets are real numbers, got {kind}: {kind} deals by label"
        )


def check_minimum(sizes: DataSizes, n: int, minimum: int) -> None:
    """Raises ValueError unless every node can own so many samples."""
    check_room(sizes, n)
    if n * minimum > sizes.samples:
        raise ValueError(
            f"task.partition.minimum must be at most {sizes.samples // n} (of {sizes.samples} training samples, for "
            f"{n} nodes), got {minimum}: give more data, fewer nodes or a smaller minimum"
        )


def check_concentration(alpha: float) -> None:
    """Raises ValueError unless draws of Dirichlet's law with this concentration can be computed."""
    if not _LEAST <= alpha < math.inf:  # below, draws of Dirichlet's law underflow
        raise ValueError(f"alpha must be at least {_LEAST} and finite [dimensionless], got {shown(alpha)}")


# ------------------------------------------------------------------------------------------------------------ parts


def near_equal(total: int, parts: int) -> Int64[np.ndarray, " ends"]:
    """Returns offsets of parts whose sizes differ by at most one.

    Example:
        >>> from batchednodes.data.partitions.base import near_equal
        >>> near_equal(10, 3).tolist()
        [0, 3, 6, 10]
    """
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def gather(
    values: Int64[np.ndarray, " _"], starts: Int64[np.ndarray, " _"], sizes: Int64[np.ndarray, " _"]
) -> Int64[np.ndarray, " _"]:
    """Returns values[starts[0]:starts[0] + sizes[0]], then the same of 1, 2, ..., in one array."""
    ends = np.cumsum(sizes)
    return values[np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)]


def by_label(labels: Int64[np.ndarray, " S"], seed: int) -> Int64[np.ndarray, " S"]:
    """Returns all rows sorted by label, in random order within a label."""
    rows = rng.generator(seed, rng.PARTITION, ROWS).permutation(len(labels))
    return rows[np.argsort(labels[rows], kind="stable")]


def of_owners(rows: Int64[np.ndarray, " R"], owners: Int64[np.ndarray, " R"], n: int) -> Shards:
    """Returns the shards in which node owners[r] owns rows[r], in the order of r.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.partitions.base import of_owners
        >>> shards = of_owners(np.arange(5), np.array([1, 0, 1, 1, 0]), n=2)
        >>> shards.rows.tolist(), shards.offsets.tolist()
        ([1, 4, 0, 2, 3], [0, 2, 5])
    """
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=n))])
    return Shards(rows[np.argsort(owners, kind="stable")], offsets)
