r"""Each model counts in proportion to its age, the minibatch steps behind it: w = b / (a + b).

Notation: a own age, b age of the model received.

Reference:
    I. Hegedus, G. Danner, M. Jelasity, "Gossip learning as a decentralized alternative to federated learning", DAIS
    2019, which weighs the parts of a partitioned model so.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.events.merge.base import Merge, MergeLaw


@dataclass(frozen=True)
class AgeWeighted(Merge):
    """Models count in proportion to their ages; two of age 0 count alike.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import AgeWeighted
        >>> rule = AgeWeighted().weighing(np.array([0.5])).rule
        >>> rule(10.0, 30.0, 0.0, 0.0)  # one's own model has seen 10 steps, the one received 30
        0.75
    """

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(by_ages, 0 * weight, 0 * weight)


@njit(nogil=True, cache=True)
@no_type_check
def by_ages(own, other, a=0.0, b=0.0):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the weight of the other model."""
    return other / (own + other) if own + other > 0 else 0.5
