r"""Fed-Heart-Disease of FLamby: patients of four hospitals, each of which is a node.

References:
    A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano, "Heart Disease", UCI Machine Learning Repository, 1988.
    J. Ogier du Terrail et al., "FLamby: datasets and benchmarks for cross-silo federated learning in realistic
    healthcare settings", NeurIPS 2022.
"""

import os
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from batchednodes.data.paths import check_file
from batchednodes.data.sources.base import Dataset, DataSizes, Source
from batchednodes.data.sources.holdout import Rows, Standardize, dataset
from batchednodes.data.sources.users import Users, check_users, nodes_of
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import shown

if TYPE_CHECKING:
    import pandas
else:
    pandas = deferred("pandas")

_CENTRES = ("cleveland", "hungarian", "switzerland", "va")
"""Hospitals, in the order of their numbers in FLamby."""

_WIDTH, _LABEL, _MISSING = 14, 13, (10, 11, 12)
"""Columns of a file, which of them says how ill a patient is, and those that most patients lack."""

_NAMED = {2: (1, 2, 3, 4), 6: (0, 1, 2)}
"""Columns of names, and these: kind of chest pain, and of the electrocardiogram at rest."""

_TRAINED, _SEED = 0.66, 43
"""Share of the patients of a hospital that FLamby trains on, and the seed of its draw."""


@dataclass(frozen=True)
class HeartDisease(Source):
    """Fed-Heart-Disease as FLamby makes it: 13 features of 740 patients of four hospitals, and whether they are ill.

    Of UCI's files columns 10 to 12 are left out, then patients of whom something else is not known; names of columns 2
    and 6 become numbers 0 or 1, one for each name but the first. Each hospital keeps the patients that FLamby trains
    on, and tests on its others.

    Example:
        >>> from batchednodes.data.sources.heart_disease import HeartDisease
        >>> HeartDisease("heart", users="merged")  # a folder with UCI's four files
        HeartDisease(path='heart', users='merged', users_seed=None, standardize='train')
    """

    path: str
    """Folder with processed.cleveland.data, processed.hungarian.data, processed.switzerland.data and
    processed.va.data; a relative path starts at the working directory."""

    users: Users = "first"
    """Which hospitals are nodes, where there are more than `network.nodes`: the `first` of Cleveland, Hungary,
    Switzerland and Long Beach, some that are `sampled`, or all, `merged` into groups."""

    users_seed: int | None = None
    """Seed of the draw of sampled hospitals, in [0, 2^63); null: 0. All replicas have the same."""

    standardize: Standardize = "train"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training rows
    (`train`), or `all`."""

    def __post_init__(self) -> None:
        check_users(self.users, self.users_seed)

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; the files are read."""
        rows, test = self._rows(n)
        return DataSizes(len(rows.features), len(test.features), rows.features.shape[1:], 2, is_classes=True)

    def load(self, n: int, seed: int) -> Dataset:
        rows, test = self._rows(n)
        return dataset(rows, test, 0.5, seed, self.standardize)

    def _rows(self, n: int) -> tuple[Rows, Rows]:
        """Returns the training and test rows of n nodes."""
        nodes, parts = nodes_of(self.users, len(_CENTRES), n, self.users_seed), list[tuple[np.ndarray, ...]]()
        for node, centre in zip(nodes.tolist(), _CENTRES, strict=True):
            if node >= 0:
                x, y = _patients(os.path.join(self.path, f"processed.{centre}.data"))
                parts.append((x, y, np.full(len(y), node), _tested(y)))
        x, y, node, tested = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        train, test = (Rows(x[mask], y[mask], 2, node[mask]) for mask in (~tested, tested))
        return train, test


def _patients(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and labels of the patients of a hospital, of whom all is known."""
    check_file(path, "UCI", "path", "get the processed files of UCI's data set Heart Disease")
    try:
        table = pandas.read_csv(path, header=None, na_values="?", skipinitialspace=True)
        values = table.to_numpy(np.float64)
        if values.shape[1] != _WIDTH:
            raise ValueError(f"{values.shape[1]} columns")
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are such
        reason = str(error).strip().splitlines()[0][:200]
        rule = f"path must hold lines of {_WIDTH} numbers or ?"
        raise ValueError(f"{rule}, got {shown(path)}: {reason}") from None
    values = np.delete(values, _MISSING, 1)
    values = values[~np.isnan(values).any(1)]
    for column, names in _NAMED.items():
        wrong = ~np.isin(values[:, column], names)
        if wrong.any():
            got = f"{values[wrong][0, column]:g} in {shown(path)}"
            raise ValueError(f"path must hold one of {', '.join(map(str, names))} in column {column}, got {got}")
    if not len(values):
        raise ValueError(f"path must hold patients of whom all is known, got none in {shown(path)}")
    plain = [column for column in range(values.shape[1] - 1) if column not in _NAMED]
    dummies = [values[:, [column]] == names[1:] for column, names in _NAMED.items()]
    return np.concatenate([values[:, plain], *dummies], 1), (values[:, -1] > 0).astype(np.int64)


def _tested(labels: np.ndarray) -> np.ndarray:
    """Returns which patients of a hospital FLamby tests on: of both labels alike, where each has three or more."""
    split = import_module("sklearn.model_selection").train_test_split  # 1 to 2 s, which no other command should pay
    counts = np.bincount(labels, minlength=2)
    alike = labels if counts.min() > 2 else None
    _, chosen = split(np.arange(len(labels)), test_size=1 - _TRAINED, train_size=_TRAINED, random_state=_SEED,
                      stratify=alike)  # fmt: skip
    found = np.zeros(len(labels), bool)
    found[chosen] = True
    return found
