r"""Metrics of a classification that count each label alike, however many rows it has.

    macro F1             mean over labels of  2 right / (taken + there)
    balanced accuracy    mean over labels of  right / there

over the labels that are there, the former also over those that are taken without being there, whose F1 is 0.

Notation: c labels; of each, right: rows that are rightly taken for it, taken: rows that are, there: rows that have it.
"""

import torch
from jaxtyping import Float64
from torch import Tensor


def f1(hits: Float64[Tensor, "g k 3 c"]) -> Float64[Tensor, "g k"]:
    """Returns the macro F1 of some models of each network.

    Example:
        >>> import torch
        >>> from batchednodes.results.metrics.classes import balanced, f1
        >>> hits = torch.tensor([[[[3.0, 0.0], [4.0, 0.0], [3.0, 1.0]]]])  # one of four is wrong: all are taken for 0
        >>> round(f1(hits.double()).item(), 3), balanced(hits.double()).item()
        (0.429, 0.5)
    """
    right, taken, there = hits.unbind(2)
    return _mean(2 * right, taken + there)


def balanced(hits: Float64[Tensor, "g k 3 c"]) -> Float64[Tensor, "g k"]:
    """Returns the balanced accuracy of some models of each network."""
    right, _, there = hits.unbind(2)
    return _mean(right, there)


def _mean(over: Float64[Tensor, "g k c"], under: Float64[Tensor, "g k c"]) -> Float64[Tensor, "g k"]:
    """Returns the mean of a quotient over the labels where it is one."""
    shares = torch.where(under > 0, over / under.clamp(min=1), 0.0)
    return shares.sum(2) / (under > 0).sum(2)
