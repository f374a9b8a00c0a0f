r"""Dissensus: attackers push each target away from the mean of its honest neighbours, and so keep nodes apart.

    x_i - epsilon sum_{j honest} W_ij (x_j - x_i) / sum_{j attacks} W_ij:

with epsilon = 1 gossip averaging leaves x_i where it is.

Notation: i a target, j its neighbours, W gossip matrix, epsilon strength.

Reference:
    L. He, S. P. Karimireddy, M. Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", arXiv 2202.01545,
    2022.
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
class Dissensus(Omniscient):
    """What undoes, in the average of a target, what its honest neighbours say.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.attacks import Dissensus
        >>> others, first = torch.tensor([[[3.0], [7.0]]]), torch.tensor([[True, False]])
        >>> target, weights = torch.tensor([[1.0]]), torch.full((1, 2), 0.25)
        >>> Dissensus(nodes=1).told(target, others, weights, first, ~first).tolist()
        [[-1.0]]
    """

    nodes: int | float | list[int]
    """Who attacks: a number of nodes or a share of them in (0, 1), which are drawn, or a list of their numbers."""

    epsilon: float = 1.0
    """Strength [dimensionless]; positive and finite."""

    def __post_init__(self) -> None:
        number(self.epsilon, 1, "epsilon", open_low=True)

    def told(self, target: Tensor, others: Tensor, weights: Tensor, honest: Tensor, attackers: Tensor) -> Tensor:
        away = torch.where(honest.unsqueeze(2), others - target.unsqueeze(1), 0)
        pull = torch.bmm(weights.unsqueeze(1), away).squeeze(1)
        return target - self.epsilon * pull / torch.where(attackers, weights, 0).sum(1, keepdim=True)
