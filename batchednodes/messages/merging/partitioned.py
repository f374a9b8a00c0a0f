r"""Partitioned models: a message brings one of several equal parts of the model, drawn by its sender.

Each part has an age of its own, and is averaged in proportion to the two ages, w = b / (a + b). Parts are contiguous
ranges of the row, whose lengths differ by one at most. Local SGD adds its steps to the ages of all parts; unlike in the
paper, and in gossipy, the step size is not divided by the age: `local.lr` says what it is.

Letters: a own age of a part, b that of the part received.

Reference:
    I. Hegedus, G. Danner, M. Jelasity, "Decentralized learning works: An empirical comparison of gossip learning and
    federated learning", J. Parallel Distrib. Comput. 148, 2021.
"""

from dataclasses import dataclass

import numpy as np

from batchednodes.messages.merging.rule import AGES, Merge, Weighing
from batchednodes.values import count

PARTS = 1024
"""The most parts of a model: each node and message keeps an age for each."""


@dataclass(frozen=True)
class Partitioned(Merge):
    """One part of the model is merged, by ages; the size of a message is that of a part."""

    parts: int = 4
    """Parts of a model; at least 1, at most 1,024 and its number of parameters."""

    def __post_init__(self) -> None:
        count(self.parts, 1, "parts", high=PARTS)

    def weighing(self, weight: np.ndarray) -> Weighing:
        return Weighing(AGES, 0 * weight, 0 * weight, parts=self.parts)
