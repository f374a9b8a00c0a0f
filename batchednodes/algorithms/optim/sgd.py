"""Stochastic gradient descent, with the momentum, Nesterov's step and the weight decay of `local`.

Its arithmetic stands in `local_sgd`, where it has the fastest form; this is its name.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchednodes.algorithms.optim.base import Optimizer

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class SGD(Optimizer):
    """Steps against the gradient, by `momentum`, `nesterov` and `weight_decay` of `local`, as `torch.optim.SGD`.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import SGD
        >>> SGD().step(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]]), {}, lr=torch.tensor([[0.5]])).tolist()
        [[0.75, 2.5]]
    """

    def step(self, x: Tensor, g: Tensor, kept: dict[str, Tensor], lr: Tensor, **settings: Tensor) -> Tensor:
        return x - lr * g
