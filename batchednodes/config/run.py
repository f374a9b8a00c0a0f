"""Settings of how long a run is, how often it is observed, and what is followed."""

import bisect
import itertools
import math
import os
from dataclasses import dataclass
from typing import Literal

from batchednodes.config.own_metrics import Metrics, check_metrics
from batchednodes.config.stopping import StopWhen
from batchednodes.numerics.values import count, number, shown

MARKS = 1_000_000
"""The largest number of marks, and of windows, of a run."""


@dataclass(frozen=True)
class Every:
    """When checkpoints are written: by either clock; with both null, only when a run is interrupted."""

    time: float | None = None
    """Simulated time between two of them [s], each at the first end of a window or mark that comes then; positive and
    finite; null: not by this clock."""

    minutes: float | None = 10.0
    """Wall time between two of them [min]; positive and finite; null: not by this clock."""

    def __post_init__(self) -> None:
        for key, unit in (("time", "s"), ("minutes", "min")):
            if getattr(self, key) is not None:
                number(getattr(self, key), 1, key, open_low=True, unit=unit)


@dataclass(frozen=True)
class Run:
    """How long, and how often the run is observed."""

    until: float = 10.0
    """Length of the run [s of simulated time]; positive and finite."""

    mark_every: float = 1.0
    """Time between marks: evaluation, logging [s of simulated time]; positive and finite; at most 1,000,000 marks."""

    mark_at: tuple[float, ...] | None = None
    """Times of the marks in place of every `mark_every`, besides the start and the end [s of simulated time]: positive,
    each later than the one before; those past the end are of no use; null: none but `mark_every` says."""

    eval_nodes: int | None = None
    """Number of nodes that are evaluated, a fixed random sample; at least 1, at most `network.nodes`; null: all."""

    metrics: Metrics = ("default",)
    """What is measured at marks: `default`, what every run measures; then `classes`, macro F1 and balanced accuracy, a
    second look at the test set; and metrics of your own, {kind: python, ...}."""

    node_metrics: bool = False
    """Whether each evaluated node has a row at each mark, in nodes.npy and `result.nodes`; at most 16,000,000 rows."""

    loggers: tuple[Literal["tensorboard", "csv", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Who writes curves into the run's folder, each once: TensorBoard; `csv`, a table of all metrics; Weights & Biases
    and MLflow, both offline."""

    window: float | None = None
    """Length of the timeline that is scheduled at once [s of simulated time]; positive and finite; null: automatic. It
    changes memory and speed, never the result."""

    mixing: Literal["auto", "sparse"] = "auto"
    """How gossip is applied: `auto`, the fastest kernel for the device; `sparse`, products of sparse gossip matrices,
    the reference. They agree to rounding."""

    threads: int | None = None
    """Threads of the CPU to compute with; at least 1, at most those of the machine; null: one, unless waves are large
    enough for more to pay. Events are made beside, in up to as many; null: in those that the process may use, at most
    8."""

    baseline: Literal["none", "isolated"] = "none"
    """What to run beside: `isolated` trains the same nodes without gossip, and reports them too."""

    stop_when: StopWhen | None = None
    """A metric that ends the run before its time, at a mark; null: none does."""

    on_divergence: Literal["stop", "quarantine", "ignore"] = "stop"
    """What to do about nodes whose loss or model is not finite: `stop` ends the run at the next mark, and says which,
    when and why; `quarantine` cuts each off from its update on: contacts with it do nothing, and loss, accuracy and
    consensus are of the others; `ignore` lets them spread, and counts them at the end."""

    start_from: str | None = None
    """Folder of another run whose latest models are the initial ones, of the same model and as many nodes; a run of one
    network serves each network of a sweep; null: `task.model` draws them."""

    checkpoint_every: Every = Every()
    """When the whole state is written into the run's folder, so that `batchednodes resume` can go on from it."""

    keep_checkpoints: int = 2
    """How many of them stay, the newest; at least 1."""

    checkpoint_folder: str | None = None
    """Folder in which the run makes one for its checkpoints, on a scratch disk, for example, made if it is not there;
    null: they lie in the run's own folder."""

    def __post_init__(self) -> None:
        number(self.until, 1, "until", open_low=True, unit="s")
        check_metrics(self.metrics)
        for key in ("mark_every", "window"):
            step = getattr(self, key)
            if step is None:
                continue
            number(step, 1, key, open_low=True, unit="s")
            if isinstance(step, int | float) and isinstance(self.until, int | float) and self.until > MARKS * step:
                least = f"at least until / {MARKS:,} = {self.until / MARKS:g} [s]"
                raise ValueError(f"{key} must be {least}, got {shown(step)}; make it larger, or run.until smaller")
        if self.mark_at is not None:
            _check_times(self.mark_at, self.mark_every)
        count(self.keep_checkpoints, 1, "keep_checkpoints", high=10**6)
        if self.checkpoint_folder is not None and (not self.checkpoint_folder or "\0" in self.checkpoint_folder):
            raise ValueError(f"checkpoint_folder must be the path of a folder, got {shown(self.checkpoint_folder)}")
        for key, high in (("eval_nodes", 10**8), ("threads", os.cpu_count() or 1)):
            if getattr(self, key) is not None:
                count(getattr(self, key), 1, key, high=high)

    @property
    def marks(self) -> int:
        """How many marks the run has, those at the start and the end among them, give or take one."""
        if self.mark_at is None:
            return 1 + math.ceil(self.until / self.mark_every)
        return 2 + bisect.bisect_left(self.mark_at, self.until)


def _check_times(times: tuple[float, ...], mark_every: float) -> None:
    """Checks the times of marks that are given one by one.

    Raises:
        ValueError: they do not rise from above 0, are too many, or `mark_every` is given besides.
    """
    if not 0 < len(times) <= MARKS:
        raise ValueError(f"mark_at must be a list of 1 to {MARKS:,} times [s], got {len(times):,}; null means none")
    for before, time in itertools.pairwise((0.0, *times)):
        if not isinstance(time, int | float) or not before < time < math.inf:
            rule = f"mark_at must be positive, finite times [s], each later than the one before, {before:g}"
            raise ValueError(f"{rule}, got {shown(time)}; sort them")
    if mark_every != Run.mark_every:
        raise ValueError(f"mark_every must be left out where mark_at is given, got {shown(mark_every)}")


@dataclass(frozen=True)
class Staleness:
    """Which nodes' updates are followed through the network."""

    track: int | Literal["all", "none"] = "all"
    """Sources whose versions are kept: all, none, or a number of them, at least 1 and at most `network.nodes`. Memory
    is 2 bytes for each node and source, or 4 where counts can exceed 32,767 [B]."""

    def __post_init__(self) -> None:
        if self.track not in ("all", "none"):
            count(self.track, 1, "track")
