r"""Trimmed mean: number by number, the mean of all models of a neighbourhood but the b largest and the b smallest.

    x_i <- mean of x_j over the ranks b + 1, ..., N - b among the N models of i and its neighbours.

Models count once each, or by weight: then W_ij is told by copies, floor(C W_ij) of each of C in all.

Notation: i a node, j itself and its neighbours, N models of a neighbourhood, b those trimmed, C copies.

Reference:
    D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-robust distributed learning: Towards optimal statistical
    rates", ICML 2018.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchednodes.events.merge.gathering import Gathering
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch

COPIES = 10_000
"""The most copies by which weights are told: W in float32 has hardly more digits."""

_NEAR = 1e-4
"""By how little of a copy a number of copies may miss a whole one: W is rounded."""


@dataclass(frozen=True)
class TrimmedMean(Gathering):
    """The mean of what is left of each number when the largest and the smallest are left out.

    Example:
        >>> import torch
        >>> from batchednodes.events.merge import TrimmedMean
        >>> own, others = torch.tensor([[1.0]]), torch.tensor([[[3.0], [900.0], [2.0]]])
        >>> here = torch.ones(1, 3, dtype=torch.bool)
        >>> TrimmedMean(trim=1).gather(own, others, torch.full((1, 3), 0.25), here, ~here).tolist()
        [[2.5]]
    """

    trim: int | Literal["oracle"] = 1
    """How many models, or copies, are left out at each end; at least 0; fewer where a neighbourhood has no more than
    twice as many. oracle: as many as there are attackers among the neighbours, or copies of them."""

    copies: int | None = None
    """By how many copies in all weights are told; at least 1, at most 10,000; null: each model counts once."""

    def __post_init__(self) -> None:
        if self.trim != "oracle":
            count(self.trim, 1, "trim", low=0, high=10**6)
        if self.copies is not None:
            count(self.copies, 1, "copies", high=COPIES)

    def gather(self, own: Tensor, others: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        counts = copied(weights, here, self.copies)
        if self.trim == "oracle":
            share = torch.where(attackers, weights, 0).sum(1)
            bad = attackers.sum(1) if self.copies is None else (share * self.copies + _NEAR).floor()
        else:
            bad = torch.full_like(counts[:, 0], self.trim)
        return middle(own, others, counts, bad.to(counts.dtype))

    def alone(self, own: Tensor, others: Tensor, weights: Tensor, attackers: Tensor) -> Tensor:
        """Does the same to one node, in plain PyTorch."""
        trim = self.trim if self.trim != "oracle" else int(attackers.sum())
        if self.trim == "oracle" and self.copies is not None:
            trim = int(self.copies * float(weights[attackers].sum()) + _NEAR)
        return one_middle(own, others, weights, self.copies, trim)


def copied(weights: Tensor, here: Tensor, copies: int | None) -> Tensor:
    """Returns how often each model counts, that of the node itself first [w, 1 + d]; real numbers that are whole."""
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))  # bfloat16 cannot count
    if copies is None:
        return torch.cat([torch.ones_like(weights[:, :1]), here.to(weights.dtype)], 1)
    own = 1 - weights.sum(1, keepdim=True)
    return (torch.cat([own, weights], 1) * copies + _NEAR).floor()


def middle(own: Tensor, others: Tensor, counts: Tensor, trim: Tensor) -> Tensor:
    """Returns the mean of each number but for its largest and smallest.

    Args:
        own: rows of the nodes [w, width].
        others: of their neighbours [w, d, width].
        counts: how often each counts [w, 1 + d].
        trim: how many are left out at each end [w], at most: one or two always stay.
    """
    values = torch.cat([own.unsqueeze(1), others], 1)
    values = torch.where(values.isnan(), torch.inf, values)
    values, order = values.sort(dim=1, stable=True)
    each = counts.unsqueeze(2).expand_as(values).gather(1, order)
    upto, total = each.cumsum(1), counts.sum(1).view(-1, 1, 1)
    low = torch.minimum(trim.view(-1, 1, 1), ((total - 1) / 2).floor())
    kept = (torch.minimum(upto, total - low) - torch.maximum(upto - each, low)).clamp(min=0)
    return ((kept * torch.where(kept > 0, values, 0)).sum(1) / (total - 2 * low).squeeze(2)).to(own.dtype)


def one_middle(own: Tensor, others: Tensor, weights: Tensor, copies: int | None, trim: int) -> Tensor:
    """Does the same for one node, in plain PyTorch: models that count more are written down more often."""
    models = [own, *others]
    if copies is not None:
        told = [1 - float(weights.sum()), *weights.tolist()]
        models = [x for x, w in zip(models, told, strict=True) for _ in range(int(copies * w + _NEAR))]
    models = torch.stack(models).sort(dim=0).values
    trim = min(trim, (len(models) - 1) // 2)
    return models[trim : len(models) - trim].mean(0)
