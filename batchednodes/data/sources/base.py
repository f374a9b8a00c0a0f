r"""Data sets and their sources: what every source gives, and what is checked.

A data set lives on the host, once, whatever the number of nodes; a partition says which rows a node owns. Its sizes are
known before it is built, so that memory can be planned.

Notation: S training samples, T test samples, k targets.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from batchednodes.data.sources.mapped import MappedRows

FEATURES, NOISE, WEIGHTS, NODE_WEIGHTS, TEST_FEATURES, TEST_NOISE, SPLIT = range(7)
"""What a draw of the stream `rng.DATA` is for: the second part of its address."""

Features = Float64[np.ndarray, "S ..."] | Float32[np.ndarray, "S ..."] | Int64[np.ndarray, "S ..."] | MappedRows
TestFeatures = Float64[np.ndarray, "T ..."] | Float32[np.ndarray, "T ..."] | Int64[np.ndarray, "T ..."]
Targets = Int64[np.ndarray, "S ..."] | Float64[np.ndarray, "S k"] | Float32[np.ndarray, "S k"]
TestTargets = Int64[np.ndarray, "T ..."] | Float64[np.ndarray, "T k"] | Float32[np.ndarray, "T k"]

Classes = bool | Literal["auto"]
"""Whether targets are names of classes; `auto`: integers and texts are, real numbers are not."""

FeaturesAs = Literal["auto", "integers", "real"]
"""What numbers features are to be: integers, which a module gets as int64; reals, in the dtype of the run; or auto."""


@dataclass(frozen=True)
class DataSizes:
    """The sizes of a data set, known without building it.

    Example:
        >>> from batchednodes.data import Digits
        >>> sizes = Digits().sizes(100)  # known without loading them for a hundred nodes
        >>> sizes.samples, sizes.test_samples, sizes.features, sizes.outputs
        (1438, 359, (64,), 10)
    """

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

    integers: bool = False
    """Whether the features are integers, as tokens are."""

    target_shape: tuple[int, ...] = ()
    """Shape of the labels of one sample; (): it has one label, or real targets."""

    first: Int64[np.ndarray, " ..."] | None = field(default=None, compare=False, repr=False)
    """Features of some sample, where they are integers, which a model can be tried on; None: not known."""

    notes: tuple[str, ...] = field(default=(), compare=False)
    """What is odd about the targets and may be a mistake, in sentences."""

    mapped: bool = False
    """Whether training features stay in files."""

    @property
    def shape(self) -> tuple[tuple[int, ...], int, bool, bool, tuple[int, ...]]:
        """What a model for the data depends on: (features, outputs, is_classes, integers, target_shape)."""
        return self.features, self.outputs, self.is_classes, self.integers, self.target_shape

    @property
    def one_label(self) -> bool:
        """Whether each sample has one label."""
        return self.is_classes and not self.target_shape

    @property
    def numbers(self) -> int:
        """Numbers of one sample: features and targets, a label counted once for each output."""
        return math.prod(self.features) + (math.prod(self.target_shape) if self.target_shape else self.outputs)


@dataclass(frozen=True, eq=False)
class OwnTests:
    """Test rows of the nodes' own, as they see them: node i has those from offsets[i] to offsets[i + 1]."""

    features: TestFeatures
    """Features, node by node."""

    targets: TestTargets
    """Labels or targets, likewise."""

    offsets: Int64[np.ndarray, " ends"]
    """Where each node's rows begin, and their number at the end: n + 1 entries. A node may have none."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples, in host memory."""

    features: Features
    """Training features: integers, or float32 where that is exact for the source, else float64; some stay in files."""

    targets: Targets
    """Labels 0, 1, ..., classes - 1, one or an array of one shape a sample, or real targets, k a sample."""

    test_features: TestFeatures
    """Test features, shared by all nodes."""

    test_targets: TestTargets
    """Test labels or targets."""

    classes: int | None
    """Number of labels; None for a regression."""

    node: Int64[np.ndarray, " S"] | None = None
    """Natural partition: the node that owns each training row."""

    optimum: Float64[np.ndarray, " p"] | None = None
    """Of quadratic losses, the model at which the test loss is least; None: it is not known."""

    test_node: Int64[np.ndarray, " T"] | None = None
    """Natural partition: the node that made each test row, -1 where it is none of the run; None: that is not known."""

    own: OwnTests | None = None
    """Test rows of the nodes' own; None: they have none, or none yet."""

    @property
    def sizes(self) -> DataSizes:
        """The sizes of what was built; equal to `Source.sizes`."""
        is_classes, integers = self.classes is not None, self.features.dtype.kind == "i"
        outputs = self.classes if self.classes is not None else self.targets.shape[1]
        return DataSizes(
            len(self.features),
            len(self.test_features),
            self.features.shape[1:],
            outputs,
            is_classes,
            integers,
            self.targets.shape[1:] if is_classes else (),
            self.features[0] if integers else None,
            mapped=isinstance(self.features, MappedRows),
        )


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

    def demands_integers(self) -> bool:
        """Returns whether a module must take features that are integers as they are."""
        return False

    def is_quadratic(self) -> bool:
        """Returns whether nodes own quadratic losses, with full gradients, of vectors x that begin at 0."""
        return False

    def gradient_noise(self) -> float:
        """Returns the length of the random part of a gradient, of quadratic losses."""
        return 0.0


def stay_integers(rule: FeaturesAs, held: np.dtype, standardize: str) -> bool:
    """Returns whether features stay integers, which a source holds as numbers of some type.

    By `auto` those of 8 bits, as pixels are, and truth values become reals.

    Args:
        rule: the setting.
        held: type of the numbers.
        standardize: the rows over which they are to be standardised, or "none".

    Raises:
        ValueError: integers are asked for, and they are none; or integers are to be standardised.
    """
    if rule == "integers" and held.kind not in "iu":
        raise ValueError(
            f"features_as must be auto or real where features are no integers, got integers and {held}; save them as "
            "integers"
        )
    if rule == "real" or held.kind not in "iu" or (rule == "auto" and held.itemsize == 1):
        return False
    refuse_standardized(standardize)
    return True


def refuse_standardized(standardize: str) -> None:
    """Raises ValueError if features that stay integers are to be standardised, over some rows or "none"."""
    if standardize != "none":
        raise ValueError(
            f"standardize must be none where features are integers, got {standardize}; use features_as=real"
        )


# ----------------------------------------------------------------------------------------------------------- checks


def check_dataset(dataset: Dataset) -> None:
    """Checks that a data set can be learned from: at least one sample, finite numbers, labels within range.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.sources.base import Dataset, check_dataset
        >>> features, labels = np.array([[0.0], [np.nan]]), np.array([0, 1])
        >>> check_dataset(Dataset(features, labels, features[:1], labels[:1], classes=2))
        Traceback (most recent call last):
            ...
        ValueError: features must be finite, got 1 non-finite values, the first in row 1: remove or fill those rows

    Raises:
        ValueError: names the array, the rule, how many entries break it and the first row that does.
    """
    for prefix in ("", "test_"):
        features, targets = getattr(dataset, f"{prefix}features"), getattr(dataset, f"{prefix}targets")
        check_rows(features, targets, dataset.classes, prefix)


def check_rows(features: np.ndarray | MappedRows, targets: np.ndarray, classes: int | None, prefix: str = "") -> None:
    """Checks the features and targets of the same rows, as `check_dataset` does.

    Args:
        features: of any shape [S, ...]; what stays in a file is checked as it is read.
        targets: labels [S] or [S, ...], or real targets [S, k].
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
    if isinstance(features, np.ndarray):
        _finite(features, f"{prefix}features")
    if classes is None:
        _finite(targets, f"{prefix}targets")
        return
    flat = targets.reshape(len(targets), -1)
    wrong = (flat < 0) | (flat >= classes)
    rows = np.flatnonzero(wrong.any(axis=1))
    if rows.size:
        got = flat[rows[0]][wrong[rows[0]]][0]
        raise ValueError(
            f"{prefix}targets must be labels from 0 to {classes - 1}, got {got} at row {rows[0]} "
            f"({rows.size} of {len(targets)} rows): number the labels 0, 1, 2, ..."
        )


def _finite(values: np.ndarray, name: str) -> None:
    if values.dtype.kind == "i":
        return
    bad = ~np.isfinite(values)
    count = int(np.count_nonzero(bad))
    if count:
        row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        raise ValueError(
            f"{name} must be finite, got {count} non-finite values, the first in row {row}: remove or fill those rows"
        )
