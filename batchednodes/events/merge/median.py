r"""Median, number by number, of all models of a neighbourhood; of an even number the mean of the two in the middle.

Notation: W gossip matrix.

Reference:
    D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-robust distributed learning: Towards optimal statistical
    rates", ICML 2018.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.events.merge.gathering import Gathering
from batchednodes.events.merge.trimmed_mean import COPIES, copied, middle, one_middle
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class Median(Gathering):
    """The middle one of each number, among a node's own and its neighbours'.

    Example:
        >>> import torch
        >>> from batchednodes.events.merge import Median
        >>> own, others = torch.tensor([[1.0]]), torch.tensor([[[3.0], [900.0]]])
        >>> here = torch.ones(1, 2, dtype=torch.bool)
        >>> Median().gather(own, others, torch.full((1, 2), 0.25), here, ~here).tolist()
        [[3.0]]
    """

    copies: int | None = None
    """By how many copies in all weights are told, floor(copies W_ij) of each; at least 1, at most 10,000; null: each
    model counts once."""

    def __post_init__(self) -> None:
        if self.copies is not None:
            count(self.copies, 1, "copies", high=COPIES)

    def gather(self, own: Tensor, others: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        counts = copied(weights, here, self.copies)
        return middle(own, others, counts, torch.full_like(counts[:, 0], torch.inf))

    def alone(self, own: Tensor, others: Tensor, weights: Tensor, attackers: Tensor) -> Tensor:
        """Does the same to one node, in plain PyTorch."""
        return one_middle(own, others, weights, self.copies, COPIES)
