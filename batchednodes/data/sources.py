r"""Data sets: synthetic regression, and the handwritten digits that come with scikit-learn.

A data set lives on the host, once, whatever the number of nodes; a partition says which rows a node owns. Its sizes are
known before it is built, so that memory can be planned.

Letters: n nodes, S training samples, T test samples, d features, k targets, x features, y targets, w weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numba import njit

from batchednodes import rng
from batchednodes.values import check_sizes, shown

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


def _not_negative(unit: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0 [{unit}], got {shown(value)}")


def check_fraction(fraction: float) -> None:
    """Raises ValueError unless the fraction of test samples lies strictly between 0 and 1."""
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, both excluded [dimensionless], got {shown(fraction)}")


# ------------------------------------------------------------------------------------------------------------ split


def held_out(samples: int, fraction: float) -> int:
    """Returns the number of samples held out for testing: the nearest to the fraction, 1 to samples - 1."""
    return min(max(round(fraction * samples), 1), samples - 1)


def split(strata: Int64[np.ndarray, " S"], fraction: float, seed: int) -> np.ndarray:
    """Returns a mask [S] of the test rows: drawn at random, in proportion within each stratum.

    Rows are sorted by stratum, in random order within one, and every (S/T)-th is taken: exactly T = `held_out` rows,
    and of each stratum its share of T to within one row.

    Args:
        strata: label (or another class) of each row; all zero for a plain random split.
        fraction: share of rows held out; dimensionless, between 0 and 1.
        seed: of the network.
    """
    samples = len(strata)
    order = rng.generator(seed, rng.DATA, SPLIT).permutation(samples)
    order = order[np.argsort(strata[order], kind="stable")]
    ticks = np.arange(samples + 1) * held_out(samples, fraction) // samples
    mask = np.empty(samples, dtype=bool)
    mask[order] = np.diff(ticks) > 0
    return mask


# -------------------------------------------------------------------------------------------------------- synthetic

Rule = Callable[[np.ndarray], np.ndarray]


@njit(nogil=True, cache=True)
@no_type_check
def _linear(x, w, each):  # noqa: ANN001, ANN202  (numba infers the types)
    """Returns y[r] = <w[r // each], x[r]>, summed in float64 in the order of the features."""
    y = np.zeros((x.shape[0], 1))
    for r in range(x.shape[0]):
        i = r // each
        for a in range(x.shape[1]):
            y[r, 0] += w[i, a] * x[r, a]
    return y


@njit(nogil=True, cache=True)
@no_type_check
def _network(x, inner, outer):  # noqa: ANN001, ANN202
    """Returns y[r] = sum_h outer[h] tanh(<inner[h], x[r]>)."""
    y = np.zeros((x.shape[0], 1))
    for r in range(x.shape[0]):
        for h in range(outer.size):
            z = 0.0
            for a in range(x.shape[1]):
                z += inner[h, a] * x[r, a]
            y[r, 0] += outer[h] * math.tanh(z)
    return y


def _regression(
    shape: tuple[int, int, int, int], noise: float, seed: int, rule: Rule, test_rule: Rule | None = None
) -> Dataset:
    """Returns standard normal features with targets rule(x) + noise, laid out node by node.

    The features and the noise of a node do not depend on n: a larger network adds nodes and changes none.

    Args:
        shape: (nodes, samples of a node, test samples, features).
        noise: standard deviation of the noise, of training and test targets alike.
        seed: of the network.
        rule: noiseless targets [S, 1] of training features [S, d].
        test_rule: the same for test features; None: `rule`.
    """
    n, each, test_samples, d = shape

    def normal(purpose: int, rows: int, width: int, dtype: type) -> np.ndarray:
        return rng.generator(seed, rng.DATA, purpose).standard_normal((rows, width), dtype=dtype)

    x, x_test = normal(FEATURES, n * each, d, np.float32), normal(TEST_FEATURES, test_samples, d, np.float32)
    y, y_test = rule(x), (test_rule or rule)(x_test)
    y += noise * normal(NOISE, n * each, 1, np.float64)
    y_test += noise * normal(TEST_NOISE, test_samples, 1, np.float64)
    node = np.repeat(np.arange(n, dtype=np.int64), each)
    return Dataset(x, y, x_test, y_test, classes=None, node=node)


@dataclass(frozen=True)
class LinearRegression(Source):
    """Linear regression with Gaussian features: y = <w*, x> + noise, x ~ N(0, I), w* ~ N(0, I) / sqrt(d).

    Samples are made node by node (a natural partition). Host memory: 4 n s d + 16 n s bytes for s samples a node.
    """

    features: int = 10
    """Features d of a sample; at least 1."""

    samples_per_node: int = 20
    """Training samples s of each node, so n s in all; at least 1."""

    noise: float = 0.1
    """Standard deviation of the noise of training and test targets [unit of the targets]; at least 0."""

    test_samples: int = 1000
    """Test samples, drawn from the common w*; at least 1."""

    heterogeneity: float = 0.0
    """Spread h of the nodes' own optima, w*_i = w* + h N(0, I) / sqrt(d) [dimensionless]; at least 0.
    Only the natural partition keeps a node's own samples at that node."""

    def __post_init__(self) -> None:
        check_sizes(features=self.features, samples_per_node=self.samples_per_node, test_samples=self.test_samples)
        _not_negative("unit of the targets", noise=self.noise)
        _not_negative("dimensionless", heterogeneity=self.heterogeneity)

    def sizes(self, n: int) -> DataSizes:
        return DataSizes(n * self.samples_per_node, self.test_samples, (self.features,), 1, is_classes=False)

    def load(self, n: int, seed: int) -> Dataset:
        d, each = self.features, self.samples_per_node
        w = rng.generator(seed, rng.DATA, WEIGHTS).standard_normal((1, d)) / math.sqrt(d)
        own = rng.generator(seed, rng.DATA, NODE_WEIGHTS).standard_normal((n, d)) / math.sqrt(d)
        own = w + self.heterogeneity * own
        return _regression(
            (n, each, self.test_samples, d),
            self.noise,
            seed,
            lambda x: _linear(x, own, each),
            lambda x: _linear(x, w, max(len(x), 1)),
        )


@dataclass(frozen=True)
class NonlinearRegression(Source):
    r"""Regression on a random two-layer network: y = <v, tanh(A x)> + noise, x ~ N(0, I).

    A ~ N(0, 1) / sqrt(d) and v ~ N(0, 1) / sqrt(hidden) are one teacher for all nodes. Samples are made node by node (a
    natural partition). Host memory: 4 n s d + 16 n s bytes for s samples a node.
    """

    features: int = 10
    """Features d of a sample; at least 1."""

    samples_per_node: int = 20
    """Training samples s of each node, so n s in all; at least 1."""

    noise: float = 0.1
    """Standard deviation of the noise of training and test targets [unit of the targets]; at least 0."""

    test_samples: int = 1000
    """Test samples; at least 1."""

    hidden: int = 16
    """Hidden units of the teacher; at least 1."""

    def __post_init__(self) -> None:
        check_sizes(features=self.features, samples_per_node=self.samples_per_node, test_samples=self.test_samples)
        check_sizes(hidden=self.hidden)
        _not_negative("unit of the targets", noise=self.noise)

    def sizes(self, n: int) -> DataSizes:
        return DataSizes(n * self.samples_per_node, self.test_samples, (self.features,), 1, is_classes=False)

    def load(self, n: int, seed: int) -> Dataset:
        d, h = self.features, self.hidden
        weights = rng.generator(seed, rng.DATA, WEIGHTS).standard_normal((h, d + 1))
        inner, outer = weights[:, :d] / math.sqrt(d), weights[:, d] / math.sqrt(h)
        shape = (n, self.samples_per_node, self.test_samples, d)
        return _regression(shape, self.noise, seed, lambda x: _network(x, inner, outer))


# ----------------------------------------------------------------------------------------------------------- digits

_DIGITS = 1797


@dataclass(frozen=True)
class Digits(Source):
    """Handwritten digits, 1,797 images of 8 x 8 pixels in [0, 1], flattened to 64 features; 10 labels.

    Reference:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; bundled with scikit-learn.
    """

    test_fraction: float = 0.2
    """Share of the images held out for testing, in proportion for each label [dimensionless]; between 0 and 1."""

    def __post_init__(self) -> None:
        check_fraction(self.test_fraction)

    def sizes(self, n: int) -> DataSizes:
        test = held_out(_DIGITS, self.test_fraction)
        return DataSizes(_DIGITS - test, test, (64,), 10, is_classes=True)

    def load(self, n: int, seed: int) -> Dataset:
        from sklearn.datasets import load_digits  # noqa: PLC0415  (1 to 2 s, which no other command should pay)

        pixels, labels = load_digits(return_X_y=True)
        x, y = np.asarray(pixels / 16, dtype=np.float32), np.asarray(labels, dtype=np.int64)  # sixteenths are exact
        test = split(y, self.test_fraction, seed)
        return Dataset(x[~test], y[~test], x[test], y[test], classes=10)
