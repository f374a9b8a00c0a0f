r"""Sampled entries: a message brings some entries of the model only, drawn anew for each.

Each entry is in the sample with the same probability, independently, and is then averaged with `gossip.weight`.

Reference:
    I. Hegedus, G. Danner, M. Jelasity, "Decentralized learning works: An empirical comparison of gossip learning and
    federated learning", J. Parallel Distrib. Comput. 148, 2021 (subsampling).
"""

from dataclasses import dataclass

import numpy as np

from batchednodes.events.merge.base import Merge, MergeLaw
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class Sampled(Merge):
    """A random sample of the entries is merged; the size of a message is that of the sample.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.merge import Sampled
        >>> law = Sampled(share=0.25).weighing(np.array([0.5]))
        >>> law.share, law.a.tolist()  # a message brings a quarter of the entries, of weight one half
        (0.25, [0.5])
    """

    share: float = 0.25
    """Probability that an entry is in the sample [dimensionless]; in (0, 1]."""

    def __post_init__(self) -> None:
        number(self.share, 1, "share", open_low=True, high=1.0, open_high=False)

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(None, weight, 0 * weight, share=float(self.share))

    def weighs(self) -> bool:
        return True

    def selects(self) -> bool:
        return True
