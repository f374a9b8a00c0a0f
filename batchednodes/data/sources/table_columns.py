r"""Tables: from named columns to samples, whatever file they were read from.

Notation: S samples, d features, k labels.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.data.sources.base import Classes, DataSizes, FeaturesAs
from batchednodes.data.sources.holdout import Rows, held_out
from batchednodes.data.sources.labels import unseen, whole
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import shown

if TYPE_CHECKING:
    import pandas
else:
    pandas = deferred("pandas")

COLUMNS = 100_000
"""The most columns of a table: a second's work for pandas whatever the rows."""


@dataclass(frozen=True)
class Roles:
    """Which column is what."""

    target: str
    """Name or index of the column that is learned, or `first` or `last`."""

    ignore: tuple[str, ...]
    """Names or indices of columns that are not read."""

    node: str | None
    """Name or index of the column that says who owns each row."""

    classes: Classes
    """Whether the target names a class."""

    features_as: FeaturesAs
    """What numbers features are to be; `auto`: integers where all columns hold integers."""


Frame = dict[int, "pandas.Series"]
"""Columns by their places."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table in a file."""

    names: list[str]
    """Names of the columns."""

    path: str
    """The file, for messages."""

    key: str
    """The setting that named the file, for messages."""

    frame: Callable[[list[int] | None], Frame]
    """Reads the columns at some places; None: all columns."""

    integers: Callable[[list[int]], Int64[np.ndarray, " d"] | None]
    """Returns the first row of the columns at some places, if all hold integers that stay so; else None."""


# ----------------------------------------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Places:
    """Where the columns of each role are."""

    target: int
    """Place of the target."""

    node: int | None
    """Place of the owners."""

    features: list[int]
    """Places of the features, in order."""


def places(table: Table, roles: Roles) -> Places:
    """Returns the places of the columns in a table.

    Raises:
        ValueError: a column does not exist, has two roles, or none is left for features.
    """
    target = _place(table, roles.target, "target")
    node = None if roles.node is None else _place(table, roles.node, "node")
    ignored = [_place(table, word, "ignore") for word in roles.ignore]
    if node == target:
        raise ValueError(f"node must be another column than target, got {shown(roles.node)} for both")
    if target in ignored or node in ignored:
        raise ValueError(f"ignore must leave out the columns of target and node, got {shown(list(roles.ignore))}")
    features = sorted(set(range(len(table.names))) - {target, node, *ignored})
    if not features:
        raise ValueError(
            f"{table.key} must hold a column of features beside the target, got {len(table.names)} columns in "
            f"{shown(table.path)}: check separator, target and ignore"
        )
    return Places(target, node, features)


def _place(table: Table, word: str, key: str) -> int:
    """Returns where a column is; its name counts first, then its index."""
    names = table.names
    found = [place for place, name in enumerate(names) if name == word]
    if len(found) > 1:
        raise ValueError(f"{key} must name one column, got {shown(word)}, the name of {len(found)}: give its index")
    if found:
        return found[0]
    if word in ("first", "last"):
        return 0 if word == "first" else len(names) - 1
    if word.isascii() and word.isdigit() and len(word) < 10 and int(word) < len(names):
        return int(word)
    near = difflib.get_close_matches(word, names[:1000], n=1, cutoff=0.6)
    listed = ", ".join(shown(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    hint = f"did you mean {shown(near[0])}?" if near else f"the columns are {listed}, by index 0 to {len(names) - 1}"
    raise ValueError(f"{key} must name a column of {shown(table.path)}, got {shown(word)}: {hint}")


# ------------------------------------------------------------------------------------------------------------- rows


def table_sizes(tables: Sequence[Table], roles: Roles, fraction: float) -> DataSizes:
    """Returns the sizes of the data of a table, or of one to train and one to test on; only the targets are read.

    Raises:
        ValueError: a table has no rows, columns that do not fit, or targets that cannot be learned.
    """
    at = [places(table, roles) for table in tables]
    _alike(tables, at)
    frames = [table.frame([place.target]) for table, place in zip(tables, at, strict=True)]
    learned = targets(tables, at, frames, roles.classes, tables[-1].key)
    train, *tests = (len(frame[place.target]) for frame, place in zip(frames, at, strict=True))
    test = tests[0] if tests else held_out(train, fraction)
    firsts = [None] * len(tables)
    if roles.features_as != "real":
        firsts = [table.integers(place.features) for table, place in zip(tables, at, strict=True)]
    integers = roles.features_as == "integers" or all(first is not None for first in firsts)
    shape = (len(at[0].features),)
    return learned.sizes(train if tests else train - test, test, shape, integers, firsts[0] if integers else None)


def is_integer(kind: object) -> bool:
    """Returns whether numbers of a type stay integers by themselves: of 16 bits or more, and within int64."""
    return isinstance(kind, np.dtype) and kind.kind in "iu" and kind.itemsize > 1 and np.can_cast(kind, np.int64)


def table_rows(tables: Sequence[Table], roles: Roles) -> list[Rows]:
    """Returns the samples of a table, or of one to train and one to test on.

    Raises:
        ValueError: as of `table_sizes`; or a feature is not a finite number.
    """
    at = [places(table, roles) for table in tables]
    _alike(tables, at)
    frames = [table.frame(None) for table in tables]
    learned = targets(tables, at, frames, roles.classes, tables[-1].key)
    owned, made = [owners(tables[0], frames[0], at[0].node), None], list[Rows]()
    columns = [frame[k] for frame, place in zip(frames, at, strict=True) for k in place.features]
    alike = roles.features_as == "auto" and all(is_integer(column.dtype) for column in columns)
    integers = roles.features_as == "integers" or alike
    for table, place, frame, y, owner in zip(tables, at, frames, learned.values, owned, strict=False):
        x = np.empty((len(y), len(place.features)), np.int64 if integers else np.float64)
        for column, source in enumerate(place.features):
            x[:, column] = _integers(table, frame, source) if integers else _numbers(table, frame, source)
        made.append(Rows(x, y, learned.classes, owner))
    return made


def _alike(tables: Sequence[Table], at: Sequence[Places]) -> None:
    """Checks that two tables have the same features."""
    if len(tables) < 2:
        return
    train, test = ([table.names[k] for k in place.features] for table, place in zip(tables, at, strict=True))
    if train != test:
        differ = next((pair for pair in zip(train, test, strict=False) if pair[0] != pair[1]), None)
        got = f"{shown(differ[1])} for {shown(differ[0])}" if differ else f"{len(test)} of them, not {len(train)}"
        raise ValueError(
            f"{tables[1].key} must hold the features of {shown(tables[0].path)}, got {got} in {shown(tables[1].path)}"
        )


def _numbers(table: Table, frame: Frame, place: int) -> Float64[np.ndarray, " S"]:
    """Returns one column as finite numbers."""
    column = frame[place]
    if is_plain(column):
        made = column.to_numpy(np.float64)
    else:
        made = np.array([_number(value) for value in column.to_numpy(object)])
    wrong = np.flatnonzero(~np.isfinite(made))
    if wrong.size:
        fix = "ignore the column, or write numbers there"
        if wrong.size == len(made) and not is_plain(column):
            fix = "ignore the column, or write one column of 0 and 1 for each of its values"
        _refuse(table, place, "finite numbers", column, wrong, fix)
    return made


def _integers(table: Table, frame: Frame, place: int) -> Int64[np.ndarray, " S"]:
    """Returns one column as integers."""
    column = frame[place]
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu":
        values = column.to_numpy()
        wrong = np.flatnonzero(values > np.iinfo(np.int64).max)
    else:
        values = _numbers(table, frame, place)
        wrong = np.flatnonzero((values != np.rint(values)) | (np.abs(values) >= 2.0**63))
    if wrong.size:
        fix = "use features_as=real, or ignore the column"
        _refuse(table, place, "integers below 2^63 in size", column, wrong, fix)
    return values.astype(np.int64)


def is_plain(column: "pandas.Series") -> bool:
    """Returns whether a column is of numbers or truth values, as NumPy has them."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"


def _number(value: object) -> float:
    """Returns a cell as a number; NaN where it is none."""
    try:
        return float(value) if isinstance(value, str | int | float | Decimal) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _unnamed(column: "pandas.Series") -> np.ndarray:
    """Returns the rows in which nothing stands, or what is no name."""
    missing = column.isna().to_numpy()
    if not is_plain(column):
        missing = missing | np.array([_is_no_name(value) for value in column.to_numpy(object)], dtype=bool)
    return np.flatnonzero(missing)


def _is_no_name(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else isinstance(value, list | dict | tuple | np.ndarray)


def _refuse(table: Table, place: int, rule: str, column: "pandas.Series", wrong: np.ndarray, fix: str) -> None:
    name, row = shown(table.names[place]), int(wrong[0])
    value = column.iloc[row]
    value = value.item() if isinstance(value, np.generic) else value
    is_blank = not value.strip() if isinstance(value, str) else not is_plain(column) and column.isna().iloc[row]
    got = "nothing" if is_blank else shown(value)
    raise ValueError(
        f"{table.key} must hold {rule} in column {name} of {shown(table.path)}, got {got} in row {row} of the data, "
        f"from 0 ({wrong.size} of {len(column)} rows): {fix}"
    )


@dataclass(frozen=True, eq=False)
class Learned:
    """Targets of the samples to train on and, where these have a source of their own, of those to test on."""

    values: list[np.ndarray]
    """Labels [S] or [S, ...], or real targets [S, 1], of each."""

    classes: int | None
    """Number of labels; None: targets are real."""

    notes: tuple[str, ...] = ()
    """What of the targets may be a mistake, in sentences."""

    def sizes(
        self,
        train: int,
        test: int,
        features: tuple[int, ...],
        integers: bool = False,
        first: Int64[np.ndarray, " ..."] | None = None,
    ) -> DataSizes:
        """Returns the sizes of data with these targets.

        Args:
            train: samples to train on.
            test: samples to test on.
            features: shape of the features of one sample.
            integers: whether features stay integers.
            first: features of some sample, where they stay integers.
        """
        is_classes, shape = self.classes is not None, self.values[0].shape[1:]
        own = shape if is_classes else ()
        return DataSizes(train, test, features, self.classes or 1, is_classes, integers, own, first, self.notes)


def targets(
    tables: Sequence[Table], at: Sequence[Places], frames: Sequence[Frame], classes: Classes, key: str
) -> Learned:
    """Returns the labels or real targets of each table; key: the setting that gave the last one."""
    least = 1 if len(tables) > 1 else 2
    columns = [frame[place.target] for frame, place in zip(frames, at, strict=True)]
    for table, column in zip(tables, columns, strict=True):
        if len(column) < least:
            raise ValueError(
                f"{table.key} must hold {least} rows or more, got {len(column)} in {shown(table.path)}: give samples"
            )
    real = any(is_plain(column) and column.dtype.kind == "f" for column in columns)
    if classes is False or (classes == "auto" and real):
        found = zip(tables, frames, at, strict=True)
        values = [_numbers(table, frame, place.target).reshape(-1, 1) for table, frame, place in found]
        return Learned(values, None, whole(values[0]) if classes == "auto" else ())
    for table, place, column in zip(tables, at, columns, strict=True):
        check_named(table, place.target, column)
    return numbered(columns, key)


def check_named(table: Table, place: int, column: "pandas.Series") -> None:
    """Raises ValueError unless a class stands in each row of a column, at some place of a table."""
    missing = _unnamed(column)
    if missing.size:
        _refuse(table, place, "a class", column, missing, "remove those rows")


def numbered(columns: Sequence["pandas.Series"], key: str) -> Learned:
    """Returns columns of integers, texts or other values as labels 0, 1, ..., k - 1 in their sorted order.

    Args:
        columns: to train on and, where it has one of its own, to test on.
        key: the setting that gave the last of them.

    Raises:
        ValueError: test rows have none of the labels of training rows.
    """
    texts = any(not is_plain(column) for column in columns)
    both = pandas.concat([c.astype(str).astype(object) if texts else c for c in columns], ignore_index=True)
    codes, values = pandas.factorize(both, sort=True)
    ends = np.cumsum([len(column) for column in columns])[:-1]
    labels = np.split(codes.astype(np.int64), ends)
    return Learned(labels, len(values), unseen(labels, key, list(values)))


def owners(table: Table, frame: Frame, place: int | None) -> Int64[np.ndarray, " S"] | None:
    """Returns the node of each row: the column's values, numbered in their sorted order."""
    if place is None:
        return None
    column = frame[place]
    missing = _unnamed(column)
    if missing.size:
        _refuse(table, place, "an owner", column, missing, "remove those rows")
    return numbered([column], table.key).values[0]
