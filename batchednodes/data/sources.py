r"""Data sets and their sources: what every source gives, and what is checked.

A data set lives on the host, once, whatever the number of nodes; a partition says which rows a node owns. Its sizes are
known before it is built, so that memory can be planned.

Letters: S training samples, T test samples, k targets.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

FEATURES, NOISE, WEIGHTS, NODE_WEIGHTS, TEST_FEATURES, TEST_NOISE, SPLIT = range(7)
"""What a draw of the stream `rng.DATA` is for: the second part of its address."""

Targets = Int64[np.ndarray, " S"] | Float64[np.ndarray, "S k"] | Float32[np.ndarray, "S k"]
TestTargets = Int64[np.ndarray, " T"] | Float64[np.ndarray, "T k"] | Float32[np.ndarray, "T k"]


@dataclass(frozen=True)
class DataSizes:
    """The sizes of a data set, known without building it."""

    samples: int
    """Training samples S."""

    test_samples: int
    """Test samples T."""

    features: tuple[int, ...]
    """Shape of the features of one sample."""

    outputs: int
    """Labels of a classification, or targets k of one sample of a regression."""

    is_classes: bool
    """Whether the targets are labels."""

    @property
    def shape(self) -> tuple[tuple[int, ...], int, bool]:
        """What a model for the data depends on."""
        return self.features, self.outputs, self.is_classes


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples, in host memory."""

    features: Float64[np.ndarray, "S ..."] | Float32[np.ndarray, "S ..."]
    """Training features: float32 where that is exact for the source, else float64."""

    targets: Targets
    """Labels 0, 1, ..., classes - 1, or real targets, k a sample."""

    test_features: Float64[np.ndarray, "T ..."] | Float32[np.ndarray, "T ..."]
    """Test features, shared by all nodes."""

    test_targets: TestTargets
    """Test labels or targets."""

    classes: int | None
    """Number of labels; None for a regression."""

    node: Int64[np.ndarray, " S"] | None = None
    """Natural partition: the node that owns each training row."""

    @property
    def sizes(self) -> DataSizes:
        """The sizes of what was built; equal to `Source.sizes`."""
        is_classes = self.classes is not None
        outputs = self.classes if self.classes is not None else self.targets.shape[1]
        return DataSizes(len(self.features), len(self.test_features), self.features.shape[1:], outputs, is_classes)


class Source(ABC):
    """Where the data come from."""

    @abstractmethod
    def sizes(self, n: int) -> DataSizes:
        """Returns the sizes of the data set for n nodes, without building it."""

    @abstractmethod
    def load(self, n: int, seed: int) -> Dataset:
        """Returns the data set of a network of n nodes: a pure function of (self, n, seed).

        Args:
            n: number of nodes of one network; at least 1.
            seed: of the network; 0 <= seed < 2^63.

        Raises:
            ValueError: what the user gave cannot be read or used.
        """


# ----------------------------------------------------------------------------------------------------------- checks


def check_dataset(dataset: Dataset) -> None:
    """Checks that a data set can be learned from: at least one sample, finite numbers, labels within range.

    Raises:
        ValueError: names the array, the rule, how many entries break it and the first row that does.
    """
    for prefix in ("", "test_"):
        features, targets = getattr(dataset, f"{prefix}features"), getattr(dataset, f"{prefix}targets")
        check_rows(features, targets, dataset.classes, prefix)


def check_rows(features: np.ndarray, targets: np.ndarray, classes: int | None, prefix: str = "") -> None:
    """Checks the features and targets of the same rows, as `check_dataset` does.

    Args:
        features: of any shape [S, ...].
        targets: labels [S], or real targets [S, k].
        classes: number of labels; None for a regression.
        prefix: of the names in messages, "test_" for test rows.
    """
    if features.size == 0:
        raise ValueError(f"{prefix}features must hold at least one number, got shape {features.shape}: give samples")
    if len(features) != len(targets):
        raise ValueError(
            f"{prefix}targets must have one entry for each of the {len(features)} rows of {prefix}features, "
            f"got {len(targets)}"
        )
    _finite(features, f"{prefix}features")
    if classes is None:
        _finite(targets, f"{prefix}targets")
        return
    wrong = np.flatnonzero((targets < 0) | (targets >= classes))
    if wrong.size:
        raise ValueError(
            f"{prefix}targets must be labels from 0 to {classes - 1}, got {targets[wrong[0]]} at row {wrong[0]} "
            f"({wrong.size} of {len(targets)} rows): number the labels 0, 1, 2, ..."
        )


def _finite(values: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(values)
    count = int(np.count_nonzero(bad))
    if count:
        row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        raise ValueError(
            f"{name} must be finite, got {count} non-finite values, the first in row {row}: remove or fill those rows"
        )
