r"""Local SGD on the rows of a wave: one `torch.func.vmap` for all of them.

    g <- grad loss(x; batch) + weight_decay x
    v <- momentum v + g                          (v starts at 0 and stays at its node; it is never mixed)
    x <- x - lr v            or, with nesterov,  x <- x - lr (g + momentum v)

for each of `steps` minibatches: the arithmetic of `torch.optim.SGD`.

Letters: n nodes, w rows of a wave, p parameters, s steps, b examples of a minibatch, x models, v momentum buffers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value, vmap

from batchednodes.values import PerNode


@dataclass(frozen=True)
class Local:
    """Local SGD: what a node does in one update."""

    steps: int = 1
    """Minibatch steps of one update; at least 1."""

    batch_size: int = 32
    """Examples of a minibatch; at least 1; more than a node owns means that it sees some twice."""

    lr: PerNode = 0.1
    """Step size; non-negative and finite; dimensionless."""

    momentum: PerNode = 0.0
    """Momentum, 0 <= momentum < 1; dimensionless; the buffer stays at its node and is never mixed."""

    nesterov: bool = False
    """Whether the gradient step looks ahead by the momentum (Nesterov); needs momentum."""

    weight_decay: PerNode = 0.0
    """Coefficient of the L2 penalty's gradient, weight_decay * x; non-negative and finite; dimensionless."""

    sampling: Literal["shuffle", "replacement"] = "shuffle"
    """shuffle: each epoch of a node deals its examples once, in a new order; replacement: independent draws."""

    chunk: int | None = None
    """Rows updated by one vmap call; at least 1; null: as many as fit the workspace. Changes rounding only."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


Coefficient = Float[Tensor, " n"] | Float[Tensor, "n 1"]
"""One number for each node, or the same as a column that broadcasts over parameters."""


@dataclass(frozen=True)
class Rates:
    """The coefficients of local SGD, one for each node."""

    lr: Coefficient
    """Step sizes; dimensionless."""
    momentum: Coefficient | None
    """Momentum of each node; None: no node has any, and no buffer is kept."""
    weight_decay: Coefficient | None
    """Weight decay of each node; None: no node has any."""
    nesterov: bool
    """Whether the step looks ahead by the momentum."""

    def of(self, rows: Tensor) -> "Rates":
        """Returns the coefficients of some rows, as columns that broadcast over parameters."""
        lr, momentum, decay = (
            None if r is None else r[rows].unsqueeze(-1) for r in (self.lr, self.momentum, self.weight_decay)
        )
        assert lr is not None
        return Rates(lr, momentum, decay, self.nesterov)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps (row [p], features [b, ...], targets [b, ...]) to the mean loss of a minibatch."""


def sgd(
    loss: Loss,
    x: Float[Tensor, "w p"],
    v: Float[Tensor, "w p"] | None,
    features: Float[Tensor, "w s b ..."],
    targets: Tensor,
    rates: Rates,
) -> tuple[Float[Tensor, "w p"], Float[Tensor, "w p"] | None, Float[Tensor, " w"]]:
    """Returns models and momentum buffers after one local update of each row, and the mean loss over its steps.

    Args:
        loss: of one row and one minibatch.
        x: models before the update.
        v: momentum buffers before it; None without momentum.
        features: inputs of each row's minibatches.
        targets: their labels [w, s, b] or values [w, s, b, k].
        rates: coefficients of these rows, as columns [w, 1].
    """
    gradient = vmap(grad_and_value(loss))
    total = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
    for s in range(features.shape[1]):
        g, value = gradient(x, features[:, s], targets[:, s])
        x, v = step(x, v, g, rates)
        total = total + value
    return x, v, total / features.shape[1]


def step(
    x: Float[Tensor, "w p"], v: Float[Tensor, "w p"] | None, g: Float[Tensor, "w p"], rates: Rates
) -> tuple[Float[Tensor, "w p"], Float[Tensor, "w p"] | None]:
    """Returns models and momentum buffers after one gradient step."""
    if rates.weight_decay is not None:
        g = g + rates.weight_decay * x
    if rates.momentum is None or v is None:
        return x - rates.lr * g, v
    v = rates.momentum * v + g
    return x - rates.lr * (g + rates.momentum * v if rates.nesterov else v), v
