r"""Heterogeneity of labels as a number, beside what chance alone would give at these sizes.

Notation: n nodes, S training samples, K labels, k label, m_i rows of node i, S_k rows of label k.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float64, Int64

from batchednodes.data.partitions import Shards

_BLOCK = 1 << 20
"""Numbers that are computed at once."""


@dataclass(frozen=True)
class Heterogeneity:
    """How far the labels of a node are from those of all nodes together, in the mean over nodes [dimensionless]."""

    distance: float
    """Mean total variation distance; in [0, 1): 0, all nodes have the same label proportions."""

    chance: float
    """Its expected value for rows dealt at random in shards of the same sizes: small shards differ by chance."""


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """How many rows of each label each node owns; only counts above 0 are stored.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.heterogeneity import LabelCounts
        >>> from batchednodes.data.partitions.base import of_owners
        >>> labels, owners = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])  # each node knows one label of two
        >>> LabelCounts.of(of_owners(np.arange(4), owners, 2), labels, 2).heterogeneity().distance
        0.5
    """

    sizes: Int64[np.ndarray, " n"]
    """Rows m_i of each node."""

    totals: Int64[np.ndarray, " K"]
    """Rows S_k of each label."""

    node: Int64[np.ndarray, " e"]
    """Node of each count, in increasing order."""

    label: Int64[np.ndarray, " e"]
    """Label of each count, in increasing order within a node."""

    count: Int64[np.ndarray, " e"]
    """Rows; at least 1."""

    @staticmethod
    def of(shards: Shards, targets: Int64[np.ndarray, " S"], classes: int) -> "LabelCounts":
        """Returns the counts of a partition; labels are 0, 1, ..., classes - 1."""
        node = np.repeat(np.arange(len(shards.offsets) - 1), shards.sizes)
        code, count = np.unique(node * classes + targets[shards.rows], return_counts=True)
        return LabelCounts(
            shards.sizes, np.bincount(targets, minlength=classes), code // classes, code % classes, count
        )

    def heterogeneity(self) -> Heterogeneity:
        r"""Returns the mean over nodes of (1/2) sum_k |m_ik / m_i - S_k / S|, and its expected value by chance.

        Twice the distance is the "earth mover's distance" of Zhao et al.

        Reference:
            Y. Zhao et al., "Federated learning with non-IID data", arXiv 1806.00582, 2018.
        """
        prior = self.totals / self.totals.sum()
        there = np.abs(self.count / self.sizes[self.node] - prior[self.label]) - prior[self.label]
        distance = (1 + np.bincount(self.node, there, minlength=len(self.sizes))) / 2  # labels not there: their prior
        return Heterogeneity(float(distance.mean()), _by_chance(self.sizes, self.totals))


def _by_chance(sizes: Int64[np.ndarray, " n"], totals: Int64[np.ndarray, " K"]) -> float:
    r"""Returns the expected mean distance for shards of some sizes drawn without replacement.

    The count X of label k among m rows is hypergeometric, with E|X - E X| = (2 / S) v (S - S_k - m + v) P(X = v),
    v = floor(E X) + 1: the sum telescopes, since (x - E X) P(x) = g(x) - g(x + 1) with g(x) the summand at v = x.
    """
    m, nodes = np.unique(sizes, return_counts=True)
    totals, samples, expected = totals[totals > 0], int(totals.sum()), 0.0
    for block in np.array_split(np.arange(len(m)), -(-len(m) * len(totals) // _BLOCK)):
        deviation = _mean_deviation(samples, totals[None, :], m[block, None])
        expected += float((nodes[block] * deviation.sum(axis=1) / (2 * m[block])).sum())
    return expected / len(sizes)


def _mean_deviation(samples: int, total: np.ndarray, m: np.ndarray) -> Float64[np.ndarray, "m K"]:
    """Returns E|X - E X| of a hypergeometric X: rows of one label (`total` of all samples) among m rows."""
    v = m * total // samples + 1
    possible = (v <= m) & (v <= total) & (v >= m + total - samples)
    v = np.where(possible, v, np.minimum(m, total))  # beyond the largest count nothing varies
    terms = _binomial(total, v) + _binomial(samples - total, m - v) - _binomial(samples, m)
    return np.where(possible, 2 * v * (samples - total - m + v) / samples * np.exp(terms), 0.0)


def _binomial(n: np.ndarray | int, k: np.ndarray) -> Float64[np.ndarray, "m K"]:
    """Returns the logarithm of "n choose k"."""
    gammaln = scipy.special.gammaln
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
