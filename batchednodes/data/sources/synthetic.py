r"""Synthetic regression, made node by node.

Notation: n nodes, s samples of a node, S training samples, d features, h hidden units, x features, y targets, w
weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.data.sources.base import (
    FEATURES,
    NODE_WEIGHTS,
    NOISE,
    TEST_FEATURES,
    TEST_NOISE,
    WEIGHTS,
    Dataset,
    DataSizes,
    Source,
)
from batchednodes.numerics import rng
from batchednodes.numerics.values import check_sizes, shown

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


def _not_negative(unit: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0 [{unit}], got {shown(value)}")


@dataclass(frozen=True)
class LinearRegression(Source):
    """Linear regression with Gaussian features: y = <w*, x> + noise, x ~ N(0, I), w* ~ N(0, I) / sqrt(d).

    Samples are made node by node (a natural partition). Host memory: 4 n s d + 16 n s bytes for s samples a node.

    Example:
        >>> from batchednodes.data import LinearRegression
        >>> data = LinearRegression(features=3, samples_per_node=5, test_samples=100).load(4, seed=0)
        >>> data.features.shape, data.test_targets.shape
        ((20, 3), (100, 1))
        >>> data.node.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5  # each node has made its own
        True
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

    Example:
        >>> from batchednodes.data import NonlinearRegression
        >>> one, two = (NonlinearRegression(noise=0.0).load(n, seed=0) for n in (1, 2))
        >>> (one.targets == two.targets[:20]).all().item()  # node 0 has the same samples, however many nodes there are
        True
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
