"""Kinds as a user writes them, in a file outside of the package."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchednodes.data import Partition
from batchednodes.data.partitions.base import check_room, of_owners
from batchednodes.events.availability import Availability, AvailabilityLaw
from batchednodes.events.clocks import Clock, Gaps
from batchednodes.events.links.delay import Delay, DelayLaw
from batchednodes.events.links.loss import Loss
from batchednodes.events.merge import Merge, MergeLaw
from batchednodes.models.criterion import Criterion
from batchednodes.numerics.values import PerNode, per_node
from batchednodes.topology import Graph, Topology, Weighted, Weights


@dataclass(frozen=True)
class Petersen(Topology):
    """Petersen graphs side by side."""

    copies: int = 1
    """How many of them; a tenth of the nodes."""

    def __post_init__(self):
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, got {self.copies}")

    def contacts(self, n):
        return 3.0 * n

    def graph(self, n, seed):
        if n != 10 * self.copies:
            raise ValueError(f"copies must be n / 10, got {self.copies} at n = {n}")
        k = np.arange(5)
        i, j = np.concatenate([k, k, k + 5]), np.concatenate([(k + 1) % 5, k + 5, (k + 2) % 5 + 5])
        first = 10 * np.repeat(np.arange(self.copies), 15)
        return Graph.of(n, np.tile(i, self.copies) + first, np.tile(j, self.copies) + first)


@dataclass(frozen=True)
class Broken(Topology):
    """A graph that cannot be made."""

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed) -> Any:
        return n // (seed - seed)


@dataclass(frozen=True)
class Sloppy(Topology):
    """Settings that cannot be checked."""

    size: int = 1
    """Some size."""

    def __post_init__(self):
        raise KeyError("size")

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed):
        return None


@dataclass
class Loose(Topology):
    """A class that is not frozen."""

    def contacts(self, n):
        return 0.0

    def graph(self, n, seed):
        return None


@dataclass(frozen=True)
class Even(Weights):
    """Half of all contacts are made."""

    def chooser(self, graph):
        return Weighted.of(graph, np.repeat(0.5 / graph.degrees, graph.degrees))


def weibull(u, scale, shape):
    """Returns the inverse CDF of Weibull's law."""
    return scale * (-math.log(u)) ** (1 / shape)


@dataclass(frozen=True)
class Weibull(Clock):
    """Weibull gaps."""

    shape: PerNode = 0.7
    """Shape; 1: exponential."""
    scale: PerNode = 1.0
    """Scale [s]."""

    def gaps(self, n, seed, key, size=None):
        shape, scale = (per_node(getattr(self, name), n, seed, f"{key}.{name}", open_low=True, size=size)
                        for name in ("shape", "scale"))  # fmt: skip
        return Gaps.by(weibull, scale * [math.gamma(1 + 1 / k) for k in shape], scale, shape, key)


@dataclass(frozen=True)
class WeibullDelay(Delay):
    """Weibull delays."""

    scale: PerNode = 0.5
    """Scale [s]."""

    def delays(self, n, seed, key, size, model):
        scale = per_node(self.scale, n, seed, f"{key}.scale", size=size)
        return DelayLaw.by(weibull, scale * math.gamma(1.5), scale, np.full(size, 2.0), key)


def pareto(u, mean, is_off):
    """Returns the inverse CDF of Pareto's law with exponent 3."""
    return mean * 2 / 3 * u ** (-1 / 3)


@dataclass(frozen=True)
class Heavy(Availability):
    """Times on and off of Pareto's law."""

    mean: PerNode = 4.0
    """Mean time on, and off [s]."""

    def presence(self, n, seed, key, size):
        mean = per_node(self.mean, n, seed, f"{key}.mean", size=size)
        return AvailabilityLaw.by(pareto, mean, mean / 4, key)


@dataclass(frozen=True)
class Far(Loss):
    """The later a node, the more of its messages are lost."""

    most: float = 0.5
    """Probability at the last node."""

    def losses(self, n, seed, key, size):
        p = self.most * np.arange(size) / n
        return np.stack([p, p, 0 * p, 0 * p])


def softmax(own, other, weight, temperature):
    """Returns the weight of the other model."""
    return 1 / (1 + math.exp((own - other) / temperature))


@dataclass(frozen=True)
class Softmax(Merge):
    """Models count by the softmax of their ages."""

    temperature: float = 2.0
    """Ages over this are compared [steps]."""

    def weighing(self, weight):
        return MergeLaw(softmax, weight, np.full(weight.size, self.temperature))


@dataclass(frozen=True)
class ByHospital(Partition):
    """Rows go to the hospital that a column names, hospitals to nodes in turn."""

    column: int = 0
    """The column of the features."""

    def check(self, sizes, n):
        check_room(sizes, n)

    def split(self, dataset, n, seed):
        hospital = np.argsort(np.argsort(dataset.features.reshape(len(dataset.features), -1)[:, self.column]))
        return of_owners(np.arange(len(hospital)), hospital % n, n)


@dataclass(frozen=True)
class Huber(Criterion):
    """A loss that large errors do not rule."""

    delta: float = 1.0
    """Where it becomes linear."""

    def each(self, outputs, targets):
        error = (outputs - targets).abs().flatten(1)
        small = error.clamp(max=self.delta)
        return (small * (error - small / 2)).mean(1)
