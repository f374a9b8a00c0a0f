r"""Rows dealt at random, or left where they were made."""

from dataclasses import dataclass

import numpy as np

from batchednodes.data.partitions.base import ROWS, Partition, Shards, check_room, near_equal, of_owners
from batchednodes.data.sources.base import Dataset, DataSizes
from batchednodes.numerics import rng


@dataclass(frozen=True)
class IID(Partition):
    """Rows dealt at random; sizes differ by at most one.

    Example:
        >>> from batchednodes.data import IID, Sklearn
        >>> iris = Sklearn("iris").load(7, seed=0)
        >>> IID().split(iris, 7, seed=0).sizes.tolist()  # 120 training rows
        [17, 17, 17, 17, 17, 17, 18]
    """

    def check(self, sizes: DataSizes, n: int) -> None:
        check_room(sizes, n)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        samples = len(dataset.features)
        rows = rng.generator(seed, rng.PARTITION, ROWS).permutation(samples)
        return Shards(rows, near_equal(samples, n))


@dataclass(frozen=True)
class Natural(Partition):
    """Rows stay where the data say they were made: the data set's own `node` array.

    Example:
        >>> from batchednodes.data import LinearRegression, Natural
        >>> data = LinearRegression(samples_per_node=3).load(2, seed=0)
        >>> Natural().split(data, 2, seed=0).rows.tolist()  # node 0 made the first three rows
        [0, 1, 2, 3, 4, 5]
    """

    def check(self, sizes: DataSizes, n: int) -> None:
        check_room(sizes, n)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        node = dataset.node
        if node is None:
            raise ValueError(
                "task.partition.kind must be another kind, such as iid or dirichlet, when the data have no node array, "
                "got natural: add an integer array named node, one entry a row"
            )
        if node.min() < 0 or node.max() >= n:
            raise ValueError(
                f"network.nodes must be more than the largest entry of the data's node array, {node.max()}, got {n}: "
                f"number the nodes 0, 1, 2, ..., or set network.nodes={max(int(node.max()) + 1, 1)}"
            )
        sizes = np.bincount(node, minlength=n)
        empty = np.flatnonzero(sizes == 0)
        if empty.size:
            listed = ", ".join(str(i) for i in empty[:5]) + (", ..." if empty.size > 5 else "")
            raise ValueError(
                f"network.nodes must be a number of nodes that all own training samples, got {n}, of which "
                f"{empty.size} own none (nodes {listed}): give them data, renumber the nodes, or hold out fewer rows"
            )
        return of_owners(np.arange(len(node)), node, n)
