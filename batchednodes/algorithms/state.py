"""State: everything that changes on the device during a run.

Letters: n nodes, p parameters, N versions, x models, v momentum buffers.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The tensors that a run writes in place; with the clocks, a checkpoint is these and the config."""

    x: Float[Tensor, "n p"]
    """Models."""
    versions: Int[Tensor, " numbers"]
    """N[j, c]: updates of source c that node j's model contains, at most; a block for each network, see versions.py."""
    updated: Float64[Tensor, " n"]
    """Sum of the times of each node's updates, if it is a tracked source: what integrals of staleness need [s]."""
    gained: Float64[Tensor, " n"]
    """Sum over the contacts that each node received of their time and the versions gained, likewise [updates s]."""
    diverged_at: Float64[Tensor, " n"]
    """Time of the first update of each node that saw a loss that is not finite, or where nodes are quarantined made its
    model so [s]; inf: none."""
    v: Float[Tensor, "n p"] | None = None
    """Momentum buffers; None without momentum."""
    read: Float[Tensor, "n p"] | None = None
    """Model that each node had when it began to compute; None unless updates apply as deltas."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors by name, without those that the run does not have."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def begin(x: Float[Tensor, "n p"], versions: Int[Tensor, " numbers"], momentum: bool, delta: bool) -> State:
    """Returns the state at t = 0 from the initial models and versions, which it takes over without a copy."""
    n = x.shape[0]
    updated, gained = torch.zeros(2, n, dtype=torch.float64, device=x.device)
    diverged = torch.full((n,), torch.inf, dtype=torch.float64, device=x.device)
    v, read = torch.zeros_like(x) if momentum else None, x.clone() if delta else None
    return State(x, versions, updated, gained, diverged, v, read)
