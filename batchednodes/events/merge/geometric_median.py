r"""Geometric median: the point of least total distance to the models of a neighbourhood, by smoothed Weiszfeld steps.

    z <- sum_j b_j x_j / sum_j b_j,    b_j = 1 / max(|x_j - z|, nu),    T times, from z = 0; then x_i <- z.

Notation: i a node, j itself and its neighbours, T steps, nu smoothing.

Reference:
    K. Pillutla, S. M. Kakade, Z. Harchaoui, "Robust aggregation for federated learning", IEEE Trans. Signal Process.
    70, 2022 (RFA).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.events.merge.gathering import Gathering
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count, number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class GeometricMedian(Gathering):
    """Nearly the point whose distances to all models of a neighbourhood have the least sum.

    Example:
        >>> import torch
        >>> from batchednodes.events.merge import GeometricMedian
        >>> own, others = torch.tensor([[1.0]]), torch.tensor([[[1.2], [900.0]]])
        >>> here = torch.ones(1, 2, dtype=torch.bool)
        >>> found = GeometricMedian().gather(own, others, torch.full((1, 2), 0.25), here, ~here)
        >>> round(found.item(), 1)  # the mean is 300.7
        1.2
    """

    steps: int = 8
    """Weiszfeld steps T; at least 1."""

    smoothing: float = 0.1
    """Distance nu below which all are taken to be alike, in the units of a model; positive and finite."""

    def __post_init__(self) -> None:
        count(self.steps, 1, "steps", high=10**4)
        number(self.smoothing, 1, "smoothing", open_low=True)

    def gather(self, own: Tensor, others: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        models = torch.cat([own.unsqueeze(1), others], 1)
        there = torch.cat([torch.ones_like(here[:, :1]), here], 1) & models.isfinite().all(2)
        models = torch.where(there.unsqueeze(2), models, 0)
        z = torch.zeros_like(own)
        for _ in range(self.steps):
            distance = (models - z.unsqueeze(1)).norm(dim=2).clamp(min=self.smoothing)
            b = torch.where(there, 1 / distance, 0)
            z = torch.bmm((b / b.sum(1, keepdim=True)).unsqueeze(1), models).squeeze(1)
        return z

    def alone(self, own: Tensor, others: Tensor, weights: Tensor, attackers: Tensor) -> Tensor:
        """Does the same to one node, in plain PyTorch."""
        z = torch.zeros_like(own)
        for _ in range(self.steps):
            b = [1 / max(float((x - z).norm()), self.smoothing) for x in (own, *others)]
            z = sum((w * x for w, x in zip(b, (own, *others), strict=True)), torch.zeros_like(own)) / sum(b)
        return z
