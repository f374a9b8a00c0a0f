r"""Adam and AdamW, row by row: the arithmetic of `torch.optim`.

    m <- beta1 m + (1 - beta1) g,    v <- beta2 v + (1 - beta2) g^2,    t <- t + 1,
    x <- x - eta m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).

Adam adds weight_decay x to g; AdamW shrinks x by 1 - eta weight_decay before the step instead.

Notation: m, v moments, t minibatch steps of a node so far, eta step size.

References:
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.optim.base import Optimizer
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import PerNode

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch

_MOMENTS = {
    "exp_avg": Field(travels=True),
    "exp_avg_sq": Field(travels=True),
    "steps": Field(width=1, dtype="float64", travels=True),
}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps scaled by moments of the gradients that a node has seen; that of `torch.optim.Adam`.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import Adam
        >>> settings = {"beta1": torch.tensor([[0.9]]), "beta2": torch.tensor([[0.999]]), "eps": torch.tensor([[1e-8]])}
        >>> kept = {"exp_avg": torch.zeros(1, 2), "exp_avg_sq": torch.zeros(1, 2), "steps": torch.zeros(1, 1)}
        >>> x, g, lr = torch.zeros(1, 2), torch.tensor([[100.0, -0.01]]), torch.tensor([[0.5]])
        >>> Adam().step(x, g, kept, lr, **settings).round(decimals=3).tolist()  # the first step: lr, whatever g is
        [[-0.5, 0.5]]
    """

    beta1: PerNode = field(default=0.9, metadata={"high": 1.0})
    """Decay of the first moment, 0 <= beta1 < 1; dimensionless."""

    beta2: PerNode = field(default=0.999, metadata={"high": 1.0})
    """Decay of the second moment, 0 <= beta2 < 1; dimensionless."""

    eps: PerNode = field(default=1e-8, metadata={"open_low": True})
    """Added to the square root of the second moment; positive and finite; of the unit of gradients."""

    fields: ClassVar[dict[str, Field]] = _MOMENTS

    def step(self, x: Tensor, g: Tensor, kept: dict[str, Tensor], lr: Tensor, **settings: Tensor) -> Tensor:
        return moved(x, g, kept, lr, settings)

    def serial(self, params: list[Any], lr: float, settings: dict[str, float]) -> Any:
        betas = settings["beta1"], settings["beta2"]
        return torch.optim.Adam(params, lr, betas, settings["eps"], settings["decay"], foreach=False)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with weight decay apart from the moments; that of `torch.optim.AdamW`.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import AdamW
        >>> names = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.5}
        >>> settings = {name: torch.tensor([[value]]) for name, value in names.items()}
        >>> kept = {"exp_avg": torch.zeros(1, 1), "exp_avg_sq": torch.zeros(1, 1), "steps": torch.zeros(1, 1)}
        >>> x, g, lr = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([[0.5]])
        >>> AdamW().step(x, g, kept, lr, **settings).item()  # decay alone
        0.75
    """

    beta1: PerNode = field(default=0.9, metadata={"high": 1.0})
    """Decay of the first moment, 0 <= beta1 < 1; dimensionless."""

    beta2: PerNode = field(default=0.999, metadata={"high": 1.0})
    """Decay of the second moment, 0 <= beta2 < 1; dimensionless."""

    eps: PerNode = field(default=1e-8, metadata={"open_low": True})
    """Added to the square root of the second moment; positive and finite; of the unit of gradients."""

    fields: ClassVar[dict[str, Field]] = _MOMENTS
    decays: ClassVar[bool] = True

    def step(self, x: Tensor, g: Tensor, kept: dict[str, Tensor], lr: Tensor, **settings: Tensor) -> Tensor:
        decay = settings.get("decay")
        return moved(x if decay is None else x * (1 - lr * decay), g, kept, lr, settings)

    def serial(self, params: list[Any], lr: float, settings: dict[str, float]) -> Any:
        betas = settings["beta1"], settings["beta2"]
        return torch.optim.AdamW(params, lr, betas, settings["eps"], settings["decay"], foreach=False)


def moved(x: Tensor, g: Tensor, kept: dict[str, Tensor], lr: Tensor, settings: dict[str, Tensor]) -> Tensor:
    """Returns models after Adam's step, and notes the moments."""
    beta1, beta2, eps = settings["beta1"], settings["beta2"], settings["eps"]
    m = beta1 * kept["exp_avg"] + (1 - beta1) * g
    v = beta2 * kept["exp_avg_sq"] + (1 - beta2) * g * g
    t = kept["steps"] + 1
    kept |= {"exp_avg": m, "exp_avg_sq": v, "steps": t}
    first, second = ((1 - beta.double() ** t).to(x.dtype) for beta in (beta1, beta2))
    return x - lr / first * m / ((v / second).sqrt() + eps)
