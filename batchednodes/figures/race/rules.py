"""Rules of a race: how long it is, by what step sizes are chosen, and what its ranking is of."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from batchednodes.config import Config
from batchednodes.config.hints import nearest
from batchednodes.numerics.values import count, shown
from batchednodes.results.metrics import base as own_metrics
from batchednodes.results.metrics.catalogue import KEYS
from batchednodes.simulation.build import datasets

Spent = Literal["time", "gradients", "bytes"]

BUDGETS: dict[str, str] = {
    "time": "simulated time [s]",
    "gradients": "minibatch gradients of a node",
    "bytes": "bytes sent by a node",
}
"""What a race may be limited by -> in words."""

_RISING = ("accuracy_", "f1_")
_FALLING = ("loss_", "perplexity_", "suboptimality", "distance_", "consensus_", "staleness_")
"""How metrics begin that are better when they are larger, and those that are better when they are smaller."""

_UNEQUAL = ("_std", "_gini")
"""How metrics end that say how unequal nodes are, which is better when it is less."""

AXES = ("time", "network", "seed", "n", "updates", "gossips")
"""Metrics that nothing can be ranked by: entrants share them, or spend them."""

_TUNE = re.compile(r"([\w.]+)=(.+?)\.\.(.+?)(?::(\d+))?")
"""key=low..high, or key=low..high:number."""

CANDIDATES, MOST = 8, 64
"""Values on the grid of what is tuned, by default, and at most."""


@dataclass(frozen=True)
class Rules:
    """What is the same for all entrants besides the config."""

    seeds: int = 3
    """Networks of each entrant, with seeds seed, seed + 1, ..."""
    tune: str | None = None
    """What is tuned, on a grid: "lr=1e-3..1", with eight values, or "lr=1e-3..1:5"; None: nothing."""
    budget: str = "time"
    """"time", "gradients" or "bytes": what the config itself spends until run.until; or with an amount, "bytes=1e6"."""
    by: str | None = None
    """Metric that is ranked; "min:" or "max:" before it says which is better, where the name does not; None: the usual
    one, see `usual`."""
    rank: str = "final"
    """"final" value, "best" value so far, or "to=0.9": what is spent until the metric is there."""

    def __post_init__(self) -> None:
        count(self.seeds, 1, "--seeds", high=1000)
        for name in ("spent", "amount", "tuned", "target", *(["falls"] if self.by is not None else [])):
            getattr(self, name)  # which checks it

    @property
    def spent(self) -> Spent:
        """What the race is limited by."""
        kind: Any = self.budget.partition("=")[0]
        if kind not in BUDGETS:
            raise ValueError(
                f"--budget must be one of {', '.join(BUDGETS)}, or one with an amount, as bytes=1e6, got "
                f"{shown(self.budget)}"
            )
        return kind

    @property
    def amount(self) -> float | None:
        """How much of it, of a node in the mean; None: what the config itself spends."""
        given = self.budget.partition("=")
        if not given[1]:
            return None
        return _number(given[2], f"--budget {given[0]}=", self.budget)

    @cached_property
    def tuned(self) -> tuple[str, tuple[float, ...]] | None:
        """Key and values, from low to high, evenly spaced in the logarithm and rounded to three digits."""
        if self.tune is None:
            return None
        found = _TUNE.fullmatch(self.tune.strip())
        if found is None:
            raise ValueError(
                f"--tune must be key=low..high, as lr=1e-3..1, or key=low..high:number, got {shown(self.tune)}"
            )
        key = found[1] if "." in found[1] else f"local.{found[1]}"
        low, high = (_number(text, "--tune low and high", self.tune) for text in found.group(2, 3))
        number = int(found[4] or CANDIDATES)
        if not (low < high and 2 <= number <= MOST):
            rule = f"--tune must have low < high, and 2 to {MOST} values between them"
            raise ValueError(f"{rule}, got {shown(self.tune)}")
        inner = [float(f"{value:.3g}") for value in np.geomspace(low, high, number)[1:-1]]
        return key, tuple(dict.fromkeys((low, *inner, high)))

    @property
    def metric(self) -> str:
        """Key of the metric that is ranked."""
        assert self.by is not None, "the usual metric is known when a race begins"
        return self.by.rpartition(":")[2]

    @property
    def falls(self) -> bool:
        """Whether smaller values of it are better."""
        order, key = str(self.by).rpartition(":")[0], self.metric
        if order not in ("", "min", "max"):
            raise ValueError(f"--by must be a metric, or min:metric or max:metric, got {shown(self.by)}")
        if not order and not key.startswith((*_RISING, *_FALLING)):
            raise ValueError(
                f"--by must be a metric of `batchednodes list metrics`, or your own, and say which values are better, "
                f"got {shown(key)}; min:{key} or max:{key}"
            )
        return order == "min" or (not order and (key.startswith(_FALLING) or key.endswith(_UNEQUAL)))

    @property
    def target(self) -> float | None:
        """The value that is to be reached; None: values are ranked."""
        if self.rank in ("final", "best"):
            return None
        word, _, value = self.rank.partition("=")
        if word != "to":
            raise ValueError(f"--rank must be final, best or to=value, as to=0.9, got {shown(self.rank)}")
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"--rank to= must be a number, got {shown(self.rank)}") from None

    @property
    def words(self) -> str:
        """What is ranked, in words."""
        if self.target is not None:
            return f"{BUDGETS[self.spent]} until {self.metric} is {self.target:g}"
        return f"{self.rank} {self.metric}"

    def check(self, base: Config) -> None:
        """Checks that runs of a config have the metric, as far as that is known before they run.

        Raises:
            ValueError: they have not; or the budget means nothing there.
        """
        own = [one.metric.key for one in own_metrics.load(base.run.metrics)]
        known = [key for key in (*KEYS, *own) if key not in AXES]
        classes, optimum = datasets.sizes([base])[0].is_classes, base.task.data.is_quadratic()
        known = [key for key in known if optimum or key not in ("suboptimality", "distance_to_optimum")]
        if self.metric not in known or (self.metric.startswith("accuracy_") and not classes):
            why = "of data without labels " if self.metric in known else ""
            use = "loss_mean" if self.metric in known else f"one of {', '.join(known)}{nearest(self.metric, known)}"
            raise ValueError(f"--by must be a metric {why}that runs measure, got {shown(self.metric)}; use {use}")
        if self.spent == "gradients" and base.gossip.on_receipt != "merge":
            got = shown(base.gossip.on_receipt)
            raise ValueError(
                f"gossip.on_receipt must be merge with --budget gradients, which counts updates by clocks, got {got}; "
                "use --budget time"
            )


def usual(base: Config) -> str:
    """Returns the metric by which a config is ranked where none is named: accuracy where there are labels."""
    if base.task.data.is_quadratic():
        return "suboptimality"
    return "accuracy_mean" if datasets.sizes([base])[0].is_classes else "loss_mean"


def rungs(number: int) -> list[float]:
    """Returns the parts of the budget after which the worse half of some candidates leaves; at the last one stays.

    Example:
        >>> from batchednodes.figures.race.rules import rungs
        >>> rungs(8), rungs(5), rungs(2)
        ([0.25, 0.5, 1.0], [0.25, 0.5, 1.0], [1.0])
    """
    steps = max(1, math.ceil(math.log2(number)))
    return [2.0 ** (k + 1 - steps) for k in range(steps)]


def _number(text: str, key: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{key} must be a positive number, got {shown(whole)}")
    return value
