"""State: everything that changes on the device during a run.

Letters: n nodes, p parameters, q parts of a model, N versions, x models, v momentum buffers; rows: nodes and slots of
messages.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor


@dataclass(frozen=True)
class State:
    """The tensors that a run writes in place; with the clocks, a checkpoint is these and the config."""

    x: Float[Tensor, "rows p"]
    """Models of the nodes, then snapshots that messages under way refer to, see mail.py."""
    versions: Int[Tensor, " numbers"]
    """N[j, c]: updates of source c that node j's model contains, at most; a block for each network, see versions.py."""
    updated: Float64[Tensor, " n"]
    """Sum of the times of each node's updates, if it is a tracked source: what integrals of staleness need [s]."""
    gained: Float64[Tensor, " n"]
    """Sum over the contacts that each node received of their time and the versions gained, likewise [updates s]."""
    diverged_at: Float64[Tensor, " n"]
    """Time of the first update of each node that saw a loss that is not finite, or where nodes are quarantined made its
    model so [s]; inf: none."""
    v: Float[Tensor, "rows p"] | None = None
    """Momentum buffers of the same rows; None without momentum."""
    read: Float[Tensor, "n p"] | None = None
    """Model that each node had when it began to compute; None unless updates apply as deltas."""
    age: Int64[Tensor, "rows q"] | None = None
    """Minibatch steps behind each part of the same rows; None unless step sizes are divided by them."""

    @property
    def nodes(self) -> int:
        """Number of nodes n."""
        return self.diverged_at.numel()

    @property
    def models(self) -> Float[Tensor, "n p"]:
        """Models of the nodes, as a view."""
        return self.x[: self.nodes]

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors by name, without those that the run does not have."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def fit_(state: State, slots: int) -> None:
    """Gives the models, in place, rows for some slots of messages, if they have fewer."""
    missing = state.nodes + slots - state.x.shape[0]
    for rows in (state.x, state.v, state.age):
        if rows is not None and missing > 0:
            rows.data = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def begin(
    x: Float[Tensor, "rows p"],
    versions: Int[Tensor, " numbers"],
    n: int,
    momentum: bool = False,
    delta: bool = False,
    ages: int = 0,
) -> State:
    """Returns the state of n nodes at t = 0 from initial models and versions, which it takes over without a copy.

    Args:
        x: models of nodes, and rows for messages.
        versions: of both.
        n: number of nodes.
        momentum: whether there are momentum buffers.
        delta: whether updates apply as deltas.
        ages: parts of a model whose ages count; 0: none.
    """
    updated, gained = torch.zeros(2, n, dtype=torch.float64, device=x.device)
    diverged = torch.full((n,), torch.inf, dtype=torch.float64, device=x.device)
    v, read = torch.zeros_like(x) if momentum else None, x[:n].clone() if delta else None
    age = torch.zeros(x.shape[0], ages, dtype=torch.int64, device=x.device) if ages else None
    return State(x, versions, updated, gained, diverged, v, read, age)
