"""Nobody attacks."""

from dataclasses import dataclass

import numpy as np

from batchednodes.algorithms.attacks.base import Attack


@dataclass(frozen=True)
class NoAttack(Attack):
    """All nodes are honest.

    Example:
        >>> from batchednodes.algorithms.attacks import NoAttack
        >>> NoAttack().attackers(3, seed=0).tolist()
        [False, False, False]
    """

    def attackers(self, n: int, seed: int) -> np.ndarray:
        return np.zeros(n, bool)
