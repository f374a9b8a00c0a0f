r"""Quantity skew: rows dealt at random in shards of unequal size.

The size of node i is m_i = minimum + its share w_i / sum w of the other rows, rounded so that all rows are dealt.

Notation: n nodes, m_i rows of node i, w_i weight of node i.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from batchednodes.data.partitions.base import ROWS, SHARES, Partition, Shards, check_concentration, check_minimum
from batchednodes.data.sources.base import Dataset, DataSizes
from batchednodes.numerics import rng
from batchednodes.numerics.values import check_sizes, number


@dataclass(frozen=True)
class QuantitySkew(Partition):
    r"""Rows dealt at random, sizes from Dirichlet's law: w ~ Dirichlet(alpha 1_n).

    Example:
        >>> from batchednodes.data import QuantitySkew, Sklearn
        >>> digits = Sklearn("digits").load(8, seed=0)
        >>> skewed, even = (QuantitySkew(alpha).split(digits, 8, seed=0).sizes for alpha in (0.5, 500.0))
        >>> skewed.max().item() > 10 * skewed.min().item(), even.max().item() > 2 * even.min().item()
        (True, False)

    Reference:
        Q. Li, Y. Diao, Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022.
    """

    alpha: float = 0.5
    """Concentration [dimensionless]; positive and finite. Towards 0 few nodes own most rows; large: equal."""

    minimum: int = 1
    """Rows of every node, at least; at least 1."""

    def __post_init__(self) -> None:
        check_concentration(self.alpha)
        check_sizes(minimum=self.minimum)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_minimum(sizes, n, self.minimum)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        w = rng.generator(seed, rng.PARTITION, SHARES).dirichlet(np.full(n, self.alpha)) if n > 1 else np.ones(1)
        return _sized(w, self.minimum, dataset, seed)


@dataclass(frozen=True)
class PowerLaw(Partition):
    r"""Rows dealt at random, sizes from a power law: P(w > x) = x^(1 - exponent) for x >= 1 (Pareto's law).

    Example:
        >>> from batchednodes.data import PowerLaw, Sklearn
        >>> digits = Sklearn("digits").load(8, seed=0)
        >>> sizes = PowerLaw(exponent=2.0, minimum=10).split(digits, 8, seed=0).sizes
        >>> sizes.sum().item(), sizes.min().item() >= 10, sizes.max().item() > 2 * 1438 / 8
        (1438, True, True)

    Reference:
        A. Clauset, C. R. Shalizi, M. E. J. Newman, "Power-law distributions in empirical data", SIAM Review 51, 2009.
    """

    exponent: float = 2.0
    """Exponent of the density, which falls like x^-exponent [dimensionless]; at least 1.1 and finite. Small: few nodes
    own most rows; at 2 or less the mean of the law itself is infinite."""

    minimum: int = 1
    """Rows of every node, at least; at least 1."""

    def __post_init__(self) -> None:
        number(self.exponent, 1, "exponent", low=1.1, unit="dimensionless")  # below, draws overflow
        check_sizes(minimum=self.minimum)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_minimum(sizes, n, self.minimum)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        w = np.exp(rng.generator(seed, rng.PARTITION, SHARES).standard_exponential(n) / (self.exponent - 1))
        return _sized(w, self.minimum, dataset, seed)


@dataclass(frozen=True)
class LogNormalSizes(Partition):
    r"""Rows dealt at random, sizes from a log-normal law: log w ~ N(0, sigma^2).

    FedProx's published experiments draw their unequal sizes so, with sigma = 2.

    Example:
        >>> from batchednodes.data import LogNormalSizes, Sklearn
        >>> digits = Sklearn("digits").load(8, seed=0)
        >>> even, skewed = (LogNormalSizes(sigma).split(digits, 8, seed=0).sizes for sigma in (0.0, 2.0))
        >>> even.tolist(), skewed.max().item() > 2 * 180
        ([180, 180, 179, 180, 180, 179, 180, 180], True)

    Reference:
        T. Li et al., "Federated optimization in heterogeneous networks", MLSys 2020.
    """

    sigma: float = 1.0
    """Standard deviation of the logarithm of a size [dimensionless]; in [0, 50]. 0: equal sizes."""

    minimum: int = 1
    """Rows of every node, at least; at least 1."""

    def __post_init__(self) -> None:
        number(self.sigma, 1, "sigma", high=50.0, open_high=False, unit="dimensionless")  # above, draws overflow
        check_sizes(minimum=self.minimum)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_minimum(sizes, n, self.minimum)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        w = np.exp(self.sigma * rng.generator(seed, rng.PARTITION, SHARES).standard_normal(n))
        return _sized(w, self.minimum, dataset, seed)


def _sized(w: Float64[np.ndarray, " n"], minimum: int, dataset: Dataset, seed: int) -> Shards:
    """Returns random rows for each node: a minimum, and of the others a share in proportion to its weight."""
    n, samples = len(w), len(dataset.features)
    rest, total = samples - n * minimum, np.cumsum(w)
    ends = np.minimum(np.rint(total / total[-1] * rest).astype(np.int64), rest)
    offsets = np.concatenate([[0], ends + minimum * np.arange(1, n + 1)])
    return Shards(rng.generator(seed, rng.PARTITION, ROWS).permutation(samples), offsets)
