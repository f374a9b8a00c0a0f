"""Stopping: whether the metrics of a run say that it may end before its time."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from batchednodes.config import Config, to_dict
from batchednodes.config.stopping import StopWhen
from batchednodes.data import DataSizes
from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.journal import RunJournal
from batchednodes.results.metrics import base as own_metrics
from batchednodes.results.metrics.catalogue import KEYS


class StopRule:
    """What the marks so far say; a function of their rows, so that a run that goes on ends where the whole one does.

    Example:
        >>> from batchednodes.config.stopping import StopWhen
        >>> from batchednodes.simulation.stopping import StopRule
        >>> rule = StopRule(StopWhen("loss_mean", below=0.5, patience=2), networks=1)
        >>> for time, loss in enumerate([0.4, 0.6, 0.4, 0.3]):
        ...     rule.see([{"network": 0, "time": float(time), "loss_mean": loss}])
        ...
        >>> rule.times, rule.met
        ([3.0], True)
    """

    def __init__(self, when: StopWhen, networks: int) -> None:
        """Begins before the first mark."""
        self.when = when
        self.times: list[float | None] = [None] * networks
        """Time of the first mark at which each network was as it should be [s]; None: it has not been."""
        self.streaks, self.bests = [0] * networks, [-math.inf] * networks

    @property
    def met(self) -> bool:
        """Whether each network has been as it should."""
        return None not in self.times

    def see(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes note of some rows of metrics, those of each network in the order of time."""
        for row in rows:
            g, value = row["network"], row.get(self.when.metric)
            good = self._good(g, math.nan if value is None else float(value))
            self.streaks[g] = self.streaks[g] + 1 if good else 0
            if self.streaks[g] >= self.when.patience and self.times[g] is None:
                self.times[g] = row["time"]

    def _good(self, g: int, value: float) -> bool:
        """Returns whether a value of a network speaks for an end; what is not finite does so only where bests count."""
        when = self.when
        if when.best is None:
            above = math.inf if when.above is None else when.above
            below = -math.inf if when.below is None else when.below
            return math.isfinite(value) and (value > above or value < below)
        sign = 1 if when.best == "highest" else -1
        if math.isfinite(value) and sign * value > self.bests[g]:
            self.bests[g] = sign * value
            return False
        return True


def ended(then: RunJournal, time: float, now: Config) -> bool:
    """Returns whether a run was at its end as it is asked for now: its time was over, or its metrics had ended it.

    Args:
        then: what the run noted of itself.
        time: which it had reached [s].
        now: its settings from now on.
    """
    if then.status == "stopped":
        return then.config["run"].get("stop_when") == to_dict(now)["run"]["stop_when"]
    return then.status == "finished" and time >= now.run.until


def check(config: Config, sizes: DataSizes) -> None:
    """Checks that the metrics of the user's own can be loaded, and that the one which ends a run is one that it has.

    Raises:
        ValueError: they cannot, or it is none, or is never there with these settings.
    """
    when, known = config.run.stop_when, {*KEYS, *(one.metric.key for one in own_metrics.load(config.run.metrics))}
    if when is None:
        return
    if when.metric not in known:
        raise ValueError(
            "run.stop_when.metric must be a metric of rows, as `batchednodes list metrics` shows them, got "
            f"{shown(when.metric)}"
        )
    lacks = {
        "data with labels": when.metric.startswith(("accuracy_", "f1_", "perplexity_")) and not sizes.is_classes,
        "task.own_tests": "_own_" in when.metric and config.task.own_tests == "none",
        "run.metrics=[default, classes]": when.metric.startswith(("f1_", "accuracy_balanced_"))
        and "classes" not in config.run.metrics,
        "staleness.track": when.metric.startswith("staleness_") and config.staleness.track == "none",
    }
    for what in (what for what, missing in lacks.items() if missing):
        raise ValueError(f"run.stop_when.metric must be one that the run has, got {shown(when.metric)} without {what}")
