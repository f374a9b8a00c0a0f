r"""Clipped gossip: a neighbour moves a node by no more than a radius, so that attackers among them do little harm.

    x_i <- x_i + sum_j W_ij clip(x_j - x_i, tau_i),    clip(z, tau) = z min(1, tau / |z|).

In the theory tau_i^2 = sum_{j honest} W_ij |x_j - x_i|^2 / sum_{j attacks} W_ij, which nobody can know; in the
experiments tau_i is the second largest of the distances |x_j - x_i|, the largest where there is only one.

At a single contact, x_j <- x_j + w clip(x_i - x_j, tau) with a fixed tau: two nodes that meet keep their mean.

Notation: i a node, j its neighbours, W gossip matrix, tau radius.

Reference:
    L. He, S. P. Karimireddy, M. Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", arXiv 2202.01545,
    2022.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchednodes.events.merge.gathering import Gathering
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class ClippedGossip(Gathering):
    """Differences from neighbours are clipped to a radius, then weighed as in gossip averaging.

    Example:
        >>> import torch
        >>> from batchednodes.events.merge import ClippedGossip
        >>> own, others, here = torch.zeros(1, 1), torch.tensor([[[1.0], [900.0]]]), torch.ones(1, 2, dtype=torch.bool)
        >>> weights = torch.full((1, 2), 0.25)
        >>> ClippedGossip(tau=2.0).gather(own, others, weights, here, ~here).tolist()  # (1 + 2) / 4
        [[0.75]]
    """

    tau: float | Literal["adaptive", "oracle"] = "adaptive"
    """Radius: positive and finite, in the units of a model; adaptive, the second largest distance of a neighbour;
    oracle, that of the theory, which knows the attackers. Outside synchronous rounds it must be a number."""

    def __post_init__(self) -> None:
        if not isinstance(self.tau, str):
            number(self.tau, 1, "tau", open_low=True)

    def gather(self, own: Tensor, others: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        away = others - own.unsqueeze(1)
        distance = away.norm(dim=2)
        tau = self._radius(distance, weights, here, attackers)
        moves = clipped(away, distance, tau)
        return own + torch.bmm(weights.unsqueeze(1), moves).squeeze(1)

    def _radius(self, distance: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        """Returns tau of each row [w, 1]."""
        if not isinstance(self.tau, str):
            return torch.full_like(distance[:, :1], self.tau)
        if self.tau == "oracle":
            honest = torch.where(here & ~attackers, weights * distance.square(), 0).sum(1, keepdim=True)
            share = torch.where(attackers, weights, 0).sum(1, keepdim=True)
            return torch.where(share > 0, honest / share, torch.inf).sqrt()
        known = torch.where(here & distance.isfinite(), distance, torch.inf).sort(dim=1).values
        return known.gather(1, (here.sum(1, keepdim=True) - 2).clamp(min=0))

    def clips(self) -> float | None:
        return None if isinstance(self.tau, str) else self.tau

    def alone(self, own: Tensor, others: Tensor, weights: Tensor, attackers: Tensor) -> Tensor:
        """Does the same to one node, in plain PyTorch."""
        distances = [float((x - own).norm()) for x in others]
        if self.tau == "adaptive":
            tau = sorted(distances)[-2:][0] if distances else torch.inf
        elif self.tau == "oracle":
            told = list(zip(weights.tolist(), distances, attackers.tolist(), strict=True))
            bad = sum(w for w, _, attacks in told if attacks)
            tau = (sum(w * d**2 for w, d, attacks in told if not attacks) / bad) ** 0.5 if bad else torch.inf
        else:
            tau = self.tau
        new = own.clone()
        for x, w, distance in zip(others, weights, distances, strict=True):
            new += w * (x - own) * (1.0 if distance <= tau else tau / distance)
        return new


def clipped(away: Tensor, distance: Tensor, tau: Tensor) -> Tensor:
    """Returns differences [..., width] of some lengths [...], none longer than tau; 0 for those that are not finite."""
    shorter = torch.where(distance <= tau, 1.0, tau / distance).to(away.dtype)
    return torch.where(distance.isfinite().unsqueeze(-1), away * shorter.unsqueeze(-1), 0)
