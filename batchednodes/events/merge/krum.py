r"""Krum: a node takes the model of its neighbourhood that is nearest to the others; multi-Krum the mean of m such.

    score_j = sum of |x_j - x_k|^2 over the N - f - 2 models k nearest to j, one at least;
    x_i <- mean of the m models of the lowest scores; of equal scores those of i itself, then of the first neighbours.

Notation: i a node, j, k itself and its neighbours, N models of a neighbourhood, f attackers among them, at most.

Reference:
    P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine learning with adversaries: Byzantine tolerant
    gradient descent", NeurIPS 2017.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.events.merge.gathering import Gathering
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class Krum(Gathering):
    """The mean of the models that lie nearest to others, among a node's own and its neighbours'.

    Example:
        >>> import torch
        >>> from batchednodes.events.merge import Krum
        >>> own, others = torch.tensor([[1.0]]), torch.tensor([[[3.0], [900.0], [4.0], [3.5]]])
        >>> here = torch.ones(1, 4, dtype=torch.bool)
        >>> Krum(attackers=1).gather(own, others, torch.full((1, 4), 0.2), here, ~here).tolist()
        [[3.5]]
    """

    attackers: int = 1
    """Attackers f that are expected in a neighbourhood, at most; at least 0."""

    m: int = 1
    """How many models make the mean; at least 1; all, where a neighbourhood has fewer."""

    def __post_init__(self) -> None:
        count(self.attackers, 1, "attackers", low=0, high=10**6)
        count(self.m, 1, "m", high=10**6)

    def gather(self, own: Tensor, others: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        models = torch.cat([own.unsqueeze(1), others], 1)
        there = torch.cat([torch.ones_like(here[:, :1]), here], 1)
        size, columns = there.sum(1, keepdim=True), range(models.shape[1])
        square = torch.stack([(models - models[:, k : k + 1]).square().sum(2) for k in columns], 2)
        square = torch.where(there.unsqueeze(1) & square.isfinite(), square, torch.inf)
        square.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        place = torch.arange(len(columns), device=own.device)
        near = place < (size - self.attackers - 2).clamp(min=1)
        nearest = torch.where(near.unsqueeze(1), square.sort(dim=2).values, 0)
        score = torch.where(there, nearest.sum(2), torch.inf)
        order = score.argsort(dim=1, stable=True)
        taken = order[:, : self.m]
        kept = place[: self.m] < size.clamp(max=self.m)
        chosen = models.gather(1, taken.unsqueeze(2).expand(-1, -1, models.shape[2]))
        return torch.where(kept.unsqueeze(2), chosen, 0).sum(1) / kept.sum(1, keepdim=True)

    def alone(self, own: Tensor, others: Tensor, weights: Tensor, attackers: Tensor) -> Tensor:
        """Does the same to one node, in plain PyTorch."""
        models, scores = [own, *others], list[float]()
        for j, x in enumerate(models):
            squares = sorted(float((x - y).square().sum()) for k, y in enumerate(models) if k != j)
            scores.append(sum(squares[: max(1, len(models) - self.attackers - 2)]))
        best = sorted(range(len(models)), key=scores.__getitem__)[: self.m]
        return torch.stack([models[j] for j in best]).mean(0)
