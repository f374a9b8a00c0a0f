"""Adapters: few new parameters beside the layers of a frozen module, which all nodes share, are what nodes train.

Reference:
    E. J. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022.
"""

from __future__ import annotations  # signatures name modules, and torch is not imported for that

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from batchednodes.models import lora
else:
    lora = deferred("batchednodes.models.lora")


class Adapter(ABC):
    """What becomes of a user's module before it is trained."""

    shares: ClassVar[bool]
    """Whether what nodes begin with is of one module that they share, not of a call of its function for each seed."""

    @abstractmethod
    def adapt_(self, module: nn.Module) -> None:
        """Puts new parameters, all zeros, into a module, and freezes what is not to be trained.

        Raises:
            ValueError: the module has no such layers.
        """

    @abstractmethod
    def draw_(self, module: nn.Module, named: Mapping[str, Tensor]) -> None:
        """Writes initial values of the new parameters of an adapted module, by PyTorch's generator.

        Args:
            module: the adapted one; its parameters stay as they are.
            named: what is written, by the names of the parameters that are trained.
        """

    @abstractmethod
    def merged(self, module: nn.Module, plain: Callable[[], nn.Module]) -> nn.Module:
        """Returns a module without adapters that computes what an adapted one does.

        Args:
            module: the adapted one.
            plain: makes the module as it was.
        """


@dataclass(frozen=True)
class NoAdapter(Adapter):
    """The module is trained as it is: all its parameters that require gradients.

    Example:
        >>> from batchednodes.models import PythonModule
        >>> PythonModule("torch.nn:Linear", args={"in_features": 8, "out_features": 2}).adapter
        NoAdapter()
    """

    shares: ClassVar[bool] = False

    def adapt_(self, module: nn.Module) -> None:
        return

    def draw_(self, module: nn.Module, named: Mapping[str, Tensor]) -> None:
        return

    def merged(self, module: nn.Module, plain: Callable[[], nn.Module]) -> nn.Module:
        return module


@dataclass(frozen=True)
class LoRA(Adapter):
    """Low-rank adapters: beside a frozen weight W of named layers the product of two thin matrices, (alpha / rank) B A.

    A begins as PyTorch's linear layers do and B at 0, so that all nodes begin with the frozen module; of an embedding A
    begins at 0 and B normal, as in PEFT. The frozen weights are one copy for all nodes.

    Example:
        >>> from torch import nn
        >>> from batchednodes.models.adapters import LoRA
        >>> module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> LoRA(targets=("0",), rank=4, trains=("2",)).adapt_(module)
        >>> {name: tuple(w.shape) for name, w in module.named_parameters() if w.requires_grad}
        {'0.lora_A': (4, 64), '0.lora_B': (64, 4), '2.weight': (10, 64), '2.bias': (10,)}
    """

    shares: ClassVar[bool] = True

    targets: tuple[str, ...]
    """Layers that get adapters: Linear, Embedding, Conv2d (without groups and dilation) and MultiheadAttention (its
    packed projection of queries, keys and values), by the end of their names, from a dot on, as "query",
    "layer.0.dense" or, with * for any letters, "layer.*.dense"."""

    rank: int = 8
    """Rows of A and columns of B; at least 1, and at most the smaller side of each weight."""

    alpha: float | None = None
    """Factor of B A, times the rank; positive; null: as large as the rank, so that the factor is 1."""

    trains: tuple[str, ...] = ()
    """What else is trained, as a head, by the end of names of modules or parameters, as "classifier" or "*.bias"."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets must name at least one layer, got []")
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, or null, got {shown(self.alpha)}")

    def adapt_(self, module: nn.Module) -> None:
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        lora.adapt_(module, self.targets, self.rank, scale, self.trains)

    def draw_(self, module: nn.Module, named: Mapping[str, Tensor]) -> None:
        lora.draw_(module, named)

    def merged(self, module: nn.Module, plain: Callable[[], nn.Module]) -> nn.Module:
        return lora.merged(module, plain())
