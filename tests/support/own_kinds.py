"""Algorithm, optimizer and schedule of one's own, in a file outside the package."""

from dataclasses import dataclass
from typing import ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.algorithms.optim import Optimizer, Schedule
from batchednodes.numerics.values import PerNode


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
