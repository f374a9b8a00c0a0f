"""Loaded data: what a plan says of them, so that a mistake in a file is seen before anything runs.

Notation: S training and test samples, f features, k targets.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.data import Dataset, DataSizes, Shards

_COLUMNS, _ROWS = 1000, 100_000
"""The most columns that are looked at, and the most rows."""

_LIKE = 1 - 1e-9
"""Square of the correlation from which on a column is a target in other units."""

_NAMED = 10
"""The most labels or columns that are named."""


def facts(sizes: DataSizes, dealt: tuple[Dataset, Shards] | None) -> dict[str, str]:
    """Returns what is known of the data of a network, in words, by name; dealt: None where they are not loaded yet."""
    rows, own = f"{sizes.samples:,}", dict[str, str]()
    if dealt is not None:
        rows = f"{dealt[1].rows.size:,}, {_range(dealt[1].sizes)}"
        if dealt[0].own is not None:
            own = {"own test rows": f"{len(dealt[0].own.targets):,}, {_range(np.diff(dealt[0].own.offsets))}"}
    found = {"training rows": rows, "test rows": f"{sizes.test_samples:,}"} | own | {"task": _task(sizes)}
    if sizes.notes:
        found["note on targets"] = "; ".join(sizes.notes)
    if dealt is not None:
        if sizes.one_label:
            found |= _missing(dealt[0])
        found |= {f"note on column {column}": what for column, what in odd_columns(dealt[0])}
    return found


def _range(owned: Int64[np.ndarray, " n"]) -> str:
    """Returns how many rows a node has, in words."""
    return f"{owned.min():,} to {owned.max():,} a node"


def _task(sizes: DataSizes) -> str:
    """Returns what is learned, in words."""
    if not sizes.is_classes:
        return f"regression, {sizes.outputs:,} real target{'s' if sizes.outputs > 1 else ''}"
    return f"classification, {f'{list(sizes.target_shape)} of ' if sizes.target_shape else ''}{sizes.outputs:,} labels"


def _missing(data: Dataset) -> dict[str, str]:
    """Returns which labels have no row in a part of the data."""
    assert data.classes is not None
    found = {}
    for part, targets in (("training", data.targets), ("test", data.test_targets)):
        absent = np.flatnonzero(np.bincount(targets, minlength=data.classes) == 0)
        if absent.size:
            named = ", ".join(map(str, absent[:_NAMED])) + (", ..." if absent.size > _NAMED else "")
            found[f"labels without a {part} row"] = f"{absent.size:,}: {named}"
    return found


def odd_columns(data: Dataset) -> Iterator[tuple[int, str]]:
    """Yields number and suspicion of each column of a table that says what a model should not know.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Dataset
        >>> from batchednodes.simulation.planning.loaded import odd_columns
        >>> x, y = np.random.default_rng(0).random((20, 3)), np.random.default_rng(1).random((20, 1))
        >>> x[:, 1], x[:, 2] = np.arange(20), 3 - 2 * y[:, 0]
        >>> list(odd_columns(Dataset(x[:15], y[:15], x[15:], y[15:], None)))
        [(1, 'looks like an index of the rows'), (2, 'looks like a second target: it says what is to be learned')]
    """
    rows = len(data.features) + len(data.test_features)
    if not isinstance(data.features, np.ndarray):  # nobody reads whole files for that
        return
    if data.features.ndim != 2 or data.features.shape[1] > _COLUMNS or rows > _ROWS or len(data.features) < 10:
        return
    both = np.concatenate([data.features, data.test_features]).astype(np.float64)
    targets = np.concatenate([data.targets, data.test_targets])
    for column, values in enumerate(both.T):
        if _is_index(values):
            yield column, "looks like an index of the rows"
        elif _says(values, targets, data.classes):
            yield column, "looks like a second target: it says what is to be learned"


def _is_index(values: Float64[np.ndarray, " S"]) -> bool:
    """Returns whether values are equally spaced, none twice, whatever their order and unit."""
    gaps = np.diff(np.sort(values))
    return bool(gaps.min() > 0 and gaps.max() - gaps.min() < 1e-3 * gaps.mean())


def _says(values: Float64[np.ndarray, " S"], targets: np.ndarray, classes: int | None) -> bool:
    """Returns whether a column determines a target: as a linear function of it, or as a name of its label."""
    if np.ptp(values) == 0:
        return False
    if classes is None:
        x, y = values - values.mean(), targets - targets.mean(0)
        spread = np.square(x).sum() * np.square(y).sum(0)
        return bool((np.square(x @ y) >= _LIKE * spread)[spread > 0].any())
    if targets.ndim > 1:
        return False
    named, place = np.unique(values, return_inverse=True)
    pairs = np.unique(np.stack([place, targets]), axis=1)
    return 1 < named.size == pairs.shape[1] and named.size == np.unique(targets).size
