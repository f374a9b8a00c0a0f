r"""Partitioned models: a message brings one of several equal parts of the model, drawn by its sender.

Each part has an age of its own, and is averaged in proportion to the two ages, w = b / (a + b). Parts are contiguous
ranges of the row, whose lengths differ by one at most. A step of local SGD adds one to the ages of all parts; in the
paper the step size of a part is then eta / a, for weight decay as for the loss; gossipy divides the gradient of the
loss alone.

Notation: a own age of a part, b that of the part received, eta `local.lr`.

Reference:
    I. Hegedus, G. Danner, M. Jelasity, "Decentralized learning works: An empirical comparison of gossip learning and
    federated learning", J. Parallel Distrib. Comput. 148, 2021.
"""

from dataclasses import dataclass

import numpy as np

from batchednodes.events.merge.age_weighted import by_ages
from batchednodes.events.merge.base import Merge, MergeLaw
from batchednodes.numerics.values import count

PARTS = 1024
"""The most parts of a model: each node and message keeps an age for each."""


@dataclass(frozen=True)
class Partitioned(Merge):
    """One part of the model is merged, by ages; the size of a message is that of a part.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import Partitioned
        >>> law = Partitioned(parts=4).weighing(np.array([0.5]))
        >>> law.parts, law.rule(1.0, 3.0, 0.0, 0.0)  # one part of four, by the ages of that part
        (4, 0.75)
    """

    parts: int = 4
    """Parts of a model; at least 1, at most 1,024 and its number of parameters."""

    divide_step: bool = True
    """Whether the step size of each part of the model is `local.lr` over its age, as in the paper: 1 at the first
    minibatch step of a new model, one more at each. Not with `local.compile=on` or `update.applies=delta`; `false`
    leaves it `local.lr`."""

    def __post_init__(self) -> None:
        count(self.parts, 1, "parts", high=PARTS)

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(by_ages, 0 * weight, 0 * weight, parts=self.parts, divides=self.divide_step)

    def selects(self) -> bool:
        return True

    def divides(self) -> bool:
        return self.divide_step
