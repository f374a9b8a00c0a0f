r"""Dealing: from settings to the data of a network, as its nodes see them.

Letters: n nodes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from batchednodes.config import Config
from batchednodes.data import (
    IID,
    Dataset,
    DataSizes,
    Heterogeneity,
    LabelCounts,
    Natural,
    Partition,
    Shards,
    shifted,
)


@contextmanager
def section(path: str) -> Iterator[None]:
    """Puts the path of a section before the field that an error names."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from error


def sizes(configs: Sequence[Config]) -> list[DataSizes]:
    """Returns the sizes of the data of each network, which are not built.

    Raises:
        ValueError: the data do not exist, or do not suit their partition or their shift.
    """
    with section("task.data"):
        found = [c.task.data.sizes(c.network.nodes) for c in configs]
    for c, one in zip(configs, found, strict=True):
        (c.task.partition or IID()).check(one, c.network.nodes)
        if c.task.shift is not None:
            c.task.shift.check(one, c.network.nodes, c.seed)
    return found


def split(config: Config) -> tuple[Dataset, Shards]:
    """Returns the data of one network as its nodes see them, and which rows each node owns.

    Raises:
        ValueError: the data cannot be used, or do not suit their partition or their shift.
    """
    with section("task.data"):
        data = config.task.data.load(config.network.nodes, config.seed)
    natural = Natural() if data.node is not None else IID()
    partition: Partition = config.task.partition or natural
    shards = partition.split(data, config.network.nodes, config.seed)
    return data if config.task.shift is None else shifted(data, shards, config.task.shift, config.seed), shards


def heterogeneity(data: Dataset, shards: Shards) -> Heterogeneity | None:
    """Returns how heterogeneous the labels of the nodes are; None where targets are real numbers."""
    return None if data.classes is None else LabelCounts.of(shards, data.targets, data.classes).heterogeneity()
