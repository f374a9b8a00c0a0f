"""Kinds of one's own, in a file outside the package: one class for each section."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.special

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.algorithms.optim import Optimizer, Schedule
from batchednodes.events.clocks import Quantile
from batchednodes.events.links.delay import QuantileDelay
from batchednodes.events.merge import ByAges
from batchednodes.numerics.values import PerNode
from batchednodes.topology import Graph, Topology


@dataclass(frozen=True)
class Petersen(Topology):
    """Copies of the Petersen graph, in a ring."""

    copies: int = 1
    """Number of copies; n must be ten times as many."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, got {self.copies}")

    def contacts(self, n: int) -> float:
        return 3.0 * n + 2 * self.copies

    def graph(self, n: int, seed: int) -> Graph:
        if n != 10 * self.copies:
            raise ValueError(f"copies must be a tenth of network.nodes, got {self.copies} for {n} nodes")
        i = np.arange(5)
        outer, spokes, inner = (i, (i + 1) % 5), (i, i + 5), (i + 5, (i + 2) % 5 + 5)
        a, b = (np.concatenate(ends) for ends in zip(outer, spokes, inner, strict=True))
        firsts = 10 * np.arange(self.copies)
        links = (firsts, np.roll(firsts, -1))
        return Graph.of(
            n,
            np.concatenate([*(a + k for k in firsts), links[0]]),
            np.concatenate([*(b + k for k in firsts), links[1]]),
        )


@dataclass(frozen=True)
class Weibull(Quantile):
    """Gaps of a Weibull law."""

    scale: PerNode = 1.0
    """Scale [s]; positive."""

    shape: PerNode = 0.7
    """Shape; positive; dimensionless."""

    def quantile(self, u, scale, shape):
        return scale * (-np.log(u)) ** (1 / shape)

    def mean(self, scale, shape):
        return scale * scipy.special.gamma(1 + 1 / shape)


@dataclass(frozen=True)
class Pareto(QuantileDelay):
    """Delays with a heavy tail."""

    shape: float = 3.0
    """Exponent of the tail; above 1; dimensionless."""

    def quantile(self, u):
        return u ** (-1 / self.shape) - 1


@dataclass(frozen=True)
class Softmax(ByAges):
    """The weight of a model by the softmax of both ages."""

    temperature: float = 3.0
    """Steps by which an age must be larger to count e times as much; positive."""

    def weights(self, own, other, base):
        return 1 / (1 + np.exp((own - other) / self.temperature))


@dataclass(frozen=True)
class SlowAverage(Algorithm):
    """Local SGD, pulled to a slow average of the node's own models; the last step is kept beside it."""

    pull: float = 0.1
    """Share of the way to the slow average at each update; in [0, 1]."""

    fields: ClassVar[dict[str, Field]] = {"slow": Field(start="model"), "last": Field()}

    def update_(self, r: Rows, k: Context) -> None:
        fast = k.descend(r["x"])
        r["last"] = fast - r["x"]
        r["slow"] = r["slow"] + (fast - r["slow"]) / (k.count + 2)
        r["x"] = fast + self.pull * (r["slow"] - fast)


@dataclass(frozen=True)
class SignMomentum(Optimizer):
    """Steps by the signs of a mean gradient."""

    beta: PerNode = 0.9
    """Decay of the mean; in [0, 1)."""

    fields: ClassVar[dict[str, Field]] = {"mean": Field(travels=True)}

    def step(self, x, g, kept, lr, beta):
        kept["mean"] = beta * kept["mean"] + (1 - beta) * g
        return x - lr * kept["mean"].sign()


@dataclass(frozen=True)
class Sawtooth(Schedule):
    """A step size that falls in a straight line, again and again."""

    teeth: PerNode = 4.0
    """Progress of a tooth."""

    def factor(self, k, teeth):
        return 1 - (k / teeth) % 1 / 2
