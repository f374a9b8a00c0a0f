"""Data sets that come with scikit-learn."""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import numpy as np

from batchednodes.data.sources.base import Dataset, DataSizes, Source
from batchednodes.data.sources.holdout import Rows, Standardize, check_fraction, check_holdout, dataset, held_out

_SHAPES = {
    "iris": (150, 4, 3, True),
    "wine": (178, 13, 3, True),
    "breast_cancer": (569, 30, 2, True),
    "digits": (1797, 64, 10, True),
    "diabetes": (442, 10, 1, False),
    "linnerud": (20, 3, 3, False),
}
"""Samples S, features d, labels or targets k, and whether there are labels."""


def _sizes(name: str, fraction: float) -> DataSizes:
    samples, features, outputs, is_classes = _SHAPES[name]
    test = held_out(samples, fraction)
    return DataSizes(samples - test, test, (features,), outputs, is_classes)


def _rows(name: str) -> Rows:
    read = getattr(import_module("sklearn.datasets"), f"load_{name}")  # 1 to 2 s, which no other command should pay
    x, y = (np.array(part) for part in read(return_X_y=True))
    if name == "digits":
        x = np.asarray(x / 16, dtype=np.float32)  # sixteenths are exact
    if not _SHAPES[name][3]:
        return Rows(x, y.reshape(len(y), -1).astype(np.float64), None)
    return Rows(x, y.astype(np.int64), _SHAPES[name][2])


@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits, 1,797 images of 8 x 8 pixels in [0, 1], flattened to 64 features; 10 labels.

    Example:
        >>> from batchednodes.data import Digits
        >>> data = Digits(test_fraction=0.2).load(10, seed=0)
        >>> data.features.shape, data.test_features.shape, data.classes
        ((1438, 64), (359, 64), 10)
        >>> data.features.min().item(), data.features.max().item()
        (0.0, 1.0)

    Reference:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; bundled with scikit-learn.
    """

    test_fraction: float = 0.2
    """Share of the images held out for testing, in proportion for each label [dimensionless]; between 0 and 1."""

    def __post_init__(self) -> None:
        check_fraction(self.test_fraction)

    def sizes(self, n: int) -> DataSizes:
        return _sizes("digits", self.test_fraction)

    def load(self, n: int, seed: int) -> Dataset:
        return dataset(_rows("digits"), None, self.test_fraction, seed, "none")


@dataclass(frozen=True)
class Sklearn(Source):
    """A small data set that comes with scikit-learn, as its `load_...` functions give it; pixels of digits in [0, 1].

    iris (150 samples, 4 features, 3 labels), wine (178, 13, 3), breast_cancer (569, 30, 2), digits (1,797, 64, 10);
    and for regression diabetes (442 samples, 10 features, 1 target) and linnerud (20, 3, 3).

    Example:
        >>> from batchednodes.data import Sklearn
        >>> sizes = Sklearn("wine").sizes(10)
        >>> sizes.samples, sizes.features, sizes.outputs
        (142, (13,), 3)
        >>> data = Sklearn("wine", standardize="train").load(10, seed=0)
        >>> abs(data.features.mean(axis=0)).round(3).max().item(), data.features.std(axis=0).round(3).min().item()
        (0.0, 1.0)
    """

    name: Literal["iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud"] = "iris"
    """Which of these data sets."""

    test_fraction: float = 0.2
    """Share of the samples held out for testing, in proportion for each label [dimensionless]; between 0 and 1."""

    test_seed: int | None = None
    """Seed of the draw of the test samples; in [0, 2^63); null: that of the network."""

    standardize: Standardize = "none"
    """Samples over which features are shifted and scaled to mean 0 and standard deviation 1: `none`, the training
    samples (`train`), or `all`."""

    def __post_init__(self) -> None:
        check_holdout(self.test_fraction, self.test_seed, None, "")

    def sizes(self, n: int) -> DataSizes:
        return _sizes(self.name, self.test_fraction)

    def load(self, n: int, seed: int) -> Dataset:
        chosen = seed if self.test_seed is None else self.test_seed
        return dataset(_rows(self.name), None, self.test_fraction, chosen, self.standardize)
