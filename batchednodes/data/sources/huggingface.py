r"""Data sets of Hugging Face `datasets`: folders that it wrote, or names on its Hub; needs `batchednodes[hf]`.

Notation: c channels, h height, w width.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from batchednodes.data.paths import check_member
from batchednodes.data.sources.base import Classes, Dataset, DataSizes, FeaturesAs, Source, check_rows, stay_integers
from batchednodes.data.sources.holdout import Rows, Standardize, check_holdout, dataset, held_out
from batchednodes.data.sources.images import Frame, Size, check_frame, frame_of
from batchednodes.data.sources.labels import unseen
from batchednodes.data.sources.mapped import MappedRows, Memory
from batchednodes.data.sources.optional import extra
from batchednodes.data.sources.table_columns import Frame as Columns
from batchednodes.data.sources.table_columns import Learned, Places, Table, check_named, owners, targets
from batchednodes.numerics.quiet import filtered
from batchednodes.numerics.values import shown

T = TypeVar("T")

_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
"""A name on the Hub. Those without an owner may be, to `datasets`, its readers of whatever lies in the working folder:
"csv", or "pandas", which unpickles."""

_BLOCK = 1000  # rows that are converted at once


@dataclass(frozen=True)
class HuggingFace(Source):
    """A data set of Hugging Face `datasets`, from disk or from the Hub; needs the packages of `batchednodes[hf]`.

    Images become floats [channels, height, width] in [0, 1]. Columns of numbers, or of lists or arrays of numbers of
    one shape, are taken as they are: one keeps its shape, several are joined into one vector. Of data from the Hub,
    `datasets` keeps a copy in its cache; no code of theirs is run.

    Example:
        >>> import datasets
        >>> from batchednodes.data import HuggingFace
        >>> datasets.Dataset.from_dict({"x": [[0.0, 1.0], [2.0, 3.0]], "label": [0, 1]}).save_to_disk("mine")
        >>> sizes = HuggingFace("mine", test_split=None).sizes(1)
        >>> sizes.features, sizes.outputs
        ((2,), 2)
    """

    path: str
    """A folder that `save_to_disk` wrote, relative to the working directory; else a name on the Hub, `owner/name`."""

    subset: str | None = None
    """Name of the configuration of a data set on the Hub that has several; null: its default."""

    split: str = "train"
    """The split to train on."""

    test_split: str | None = "test"
    """The split to test on; null: a part of `split`."""

    features: tuple[str, ...] = ()
    """Columns of the features; none named: the column of images where there is one, else all others."""

    target: str = "label"
    """The column that is learned: class labels, integers or texts (classes), real numbers (regression), or lists or
    arrays of integers of one shape (a label 0, 1, ... for each token or pixel of a sample)."""

    node: str | None = None
    """Column that says who owns each row: its values, sorted, are nodes 0, 1, ...; null: nobody."""

    classes: Classes = "auto"
    """Whether targets are names of classes; `auto`: integers and texts are, real numbers are not."""

    size: Size = None
    """[height, width] to which all images are scaled, bilinearly; null: all have the size of the first."""

    channels: int | None = None
    """1 (grey) or 3 (red, green, blue), to which all images are converted; null: those of the first."""

    test_fraction: float = 0.2
    """Share of the rows held out for testing where `test_split` is null, in proportion for each node or label
    [dimensionless]; between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of those rows; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`; those of images by channel."""

    features_as: FeaturesAs = "auto"
    """What features are to be: `real`; `integers`, which a module of your own gets as int64; `auto`: integers of 16
    bits or more stay integers, those of 8 bits become reals. A module that takes no integers, and models that come with
    batchednodes, get reals all the same."""

    memory: Memory = "loaded"
    """Where training features are: `loaded`, in memory; `mapped`, in the files of Arrow, from which those of
    minibatches are read ahead, images decoded each time: for data larger than memory, with the same results. Test
    features are loaded."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, self.test_split, "test_split")
        check_frame(self.size, self.channels)

    def demands_integers(self) -> bool:
        return self.features_as == "integers"

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; of the features, only those of the first row are read."""
        parts = self._parts()
        learned = _learned(parts, self.target, self.classes)
        train, *tests = (len(part.rows) for part in parts)
        test = tests[0] if tests else held_out(train, self.test_fraction)
        shape, integers = self._shape(parts[0]), self._integers(parts)
        first = _read(parts[0].part(1), shape, None, integers)[0] if integers else None
        found = learned.sizes(train if tests else train - test, test, shape, integers, first)
        return replace(found, mapped=self.memory == "mapped")

    def load(self, n: int, seed: int) -> Dataset:
        parts = self._parts()
        learned = _learned(parts, self.target, self.classes)
        shape, integers, made = self._shape(parts[0]), self._integers(parts), list[Rows]()
        for k, (part, y) in enumerate(zip(parts, learned.values, strict=True)):
            read = partial(_read_some, part, shape, self._frame(parts[0]), integers)
            stays = self.memory == "mapped" and k == 0
            x = MappedRows(read, np.arange(len(part.rows))) if stays else _read(part, *read.args[1:])
            try:
                check_rows(x, y, learned.classes)
            except ValueError as error:
                raise ValueError(f"path must hold usable data, got {shown(part.name)}, where {error}") from None
            owned = None if self.node is None or k else owners(*part.column(self.node), 0)
            made.append(Rows(x, y, learned.classes, owned))
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(made[0], made[1] if len(made) > 1 else None, self.test_fraction, chosen, self.standardize)

    def arrays(self, splits: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the rows of splits that are there already as the arrays of an .npz file."""
        parts = self._parts(splits)
        learned = _learned(parts, self.target, self.classes)
        shape, integers, made = self._shape(parts[0]), self._integers(parts), dict[str, np.ndarray]()
        for part, y, prefix in zip(parts, learned.values, ("", "test_"), strict=False):
            made |= {
                f"{prefix}features": _read(part, shape, self._frame(parts[0]), integers),
                f"{prefix}targets": np.asarray(y),
            }
        return made

    def _parts(self, splits: Mapping[str, Any] | None = None) -> "list[_Part]":
        """Returns the rows to train on and, where they have a split of their own, to test on."""
        splits, found = _splits(self.path, self.subset) if splits is None else splits, list[_Part]()
        for key, name in {"split": self.split, "test_split": self.test_split}.items():
            if name is None:
                continue
            if name not in splits:
                fix = "; null holds rows of split out" if key == "test_split" else ""
                got = f"got {shown(name)} for {shown(self.path)}"
                raise ValueError(f"{key} must be one of {', '.join(map(shown, splits))}, {got}{fix}")
            found.append(_Part(splits[name], f"{self.path} ({name})"))
        names = [name for name in found[0].rows.column_names if name not in (self.target, self.node)]
        columns = list(self.features) or [name for name in names if found[0].is_image(name)] or names
        mixed = len(columns) > 1 and any(found[0].is_image(name) for name in columns)
        if self.target in columns or self.node in columns or not columns or mixed:
            rule = "one column of images, or columns of numbers, beside the target and node"
            raise ValueError(f"features must name {rule}, got {shown(columns)} of {shown(names)}")
        return [part.of(columns) for part in found]

    def _frame(self, part: "_Part") -> Frame | None:
        """Returns what images are brought to; None where features are numbers."""
        if not part.is_image(part.columns[0]):
            given = {"size": self.size and list(self.size), "channels": self.channels}
            for key in [key for key, value in given.items() if value is not None]:
                raise ValueError(f"{key} must be null where features are no images, got {given[key]}")
            return None
        return part.named(0, lambda: frame_of(next(part.images(0, 1)), self.size, self.channels))

    def _shape(self, part: "_Part") -> tuple[int, ...]:
        frame = self._frame(part)
        return frame.shape if frame else part.numbers(0, 1).shape[1:]

    def _integers(self, parts: "list[_Part]") -> bool:
        """Returns whether features stay integers, as the types of their columns say."""
        is_image = parts[0].is_image(parts[0].columns[0])
        held = np.float32 if is_image else np.result_type(*(part.numbers(0, 1) for part in parts))
        return stay_integers(self.features_as, np.dtype(held), self.standardize)


# ----------------------------------------------------------------------------------------------------------- splits


def _splits(path: str, subset: str | None) -> Mapping[str, Any]:
    """Returns the splits of a folder, or of a data set on the Hub, by name; their rows stay on disk."""
    datasets = extra("datasets", "hf", "huggingface")
    is_folder = os.path.isdir(path)
    if is_folder and subset is not None:
        raise ValueError(f"subset must be left out for a folder, got {shown(subset)} with {shown(path)}")
    marks = [os.path.join(path, name) for name in ("state.json", "dataset_dict.json")]
    if os.path.exists(path) and not any(os.path.isfile(mark) for mark in marks):
        raise ValueError(f"path must be a folder that save_to_disk wrote, or owner/name on the Hub, got {shown(path)}")
    for place, _, names in os.walk(path):
        for name in names:
            check_member(os.path.join(place, name), "path")
    if not is_folder and not _NAME.fullmatch(path):
        raise ValueError(f"path must be an existing folder, or owner/name on the Hub, got {shown(path)}")
    try:
        with filtered("ignore"):
            made = datasets.load_from_disk(path) if is_folder else datasets.load_dataset(path, subset)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged folder, or the network, makes the package raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        where = (
            "a whole folder that save_to_disk wrote" if is_folder else "an existing folder, or owner/name on the Hub"
        )
        raise ValueError(f"path must be {where}, got {shown(path)}: {reason}") from None
    return {str(made.split or "train"): made} if isinstance(made, datasets.Dataset) else made


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows of one split."""

    rows: Any
    """A `datasets.Dataset`."""

    name: str
    """The split, for messages."""

    columns: tuple[str, ...] = ()
    """Those of the features."""

    def of(self, columns: list[str]) -> "_Part":
        """Returns the same rows with some columns as features."""
        for name in columns:
            self.check(name, "features")
        return _Part(self.rows, self.name, tuple(columns))

    def part(self, rows: int) -> "_Part":
        """Returns the first rows."""
        return _Part(self.rows.select(range(rows)), self.name, self.columns)

    def check(self, name: str, key: str) -> None:
        """Raises ValueError unless there is a column of a name."""
        if name not in self.rows.column_names:
            listed = ", ".join(map(shown, self.rows.column_names[:10]))
            raise ValueError(f"{key} must name a column of {shown(self.name)}, got {shown(name)}, not one of {listed}")

    def is_image(self, name: str) -> bool:
        """Returns whether a column holds images."""
        return type(self.rows.features.get(name)).__name__ == "Image"

    def column(self, name: str, key: str = "node") -> tuple[Table, Columns]:
        """Returns a column as a table of its own."""
        self.check(name, key)
        frame = {0: self.arrow([name], 0, len(self.rows)).column(name).to_pandas()}
        return Table([name], self.name, "path", lambda _: frame, lambda _: None), frame

    def arrow(self, names: list[str], first: int, end: int) -> Any:
        """Returns some columns of some rows as a table of Arrow."""
        return self.rows.select_columns(names).with_format("arrow")[first:end]

    def numbers(self, first: int, end: int) -> np.ndarray:
        """Returns the features of some rows, [rows, ...]."""
        table = self.arrow([*self.columns], first, end)
        parts = [self.named(first, lambda name=name: _values(table.column(name))) for name in self.columns]
        if len(parts) == 1 and parts[0].ndim > 1:
            return parts[0]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def has_tokens(self, name: str) -> bool:
        """Returns whether a column holds lists or arrays of integers."""
        try:
            values = _values(self.arrow([name], 0, 1).column(name))
        except ValueError:
            return False
        return values.ndim > 1 and values.dtype.kind in "iu"

    def tokens(self, name: str) -> np.ndarray:
        """Returns such a column as labels [rows, ...], or [rows] where each list holds one."""
        try:
            values = _values(self.arrow([name], 0, len(self.rows)).column(name))
        except ValueError as error:
            got = f"{error} in {shown(self.name)}: pad or cut them"
            raise ValueError(
                f"path must hold lists of labels of one shape in column {shown(name)}, got {got}"
            ) from None
        return values.reshape(len(values) if values.size == len(values) else values.shape).astype(np.int64)

    def images(self, first: int, end: int) -> Iterator[bytes | str]:
        """Yields the content, or the file, of the images of some rows."""
        (name,) = self.columns
        for image in self.arrow([name], first, end).column(name).to_pylist():
            content, path = (image["bytes"], image["path"]) if image else (None, None)
            if content is None and (path is None or not os.path.isfile(path)):
                raise ValueError(f"no image, and no file {shown(path)}")
            yield content if content is not None else str(path)

    def pixels(self, frame: Frame, first: int, end: int) -> np.ndarray:
        """Returns the images of some rows, [rows, c, h, w]."""
        images, made = self.images(first, end), np.empty((end - first, *frame.shape), np.float32)
        for k in range(end - first):
            made[k] = self.named(first + k, lambda: frame.pixels(next(images)))
        return made

    def named(self, row: int, work: Callable[[], T]) -> T:
        """Returns what some work on the features gives; its message, if it fails, names the row."""
        try:
            return work()
        except ValueError as error:
            names = ", ".join(map(shown, self.columns[:5]))
            raise ValueError(f"path must hold usable features in {names}, got {shown(self.name)} with {error} "
                             f"(row {row}, from 0)") from None  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- rows


def _values(column: Any) -> np.ndarray:
    """Returns a column of numbers, or of lists of them of one shape, as an array [rows, ...].

    Raises:
        ValueError: it holds something else.
    """
    types = extra("pyarrow", "hf", "huggingface").types
    array = column.combine_chunks()
    array, shape = getattr(array, "storage", array), [len(array)]
    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        lengths = np.array(array.value_lengths(), dtype=np.float64)  # NaN: no list
        if not (lengths == lengths[0]).all():
            raise ValueError("lists of several lengths")
        shape.append(int(lengths[0]))
        array = array.flatten()
    if not (types.is_integer(array.type) or types.is_floating(array.type) or types.is_boolean(array.type)):
        raise ValueError(f"{array.type}, no numbers")
    if array.null_count:
        raise ValueError(f"{array.null_count} empty cells")
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _read(part: _Part, shape: tuple[int, ...], frame: Frame | None, integers: bool) -> np.ndarray:
    """Returns the features of all rows [S, ...]: int64, or float32 where that is exact, as for pixels, or float64."""
    total = len(part.rows)
    exact = frame is not None or np.can_cast(part.numbers(0, 1).dtype, np.float32)
    x = np.empty((total, *shape), np.int64 if integers else np.float32 if exact else np.float64)
    for first in range(0, total, _BLOCK):
        end = min(first + _BLOCK, total)
        block = part.pixels(frame, first, end) if frame else part.numbers(first, end)
        if block.shape[1:] != shape:
            got = f"shape {list(block.shape[1:])}"
            raise ValueError(f"path must hold features of shape {list(shape)}, got {got} in {shown(part.name)}")
        if integers and block.max() > np.iinfo(np.int64).max:
            got = f"{block.max()} in {shown(part.name)}"
            raise ValueError(f"path must hold features below 2^63, got {got}; use features_as=real")
        x[first:end] = block
    return x


def _read_some(
    part: _Part, shape: tuple[int, ...], frame: Frame | None, integers: bool, rows: np.ndarray
) -> np.ndarray:
    """Returns the features of some rows, see `_read`."""
    return _read(_Part(part.rows.select(rows), part.name, part.columns), shape, frame, integers)


def _learned(parts: list[_Part], target: str, classes: Classes) -> Learned:
    """Returns the targets of each split; there are as many labels as the column's type names, if it does."""
    for part in parts:
        part.check(target, "target")
    kind = parts[0].rows.features[target]
    while getattr(kind, "feature", None) is not None:  # of a list
        kind = kind.feature
    names = getattr(kind, "names", None)
    if classes is not False and all(part.has_tokens(target) for part in parts):
        return _labels(parts, target, [part.tokens(target) for part in parts], names)
    columns = [part.column(target, "target") for part in parts]
    tables, frames = [table for table, _ in columns], [frame for _, frame in columns]
    if names is None or classes is False:
        return targets(tables, [Places(0, None, [])] * len(parts), frames, classes, "test_split")
    for table, frame in columns:
        check_named(table, 0, frame[0])
    return _labels(parts, target, [frame[0].to_numpy(np.int64) for frame in frames], names)


def _labels(parts: list[_Part], target: str, labels: list[np.ndarray], names: Sequence[str] | None) -> Learned:
    """Returns the labels 0, 1, ... of each split; as many as there are names, or, of None, as occur."""
    count = len(names) if names is not None else 1 + max(0, *(int(y.max()) for y in labels))
    for y, part in zip(labels, parts, strict=True):
        flat = y.reshape(len(y), -1)
        wrong = (flat < 0) | (flat >= count)
        for row in np.flatnonzero(wrong.any(axis=1))[:1]:
            got = f"{flat[row][wrong[row]][0]} in row {row}, from 0, of {shown(part.name)}"
            raise ValueError(f"path must hold labels 0 to {count - 1} in column {shown(target)}, got {got}")
    return Learned(labels, count, unseen(labels, "test_split", names))
