r"""Training: from a config to a result, in one call.

    result = batchednodes.train("configs/quickstart.yaml", "network.nodes=50")

Letters: n nodes, p parameters, t tracked sources.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from batchednodes import assembly, checkpoint, config, overview, sweep, theory
from batchednodes.assembly import Run
from batchednodes.clocks import Never
from batchednodes.config import Config
from batchednodes.engine import Progress
from batchednodes.metrics import diverged
from batchednodes.plan import plan
from batchednodes.record import Record, new_folder
from batchednodes.stack import Stack
from batchednodes.staleness import Curves
from batchednodes.sweep import Point

Watch = Callable[[Config, Progress, dict[str, Any]], None]
"""Called after each window and mark, with the config in progress, how far it is, and the last row of metrics."""


@dataclass(frozen=True)
class Result:
    """What a run leaves in memory."""

    metrics: pd.DataFrame
    """One row for each mark and network, with the keys of metrics.jsonl."""
    summary: dict[str, Any]
    """The content of summary.json."""
    x: Float[Tensor, "n p"]
    """Final models."""
    tables: tuple[Int[Tensor, "_ _"], ...]
    """Final versions of each network: a row for each of its nodes, a column for each of its tracked sources."""
    folder: Path | None
    """Where the files lie; None if none were asked for."""
    stack: Stack = field(repr=False)
    """Layout of a row of x."""

    @property
    def versions(self) -> Int[Tensor, "n t"]:
        """Final versions of the tracked sources, networks one after the other.

        Raises:
            ValueError: networks have different numbers of tracked sources.
        """
        widths = [table.shape[1] for table in self.tables]
        if len(set(widths)) > 1:
            raise ValueError(f"versions must have one width, got networks with {widths} tracked sources; use tables")
        return self.tables[0] if len(widths) == 1 else torch.cat(self.tables)

    def model(self, i: int) -> nn.Module:
        """Returns a module with the weights of node i, 0 <= i < n."""
        if not 0 <= i < self.x.shape[0]:
            raise ValueError(f"i must be a node, 0 <= i < {self.x.shape[0]}, got {i}")
        return self.stack.module(self.x[i])


def train(
    source: str | Path | Mapping[str, Any] | Config,
    *overrides: str,
    out: str | Path | None = None,
    watch: Watch | None = None,
) -> Result:
    """Runs a config to its end.

    Args:
        source: path of a YAML file, a nested mapping, or a `Config`.
        overrides: settings as "key=value", for example "gossip.clock.rate=2*log(n)".
        out: new folder for the files of the run; None: nothing is written.
        watch: called after each window and mark.

    Raises:
        ValueError: a setting, the data, the model, the device or the folder is not usable, or the run does not fit in
            memory; the message names the key, the rule and the value. Nothing has been written then.
    """
    settings = config.load(source, overrides)
    if out is not None and Path(out).exists():
        raise ValueError(f"--out must not exist yet, got {str(out)!r}; nothing is ever overwritten")
    return _train(settings, sweep.points(settings), None if out is None else Path(out), watch)


def _train(settings: Config, points: list[Point], out: Path | None, watch: Watch | None) -> Result:
    configs = [p.config for p in points]
    events = assembly.timeline(configs)
    need = plan(configs, events)
    need.refuse_unless_fits()
    with _threads(need.threads):
        run = assembly.assemble(configs, events, need.chunks)
        folder = None if out is None else new_folder(out)
        with _Recorder(settings, points, run, folder, watch) as recorder:
            return _run(settings, points, recorder)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch compute with some threads of the CPU, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(settings: Config, points: list[Point], recorder: "_Recorder") -> Result:
    run = recorder.run
    progress = run.engine.run_(run.state, run.engine.timeline.begin(), recorder.observe, recorder.advance)
    recorder.save(progress)
    isolated = None
    if settings.run.baseline == "isolated" and not recorder.diverged:
        isolated = _isolated(settings, points, recorder.watch)
    summary = recorder.summary(progress, isolated)
    recorder.finish(summary)
    layout, versions = run.meter.tracking.layout, run.state.versions
    tables = tuple(layout.block(versions, g) for g in range(len(points)))
    return Result(pd.DataFrame(recorder.rows), summary, run.state.x, tables, recorder.folder, run.problem.stack)


def _isolated(settings: Config, points: list[Point], watch: Watch | None) -> list[dict[str, Any]]:
    """Returns the final metrics of the same nodes when none of them ever gossips, network by network."""
    settings = _silent(replace(settings, name=f"{settings.name[:90]}-isolated"))
    alone = [replace(p, config=_silent(p.config)) for p in points]
    return _train(settings, alone, None, watch).summary["networks"]


def _silent(c: Config) -> Config:
    return replace(
        c,
        gossip=replace(c.gossip, clock=Never()),
        run=replace(c.run, baseline="none", mark_every=c.run.until),
        staleness=replace(c.staleness, track="none"),
    )


class _Recorder:
    """Gathers what a run shows at its marks, in memory and, where a folder is given, on disk."""

    def __init__(
        self, settings: Config, points: list[Point], run: Run, folder: Path | None, watch: Watch | None
    ) -> None:
        self.settings, self.points, self.run, self.folder, self.watch = settings, points, run, folder, watch
        labels = [f"{p.label}/replica-{p.replica}" for p in points] if len(points) > 1 else [""]
        self.record = None if folder is None else Record.open(folder, config.dump(settings), labels)
        self.rows: list[dict[str, Any]] = []
        self.late: Curves | None = None
        self.diverged: list[tuple[int, float]] = []
        self.mark = 0
        self.begun = self.last = time.perf_counter()
        self.progress: Progress | None = None

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        if self.record is not None:
            self.record.close()

    def observe(self, progress: Progress) -> bool:
        """Records a mark; returns whether the run should go on."""
        speed = self._speed(progress)
        observations = self.run.meter.observe(self.run.state, progress.clocks)
        for observation, before in zip_longest(observations, self.rows[-len(observations) :]):
            point = self.points[observation.row["network"]]
            observation.row["staleness_mean"] = _time_mean(observation.row, before)
            observation.row.update({"replica": point.replica} | point.settings | {"seed": point.config.seed})
        if progress.clocks.time >= self.settings.run.until / 2:
            now = Curves.of([o.staleness for o in observations], self.run.meter.networks, progress.clocks.time)
            self.late = now if self.late is None else self.late.then(now)
        if self.record is not None:
            self.record.observe(self.mark, observations, speed)
        self.rows += [o.row for o in observations]
        self.mark += 1
        self.last, self.progress = time.perf_counter(), progress
        self.diverged = diverged(self.run.state)
        self.advance(progress)
        return not self.diverged

    def advance(self, progress: Progress) -> None:
        """Shows progress."""
        if self.watch is not None:
            self.watch(self.settings, progress, self.rows[-1])

    def _speed(self, progress: Progress) -> dict[str, float]:
        """Returns events and updates per wall second since the last mark; nothing at the first mark."""
        before, seconds = self.progress, time.perf_counter() - self.last
        if before is None:
            return {}
        updates = progress.clocks.updates.sum() - before.clocks.updates.sum()
        events = progress.events - before.events
        return {"events_per_second": events / seconds, "updates_per_second": float(updates) / seconds}

    def summary(self, progress: Progress, isolated: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Returns the content of summary.json."""
        seconds, state = self.last - self.begun, self.run.state
        count = self.run.meter.networks.count
        summary = {
            "networks": [row | self._average(row["network"]) for row in self.rows[-count:]],
            "isolated": isolated,
            "wall_seconds": seconds,
            "updates_per_second": float(progress.clocks.updates.sum()) / seconds,
            "events_per_second": progress.events / seconds,
            "mean_wave": progress.events / progress.waves if progress.waves else None,
            "peak_memory_bytes": _peak_memory(state.x.device),
            "device": _device_name(state.x.device),
            "torch": torch.__version__,
            "version": version("batchednodes"),
            "status": "diverged" if self.diverged else "finished",
        }
        if self.diverged:
            summary["message"] = _divergence(self.diverged, progress.clocks.time)
        return summary

    def _average(self, network: int) -> dict[str, float | None]:
        """Returns the exact time average of staleness over the second half of the run, with its 95% half-width.

        The first half is left out as a warm-up. The half-width comes from ten batch means; it is None where a batch is
        shorter than twice the time that nodes lag behind, staleness over update rate, or holds no whole mark.
        """
        rows = [r for r in self.rows if r["network"] == network and r["time"] >= self.settings.run.until / 2]
        average: dict[str, float | None] = dict.fromkeys(("staleness_average", "staleness_average_half_width"))
        if len(rows) > 1 and rows[0]["staleness_integral"] is not None:
            mean = average["staleness_average"] = _time_mean(rows[-1], rows[0])
            rate = rows[-1]["updates"] / rows[-1]["n"] / rows[-1]["time"]
            lag = mean / rate if mean and rate else 0.0
            if len(rows) > 20 and (rows[-1]["time"] - rows[0]["time"]) / 10 >= 2 * lag:
                means = np.array([r["staleness_mean"] for r in rows[1:]])
                average["staleness_average_half_width"] = theory.batch_means(means, 10, 0.95)[1]
        return average

    def save(self, progress: Progress) -> None:
        """Writes the final state, before anything else is run."""
        if self.folder is not None:
            curves = {} if self.late is None else self.late.averages()
            layout = self.run.meter.tracking.layout
            checkpoint.save(self.folder / "final.safetensors", self.run.state, progress.clocks, layout, curves)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, here and in TensorBoard."""
        if self.record is not None:
            self.record.finish(summary, [config.to_dict(p.config) for p in self.points])
        if self.folder is not None and len(self.points) > 1:
            overview.write(self.folder / "summary", summary["networks"], summary["isolated"])


def _time_mean(now: dict[str, Any], before: dict[str, Any] | None) -> float | None:
    """Returns the exact mean of staleness over the time between two marks; at the first mark, that of the instant."""
    if before is None or now["staleness_integral"] is None:
        return now["staleness_now"]
    return (now["staleness_integral"] - before["staleness_integral"]) / (now["time"] - before["time"])


def _divergence(nodes: list[tuple[int, float]], now: float) -> str:
    first, when = min(nodes, key=lambda pair: pair[1])
    when = min(when, now)
    some = ", ".join(str(i) for i, _ in nodes[:10]) + (", ..." if len(nodes) > 10 else "")
    return (
        f"the loss or the model of {len(nodes)} nodes is not finite (nodes {some}; the first was node {first}, at "
        f"t = {when:g} s); the run stopped at t = {now:g} s; lower local.lr"
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there begins with the memory of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
