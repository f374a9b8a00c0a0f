r"""Limited merge: of two models whose ages differ by much, the older one in steps is taken whole.

    w = 0           if a > b + L,
        1           if b > a + L,
        b / (a + b) otherwise.

Notation: a own age, b age of the model received, L limit [steps].

Reference:
    G. Danner, I. Hegedus, M. Jelasity, "Improving gossip learning via limited model merging", ICCCI 2023.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.events.merge.age_weighted import by_ages
from batchednodes.events.merge.base import Merge, MergeLaw
from batchednodes.numerics.values import count


@dataclass(frozen=True)
class Limited(Merge):
    """The model with more steps behind it is taken whole if the difference exceeds a limit; else ages are weights.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import Limited
        >>> law = Limited(limit=10).weighing(np.array([0.5]))
        >>> [law.rule(30.0, other, law.a[0], law.b[0]) for other in (10.0, 30.0, 50.0)]  # left, averaged, taken whole
        [0.0, 0.5, 1.0]
    """

    limit: int = 1
    """Largest difference of ages at which two models are averaged [minibatch steps]; at least 0."""

    def __post_init__(self) -> None:
        count(self.limit, 1, "limit", low=0, high=2**53)

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(by_limit, np.full(weight.size, float(self.limit)), 0 * weight)


@njit(nogil=True, cache=True)
@no_type_check
def by_limit(own, other, limit, b=0.0):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the weight of the other model."""
    if own > other + limit:
        return 0.0
    return 1.0 if other > own + limit else by_ages(own, other)
