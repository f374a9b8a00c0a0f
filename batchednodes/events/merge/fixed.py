r"""The weight that the settings give.

Reference:
    S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52(6), 2006.
"""

from dataclasses import dataclass

import numpy as np

from batchednodes.events.merge.base import Merge, MergeLaw


@dataclass(frozen=True)
class Fixed(Merge):
    """`gossip.weight`, of the node that made the contact.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import Fixed
        >>> Fixed().weighing(np.array([0.5, 0.1])).a.tolist()  # weight of a model that nodes 0 and 1 send
        [0.5, 0.1]
    """

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(None, weight, 0 * weight)

    def weighs(self) -> bool:
        return True

    def is_fixed(self) -> bool:
        return True


@dataclass(frozen=True)
class Mean(Merge):
    """The mean of both models.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import Mean
        >>> Mean().weighing(np.array([0.1, 0.1])).a.tolist(), Mean().weighs()  # whatever `gossip.weight` is
        ([0.5, 0.5], False)
    """

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(None, np.full(weight.size, 0.5), 0 * weight)

    def is_fixed(self) -> bool:
        return True
