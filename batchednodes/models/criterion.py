"""The interface of a training loss of the user's own."""

from __future__ import annotations  # signatures name tensors, and torch is not imported for that

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Criterion(ABC):
    """A loss that training minimises in place of a built-in one."""

    @abstractmethod
    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each example [b], by functions of PyTorch that vmap and autograd carry.

        Args:
            outputs: of the model [b, k], or [b, ..., k] where each example has several labels.
            targets: labels [b, ...], or real targets [b, k].
        """
