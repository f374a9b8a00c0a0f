r"""Closed forms and recursions to hold measurements against.

Letters: n nodes, r updates per second of a node in the long run, lambda gossip capacity, v(k) mean version age of a set
of k nodes.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy import stats


def mean_staleness(n: int, capacity: float, update_rate: float, exchange: Literal["push", "pull", "meet"]) -> float:
    r"""Returns the exact long-run mean staleness of a source at another node, on the complete graph.

    It is v(1) of the recursion

        v(n-1) = r / lambda
        v(k)   = [ r + (n-1-k) a v(k+1) ] / [ (n-k) a ],    a = lambda k / (n-1),    k = n-2, ..., 1,

    where v(k) is the mean version age of a fixed set of k nodes other than the source: the fewest updates that any of
    them lacks. It holds for every update clock of long-run rate r whose count is independent of the gossip clocks. Pull
    has the law of push, since each ordered pair is used at the same rate; a meeting uses both directions, so lambda
    counts twice. The recursion telescopes to (r / lambda) (1 + 1/2 + ... + 1/(n-1)).

    Args:
        n: number of nodes; n >= 2.
        capacity: lambda, contacts that a node makes per second [1/s]; positive.
        update_rate: r [1/s]; non-negative.
        exchange: how two nodes exchange models.

    Returns:
        Mean staleness; dimensionless (updates).

    Reference:
        R. D. Yates, "The age of gossip in networks", ISIT 2021.
    """
    assert n >= 2
    assert capacity > 0
    if exchange == "meet":
        capacity = 2 * capacity
    v = update_rate / capacity
    for k in range(n - 2, 0, -1):
        a = capacity * k / (n - 1)
        v = (update_rate + (n - 1 - k) * a * v) / ((n - k) * a)
    return v


def batch_means(samples: Float64[np.ndarray, " m"], batches: int, confidence: float) -> tuple[float, float]:
    """Returns the mean of a stationary, dependent series and the half-width of its interval by batch means.

    Args:
        samples: the series, in order; the first m mod batches are left out.
        batches: number of consecutive batches, whose means are taken as independent and normal; 2 <= batches <= m.
        confidence: of the interval, for instance 0.95, by Student's t with batches - 1 degrees of freedom.
    """
    assert 2 <= batches <= samples.size
    size = samples.size // batches
    means = samples[samples.size - size * batches :].reshape(batches, size).mean(1)
    quantile = stats.t.ppf((1 + confidence) / 2, batches - 1)
    return float(means.mean()), float(quantile * means.std(ddof=1) / math.sqrt(batches))
