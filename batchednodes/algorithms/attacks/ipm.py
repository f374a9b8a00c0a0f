r"""Inner product manipulation: attackers send a small multiple of the negative mean of honest models.

    -epsilon times the mean over the target and its honest neighbours.

Notation: epsilon strength.

References:
    C. Xie, O. Koyejo, I. Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation", UAI
    2019; on graphs L. He, S. P. Karimireddy, M. Jaggi, arXiv 2202.01545, 2022.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.algorithms.attacks.base import Omniscient
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class Ipm(Omniscient):
    """The mean around each target, turned round.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.attacks import Ipm
        >>> others, first = torch.tensor([[[3.0], [7.0]]]), torch.tensor([[True, False]])
        >>> target, weights = torch.tensor([[1.0]]), torch.full((1, 2), 0.25)
        >>> Ipm(nodes=1, epsilon=0.5).told(target, others, weights, first, ~first).tolist()
        [[-1.0]]
    """

    nodes: int | float | list[int]
    """Who attacks: a number of nodes or a share of them in (0, 1), which are drawn, or a list of their numbers."""

    epsilon: float = 0.1
    """Strength [dimensionless]; positive and finite."""

    def __post_init__(self) -> None:
        number(self.epsilon, 1, "epsilon", open_low=True)

    def told(self, target: Tensor, others: Tensor, weights: Tensor, honest: Tensor, attackers: Tensor) -> Tensor:
        total = target + torch.where(honest.unsqueeze(2), others, 0).sum(1)
        return -self.epsilon * total / (1 + honest.sum(1, keepdim=True))
