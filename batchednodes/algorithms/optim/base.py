r"""The interface of optimizers: fields of a row, and one functional step.

    @dataclass(frozen=True)
    class SignMomentum(Optimizer):
        beta: PerNode = 0.9

        fields = {"mean": Field()}

        def step(self, x, g, kept, lr, beta):
            kept["mean"] = beta * kept["mean"] + (1 - beta) * g
            return x - lr * kept["mean"].sign()

Notation: w rows, p parameters, x models [w, p], g gradients [w, p], eta step size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import numpy as np

from batchednodes.algorithms.fields import Field
from batchednodes.numerics.values import PerNode, per_node

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch


@dataclass(frozen=True)
class Optimizer(ABC):
    """What a minibatch step makes of a gradient; what it keeps stays at its node."""

    fields: ClassVar[dict[str, Field]] = {}
    """What each node keeps, by name."""
    decays: ClassVar[bool] = False
    """Whether `step` applies `local.weight_decay` itself, as `decay`; else its gradient comes with decay x added."""

    @abstractmethod
    def step(self, x: Tensor, g: Tensor, kept: dict[str, Tensor], lr: Tensor, **settings: Tensor) -> Tensor:
        """Returns the models [w, p] after one minibatch step.

        Args:
            x: models [w, p]; not written.
            g: their gradients [w, p].
            kept: the fields of the same rows; entries are replaced, not written into.
            lr: step sizes [w, 1].
            settings: fields of the class that may differ from node to node [w, 1], and `decay` where it decays.
        """

    def serial(self, params: list[Any], lr: float, settings: dict[str, float]) -> Any:
        """Returns PyTorch's own optimizer of one model, to hold `step` against; None where there is none."""
        return None

    def per_node(self, n: int, seed: int, key: str, size: int | None = None) -> dict[str, np.ndarray]:
        """Returns the fields that may differ from node to node, of the first nodes of a network [n].

        Raises:
            ValueError: one is out of range.
        """
        return each(self, n, seed, key, size)


def each(settings: Any, n: int, seed: int, key: str, size: int | None = None) -> dict[str, np.ndarray]:
    """Returns the fields of a dataclass that may differ from node to node, of the first of n nodes, by name."""
    hints, found = get_type_hints(type(settings)), {}
    for one in fields(settings):
        if hints[one.name] == PerNode:
            limits = one.metadata
            found[one.name] = per_node(getattr(settings, one.name), n, seed, f"{key}.{one.name}", size=size, **limits)
    return found
