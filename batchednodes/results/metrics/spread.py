r"""Spread: how equally well the nodes of a network do, and how well those that do worst.

Of a_1, ..., a_k >= 0, such as accuracies:

    Gini    = sum_ij |a_i - a_j| / (2 k sum_i a_i)          0: all alike; towards 1: one has all
    Jain    = (sum_i a_i)^2 / (k sum_i a_i^2)               1: all alike; 1 / k: one has all

Notation: g networks, k nodes evaluated.

Reference:
    R. Jain, D.-M. Chiu, W. Hawe, "A quantitative measure of fairness and discrimination for resource allocation in
    shared computer systems", DEC TR-301, 1984; T. Li, M. Sanjabi, A. Beirami, V. Smith, "Fair resource allocation in
    federated learning", ICLR 2020 (the worst 10% of devices).
"""

import torch
from jaxtyping import Float64
from torch import Tensor

_WORST = 10
"""One of so many nodes, rounded up, is among the worst."""


def worst(values: Float64[Tensor, "g k"], descending: bool = False) -> Float64[Tensor, " g"]:
    """Returns the mean over the tenth of the nodes, rounded up, with the smallest values, or the largest.

    Example:
        >>> import torch
        >>> from batchednodes.results.metrics.spread import worst
        >>> worst(torch.arange(20.0).double()[None]).tolist(), worst(torch.arange(5.0).double()[None], True).tolist()
        ([0.5], [4.0])
    """
    few = -(-values.shape[1] // _WORST)
    return values.sort(1, descending=descending).values[:, :few].mean(1)


def deviation(values: Float64[Tensor, "g k"]) -> Float64[Tensor, " g"]:
    """Returns the standard deviation over nodes: of all that there are, not of a sample of them."""
    return values.std(1, correction=0)


def gini(values: Float64[Tensor, "g k"]) -> Float64[Tensor, " g"]:
    """Returns the Gini coefficient over nodes; NaN where all values are 0.

    Example:
        >>> import torch
        >>> from batchednodes.results.metrics.spread import gini, jain
        >>> found = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]).double()
        >>> gini(found).tolist(), jain(found).tolist()
        ([0.0, 0.75], [1.0, 0.25])
    """
    k = values.shape[1]
    weights = 2 * torch.arange(1, k + 1, dtype=values.dtype) - k - 1  # of the sorted values in sum_ij |a_i - a_j| / 2
    return (values.sort(1).values @ weights).clamp(min=0) / (k * values.sum(1))


def jain(values: Float64[Tensor, "g k"]) -> Float64[Tensor, " g"]:
    """Returns Jain's index over nodes; NaN where all values are 0."""
    return values.sum(1).square() / (values.shape[1] * values.square().sum(1))
