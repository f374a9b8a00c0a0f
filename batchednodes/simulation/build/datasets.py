r"""Dealing: from settings to the data of a network, as its nodes see them.

Notation: n nodes.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from batchednodes.algorithms.attacks import OnData
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
    check_dataset,
    own_tests,
    shifted,
)
from batchednodes.data.sources.mapped import MappedRows
from batchednodes.numerics.targets import is_own, returned

_LARGEST = 3.38e38
"""The largest number of float32, and of bfloat16, a little less."""


@contextmanager
def section(path: str) -> Iterator[None]:
    """Puts the path of a section before the field that an error names, unless it is there."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}" if f"{error}".startswith(path) else f"{path}.{error}") from error


def sizes(configs: Sequence[Config]) -> list[DataSizes]:
    """Returns the sizes of the data of each network, which are not built.

    Raises:
        ValueError: the data do not exist, or do not suit their partition, their shift or the loss.
    """
    known = dict[str, DataSizes]()
    with section("task.data"):
        for c in configs:  # replicas have the same data, whose files are read once
            key = repr((c.task.data, c.network.nodes))
            known[key] = known.get(key) or _sizes(c)
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
    if isinstance(c.network.attack, OnData) and not found.is_classes:
        got = "got real-valued ones; use another network.attack.kind"
        raise ValueError(f"task.data must have labels where attackers learn from false ones, {got}")
    if not c.task.model.is_own():
        rule = "task.model.kind must be python where"
        if found.target_shape:
            shape = [*found.target_shape]
            raise ValueError(f"{rule} each sample has labels of shape {shape}, one a token, got one of batchednodes")
        if c.task.data.demands_integers():
            raise ValueError(f"{rule} task.data.features_as=integers, got one that takes reals; use features_as=auto")
    for k, one in enumerate(c.task.augment):
        with section(f"task.augment[{k}]"):
            one.check(found)
    if found.mapped and c.task.shift is not None:
        raise ValueError("task.shift must be null where features stay in files, got one; use task.data.memory=loaded")
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
    source = config.task.data
    with section("task.data"):
        data = returned(source.load(config.network.nodes, config.seed), (Dataset,), source, "load", "task.data")
        if is_own(type(source)):
            _check_source(data, source.sizes(config.network.nodes))
    natural = Natural() if data.node is not None else IID()
    partition: Partition = config.task.partition or natural
    shards = partition.split(data, config.network.nodes, config.seed)
    if is_own(type(partition)):
        _check_shards(returned(shards, (Shards,), partition, "split", "task.partition"), config.network.nodes, data)
    shift, own = config.task.shift, config.task.own_tests
    if own == "dealt":
        data = replace(data, own=own_tests.dealt(data, shards, partition, shift, config.seed))
    found = data if shift is None else shifted(data, shards, shift, config.seed)
    if isinstance(own, float):
        found, shards = own_tests.held_out(found, shards, own, config.seed)
    if shift is not None and is_own(type(shift)):
        try:
            check_dataset(found)
        except ValueError as error:
            raise ValueError(f"task.shift must leave data that can be learned from: {error}") from error
    if isinstance(config.network.attack, OnData):
        found = _poisoned(found, shards, config)
    with section("task.data"):
        _check_range(found, config.dtype)
    return found, shards


def _poisoned(data: Dataset, shards: Shards, config: Config) -> Dataset:
    """Returns data in which attackers own false labels."""
    attack, n = config.network.attack, config.network.nodes
    assert isinstance(attack, OnData)
    assert data.classes is not None  # sizes were checked
    rows, targets = shards.rows[np.repeat(attack.attackers(n, config.seed), shards.sizes)], data.targets.copy()
    false = attack.labels(targets[rows], data.classes)
    targets[rows] = returned(false, (np.ndarray,), attack, "labels", "network.attack")
    if is_own(type(attack)) and not ((targets >= 0) & (targets < data.classes)).all():
        rule = f"network.attack must be a kind whose labels() are in 0 .. {data.classes - 1}"
        raise ValueError(f"{rule}, got {targets.min()} .. {targets.max()}")
    return replace(data, targets=targets)


def _check_source(data: Dataset, promised: DataSizes) -> None:
    """Checks data of a source of the user's own: that they can be learned from, and are of the sizes that it said.

    Raises:
        ValueError: they are not; the message begins with the name of an array, or of a method.
    """
    kinds = {"features": "float64, float32 or int64", "targets": "float64 or float32"}
    if data.classes is not None:
        kinds["targets"] = "int64"
    for name in (prefix + part for prefix in ("", "test_") for part in kinds):
        array, rule = getattr(data, name), kinds[name.removeprefix("test_")]
        if not isinstance(array, np.ndarray | MappedRows) or array.dtype.name not in rule or array.ndim == 0:
            got = array.dtype.name if isinstance(array, np.ndarray | MappedRows) else type(array).__name__
            raise ValueError(f"{name} must be an array of NumPy of {rule}, got {got}")
        if data.classes is None and "targets" in name and array.ndim != 2:
            raise ValueError(f"{name} must be real targets [rows, targets of a row], got shape {list(array.shape)}")
    check_dataset(data)
    found = data.sizes
    if found != promised:
        raise ValueError(f"sizes() must return the sizes of what load() returns, got {promised} and {found}")


def _check_shards(shards: Shards, n: int, data: Dataset) -> None:
    """Checks the shards of a partition of the user's own: each training row has one owner, each node a row.

    Raises:
        ValueError: they are not so.
    """
    rows, offsets, samples = np.asarray(shards.rows), np.asarray(shards.offsets), len(data.features)
    if rows.dtype.kind not in "iu" or offsets.dtype.kind not in "iu":
        got = f"{rows.dtype} and {offsets.dtype}"
        raise ValueError(f"task.partition must give rows and offsets as whole numbers, got {got}; use int64")
    good = offsets.shape == (n + 1,) and offsets[0] == 0 and offsets[-1] == samples and (np.diff(offsets) > 0).all()
    if not good or not np.array_equal(np.sort(rows), np.arange(samples)):
        raise ValueError(
            f"task.partition must give each of {samples} training rows one owner, and each of {n} nodes a row, got "
            f"{rows.size} rows and nodes with {np.diff(offsets).min(initial=samples)} rows"
        )


def _sizes(config: Config) -> DataSizes:
    """Returns the sizes of the data of a network."""
    source = config.task.data
    return returned(source.sizes(config.network.nodes), (DataSizes,), source, "sizes", "task.data")


def _check_range(data: Dataset, dtype: str) -> None:
    """Refuses numbers that are finite, but beyond those of the models."""
    arrays = {name: getattr(data, name) for name in ("features", "targets", "test_features", "test_targets")}
    if data.own is not None:
        arrays |= {"own test features": data.own.features}
    for name, values in arrays.items():
        if isinstance(values, MappedRows):  # they are checked as they are read
            continue
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
