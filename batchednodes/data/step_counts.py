r"""Laws of the number of minibatch steps of an update, drawn anew for each update of each node.

Notation: H steps of an update, M the most.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from batchednodes.numerics.values import count, number, shown

LONGEST = 1_000_000
"""The most steps of an update by a law."""


class StepCount(ABC):
    """The law of the number of minibatch steps H of an update; a class of one's own has `probabilities`."""

    @abstractmethod
    def probabilities(self) -> Float64[np.ndarray, " M"]:
        """Returns P(H = 1), ..., P(H = M), which sum to 1; memory is planned for M steps."""

    def cumulated(self) -> Float64[np.ndarray, " M"]:
        """Returns P(H <= 1), ..., P(H <= M).

        Raises:
            ValueError: the probabilities are none.
        """
        p = np.asarray(self.probabilities(), dtype=float)
        if p.ndim != 1 or not 0 < p.size <= LONGEST or not (p >= 0).all() or abs(p.sum() - 1) > 1e-9:
            rule = f"have probabilities of 1 to at most {LONGEST:,} steps, at least 0, of sum 1"
            raise ValueError(f"steps must {rule}, got {p.size} of sum {p.sum():g}")
        return np.cumsum(p) / p.sum()


@dataclass(frozen=True)
class Geometric(StepCount):
    """Each step is the last one with the same probability: what interactions at random times leave to local steps.

    Example:
        >>> from batchednodes.data import Geometric
        >>> law = Geometric(mean=2.0)
        >>> law.probabilities()[:3].round(3).tolist(), law.probabilities().size
        ([0.5, 0.25, 0.125], 40)
    """

    mean: float = 2.0
    """Mean number of steps 1 / (1 - q), of the law P(H = h) = (1 - q) q^(h-1); at least 1 and finite; dimensionless."""

    most: int | None = None
    """The most steps; larger H are not drawn; in 1 to 1,000,000; null: 20 times the mean, beyond which lies a part of
    less than e^-20."""

    def __post_init__(self) -> None:
        number(self.mean, 1, "mean", low=1.0)
        if self.most is not None:
            count(self.most, 1, "most", high=LONGEST)
        elif 20 * self.mean > LONGEST:
            raise ValueError(f"mean must be at most {LONGEST // 20:,} unless most is given, got {shown(self.mean)}")

    def probabilities(self) -> Float64[np.ndarray, " M"]:
        most = math.ceil(20 * self.mean) if self.most is None else self.most
        p = (1 - 1 / self.mean) ** np.arange(most)
        return p / p.sum()
