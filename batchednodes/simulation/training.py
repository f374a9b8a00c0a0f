r"""Training: from a config to what a run leaves.

Notation: n nodes, p parameters, t tracked sources.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchednodes import config
from batchednodes.algorithms.share import Share
from batchednodes.config import Config, Override, sweep
from batchednodes.config.names import Section
from batchednodes.events.clocks import Never
from batchednodes.events.links.loss import Independent
from batchednodes.events.rounds import Rounds
from batchednodes.models.refusal import named_faults
from batchednodes.numerics import devices, ranks
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.torch_modes import own
from batchednodes.numerics.world import World, world
from batchednodes.results import comparison
from batchednodes.results.callbacks import Callback
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.finding import latest, newest
from batchednodes.results.checkpoints.header import check_rows
from batchednodes.results.folder import node_file
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.lock import locked
from batchednodes.results.folder.paths import (
    ALONE,
    ALONE_ROWS,
    CONFIG,
    ISOLATED,
    METRICS,
    SUMMARY,
    OutputFolder,
    checkpoints,
)
from batchednodes.results.folder.run_folder import begin, new_folder, reopen
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Pause, Progress, never
from batchednodes.simulation.final import Final, final_of, nothing_of
from batchednodes.simulation.job import Job, Watch
from batchednodes.simulation.observer import RunObserver
from batchednodes.simulation.planning.preflight import Preflight, fresh, names, prepare, resumable
from batchednodes.simulation.resume import warm_start
from batchednodes.simulation.resume.rules import DivergedError, check_goes_on, reopened
from batchednodes.simulation.setup import assembled
from batchednodes.simulation.stopping import ended

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = deferred("pandas")


@dataclass(frozen=True)
class Outcome:
    """What a run leaves in memory; see `batchednodes.Result`."""

    settings: Config
    """Of the run."""
    rows: list[dict[str, Any]]
    """One for each mark and network, with the keys of metrics.jsonl; read from there, where there is a folder, so that
    numbers which are not finite are None or NaN."""
    summary: dict[str, Any]
    """The content of summary.json."""
    held: Callable[[], Final]
    """Returns models and versions; of a run over ranks that left a folder, it reads them there."""
    folder: Path | None
    """Where the files lie; None if none were asked for."""
    node_rows: np.ndarray | None = None
    """A row for each evaluated node at each mark, see `node_table.COLUMNS`; None without `run.node_metrics`."""
    isolated_rows: np.ndarray | None = None
    """The same of isolated nodes; None where they have not been run."""

    @property
    def x(self) -> Float[Tensor, "n p"]:
        """Final models; of no rows on ranks that are not the first."""
        return self._final[0]

    @property
    def tables(self) -> tuple[Int[Tensor, "_ _"], ...]:
        """Final versions of each network: a row for each of its nodes, a column for each of its tracked sources."""
        return self._final[1]

    @cached_property
    def _final(self) -> Final:
        return self.held()

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """The rows as a table; pandas is imported then."""
        return pd.DataFrame(self.rows)


def train(
    source: str | Path | Mapping[str, Any] | Config,
    *overrides: Override,
    out: str | Path | None = None,
    watch: Watch | None = None,
    stop: Pause = never,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Runs a config to its end; arguments, modes and errors as of `batchednodes.train`."""
    with own():
        settings = config.load(source, overrides)
        made = fresh(settings, out)
    return start(settings, made, None if out is None else OutputFolder(Path(out)), watch, stop, callbacks)


def start(
    settings: Config,
    made: Preflight,
    out: OutputFolder | None = None,
    watch: Watch | None = None,
    stop: Pause = never,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Runs settings that have been read to their end.

    Args:
        settings: of the run.
        made: the networks that they stand for.
        out: where the files of the run go; None: nothing is written.
        watch, stop, callbacks: as of `train`, and so are errors.
    """
    with own(), _met(settings) as world:
        return _new(Job(settings, made, True, watch, stop, callbacks, world), out)


def resume(
    folder: str | Path,
    *overrides: Override,
    watch: Watch | None = None,
    stop: Pause = never,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Goes on with the run in a folder; arguments and errors as of `batchednodes.resume`."""
    with own():
        place, settings = Path(folder), reopened(folder, overrides)
        with locked(Inside(place)):
            return go_on(settings, resumable(place, settings), place, watch, stop, callbacks)


def go_on(
    settings: Config,
    made: Preflight,
    folder: Path,
    watch: Watch | None = None,
    stop: Pause = never,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Goes on with the run in a folder, which is locked, with settings that have been read; see `resume`."""
    with own(), _met(settings) as world:
        return _continued(Job(settings, made, True, watch, stop, callbacks, world), Inside(folder))


def left(folder: str | Path) -> Outcome:
    """Returns what the run in a folder has left so far; changes nothing.

    Raises:
        ValueError: the folder holds no run, or none with models.
    """
    with own():
        place = Inside(Path(folder))
        settings = reopened(folder, ())
        try:
            found = latest(place, torch.device("cpu"))
        except ValueError as error:
            raise ValueError(f"DIR must be the folder of a run with models, {error}") from None
        rows = comparison.rows(place.path, METRICS)
        summary = comparison.summary(place.path) if (place / SUMMARY).is_file() else {"status": "running"}
        if settings.method.flows():  # up to now, which needs all that a run is
            settings = replace(settings, device="cpu")
            job = Job(settings, prepare(sweep.points(settings)), False, None, never)
            with assembled(job, lambda _: found) as (run, *_):
                models = run.evaluator.held(run.state, found.clocks.time).x
        else:
            models = warm_start.models(found)
        tables = tuple(found.layout.block(found.state.versions, g) for g in range(found.layout.sizes.size))
        nodes = node_file.read(place) if settings.run.node_metrics else None
        isolated = _alone(place, settings)
        return Outcome(settings, rows, summary, lambda: (models, tables), place.path, nodes, isolated)


@contextmanager
def _met(settings: Config) -> Iterator[World | None]:
    """Meets the other ranks, if there are any; warnings are the first one's."""
    with world(devices.is_cuda(assembly.device(settings))) as found, warnings.catch_warnings():
        if ranks.number():
            warnings.simplefilter("ignore")
        yield found


def _new(job: Job, out: OutputFolder | Inside | None) -> Outcome:
    """Runs a task from its start, in a new folder, or one that is empty."""
    with assembled(job, lambda _: None) as (run, means, origin), _made(job, out) as folder:
        return _run(job, run, RunObserver(job, run, means, folder, origin))


@contextmanager
def _made(job: Job, out: OutputFolder | Inside | None) -> Iterator[Inside | None]:
    """Makes a new folder, or takes one that is empty, and yields it, locked; None: there is to be none."""
    if out is None:
        yield None
    elif not job.first:
        yield Inside(Path(job.told(None)))
    else:
        written = config.dump(job.settings), names(job.made.configs)
        with new_folder(out, *written) if isinstance(out, OutputFolder) else begin(out, *written) as lock:
            job.told(str(lock.folder.path))
            yield lock.folder


def _continued(job: Job, folder: Inside) -> Outcome:
    """Runs a task from where it is in its folder, which is locked."""

    def find(share: Share | None) -> Snapshot | None:
        found = newest(folder, assembly.device(job.settings), lambda s: check_rows(folder, s.header), share)
        if found is not None:
            check_goes_on(folder, found.header, job.settings, job.made.points, job.made.files)
        return found

    with assembled(job, find) as (run, means, begun):
        start = begun if isinstance(begun, Snapshot) else None
        at_end = start is not None and (
            start.clocks.time >= job.settings.run.until or ended(start.journal, start.clocks.time, job.settings)
        )
        if job.first:
            reopen(folder, config.dump(job.settings), at_end)
        return _run(job, run, RunObserver(job, run, means, folder, begun))


def _run(job: Job, run: Simulation, observer: RunObserver) -> Outcome:
    """Runs to the end, then the isolated nodes if they are asked for, each from where it is."""
    with observer, named_faults():
        progress = observer.begin(run.engine.begin())
        if progress.clocks.time < job.settings.run.until and not observer.stopped:
            progress = run.engine.run_(run.state, progress, observer)
            if progress.clocks.time < job.settings.run.until and not observer.stopped:
                return _result(run, observer, progress, observer.interrupt(progress))
        observer.save(progress)
        known = observer.known()
        if known is not None:
            observer.tell_of_end(known)
            return _result(run, observer, progress, known)
        isolated, each = None, None
        if job.settings.run.baseline == "isolated" and observer.status != "diverged" and progress.clocks.time > 0:
            alone, each = _isolated(job, observer.folder, progress.clocks.time)
            if alone["status"] == "interrupted":
                return _result(run, observer, progress, observer.interrupt(progress))
            isolated = alone["networks"]
        summary = observer.summary(progress, observer.status, isolated)
        observer.finish(summary)
        return _result(run, observer, progress, summary, each)


def _result(
    run: Simulation, observer: RunObserver, progress: Progress, summary: dict[str, Any], alone: np.ndarray | None = None
) -> Outcome:
    told, nodes, share = (
        observer.all.told(observer.metrics()),
        observer.all.told(observer.nodes()),
        observer.means.share,
    )
    rows = [{key: Section(v) if isinstance(v, dict) else v for key, v in row.items()} for row in told]
    folder = None if observer.folder is None else observer.folder.path
    if observer.folder is not None and observer.all.first:
        alone = _alone(observer.folder, observer.settings)
    if share is None or folder is None:
        final = final_of(run, progress.clocks.time, share)
        return Outcome(observer.settings, rows, summary, lambda: final, folder, nodes, alone)
    held = functools.partial(_read, folder) if share.first else functools.partial(nothing_of, run)
    return Outcome(observer.settings, rows, summary, held, folder, nodes, alone)


def _read(folder: Path) -> Final:
    """Returns the models and versions that the run in a folder has left."""
    found = left(folder)
    return found.x, found.tables


def _alone(folder: Inside, settings: Config) -> np.ndarray | None:
    """Returns the rows of isolated nodes that a folder keeps; None where they have not been run."""
    asked = settings.run.node_metrics and settings.run.baseline == "isolated"
    return node_file.read(folder, ALONE_ROWS) if asked and (folder / ALONE_ROWS).is_file() else None


def _isolated(job: Job, folder: Inside | None, until: float) -> tuple[dict[str, Any], np.ndarray | None]:
    """Returns the summary of the same nodes when none of them ever gossips, up to some time [s], and rows of nodes.

    It is a run of its own, in a folder among the checkpoints until it is finished, so that it can go on too; its
    rows of metrics stay, and those of nodes, which are returned where there is no folder.
    """
    settings = _silent(replace(job.settings, name=f"{job.settings.name[:90]}-isolated"), until)
    made = prepare([replace(p, config=_silent(p.config, until)) for p in job.made.points])
    alone = replace(job, settings=settings, made=made, boards=False, callbacks=())
    if folder is None:
        found = _new(alone, None)
        return found.summary, found.node_rows
    made.summed = job.made.files
    place = checkpoints(folder) / ISOLATED
    summary = _left(alone, place)
    if summary is None:
        if job.first:
            with suppress(FileNotFoundError):
                place.remove_folder(whole=True)
            place.make()
        summary = _new(alone, place).summary
    if summary["status"] != "interrupted" and job.first:
        (folder / ALONE).replace([(place / METRICS).read()])
        if settings.run.node_metrics:
            node_file.keep_isolated(folder, place)
        place.remove_folder(whole=True)
    return summary, None


def _left(alone: Job, place: Inside) -> dict[str, Any] | None:
    """Returns the summary of isolated nodes that go on in their folder; None where they begin anew.

    That is so where none have begun, where they ended sooner, before the run was extended, and where they diverged.
    """
    file = place / CONFIG
    if not alone.told(alone.first and file.is_file() and config.load(file.path) == alone.settings):
        return None
    try:
        with locked(place):
            return _continued(alone, place).summary
    except DivergedError:
        return None


def _silent(c: Config, until: float) -> Config:
    """Returns the settings of nodes that never gossip, up to some time [s].

    Where rounds say when they would, all messages get lost.
    """
    rounds = isinstance(c.timing, Rounds)
    lost = Independent(1.0)
    gossip = replace(c.gossip, loss=lost) if rounds else replace(c.gossip, clock=Never())
    run = replace(c.run, baseline="none", checkpoint_folder=None, stop_when=None, until=until)
    return replace(
        c,
        gossip=gossip,
        network=replace(c.network, churn=replace(c.network.churn, start="fresh")),
        run=run,
        staleness=replace(c.staleness, track="none"),
    )
