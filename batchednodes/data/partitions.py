r"""Partitions: which node owns which training rows.

Every row is owned by exactly one node, and every node owns at least one row. The shards are ragged: flat rows and
offsets, no padding.

Letters: n nodes, S training samples, R = S rows, i node, m_i rows of node i, q_i label proportions of node i.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Int64
from numba import njit

from batchednodes import rng
from batchednodes.data.sources import Dataset
from batchednodes.values import check_sizes, shown

_ROWS, _SHARES, _SLOTS, _ORDER = range(4)
_BLOCK = 4096  # nodes whose label proportions are held at once


_LEAST = 1e-9
"""The smallest concentration: nodes then hold one label each."""


@dataclass(frozen=True, eq=False)
class Shards:
    """The rows of each node: node i owns rows[offsets[i]:offsets[i + 1]]."""

    rows: Int64[np.ndarray, " R"]
    """Indices into the training samples, node by node."""

    offsets: Int64[np.ndarray, " ends"]
    """Where each node's rows begin, and R at the end: n + 1 entries."""

    @property
    def sizes(self) -> Int64[np.ndarray, " n"]:
        """Number of rows of each node."""
        return np.diff(self.offsets)

    def counts(self, targets: Int64[np.ndarray, " S"], classes: int) -> Int64[np.ndarray, "n classes"]:
        """Returns how many rows of each label each node owns."""
        n = len(self.offsets) - 1
        node = np.repeat(np.arange(n), self.sizes)
        return np.bincount(node * classes + targets[self.rows], minlength=n * classes).reshape(n, classes)


class Partition(ABC):
    """How the training rows are dealt to the nodes."""

    @abstractmethod
    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        """Returns the rows of each of n nodes: a pure function of (self, dataset, n, seed).

        Raises:
            ValueError: there are more nodes than samples, or the partition does not suit the data.
        """


# ------------------------------------------------------------------------------------------------------------ parts


def _room(dataset: Dataset, n: int) -> int:
    """Returns the number of training samples, if every node can own one."""
    samples = len(dataset.features)
    if n > samples:
        raise ValueError(
            f"network.nodes must be at most the number of training samples, {samples}, got {n}: "
            f"give more data, or fewer nodes (network.nodes={samples})"
        )
    return samples


def _labels(dataset: Dataset, kind: str) -> np.ndarray:
    if dataset.classes is None:
        raise ValueError(
            f"task.partition.kind must be iid, quantity_skew or natural when the targets are real numbers, got {kind}: "
            f"{kind} deals by label"
        )
    return dataset.targets


def _near_equal(total: int, parts: int) -> np.ndarray:
    """Returns offsets of parts whose sizes differ by at most one."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def _gather(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns values[starts[0]:starts[0] + sizes[0]], then the same of 1, 2, ..., in one array."""
    ends = np.cumsum(sizes)
    return values[np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)]


def _by_label(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns all rows sorted by label, in random order within a label."""
    rows = rng.generator(seed, rng.PARTITION, _ROWS).permutation(len(labels))
    return rows[np.argsort(labels[rows], kind="stable")]


# ----------------------------------------------------------------------------------------------------------- leaves


@dataclass(frozen=True)
class IID(Partition):
    """Rows dealt at random; sizes differ by at most one."""

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        samples = _room(dataset, n)
        rows = rng.generator(seed, rng.PARTITION, _ROWS).permutation(samples)
        return Shards(rows, _near_equal(samples, n))


@dataclass(frozen=True)
class Dirichlet(Partition):
    r"""Label proportions of each node drawn from a Dirichlet law around those of the whole data.

    Node i draws q_i ~ Dirichlet(alpha prior) and takes its share, of near-equal size, one row at a time: a label from
    q_i, then a random row of that label, without replacement. Where a label runs out, q_i is renormalised over those
    that are left; where none of its labels is left, the node takes from what is left in proportion. Nodes take their
    turns in random order. For labels only.

    Reference:
        T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the effects of non-identical data distribution for federated visual
        classification", arXiv 1909.06335, 2019.
    """

    alpha: float = 0.3
    """Concentration [dimensionless]; positive and finite. Towards 0 a node holds one label; large: all labels."""

    def __post_init__(self) -> None:
        _positive(self.alpha)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        samples, labels = _room(dataset, n), _labels(dataset, "dirichlet")
        present, labels = np.unique(labels, return_inverse=True)
        offsets, turns = _near_equal(samples, n), rng.generator(seed, rng.PARTITION, _ORDER).permutation(n)
        sizes, supply = np.diff(offsets)[turns], np.bincount(labels)
        shares = rng.generator(seed, rng.PARTITION, _SHARES)
        uniform = rng.generator(seed, rng.PARTITION, _SLOTS).random(samples)
        slots, prior, end = np.empty(samples, dtype=np.int64), supply / samples, 0
        for first in range(0, n, _BLOCK):
            part = sizes[first : first + _BLOCK]
            q = shares.dirichlet(self.alpha * prior, size=len(part)) if len(present) > 1 else np.ones((len(part), 1))
            end = _take(q, part, supply, uniform, slots, end)
        rows = np.empty(samples, dtype=np.int64)
        rows[np.argsort(slots, kind="stable")] = _by_label(labels, seed)
        starts = np.empty(n, dtype=np.int64)
        starts[turns] = np.cumsum(sizes) - sizes
        return Shards(_gather(rows, starts, np.diff(offsets)), offsets)


@dataclass(frozen=True)
class LabelShards(Partition):
    """Rows sorted by label and cut into equal shards, which are dealt at random: few labels a node. For labels only.

    Reference:
        H. B. McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
    """

    shards_per_node: int = 2
    """Shards of each node; at least 1, and at most the number of samples of a node."""

    def __post_init__(self) -> None:
        check_sizes(shards_per_node=self.shards_per_node)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        samples, labels, each = _room(dataset, n), _labels(dataset, "shards"), self.shards_per_node
        if n * each > samples:
            raise ValueError(
                f"task.partition.shards_per_node must be at most {samples // n} (of {samples} training samples, for "
                f"{n} nodes), got {each}: give more data, fewer nodes or fewer shards"
            )
        cuts = _near_equal(samples, n * each)
        dealt = rng.generator(seed, rng.PARTITION, _ORDER).permutation(n * each)
        sizes = np.diff(cuts)[dealt]
        offsets = np.concatenate([[0], np.cumsum(sizes)[each - 1 :: each]])
        return Shards(_gather(_by_label(labels, seed), cuts[:-1][dealt], sizes), offsets)


@dataclass(frozen=True)
class QuantitySkew(Partition):
    r"""Rows dealt at random in shards of unequal size: m_i - 1 in proportion to a draw of Dirichlet(alpha 1_n).

    Reference:
        Q. Li, Y. Diao, Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022.
    """

    alpha: float = 0.5
    """Concentration [dimensionless]; positive and finite. Towards 0 few nodes own most rows; large: equal."""

    def __post_init__(self) -> None:
        _positive(self.alpha)

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        samples = _room(dataset, n)
        q = rng.generator(seed, rng.PARTITION, _SHARES).dirichlet(np.full(n, self.alpha)) if n > 1 else np.ones(1)
        ends = np.minimum(np.rint(np.cumsum(q) * (samples - n)).astype(np.int64), samples - n)
        ends[-1] = samples - n
        offsets = np.concatenate([[0], ends + np.arange(1, n + 1)])
        return Shards(rng.generator(seed, rng.PARTITION, _ROWS).permutation(samples), offsets)


@dataclass(frozen=True)
class Natural(Partition):
    """Rows stay where the data say they were made: the data set's own `node` array."""

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        _room(dataset, n)
        node = dataset.node
        if node is None:
            raise ValueError(
                "task.partition.kind must be iid, dirichlet, shards or quantity_skew when the data have no node array, "
                "got natural: add an integer array named node, one entry a row"
            )
        if node.min() < 0 or node.max() >= n:
            raise ValueError(
                f"network.nodes must be more than the largest entry of the data's node array, {node.max()}, got {n}: "
                f"number the nodes 0, 1, 2, ..., or set network.nodes={max(int(node.max()) + 1, 1)}"
            )
        sizes = np.bincount(node, minlength=n)
        empty = np.flatnonzero(sizes == 0)
        if empty.size:
            listed = ", ".join(str(i) for i in empty[:5]) + (", ..." if empty.size > 5 else "")
            raise ValueError(
                f"network.nodes must be a number of nodes that all own training samples, got {n}, of which "
                f"{empty.size} own none (nodes {listed}): give them data, renumber the nodes, or hold out fewer rows"
            )
        return Shards(np.argsort(node, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]))


def _positive(alpha: float) -> None:
    if not _LEAST <= alpha < math.inf:  # below, draws of Dirichlet's law underflow
        raise ValueError(f"alpha must be at least {_LEAST} and finite [dimensionless], got {shown(alpha)}")


# ---------------------------------------------------------------------------------------------------------- kernels


@njit(nogil=True, cache=True)
@no_type_check
def _usable(q, supply, weights):  # noqa: ANN001, ANN202  (numba infers the types)
    """Sets the weights to q over the labels that are left, or to what is left where that is zero; returns the sum."""
    total = 0.0
    for label in range(q.size):
        weights[label] = q[label] if supply[label] > 0 else 0.0
        total += weights[label]
    if total > 0.0:
        return total
    for label in range(q.size):
        weights[label] = supply[label]
        total += weights[label]
    return total


@njit(nogil=True, cache=True)
@no_type_check
def _pick(weights, target):  # noqa: ANN001, ANN202
    """Returns the first label whose cumulated weight exceeds the target, or the last one with weight."""
    label = -1
    for candidate in range(weights.size):
        if weights[candidate] > 0.0:
            label = candidate
            target -= weights[candidate]
            if target < 0.0:
                break
    return label


@njit(nogil=True, cache=True)
@no_type_check
def _take(q, sizes, supply, uniform, slots, begin):  # noqa: ANN001, ANN202
    """Writes the label of each slot of these nodes from slots[begin] on, lowers the supply, returns the end."""
    weights = np.empty(q.shape[1])
    s = begin
    for i in range(sizes.size):
        total = _usable(q[i], supply, weights)
        for _ in range(sizes[i]):
            slots[s] = label = _pick(weights, uniform[s] * total)
            s += 1
            supply[label] -= 1
            if supply[label] == 0:
                total = _usable(q[i], supply, weights)
    return s
