"""The interface of a training loss of the user's own."""

from __future__ import annotations  # signatures name tensors, and torch is not imported for that

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batchednodes.numerics import targets as names
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")


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


@dataclass(frozen=True)
class FunctionLoss(Criterion):
    """A loss that is a function of outputs and targets, or a class of such functions. The module is imported and run.

    Example:
        >>> import torch
        >>> from batchednodes.models.criterion import FunctionLoss
        >>> loss = FunctionLoss("torch.nn.functional:huber_loss", {"delta": 0.5})
        >>> loss.each(torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [2.0]])).tolist()
        [0.0, 0.875]
    """

    target: str
    """The function, as "package.module:name", found from the working directory too, or "path/to/file.py:name". It
    returns the loss of each example; of one that returns a single number, a mean over a minibatch, the loss of an
    example is what it returns for that example alone."""

    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of a function by name; or those of the class, whose object is called."""

    def __post_init__(self) -> None:
        names.check(self.target)

    @cached_property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What is called with outputs and targets."""
        found, args = names.imported(self.target, "task.loss.target"), self.args
        if isinstance(found, type):
            return found(**args)
        return lambda outputs, targets: found(outputs, targets, **args)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = self.function(outputs, targets)
        if found.ndim > 0:
            return found
        one: Any = lambda o, t: self.function(o.unsqueeze(0), t.unsqueeze(0))  # noqa: E731
        return torch.func.vmap(one)(outputs, targets)
