r"""Files of libsvm (svmlight): a sample a line, its target and then index:value for each feature that is not zero.

Notation: S samples, d features, x features, y targets.
"""

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from batchednodes.data.paths import check_file
from batchednodes.data.sources.base import Classes, Dataset, DataSizes, Source
from batchednodes.data.sources.holdout import Rows, Standardize, check_holdout, dataset, held_out
from batchednodes.data.sources.table_columns import Learned, numbered
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import check_sizes, shown

if TYPE_CHECKING:
    import pandas
else:
    pandas = deferred("pandas")

_NUMBER = rb"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?))"
_SAMPLE = re.compile(
    rb"\s*(" + _NUMBER + rb"(\s+qid:\d+)?(\s+(?:\d{1,9}|1\d{9}|2[01]\d{8}):" + _NUMBER + rb")*)?\s*(#.*)?", re.DOTALL
)

_FIRST = 1 << 19
"""Bytes of a file that are looked at before scikit-learn, a second's import, reads it."""


@dataclass(frozen=True)
class Libsvm(Source):
    """A text file of libsvm: `label index:value index:value ...` a line; what is not listed is 0.

    Whole targets are names of classes, numbered in their sorted order (-1 and +1 become 0 and 1); real ones make a
    regression. The data become dense: S d numbers.

    Example:
        >>> from sklearn.datasets import dump_svmlight_file, load_iris
        >>> from batchednodes.data import Libsvm
        >>> dump_svmlight_file(*load_iris(return_X_y=True), "iris.txt")
        >>> Libsvm("iris.txt").sizes(10).features
        (4,)
    """

    path: str
    """The file; a relative path starts at the working directory."""

    features: int | None = None
    """Number of features d; at least 1; null: as many as the largest index needs."""

    zero_based: bool | Literal["auto"] = "auto"
    """Whether the first feature has index 0, not 1; `auto`: where an index is 0."""

    classes: Classes = "auto"
    """Whether targets are names of classes; `auto`: where all of them are whole."""

    test_path: str | None = None
    """A second file of the same features, whose rows are tested on; null: a part of the first."""

    test_fraction: float = 0.2
    """Share of the rows held out for testing where `test_path` is null, in proportion for each label [dimensionless];
    between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of those rows; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, self.test_path, "test_path")
        check_sizes(features=self.features)

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; features are read, but not made dense."""
        (x, *_), learned = self._read()
        train, *tests = (len(y) for y in learned.values)
        test = tests[0] if tests else held_out(train, self.test_fraction)
        return learned.sizes(train if tests else train - test, test, (x.shape[1],))

    def load(self, n: int, seed: int) -> Dataset:
        parts, learned = self._read()
        rows, *test = (Rows(x.toarray(), y, learned.classes) for x, y in zip(parts, learned.values, strict=True))
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(rows, test[0] if test else None, self.test_fraction, chosen, self.standardize)

    def _read(self) -> tuple[list[Any], Learned]:
        """Returns the features of each file (CSR), and the targets of all."""
        given = {"path": self.path, "test_path": self.test_path}
        read = {key: _file(path, key, self.test_path is None) for key, path in given.items() if path is not None}
        parts = _shifted([x for x, _ in read.values()], self.zero_based, self.path)
        needed = max(x.shape[1] for x in parts)
        if needed > (self.features or needed):
            raise ValueError(f"features must be at least {needed}, the largest number of one in the files, "
                             f"got {self.features}")  # fmt: skip
        for x in parts:
            x.resize(x.shape[0], self.features or needed)
        if parts[0].shape[1] == 0:
            raise ValueError(f"path must hold a feature, got none in {shown(self.path)}: give features=..., or samples")
        targets = [y for _, y in read.values()]
        if self.classes is False or (self.classes == "auto" and any((y != np.floor(y)).any() for y in targets)):
            return parts, Learned([y.reshape(-1, 1) for y in targets], None)
        return parts, numbered([pandas.Series(y) for y in targets], "test_path")


def _file(path: str, key: str, alone: bool) -> tuple[Any, np.ndarray]:
    """Returns the features [S, 1 + largest index] (CSR) and targets [S] of a file; alone: whether rows are held out."""
    check_file(path, "libsvm", key)
    _check_lines(path, key, _FIRST)
    read = import_module("sklearn.datasets").load_svmlight_file  # 1 to 2 s, which no other command should pay
    try:
        with open(path, "rb") as file:
            x, y = read(file, zero_based=True)
    except MemoryError:
        raise
    except Exception:  # whatever a damaged file makes the reader raise
        _check_lines(path, key)
        rule = f"{key} must hold lines whose indices rise and are below 2^31"
        raise ValueError(f"{rule}, got others in {shown(path)}: sort each line") from None
    least = 2 if alone else 1
    if len(y) < least:
        raise ValueError(f"{key} must hold {least} samples or more, got {len(y)} in {shown(path)}: give samples")
    for values, rows in ((y, np.arange(len(y))), (x.data, np.repeat(np.arange(len(y)), np.diff(x.indptr)))):
        wrong = rows[~np.isfinite(values)]
        if wrong.size:
            got = f"{wrong.size} others in {shown(path)}, the first in sample {wrong[0]}, from 0"
            raise ValueError(f"{key} must hold finite numbers, got {got}: remove or fill those samples")
    return x, y


def _check_lines(path: str, key: str, most: int = sys.maxsize) -> None:
    """Refuses a file with a line, among its first bytes, that is no sample."""
    with open(path, "rb") as file:
        for count, line in enumerate(file, 1):
            if len(line) <= most and not _SAMPLE.fullmatch(line):
                got = f"{shown(line[:60].decode(errors='replace').strip())} at line {count} of {shown(path)}"
                raise ValueError(f"{key} must hold lines 'target index:value index:value ...', got {got}") from None
            most -= len(line)
            if most <= 0:
                return


def _shifted(parts: list[Any], zero_based: bool | Literal["auto"], path: str) -> list[Any]:
    """Returns features as columns 0, 1, ..., from those numbered by the indices of the files."""
    least = min((int(x.indices.min()) for x in parts if x.nnz), default=1)
    if zero_based is False and least == 0:
        raise ValueError(f"zero_based must be true or auto where an index is 0, got false with one in {shown(path)}")
    return parts if zero_based is True or (zero_based == "auto" and least == 0) else [x[:, 1:] for x in parts]
