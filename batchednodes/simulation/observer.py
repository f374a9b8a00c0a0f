"""Observer: gathers what a run shows at its marks, and keeps what continues it."""

import time
from dataclasses import asdict, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from batchednodes import config
from batchednodes.config import sweep
from batchednodes.numerics import devices
from batchednodes.numerics.release import release
from batchednodes.results.callbacks import Begun
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.journal import RunJournal
from batchednodes.results.folder import node_file
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.plain_json import alike
from batchednodes.results.folder.run_folder import RunFolder
from batchednodes.results.loggers import loggers
from batchednodes.results.metrics.consensus import diverged
from batchednodes.results.metrics.staleness import StalenessAverages
from batchednodes.simulation import divergence
from batchednodes.simulation.agreement import Totals, agreement
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Observer, Progress
from batchednodes.simulation.job import ComputePlan, Job
from batchednodes.simulation.planning.preflight import networks
from batchednodes.simulation.resume.warm_start import Origin
from batchednodes.simulation.stopping import StopRule, ended
from batchednodes.simulation.summary import average, peak_memory, time_mean

_CURVES = ("before", "integral", "of_source")
"""Arrays of the staleness averaged so far, see `staleness.StalenessAverages`; in a file "curves.before" and so on."""


class RunObserver(Observer):
    """Gathers what a run shows at its marks, in memory and, where a folder is given, on disk."""

    def __init__(
        self, job: Job, run: Simulation, means: ComputePlan, folder: Inside | None, start: Snapshot | Origin | None,
    ) -> None:  # fmt: skip
        """Opens the files of a run where it left off.

        Args:
            job: what is run.
            run: its parts, of the networks that this process holds.
            means: how it computes.
            folder: for its files, made and locked; None: nothing is written.
            start: where it goes on, or whose models it begins with; None: at its start, with models drawn.
        """
        self.job, self.run, self.folder, self.settings = job, run, folder, job.settings
        self.start = start if isinstance(start, Snapshot) else None
        self.all, self.means = agreement(means.share, networks(job.made.configs)), means
        files = {} if folder is None else job.made.files
        self.journal = _journal(job, means, start, devices.label(run.state.x.device), files)
        self.files = None if folder is None else self._opened(folder, means.beside)
        self.rows: list[dict[str, Any]] = self.all.told(
            [] if self.files is None else self.files.rows(len(job.made.points))
        )
        self.tables: list[np.ndarray] = []
        told = [*(loggers(job.settings.run.loggers) if job.boards else ()), *job.callbacks]
        self.told = told if self.all.first else []
        self.late = _late(self.start, job.settings.run.until) if self.all.first else None
        when = job.settings.run.stop_when
        self.rule = None if when is None else StopRule(when, len(job.made.points))
        self.status = "finished"
        if self.rule is not None and self.start is not None and self.start.clocks.time < job.settings.run.until:
            self.rule.see(self.all.told(self.metrics()))
            self.status = "stopped" if self.rule.met else "finished"
        self.last = time.perf_counter()
        self.begun = self.last - self.journal.seconds
        self.progress: Progress | None = None
        self.totals: Totals | None = None

    def _opened(self, folder: Inside, beside: bool) -> RunFolder:
        boards = self.job.boards and "tensorboard" in self.settings.run.loggers
        labels = sweep.labels(self.job.made.points) if boards else []
        own, held = [one.metric for one in self.run.evaluator.own], (self.means.share, self.run.cut)
        return RunFolder(folder, self.settings, self.journal, self.start, labels, own, beside, *held)

    def __enter__(self) -> "RunObserver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.all.close()
        if self.files is not None:
            self.files.close(failed=kind is not None)

    def begin(self, fresh: Progress) -> Progress:
        """Returns how far the run has come; `fresh`, if it has not begun."""
        points, folder = self.job.made.points, None if self.folder is None else self.folder.path
        networks = dict(zip(sweep.labels(points), self.job.made.configs, strict=True))
        for one in self.told:
            one.start(Begun(self.settings, networks, folder, self.metrics() if self.start is not None else []))
        if self.start is None:
            if self.journal.start is not None and self.files is not None:
                self.files.save(self._snapshot(fresh, "running"))  # the other run may go on, or go away
            return fresh
        j = self.journal
        self.progress = self.all.begun(Progress(self.start.clocks, j.events, j.waves, j.marks, j.done, j.end))
        self.totals = self.all.totals(self.progress)
        return self.progress

    @property
    def stopped(self) -> bool:
        """Whether the run is to go no further, though its time is not over."""
        return self.status != "finished"

    def known(self) -> dict[str, Any] | None:
        """Returns the summary that the run has left, if it was finished as it is asked for now, and is whole."""
        if not self._ended() or self.progress is None or self.files is None:
            return None
        summary, alone = self.all.told(self.files.summary()), self.settings.run.baseline != "none"
        if summary is None:
            return None
        made = self.summary(self.progress, self.status, None) | {
            key: summary.get(key) for key in ("devices", "resumed")
        }
        if alone or summary.get("isolated"):
            made["isolated"] = made["networks"]
        if not alike(summary, made) or summary["networks"][0]["time"] != self.progress.clocks.time:
            return None
        return summary

    def _ended(self) -> bool:
        """Returns whether the run was at its end before."""
        return self.start is not None and ended(self.start.journal, self.start.clocks.time, self.settings)

    def pause(self) -> bool:
        return self.all.pauses(self.job.stop() or (self.files is not None and self.files.overdue()))

    def window(self, planned: float) -> float:
        return self.all.window(planned)

    def observe(self, progress: Progress) -> bool:
        self.all.ran()
        observed = self.all.observed(self.run.evaluator.observe(self.run.state, progress.clocks))
        totals = self.all.totals(progress)
        observations, speed = observed.networks, self._speed(totals, observed.done)
        for observation, before in zip_longest(observations, self.rows[-len(observations) :]):
            point = self.job.made.points[observation.row["network"]]
            observation.row["staleness_mean"] = time_mean(observation.row, before)
            observation.row.update({"replica": point.replica} | point.settings | {"seed": point.config.seed})
        if self.all.first and progress.clocks.time >= self.settings.run.until / 2:
            everyone, stale = networks(self.job.made.configs), [o.staleness for o in observations]
            now = StalenessAverages.of(stale, everyone, progress.clocks.time)
            self.late = now if self.late is None else self.late.then(now)
        if self.files is not None:
            self.files.log(observations, speed)
        if self.files is not None or not self.all.first:
            self.rows.clear()  # in a long run they are many; metrics.jsonl has them
        else:
            self.tables += [o.nodes for o in observations if o.nodes is not None]
        self.rows += [o.row for o in observations]
        for one in self.told:
            one.mark([o.row for o in observations])
        self.last, self.progress, self.totals = time.perf_counter(), progress, totals
        if self._hopeless(observed.diverged):
            self.status = "diverged"
        elif self.rule is not None:
            self.rule.see(o.row for o in observations)
            self.status = "stopped" if self.rule.met and progress.clocks.time < self.settings.run.until else "finished"
        return self.advance(replace(progress, marks=progress.marks + 1), observed.diverged) and not self.stopped

    def _hopeless(self, nodes: divergence.Nodes) -> bool:
        """Returns whether the run is to stop because of nodes that are not finite."""
        n = sum(c.network.nodes for c in self.job.made.configs)
        return divergence.stops(self.settings.run.on_divergence, nodes, n)

    def advance(self, progress: Progress, nodes: divergence.Nodes | None = None) -> bool:
        """Takes note of progress; nodes: those that are not finite, at a mark, which has asked for them."""
        if nodes is None:
            self.all.ran()
        if self.job.watch is not None and self.all.first:
            self.job.watch(self.settings, progress, self.rows[-1])
        now = progress.clocks.time
        if self.files is not None:
            self.files.tend()
            due = self.all.any(self.files.due(now))
            if self.files.keep(self.run.state, now, due, lambda: self._checkpoint(progress, nodes)):
                self._tell_of_checkpoint(now)
        going = not self.all.any(self.job.stop())
        self.all.runs()
        return going

    def _checkpoint(self, progress: Progress, nodes: divergence.Nodes | None) -> Snapshot | None:
        """Returns what a checkpoint holds; None where models are lost, so that older checkpoints are of more use."""
        lost = self._hopeless(self._diverged() if nodes is None else nodes)
        return None if lost else self._snapshot(progress, "running")

    def _diverged(self) -> divergence.Nodes:
        """Returns the nodes of all networks that are not finite."""
        state = self.run.state
        return self.all.nodes(diverged(state, self.run.evaluator.held(state).finite))

    def _speed(self, now: Totals, done: float) -> dict[str, float]:
        """Returns events and updates per wall second from the last mark until they were done; none at the first mark.

        Args:
            now: what all networks have done at this mark.
            done: when the device had done them, by `time.perf_counter` [s].
        """
        before, seconds = self.totals, done - self.last
        if before is None:
            return {}
        updates, events = now.updates - before.updates, now.events - before.events
        return {"events_per_second": events / seconds, "updates_per_second": updates / seconds}

    def _snapshot(self, progress: Progress, status: str, more: dict[str, np.ndarray] | None = None) -> Snapshot:
        """Returns all that continues the run, with the state as it is."""
        late, arrays, curves, totals = self.late, more or {}, None, self.all.totals(progress)
        if late is not None:
            arrays |= {f"curves.{name}": getattr(late, name) for name in _CURVES}
            curves = late.since, late.until, late.marks
        journal = replace(
            self.journal,
            status=status,
            events=totals.events,
            waves=totals.waves,
            **{name: getattr(progress, name) for name in ("marks", "done", "end")},
            seconds=time.perf_counter() - self.begun,
            metrics=(0, "") if self.files is None else self.files.metrics,
            nodes=(0, "") if self.files is None else self.files.nodes,
            chunks=asdict(self.run.chunks),
            curves=curves,
        )
        layout, edges = self.run.engine.executor.algorithm.layout, self.run.edges
        return Snapshot(self.run.state, progress.clocks, layout, self.all.told(journal), arrays, edges)

    def summary(self, progress: Progress, status: str, isolated: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Returns the content of summary.json."""
        nodes, totals, now = self._diverged(), self.all.totals(progress), progress.clocks.time
        peak = self.all.largest(peak_memory(self.run.state.x.device))
        labels = self.all.of_networks([None if found is None else asdict(found) for found in self.run.labels])
        why = self._cause(nodes) if status == "diverged" else ""
        if not self.all.first:
            return self.all.told(None)
        seconds, device, late = max(1e-9, self.last - self.begun), self.run.state.x.device, self._second_half()
        summary = {
            "networks": [row | average(late[row["network"]]) for row in self.rows[-len(self.job.made.points) :]],
            "isolated": isolated,
            "heterogeneity": labels,
            "wall_seconds": seconds,
            "updates_per_second": totals.updates / seconds,
            "events_per_second": totals.events / seconds,
            "mean_wave": totals.events / totals.waves if totals.waves else None,
            "peak_memory_bytes": peak,
            "ranks": 1 if self.job.world is None else self.job.world.all.size,
            "device": devices.label(device),
            "devices": list(self.journal.devices),
            "resumed": list(self.journal.resumed),
            "start": self.journal.start,
            "torch": torch.__version__,
            "version": release(),
            "status": status,
            "diverged": divergence.summary(networks(self.job.made.configs), nodes, now),
        }
        if self.rule is not None:
            summary["stopped"] = self.rule.times
            if status == "stopped":
                summary["message"] = f"the run ended at t = {now:g} s, with {self.rule.when.words}"
        if status == "diverged":
            summary["message"] = divergence.message(networks(self.job.made.configs), nodes, now, why)
        return self.all.told(summary)

    def _cause(self, nodes: divergence.Nodes) -> str:
        """Returns the likely cause of what nodes suffer from, as the process finds that holds the suspected one."""
        configs = self.job.made.configs
        row = divergence.suspect(configs, nodes)
        node = divergence.name(networks(configs), row)
        return self.all.of_row(row, lambda own: divergence.cause(self.run, self.job.own(self.means.share), own, node))

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the rows of all marks, as far as this process keeps them."""
        return self.rows if self.files is None else self.files.rows()

    def nodes(self) -> np.ndarray | None:
        """Returns the rows of nodes at all marks; None: there are none."""
        if not self.settings.run.node_metrics:
            return None
        return np.concatenate(self.tables) if self.folder is None else node_file.read(self.folder)

    def _second_half(self) -> dict[int, list[dict[str, Any]]]:
        """Returns the rows of each network over the second half of the run."""
        half = (self.rows[-1]["time"] if self.status == "stopped" else self.settings.run.until) / 2
        found: dict[int, list[dict[str, Any]]] = {network: [] for network in range(len(self.job.made.points))}
        for row in self.metrics():
            if row["time"] >= half and row["network"] in found:
                found[row["network"]].append(row)
        return found

    def save(self, progress: Progress) -> None:
        """Writes the final state, before anything else is run."""
        if self.files is not None and not self._ended():
            averages = {} if self.late is None else self.late.averages()
            self.files.save(self._snapshot(progress, self.status, averages))

    def interrupt(self, progress: Progress) -> dict[str, Any]:
        """Leaves what continues the run; returns its summary, which is written too."""
        self.last = time.perf_counter()
        if self.files is not None and progress.clocks.time < self.settings.run.until:
            self.files.save(self._snapshot(progress, "interrupted"))
            self._tell_of_checkpoint(progress.clocks.time)
        summary, now = self.summary(progress, "interrupted", None), progress.clocks.time
        alone = f"the run reached its end, t = {now:g} s, its isolated nodes halted on the way there"
        halted = f"the run halted in the window after t = {now:g} s"
        summary["message"] = alone if now >= self.settings.run.until else halted
        self.finish(summary)
        return summary

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary, here and in TensorBoard."""
        if self.files is not None:
            self.files.finish(summary, self.job.made.configs)
        self.tell_of_end(summary)

    def tell_of_end(self, summary: dict[str, Any]) -> None:
        """Tells callbacks that the run is over."""
        for one in self.told:
            one.end(summary)

    def _tell_of_checkpoint(self, now: float) -> None:
        """Tells callbacks of the checkpoint of a simulated time [s]."""
        assert self.files is not None
        for one in self.told:
            one.checkpoint(now, self.files.checkpointer.path)


def _journal(
    job: Job, means: ComputePlan, start: Snapshot | Origin | None, device: str, files: dict[str, str]
) -> RunJournal:
    """Returns the journal of a run that goes on now, or begins."""
    origin, settings = asdict(start) if isinstance(start, Origin) else None, config.to_dict(job.settings)
    old, resumed = RunJournal(settings, start=origin), ()
    if isinstance(start, Snapshot):
        old, resumed = start.journal, (*start.journal.resumed, {"time": start.clocks.time, "device": device})
    return replace(
        old,
        config=settings,
        chunks=asdict(means.chunks),
        threads=means.threads,
        devices=old.devices if old.devices[-1:] == (device,) else (*old.devices, device),
        resumed=resumed,
        files=old.files | files,
    )


def _late(start: Snapshot | None, until: float) -> StalenessAverages | None:
    """Returns the staleness averaged so far; none where the run's end, and so its second half, is another now."""
    if start is None or start.journal.curves is None or start.journal.config["run"]["until"] != until:
        return None
    since, last, marks = start.journal.curves
    before, integral, of_source = (start.arrays[f"curves.{name}"] for name in _CURVES)
    return StalenessAverages(since, last, marks, before, integral, of_source)
