r"""Dealing: from settings to the data of a network, as its nodes see them.

Notation: n nodes.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from batchednodes.config import Config
from batchednodes.data import IID, Dataset, DataSizes, Heterogeneity, LabelCounts, Natural, Partition, Shards, shifted

_LARGEST = 3.38e38
"""The largest number of float32, and of bfloat16, a little less."""


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
        ValueError: the data do not exist, or do not suit their partition, their shift or the loss.
    """
    known = dict[str, DataSizes]()
    with section("task.data"):
        for c in configs:  # replicas have the same data, whose files are read once
            key = repr((c.task.data, c.network.nodes))
            known[key] = known.get(key) or c.task.data.sizes(c.network.nodes)
    found = [known[repr((c.task.data, c.network.nodes))] for c in configs]
    for c, one in zip(configs, found, strict=True):
        _check(c, one)
    for note in dict.fromkeys(note for one in found for note in one.notes):
        warnings.warn(f"task.data: {note}", stacklevel=1)  # one place, so that Python says it once
    return found


def _check(c: Config, found: DataSizes) -> None:
    """Checks that data of some sizes suit model, loss, partition and shift."""
    if c.task.loss == "cross_entropy" and not found.is_classes:
        got = "got 'cross_entropy'; or give integer labels"
        raise ValueError(f"task.loss must be mse for real-valued targets, {got}")
    if not c.task.model.is_own():
        rule = "task.model.kind must be python where"
        if found.target_shape:
            shape = [*found.target_shape]
            raise ValueError(f"{rule} each sample has labels of shape {shape}, one a token, got one of batchednodes")
        if c.task.data.demands_integers():
            raise ValueError(f"{rule} task.data.features_as=integers, got one that takes reals; use features_as=auto")
    (c.task.partition or IID()).check(found, c.network.nodes)
    if c.task.shift is not None:
        c.task.shift.check(found, c.network.nodes, c.seed)
        if found.integers and not c.task.shift.keeps_integers(c.network.nodes, c.seed):
            raise ValueError(
                "task.shift must be null where features are integers, which it would make reals; use "
                "task.data.features_as=real, or rotations by multiples of 90 degrees"
            )


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
    found = data if config.task.shift is None else shifted(data, shards, config.task.shift, config.seed)
    with section("task.data"):
        _check_range(found, config.dtype)
    return found, shards


def _check_range(data: Dataset, dtype: str) -> None:
    """Refuses numbers that are finite, but beyond those of the models."""
    for name in ("features", "targets", "test_features", "test_targets"):
        values = getattr(data, name)
        if values.dtype.kind != "f" or dtype == "float64" or (dtype == "float32" and values.dtype.itemsize == 4):
            continue
        largest = max(-values.min(), values.max())
        if largest > _LARGEST:
            raise ValueError(
                f"{name} must be within +-{_LARGEST:.4g} with dtype={dtype}, got {largest:.4g} in size; scale them, or "
                "use dtype=float64"
            )


def heterogeneity(data: Dataset, shards: Shards) -> Heterogeneity | None:
    """Returns how heterogeneous the labels of the nodes are; None where samples have none, or several each."""
    found = label_counts(data, shards)
    return None if found is None else found.heterogeneity()


def label_counts(data: Dataset, shards: Shards) -> LabelCounts | None:
    """Returns how many rows of each label each node owns; None where rows have no label, or several each."""
    if data.classes is None or data.targets.ndim > 1:
        return None
    return LabelCounts.of(shards, data.targets, data.classes)
