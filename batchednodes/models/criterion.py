"""The interface of a training loss of the user's own."""

from __future__ import annotations  # signatures name tensors, and torch is not imported for that

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Criterion(ABC):
    """A loss that training minimises in place of a built-in one.

    Example:
        >>> from batchednodes.models.criterion import Criterion
        >>> from batchednodes.models.losses import choose
        >>> import torch
        >>> class Absolute(Criterion):
        ...     def each(self, outputs, targets):
        ...         return (outputs - targets).abs().mean(1)
        ...
        >>> choose(Absolute(), classes=None).mean(torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [2.0]])).item()
        1.5
    """

    @abstractmethod
    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each example [b], by functions of PyTorch that vmap and autograd carry.

        Args:
            outputs: of the model [b, k], or [b, ..., k] where each example has several labels.
            targets: labels [b, ...], or real targets [b, k].
        """
