"""Losses: mean over a minibatch, and whether an output is right.

Letters: b examples, k outputs or classes.
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor

LossName = Literal["auto", "cross_entropy", "mse"]


def choose(name: LossName, classes: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the mean loss of (outputs [b, k], targets); auto: cross_entropy for labels, mse for real values.

    Raises:
        ValueError: cross_entropy is asked for on data without labels.
    """
    if name == "cross_entropy" and classes is None:
        raise ValueError("task.loss must be mse for real-valued targets, got 'cross_entropy'; or give integer labels")
    if name == "mse" and classes is not None:
        return functools.partial(_brier, classes)
    return F.mse_loss if classes is None else cross_entropy


def _brier(classes: int, outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared error of outputs [b, k] to the one-hot labels."""
    hot = targets.unsqueeze(-1) == torch.arange(classes, device=targets.device)
    return F.mse_loss(outputs, hot.to(outputs.dtype))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean over a minibatch of -log softmax(outputs)[target].

    The value and the gradient of `F.cross_entropy`, by two operations that vmap carries as they are; that one it
    takes apart in Python, which costs a third of a small model's update.
    """
    return -torch.log_softmax(outputs, -1).gather(-1, targets.unsqueeze(-1)).mean()
