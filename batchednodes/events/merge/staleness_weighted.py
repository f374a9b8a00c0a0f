r"""A model received counts less the further it lags behind: w = w_0 (1 + s)^-c with the lag s = max(0, a - b).

Notation: a own age, b age of the model received, s lag [steps], c exponent, w_0 `gossip.weight`.

Reference:
    C. Xie, S. Koyejo, I. Gupta, "Asynchronous federated optimization", arXiv 1903.03934, 2019 (polynomial weights).
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.events.merge.base import Merge, MergeLaw
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class StalenessWeighted(Merge):
    """`gossip.weight` over a power of how far the model received lags behind one's own, in minibatch steps.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import StalenessWeighted
        >>> law = StalenessWeighted(exponent=0.5).weighing(np.array([0.5]))
        >>> [round(law.rule(100.0, other, law.a[0], law.b[0]), 3) for other in (120.0, 100.0, 92.0)]  # lags of 0, 0, 8
        [0.5, 0.5, 0.167]
    """

    exponent: float = 0.5
    """Power of 1 + lag that divides the weight [dimensionless]; non-negative and finite; 0: the lag does not count."""

    def __post_init__(self) -> None:
        number(self.exponent, 1, "exponent")

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(by_lag, weight, np.full(weight.size, float(self.exponent)))

    def weighs(self) -> bool:
        return True


@njit(nogil=True, cache=True)
@no_type_check
def by_lag(own, other, weight, exponent):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the weight of the other model."""
    return weight * (1.0 + max(0.0, own - other)) ** -exponent
