"""Losses: mean over a minibatch, plain or weighted.

Notation: b examples, k outputs or classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Float
from torch import Tensor

from batchednodes.models.clipping import shortened
from batchednodes.models.criterion import Criterion

LossName = Literal["auto", "cross_entropy", "mse"]
"""Built-in losses; `auto`: cross_entropy for labels, mse for real targets."""


@dataclass(frozen=True)
class Loss:
    """What is minimised, a function of outputs [b, k] and targets; with labels [b, ...], of outputs [b, ..., k].

    In place of labels there may be probabilities of all labels [b, ..., k]: an augmentation mixes those.

    Example:
        >>> import torch
        >>> from batchednodes.models.losses import choose
        >>> loss, outputs, targets = choose("mse", None), torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [1.0]])
        >>> loss.each(outputs, targets).tolist(), loss.mean(outputs, targets).item()
        ([1.0, 4.0], 2.5)
        >>> loss.weighted(outputs, targets, torch.tensor([1.0, 0.0])).item()
        1.0
    """

    mean: Callable[[Tensor, Tensor], Tensor]
    """Mean over the examples."""
    each: Callable[[Tensor, Tensor], Tensor]
    """Loss of each example [b]."""

    def shortened(self, outputs: Tensor, targets: Tensor, factors: Float[Tensor, " b"]) -> Tensor:
        """Returns the mean, such that the gradient of each example's loss is some times as long.

        What comes back is multiplied where that changes no order of sums, so that factors of 1 change nothing at all.
        """
        if self.mean is cross_entropy:
            return cross_entropy(outputs, targets, factors)
        if self.mean in (F.mse_loss, _brier):
            return self.mean(shortened(outputs, factors), targets)
        return shortened(self.each(outputs, targets), factors).mean()

    def weighted(
        self, outputs: Tensor, targets: Tensor, weights: Float[Tensor, " b"], factors: Float[Tensor, " b"] | None = None
    ) -> Tensor:
        """Returns the sum of the examples' losses times their weights; an example of weight 0 counts for nothing."""
        each = self.each(outputs, targets)
        if factors is not None:
            each = shortened(each, factors)
        return (each.masked_fill(weights == 0, 0.0) * weights).sum()  # 0 inf would be NaN


def choose(name: LossName | Criterion, classes: int | None) -> Loss:
    """Returns a loss for some targets.

    With labels, mse is that of the outputs to the one-hot labels. With real targets every name gives mse: there is no
    other built-in loss for them.

    Args:
        name: of a built-in loss, or a loss of the user's own.
        classes: number of labels; None: targets are real.
    """
    if isinstance(name, Criterion):
        return _own(name)
    if name == "mse" and classes is not None:
        return Loss(_brier, _brier_each)
    return Loss(F.mse_loss, _squares) if classes is None else Loss(cross_entropy, _surprises)


def _own(criterion: Criterion) -> Loss:
    """Returns a loss of the user's."""

    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return criterion.each(outputs, targets).mean()

    return Loss(mean, criterion.each)


def _brier(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared error of outputs to the one-hot labels."""
    return F.mse_loss(outputs, _hot(outputs, targets))


def _brier_each(outputs: Tensor, targets: Tensor) -> Tensor:
    return _squares(outputs, _hot(outputs, targets))


def _hot(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return targets
    return (targets.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=targets.device)).to(outputs.dtype)


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared error of each example."""
    return (outputs - targets).square().flatten(1).mean(1)


def cross_entropy(outputs: Tensor, targets: Tensor, factors: Float[Tensor, " b"] | None = None) -> Tensor:
    """Returns the mean over a minibatch, and over the labels of each example, of -log softmax(outputs)[target].

    The value and the gradient of `F.cross_entropy`, by two operations that vmap carries as they are; that one it
    takes apart in Python, which costs a third of a small model's update.

    Example:
        >>> import torch
        >>> from batchednodes.models.losses import cross_entropy
        >>> outputs, labels = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 1])
        >>> cross_entropy(outputs, labels).allclose(torch.nn.functional.cross_entropy(outputs, labels))
        True
    """
    found = _chosen(outputs, targets)
    return -(found if factors is None else shortened(found, factors)).mean()


def _chosen(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns log softmax(outputs)[target] of each label [b, ..., 1], or its mean by the probabilities of labels."""
    if targets.is_floating_point():
        return (torch.log_softmax(outputs, -1) * targets).sum(-1, keepdim=True)
    return torch.log_softmax(outputs, -1).gather(-1, targets.unsqueeze(-1))


def _surprises(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns -log softmax(outputs)[target] of each example, the mean over its labels."""
    each = -_chosen(outputs, targets).squeeze(-1)
    return each if each.ndim == 1 else each.flatten(1).mean(1)
