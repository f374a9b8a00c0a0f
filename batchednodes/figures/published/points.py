r"""Consensus from given points, as a problem: node i owns f_i(x) = |x - b_i|^2 / 2, and begins at b_i.

With a step size of 1 in the first round and 0 in all others, as `START` says, each node goes to its own point before
the first exchange, and then only mixes. So the settings of a run hold the points where consensus begins, and nothing
else.

Notation: n nodes, d numbers of a point, b points.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from batchednodes.data.sources.base import Dataset, DataSizes, Source
from batchednodes.numerics import rng

START: dict[str, Any] = {"lr": 1.0, "schedule": {"kind": "step", "every": 1, "gamma": 0}}
"""Settings of `local` with which models lie at the points after the first update."""


def problem(name: str, **args: Any) -> dict[str, Any]:
    """Returns the settings of `task.data` for a class of points in this module."""
    return {"kind": "python", "target": f"batchednodes.figures.published.points:{name}", "args": args}


def _dataset(b: Float64[np.ndarray, "n d"]) -> Dataset:
    """Returns the problem: half a squared distance as a mean over d examples, each with one feature that is not 0."""
    n, d = b.shape
    scale = math.sqrt(d / 2)
    features, targets = np.tile(scale * np.eye(d), (n, 1)), scale * b.reshape(-1, 1)
    node = np.repeat(np.arange(n, dtype=np.int64), d)
    return Dataset(features, targets, features.copy(), targets.copy(), None, node=node, optimum=b.mean(0))


def _sizes(n: int, d: int) -> DataSizes:
    return DataSizes(n * d, n * d, (d,), 1, is_classes=False)


@dataclass(frozen=True)
class Points(Source):
    """Given points of one number each, a node each.

    Example:
        >>> from batchednodes.figures.published.points import Points
        >>> Points([0.0, 4.0]).load(2, seed=0).optimum.tolist()
        [2.0]
    """

    at: list[float]
    """Where each node begins."""

    def is_quadratic(self) -> bool:
        return True

    def sizes(self, n: int) -> DataSizes:
        if len(self.at) != n:
            raise ValueError(f"at must have a point for each of network.nodes = {n}, got {len(self.at)}")
        return _sizes(n, 1)

    def load(self, n: int, seed: int) -> Dataset:
        self.sizes(n)
        return _dataset(np.array(self.at, np.float64).reshape(-1, 1))


@dataclass(frozen=True)
class NormalPoints(Source):
    """The standard normal numbers of NumPy's generator with seed 0, [numbers, n] in its order, which seeds hardly move.

    Networks of other seeds than 0 begin at points that are 1e-14 away, as far as rounding moves models in some rounds:
    what is then found to differ says what rounding makes of a run.

    Example:
        >>> from batchednodes.figures.published.points import NormalPoints
        >>> NormalPoints(50).load(9, seed=0).optimum.shape
        (50,)
    """

    numbers: int
    """d; at least 1."""

    def is_quadratic(self) -> bool:
        return True

    def sizes(self, n: int) -> DataSizes:
        return _sizes(n, self.numbers)

    def load(self, n: int, seed: int) -> Dataset:
        b = np.random.default_rng(0).standard_normal((self.numbers, n)).T
        moved = rng.generator(seed, rng.DATA, 0).uniform(-1, 1, b.shape)
        return _dataset(b * (1 + 1e-14 * moved) if seed else b)
