"""Fed-TCGA-BRCA of FLamby: breast cancer patients of six regions, each of which is a node, and how long they survive.

Reference:
    J. Ogier du Terrail et al., "FLamby: datasets and benchmarks for cross-silo federated learning in realistic
    healthcare settings", NeurIPS 2022.
"""

import os
from dataclasses import dataclass
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

_TABLE, _SPLIT = "brca.csv", "train_test_split.csv"
"""Files of FLamby: patients, and who of them is trained on, in which region."""

_CENTRES, _FEATURES = 6, 39
"""Regions, numbered from 0, and features, which stand between the patient's name, pid, and E and T."""


@dataclass(frozen=True)
class TcgaBrca(Source):
    """Fed-TCGA-BRCA as FLamby has it: 39 features of 1,088 patients of six regions, with FLamby's split.

    Targets are two real numbers: E, 1 where the patient died and 0 where nothing more is known, and T, the days until
    then. They are for a loss of your own, as Cox's partial likelihood, and a model that puts out two numbers, of which
    such a loss takes the first for the risk. A mean square of them means nothing.

    Example:
        >>> from batchednodes.data.sources.tcga_brca import TcgaBrca
        >>> TcgaBrca("fed_tcga_brca")  # a folder with FLamby's two files
        TcgaBrca(path='fed_tcga_brca', users='first', users_seed=None, standardize='none')
    """

    path: str
    """Folder with brca.csv and train_test_split.csv; a relative path starts at the working directory."""

    users: Users = "first"
    """Which regions are nodes, where there are more than `network.nodes`: the `first` of FLamby's numbers, some that
    are `sampled`, or all, `merged` into groups."""

    users_seed: int | None = None
    """Seed of the draw of sampled regions, in [0, 2^63); null: 0. All replicas have the same."""

    standardize: Standardize = "none"
    """Rows over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, as FLamby, the
    training rows (`train`), or `all`."""

    def __post_init__(self) -> None:
        check_users(self.users, self.users_seed)

    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes; the files are read."""
        rows, test = self._rows(n)
        return DataSizes(len(rows.features), len(test.features), (_FEATURES,), 2, is_classes=False)

    def load(self, n: int, seed: int) -> Dataset:
        rows, test = self._rows(n)
        return dataset(rows, test, 0.5, seed, self.standardize)

    def _rows(self, n: int) -> tuple[Rows, Rows]:
        """Returns the training and test rows of n nodes, in the order of the table within each node."""
        node = nodes_of(self.users, _CENTRES, n, self.users_seed)
        patients, values = _patients(os.path.join(self.path, _TABLE))
        folds = _folds(os.path.join(self.path, _SPLIT))
        found = list[Rows]()
        for part in ("train", "test"):
            centre = np.array([_centre(folds.get(pid), part) for pid in patients])
            owner = np.where(centre < 0, -1, node[centre])
            order = np.argsort(owner, kind="stable")
            kept = order[owner[order] >= 0]
            if not kept.size:
                raise ValueError(f"path must hold patients of fold {part}, got none in {shown(self.path)}")
            found.append(Rows(values[kept, :_FEATURES], values[kept, _FEATURES:], None, owner[kept]))
        return found[0], found[1]


def _centre(fold: str | None, part: str) -> int:
    """Returns the region of a patient who is in one of the parts; -1: the patient is in the other, or in none."""
    name, _, centre = (fold or "").partition("_")
    return int(centre) if name == part else -1


def _read(path: str) -> "pandas.DataFrame":
    check_file(path, "CSV", "path", "get it from flamby/datasets/fed_tcga_brca of FLamby")
    try:
        return pandas.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are such
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"path must hold tables as CSV, got {shown(path)}: {reason}") from None


def _patients(path: str) -> tuple[list[str], np.ndarray]:
    """Returns the names of all patients, and their features, E and T."""
    table = _read(path)
    names = [*map(str, table.columns)]
    if len(names) != _FEATURES + 3 or (names[0], *names[-2:]) != ("pid", "E", "T"):
        rule = f"path must hold columns pid, {_FEATURES} features, E and T"
        raise ValueError(f"{rule}, got {len(names)} columns, {names[0]} to {names[-1]}, in {shown(path)}")
    try:
        values = table.iloc[:, 1:].to_numpy(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"path must hold numbers for each patient, got {shown(path)}: {str(error)[:200]}") from None
    if not np.isfinite(values).all() or not np.isin(values[:, -2], (0, 1)).all():
        raise ValueError(f"path must hold finite numbers, and E of 0 or 1, got others in {shown(path)}")
    return [*table["pid"].astype(str)], values


def _folds(path: str) -> dict[str, str]:
    """Returns the part and region of each patient, as "train_0"."""
    table, known = _read(path), {f"{part}_{k}" for part in ("train", "test") for k in range(_CENTRES)}
    if not {"pid", "fold2"} <= {*table.columns}:
        raise ValueError(f"path must hold columns pid and fold2, got {', '.join(table.columns)} in {shown(path)}")
    found = dict(zip(table["pid"].astype(str), table["fold2"].astype(str), strict=True))
    wrong = next((fold for fold in found.values() if fold not in known), None)
    if wrong is not None:
        raise ValueError(f"path must hold fold2 as train_0 to test_{_CENTRES - 1}, got {shown(wrong)} in {shown(path)}")
    return found
