"""Temporaries: what memory a gradient and a score of one model take, measured on one example and on two."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from batchednodes.models.stacked import Stack
from batchednodes.numerics.live_bytes import LiveBytes

_HELD = 2
"""Memory of many temporaries of different sizes, over what is in use at once: the C library keeps what lies between."""

Linear = tuple[int, int]
"""Bytes whatever the minibatch, and for each of its examples [B]."""


def measured(stack: Stack, two: Tensor) -> tuple[Linear, Linear]:
    """Returns what the gradient of a model takes, and what its outputs take in evaluation mode.

    Args:
        stack: layout of the model.
        two: examples [2, ...].
    """
    row = stack.start(two.device).unsqueeze(0)
    gradient = vmap(grad(lambda one, x: stack.call(one, x, stacked=True).square().sum()))

    def score(rows: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return vmap(stack.score)(rows, x)

    return _line(gradient, row, two), _line(score, row, two)


def _line(work: Callable[[Tensor, Tensor], Tensor], row: Tensor, two: Tensor) -> Linear:
    """Returns what some work on one model takes, as a line in the number of examples."""
    most = list[int]()
    for examples in (two[:1], two):
        with LiveBytes() as live:
            work(row, examples.unsqueeze(0))
        most.append(_HELD * live.most)
    each = max(1, most[1] - most[0])
    return max(0, most[0] - each), each
