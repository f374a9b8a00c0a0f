r"""Schedules: by which factor the step size of an update changes, as a node goes on.

Progress is a node's own updates so far, or simulated time. During a warm-up the factor rises in a straight line.

Notation: k progress, of each of w nodes: updates before this one, or time [s].
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from batchednodes.algorithms.optim.base import each
from batchednodes.numerics.values import PerNode

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch

By = Literal["updates", "time"]


@dataclass(frozen=True)
class Schedule(ABC):
    """The factor of the step size; a class of one's own has `factor`."""

    warmup: PerNode = 0.0
    """Progress over which the step size rises to its full value; non-negative and finite; 0: none."""

    by: By = "updates"
    """What progress is: `updates`, a node's own so far; `time`, simulated time [s]."""

    @abstractmethod
    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        """Returns the factor of each node [w], without warm-up.

        Args:
            k: progress, at least 0 [w].
            settings: fields of the class that may differ from node to node [w].
        """

    def per_node(self, n: int, seed: int, key: str, size: int | None = None) -> dict[str, np.ndarray]:
        """Returns the fields that may differ from node to node [n].

        Raises:
            ValueError: one is out of range.
        """
        return each(self, n, seed, key, size)

    def at(self, counts: Tensor, times: Tensor, settings: dict[str, Tensor]) -> Tensor:
        """Returns the factor of updates [w], in float64.

        Args:
            counts: updates of each node before this one.
            times: instants [s].
            settings: fields that may differ from node to node.
        """
        k = (counts if self.by == "updates" else times).double()
        rest = dict(settings)
        warmup = rest.pop("warmup")
        rising = ((k + (self.by == "updates")) / warmup.clamp(min=1e-300)).clamp(max=1.0)
        return self.factor(k, **rest) * rising


@dataclass(frozen=True)
class Constant(Schedule):
    """The step size stays as it is.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import Constant
        >>> rise = Constant(warmup=4.0)  # the first updates make smaller steps
        >>> rise.at(torch.arange(6), torch.zeros(6), {"warmup": torch.tensor(4.0)}).tolist()
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        return k * 0 + 1


@dataclass(frozen=True)
class Step(Schedule):
    """The step size falls by a factor each time that some progress has been made.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import Step
        >>> updates = torch.tensor([0.0, 9.0, 10.0, 20.0])
        >>> Step().factor(updates, every=torch.tensor(10.0), gamma=torch.tensor(0.5)).tolist()
        [1.0, 1.0, 0.5, 0.25]
    """

    every: PerNode = field(default=100.0, metadata={"open_low": True})
    """Progress between two falls; positive and finite."""

    gamma: PerNode = field(default=0.1, metadata={"high": 1.0, "open_high": False})
    """Factor of each fall; in [0, 1]; dimensionless."""

    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        return settings["gamma"] ** (k / settings["every"]).floor()


@dataclass(frozen=True)
class Milestones(Schedule):
    """The step size falls by a factor at some points of progress.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import Milestones
        >>> updates = torch.tensor([0.0, 149.0, 150.0, 199.0])
        >>> Milestones(falls=(150.0, 180.0)).factor(updates, gamma=torch.tensor(0.5)).tolist()
        [1.0, 1.0, 0.5, 0.25]
    """

    falls: tuple[float, ...] = (100.0,)
    """Progress at each fall; positive and finite, rising."""

    gamma: PerNode = field(default=0.1, metadata={"high": 1.0, "open_high": False})
    """Factor of each fall; in [0, 1]; dimensionless."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(b) and a < b for a, b in itertools.pairwise((0.0, *self.falls))):
            raise ValueError(
                f"falls must be positive and finite numbers, each above the one before, got {[*self.falls]}"
            )

    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        return settings["gamma"] ** sum((k >= one).to(k.dtype) for one in self.falls)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the full step size to the lowest, which it then keeps.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import Cosine
        >>> updates = torch.tensor([0.0, 50.0, 100.0, 1000.0])
        >>> Cosine().factor(updates, until=torch.tensor(100.0), low=torch.tensor(0.0)).round(decimals=3).tolist()
        [1.0, 0.5, 0.0, 0.0]
    """

    until: PerNode = field(default=1000.0, metadata={"open_low": True})
    """Progress at which the lowest is reached; positive and finite."""

    low: PerNode = field(default=0.0, metadata={"high": 1.0, "open_high": False})
    """Lowest factor; in [0, 1]; dimensionless."""

    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        low = settings["low"]
        return low + (1 - low) * (1 + (math.pi * (k / settings["until"]).clamp(max=1.0)).cos()) / 2


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """The step size falls as one over the square root of progress: by 1 / sqrt(1 + k / scale).

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import InverseSqrt
        >>> InverseSqrt().factor(torch.tensor([0.0, 30.0, 150.0]), scale=torch.tensor(10.0)).round(decimals=3).tolist()
        [1.0, 0.5, 0.25]
    """

    scale: PerNode = field(default=1.0, metadata={"open_low": True})
    """Progress at which the factor is 1 / sqrt(2); positive and finite."""

    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        return (1 + k / settings["scale"]).rsqrt()


@dataclass(frozen=True)
class Inverse(Schedule):
    """The step size falls as one over progress: by 1 / (1 + k / scale).

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.optim import Inverse
        >>> Inverse().factor(torch.tensor([0.0, 10.0, 30.0]), scale=torch.tensor(10.0)).tolist()
        [1.0, 0.5, 0.25]
    """

    scale: PerNode = field(default=1.0, metadata={"open_low": True})
    """Progress at which the factor is 1 / 2; positive and finite."""

    def factor(self, k: Tensor, **settings: Tensor) -> Tensor:
        return 1 / (1 + k / settings["scale"])
