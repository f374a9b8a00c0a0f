"""Metrics of a user's own: what one is, what it may look at, and how it is found.

    @dataclass(frozen=True)
    class GradientNorm(UserMetric):
        power: float = 1.0
        metric = Metric("gradient_norm", "", "norm of the gradient of the training loss", "models/gradient_norm")

        def measure(self, models, view):
            return float(view.gradient(models.mean(0, keepdim=True)).norm() ** self.power)

Notation: k nodes evaluated, p parameters.
"""

import inspect
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchednodes.config.own_metrics import Metrics, PythonMetric
from batchednodes.config.registry import told
from batchednodes.numerics import targets
from batchednodes.numerics.values import shown
from batchednodes.results.metrics.catalogue import METRICS, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from batchednodes.results.metrics.view import View

_TAKEN = {"replica", "run", *(metric.key for metric in METRICS)}
"""Keys of rows that mean something else."""


class UserMetric(ABC):
    """One number of each network at each mark; derive a frozen dataclass, whose fields are the `args` of settings.

    Example:
        >>> from dataclasses import dataclass
        >>> from batchednodes.results.metrics.base import UserMetric
        >>> from batchednodes.results.metrics.catalogue import Metric
        >>> import torch
        >>> @dataclass(frozen=True)
        ... class Spread(UserMetric):
        ...     metric = Metric("spread", "", "largest distance of two models", "models/spread")
        ...     def measure(self, models, view):
        ...         return torch.cdist(models, models).max()
        ...
        >>> Spread().measure(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), None).item()
        5.0
    """

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """Key, unit, meaning and, unless it is to have none, TensorBoard curve; a class attribute will do.

        `batchednodes plot` gives it a panel, and `compare` a column, by its key.
        """

    @abstractmethod
    def measure(self, models: "Tensor", view: "View") -> float | None:
        """Returns the number; None: there is none now.

        Args:
            models: copies of those of the nodes that are evaluated and take part [k, p], k at least 1.
            view: of the network, with losses and gradients on its data.
        """


@dataclass(frozen=True)
class Measured:
    """A metric of a user's own, and the setting that names it."""

    metric: Metric
    own: UserMetric
    path: str
    """Full key of the setting."""

    def value(self, models: "Tensor", view: "View") -> float | None:
        """Returns the number; None: there is none, or none that is finite.

        Raises:
            ValueError: the user's code fails, or returns something else.
        """
        try:
            found = self.own.measure(models, view)
            number = None if found is None else float(found)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            what = f"{type(self.own).__name__}.measure, got {told(error, type(self.own))}"
            raise ValueError(f"{self.path}.target must return a number or None from {what}") from error
        return number if number is not None and math.isfinite(number) else None


def load(metrics: Metrics) -> tuple[Measured, ...]:
    """Returns the user's own of the metrics of a run, in their order.

    Raises:
        ValueError: one cannot be imported, is none, or has the key or curve of another one.
    """
    found: list[Measured] = []
    for k, setting in enumerate(metrics):
        if isinstance(setting, PythonMetric):
            path = f"run.metrics[{k}]"
            own = _made(setting, path)
            _check(own.metric, path, [*METRICS, *(one.metric for one in found)])
            found.append(Measured(own.metric, own, path))
    return tuple(found)


def _made(setting: PythonMetric, path: str) -> UserMetric:
    make = targets.imported(setting.target, f"{path}.target")
    if inspect.isabstract(make):
        lacks = ", ".join(sorted(make.__abstractmethods__))
        raise ValueError(f"{path}.target must be a class with {lacks}, got {shown(setting.target)} without")
    try:
        own = make(**setting.args)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        rule = f"{path}.target {shown(setting.target)} must take args {setting.args}"
        raise ValueError(f"{rule}, got {type(error).__name__}: {error}") from error
    if not isinstance(own, UserMetric):
        raise ValueError(f"{path}.target must be a UserMetric, got {shown(setting.target)}, a {type(own).__name__}")
    return own


def _check(metric: Metric, path: str, others: list[Metric]) -> None:
    """Checks that a metric can stand beside others, and names no place that only they have."""
    if not isinstance(metric, Metric):
        raise ValueError(f"{path}.target must have a Metric as its metric, got {shown(metric)}")
    if not re.fullmatch(r"[A-Za-z]\w*", metric.key):
        raise ValueError(f"{path}.target must have a key of letters, digits and _, got {shown(metric.key)}")
    if metric.key in _TAKEN | {other.key for other in others}:
        raise ValueError(f"{path}.target must have a key of its own, got {shown(metric.key)}, which is taken")
    if metric.tag is not None and metric.tag in {other.tag for other in others}:
        raise ValueError(f"{path}.target must have a tag of its own, got {shown(metric.tag)}, which is taken")
    if metric != Metric(metric.key, metric.unit, metric.meaning, metric.tag):
        raise ValueError(f"{path}.target must have key, unit, meaning and tag only, got {shown(metric)}")
