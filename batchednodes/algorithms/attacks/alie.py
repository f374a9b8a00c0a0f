r"""A little is enough: attackers send what lies just within the spread of honest models.

    mu - z sigma, number by number: mean and standard deviation over the target and its honest neighbours;
    z = Phi^-1((n - m - s) / (n - m)),    s = floor(n / 2 + 1) - m,    if it is not given.

Notation: n nodes, m attackers, Phi the standard normal distribution.

References:
    G. Baruch, M. Baruch, Y. Goldberg, "A little is enough: circumventing defenses for distributed learning", NeurIPS
    2019; on graphs L. He, S. P. Karimireddy, M. Jaggi, arXiv 2202.01545, 2022.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import scipy

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
class Alie(Omniscient):
    """Models a few standard deviations from the mean of the honest ones around each target.

    Example:
        >>> from batchednodes.algorithms.attacks import Alie
        >>> round(Alie(nodes=5).settled(n=25, attackers=5).z, 3)  # 8 honest ones must be farther off: 12 of 20 are not
        0.253
    """

    nodes: int | float | list[int]
    """Who attacks: a number of nodes or a share of them in (0, 1), which are drawn, or a list of their numbers."""

    z: float | None = None
    """Standard deviations [dimensionless]; finite; null: by the numbers of nodes and attackers, which must then be
    fewer than half."""

    def __post_init__(self) -> None:
        if self.z is not None:
            number(self.z, 1, "z", low=-float("inf"), open_low=True)

    def settled(self, n: int, attackers: int) -> "Alie":
        if self.z is not None:
            return self
        supporters = n // 2 + 1 - attackers
        if supporters < 1:
            raise ValueError(f"z must be given where half of the nodes attack, got null with {attackers} of n = {n}")
        honest = n - attackers
        return replace(self, z=float(scipy.special.ndtri((honest - supporters) / honest)))

    def told(self, target: Tensor, others: Tensor, weights: Tensor, honest: Tensor, attackers: Tensor) -> Tensor:
        assert self.z is not None  # `settled` gave it
        count, some = 1 + honest.sum(1, keepdim=True), honest.unsqueeze(2)
        mean = (target + torch.where(some, others, 0).sum(1)) / count
        square = torch.where(some, others - mean.unsqueeze(1), 0).square().sum(1) + (target - mean).square()
        return mean - self.z * (square / (count - 1).clamp(min=1)).sqrt()
