r"""Label flip: attackers learn the label C - 1 - c where it is c of C, and send honestly what they learned.

Notation: C classes, c a label in 0, ..., C - 1.

Reference:
    B. Biggio, B. Nelson, P. Laskov, "Poisoning attacks against support vector machines", ICML 2012; in this form
    L. He, S. P. Karimireddy, M. Jaggi, arXiv 2202.01545, 2022.
"""

from dataclasses import dataclass

import numpy as np

from batchednodes.algorithms.attacks.base import OnData


@dataclass(frozen=True)
class LabelFlip(OnData):
    """Attackers learn from false labels; for data with labels.

    Example:
        >>> import numpy as np
        >>> from batchednodes.algorithms.attacks import LabelFlip
        >>> LabelFlip(nodes=1).labels(np.array([0, 1, 9]), classes=10).tolist()
        [9, 8, 0]
    """

    nodes: int | float | list[int]
    """Who attacks: a number of nodes or a share of them in (0, 1), which are drawn, or a list of their numbers."""

    def labels(self, labels: np.ndarray, classes: int) -> np.ndarray:
        return classes - 1 - labels
