"""Which metrics of the user's own a run measures, as settings; what they are is imported when a run is made."""

from dataclasses import dataclass, field
from typing import Any, Literal

from batchednodes.numerics import targets
from batchednodes.numerics.values import shown


@dataclass(frozen=True)
class PythonMetric:
    """A metric of the user's own, a `batchednodes.results.metrics.base.UserMetric`. Its module is imported and run.

    Example:
        >>> from batchednodes.config.own_metrics import PythonMetric
        >>> PythonMetric("mine.metrics:Spread", {"power": 2})
        PythonMetric(target='mine.metrics:Spread', args={'power': 2})
        >>> PythonMetric("mine.metrics")
        Traceback (most recent call last):
            ...
        ValueError: target must be "package.module:name" or "path/to/file.py:name", got 'mine.metrics'
    """

    target: str
    """Class, or function that returns an object of one, as "package.module:name", found from the working
    directory, or "path/to/file.py:name"."""

    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call."""

    def __post_init__(self) -> None:
        targets.check(self.target, '"package.module:name" or "path/to/file.py:name"')


Metrics = tuple[Literal["default", "classes"] | PythonMetric, ...]
"""What a run measures: what every run does, then what is asked for, and the user's own."""


def check_metrics(metrics: Metrics) -> None:
    """Checks that what every run measures comes first, and nothing but the user's own twice.

    Raises:
        ValueError: it does not.
    """
    if metrics[:1] != ("default",) or any(metrics.count(name) > 1 for name in ("default", "classes")):
        got = [metric.target if isinstance(metric, PythonMetric) else metric for metric in metrics]
        raise ValueError(f"metrics must begin with default, and name it once, got {shown(got)}; add yours after it")
