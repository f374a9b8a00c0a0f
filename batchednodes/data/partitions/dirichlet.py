r"""Label skew by Dirichlet's law: the variants that the literature calls by one name.

Per node with balanced sizes (Hsu et al.): each node draws its proportions over the labels. In groups: all nodes of a
group share such a draw. Per class (Yurochkin et al., Li et al.): each label draws its proportions over the nodes, so
that sizes differ too.

Notation: n nodes, S training samples, K labels, q_i label proportions of node i, p_k proportions of label k over nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit

from batchednodes.data.partitions.base import (
    ORDER,
    REPAIR,
    SHARES,
    SLOTS,
    Partition,
    Shards,
    by_label,
    check_concentration,
    check_labels,
    check_minimum,
    check_room,
    gather,
    near_equal,
    of_owners,
)
from batchednodes.data.sources.base import Dataset, DataSizes
from batchednodes.numerics import rng
from batchednodes.numerics.values import check_sizes

_BLOCK = 4096
"""Nodes whose label proportions are held at once."""

_ATTEMPTS, _DRAWS = 1000, 10_000_000
"""The most partitions that are drawn until all nodes have enough rows, and the most numbers for them: a second."""


# --------------------------------------------------------------------------------------------------------- per node


@dataclass(frozen=True)
class Dirichlet(Partition):
    r"""Label proportions of each node drawn from a Dirichlet law around those of the whole data; balanced sizes.

    Node i draws q_i ~ Dirichlet(alpha prior) and takes its share, of near-equal size, one row at a time: a label from
    q_i, then a random row of that label, without replacement. Where a label runs out, q_i is renormalised over those
    that are left; where none of its labels is left, the node takes from what is left in proportion. Nodes take their
    turns in random order. For labels only.

    Example:
        >>> from batchednodes.data import Dirichlet, Sklearn
        >>> iris = Sklearn("iris").load(4, seed=0)
        >>> for alpha in (0.1, 1000.0):
        ...     print(Dirichlet(alpha).split(iris, 4, seed=0).counts(iris.targets, 3).tolist())
        ...
        [[0, 0, 30], [0, 30, 0], [10, 10, 10], [30, 0, 0]]
        [[7, 9, 14], [10, 11, 9], [11, 8, 11], [12, 12, 6]]

    Reference:
        T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the effects of non-identical data distribution for federated visual
        classification", arXiv 1909.06335, 2019.
    """

    alpha: float = 0.3
    """Concentration [dimensionless]; positive and finite. Towards 0 a node holds one label; large: all labels."""

    def __post_init__(self) -> None:
        check_concentration(self.alpha)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_room(sizes, n)
        check_labels(sizes, "dirichlet")

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        shares = rng.generator(seed, rng.PARTITION, SHARES)
        return _balanced(
            dataset.targets, n, seed, lambda nodes, prior: _proportions(shares, self.alpha * prior, len(nodes))
        )


@dataclass(frozen=True)
class DirichletGroups(Partition):
    r"""Groups of nodes that share their label proportions, drawn from a Dirichlet law for each group; balanced sizes.

    Node i is of group floor(i groups / n): a group's nodes are neighbours on a chain or ring. Group g draws
    q_g ~ Dirichlet(alpha prior), and each of its nodes takes rows by q_g as `dirichlet` has it. With as many groups as
    nodes it is that law. For labels only. This is its generalisation to clients of a few populations, as in

    Example:
        >>> from batchednodes.data import DirichletGroups, Sklearn
        >>> iris = Sklearn("iris").load(4, seed=0)
        >>> DirichletGroups(alpha=0.1, groups=2).split(iris, 4, seed=0).counts(iris.targets, 3).tolist()
        [[0, 0, 30], [20, 0, 10], [0, 30, 0], [20, 10, 0]]

    Reference:
        A. Ghosh, J. Chung, D. Yin, K. Ramchandran, "An efficient framework for clustered federated learning", NeurIPS
        2020.
    """

    alpha: float = 0.3
    """Concentration [dimensionless]; positive and finite. Towards 0 a group holds one label; large: all labels."""

    groups: int = 10
    """Number of groups; at least 1, at most `network.nodes`."""

    def __post_init__(self) -> None:
        check_concentration(self.alpha)
        check_sizes(groups=self.groups)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_room(sizes, n)
        check_labels(sizes, "dirichlet_groups")
        if self.groups > n:
            raise ValueError(
                f"task.partition.groups must be at most network.nodes = {n}, got {self.groups}; lower it, or use "
                "kind=dirichlet, where each node is its own group"
            )

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        prior = np.bincount(dataset.targets) / len(dataset.targets)
        q = _proportions(rng.generator(seed, rng.PARTITION, SHARES), self.alpha * prior[prior > 0], self.groups)
        return _balanced(dataset.targets, n, seed, lambda nodes, _: q[nodes * self.groups // n])


def _proportions(shares: np.random.Generator, alphas: Float64[np.ndarray, " K"], count: int) -> np.ndarray:
    """Returns draws [count, K] of Dirichlet's law."""
    return shares.dirichlet(alphas, size=count) if len(alphas) > 1 else np.ones((count, 1))


Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps some nodes and the label proportions of all data [K] to those that each of these nodes draws [nodes, K]."""


def _balanced(labels: Int64[np.ndarray, " S"], n: int, seed: int, draw: Draw) -> Shards:
    """Returns near-equal shards; each node in turn takes rows by its own label proportions until a label runs out."""
    present, labels = np.unique(labels, return_inverse=True)
    samples, offsets = len(labels), near_equal(len(labels), n)
    turns = rng.generator(seed, rng.PARTITION, ORDER).permutation(n)
    sizes, supply = np.diff(offsets)[turns], np.bincount(labels, minlength=len(present))
    uniform = rng.generator(seed, rng.PARTITION, SLOTS).random(samples)
    slots, prior, end = np.empty(samples, dtype=np.int64), supply / samples, 0
    for first in range(0, n, _BLOCK):
        part = slice(first, first + _BLOCK)
        end = _take(draw(turns[part], prior), sizes[part], supply, uniform, slots, end)
    rows = np.empty(samples, dtype=np.int64)
    rows[np.argsort(slots, kind="stable")] = by_label(labels, seed)
    starts = np.empty(n, dtype=np.int64)
    starts[turns] = np.cumsum(sizes) - sizes
    return Shards(gather(rows, starts, np.diff(offsets)), offsets)


# -------------------------------------------------------------------------------------------------------- per class


@dataclass(frozen=True)
class DirichletPerClass(Partition):
    r"""Proportions over the nodes drawn from a Dirichlet law for each label; sizes differ.

    Label k draws p_k ~ Dirichlet(alpha 1_n), and its rows, in random order, are cut in these proportions: node i has
    p_ki S_k of them to within one row, and exactly so on average. For labels only.

    Example:
        >>> from batchednodes.data import DirichletPerClass, Sklearn
        >>> iris = Sklearn("iris").load(4, seed=0)
        >>> counts = DirichletPerClass(alpha=0.5, minimum=5).split(iris, 4, seed=0).counts(iris.targets, 3)
        >>> counts.sum(axis=0).tolist(), counts.sum(axis=1).min().item() >= 5
        ([40, 40, 40], True)

    Reference:
        M. Yurochkin et al., "Bayesian nonparametric federated learning of neural networks", ICML 2019; Q. Li, Y. Diao,
        Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022.
    """

    alpha: float = 0.5
    """Concentration [dimensionless]; positive and finite. Towards 0 each label lies at one node; large: at all alike.
    """

    minimum: int = 1
    """Rows of every node, at least; at least 1. The published code has 10."""

    shortage: Literal["resample", "fill"] = "resample"
    """Where nodes have less: `resample` draws all anew until none has, as published, up to 1,000 times; `fill` moves
    random rows from the largest nodes to those that lack them, which serves any number of nodes."""

    capped: bool = False
    """Whether a node that has S / n rows or more gets no rows of the labels that follow: not in the papers, but in the
    code published with both."""

    def __post_init__(self) -> None:
        check_concentration(self.alpha)
        check_sizes(minimum=self.minimum)

    def check(self, sizes: DataSizes, n: int) -> None:
        check_minimum(sizes, n, self.minimum)
        check_labels(sizes, "dirichlet_per_class")

    def split(self, dataset: Dataset, n: int, seed: int) -> Shards:
        self.check(dataset.sizes, n)
        present, labels = np.unique(dataset.targets, return_inverse=True)
        supply = np.bincount(labels, minlength=len(present))
        attempts = max(1, min(_ATTEMPTS, _DRAWS // (n * len(present)))) if self.shortage == "resample" else 1
        owners, best = np.empty(0, dtype=np.int64), 0
        for attempt in range(attempts):
            owners, sizes = _cut(supply, n, self, rng.generator(seed, rng.PARTITION, SHARES, attempt))
            best = max(best, int(sizes.min()))
            if best >= self.minimum:
                break
        if best < self.minimum and self.shortage == "resample":
            raise ValueError(
                f"task.partition.minimum must be reached by all {n} nodes in one of {attempts} draws, got "
                f"{self.minimum}, where the best had a node of {best} rows: raise task.partition.alpha, lower "
                "network.nodes or minimum, or set task.partition.shortage=fill"
            )
        if best < self.minimum:
            owners = _filled(owners, n, self.minimum, rng.generator(seed, rng.PARTITION, REPAIR))
        return of_owners(by_label(labels, seed), owners, n)


def _cut(
    supply: Int64[np.ndarray, " K"], n: int, law: DirichletPerClass, draws: np.random.Generator
) -> tuple[Int64[np.ndarray, " S"], Int64[np.ndarray, " n"]]:
    """Returns the owner of each row, sorted by label, and the sizes: one draw, whatever the sizes are.

    The cuts begin at a random part of a row, so that the mean number of rows of a node is its share of them.
    """
    sizes, owners = np.zeros(n, dtype=np.int64), list[np.ndarray]()
    for rows in supply:
        p = draws.dirichlet(np.full(n, law.alpha)) if n > 1 else np.ones(1)
        if law.capped:
            p = p * (sizes * n < supply.sum())
            p = p if p.sum() > 0 else (sizes * n < supply.sum()).astype(float)
        ends = np.cumsum(p)
        counts = np.diff(np.ceil(ends / ends[-1] * rows - draws.random()).astype(np.int64), prepend=0)
        sizes += counts
        owners.append(np.repeat(np.arange(n), counts))
    return np.concatenate(owners), sizes


def _filled(
    owners: Int64[np.ndarray, " S"], n: int, minimum: int, draws: np.random.Generator
) -> Int64[np.ndarray, " S"]:
    """Returns owners with a minimum of rows each: the largest nodes give random ones, down to one level."""
    sizes = np.bincount(owners, minlength=n)
    lack = np.maximum(minimum - sizes, 0)
    low, high = minimum, int(sizes.max())  # the highest level above which there are as many rows as are lacking
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.maximum(sizes - level, 0).sum() >= lack.sum() else (low, level - 1)
    give = np.maximum(sizes - low, 0)
    give[np.flatnonzero(give)[: give.sum() - lack.sum()]] -= 1
    rows = draws.permutation(len(owners))
    rows = rows[np.argsort(owners[rows], kind="stable")]
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moved = draws.permutation(rows[place < np.repeat(give, sizes)])
    filled = owners.copy()
    filled[moved] = np.repeat(np.arange(n), lack)
    return filled


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
