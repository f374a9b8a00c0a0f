r"""Noise: attackers add normal numbers to what they send, x_i + sigma z.

Notation: x_i what an attacker ought to send, z standard normal numbers, sigma their standard deviation here.

Reference:
    P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine learning with adversaries: Byzantine tolerant
    gradient descent", NeurIPS 2017 (Gaussian attackers).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.algorithms.attacks.base import OwnRows
from batchednodes.algorithms.base import Context
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class Noise(OwnRows):
    """What attackers send is noisy; all to whom an attacker sends at one instant get the same.

    Example:
        >>> import batchednodes
        >>> attack = {"kind": "noise", "nodes": [3], "sigma": 10}
        >>> run = batchednodes.train({"network": {"nodes": 20, "attack": attack}, "run.until": 5})
        >>> bool(run.metrics["consensus_distance"].iloc[-1] > 1)
        True
    """

    nodes: int | float | list[int]
    """Who attacks: a number of nodes or a share of them in (0, 1), which are drawn, or a list of their numbers."""

    sigma: float = 1.0
    """Standard deviation of the noise, in the units of a model; positive and finite."""

    def __post_init__(self) -> None:
        number(self.sigma, 1, "sigma", open_low=True)

    def sent(self, own: Tensor, k: Context, place: int) -> Tensor:
        u = k.uniform(place, own.shape[1])
        u = u.clamp(max=1 - torch.finfo(u.dtype).eps / 2).to(torch.promote_types(u.dtype, torch.float32))  # not 1
        return own + (self.sigma * torch.special.ndtri(u)).to(own.dtype)
