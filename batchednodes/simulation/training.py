r"""Training: from a config to a result, in one call.

    result = batchednodes.train("configs/quickstart.yaml", "network.nodes=50")

Notation: n nodes, p parameters, t tracked sources.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from batchednodes import config
from batchednodes.config import Config, Override
from batchednodes.config.names import Section
from batchednodes.events.clocks import Never
from batchednodes.events.links.loss import Independent
from batchednodes.events.rounds import Rounds
from batchednodes.models.stacked import Stack, named_faults
from batchednodes.numerics import devices
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.torch_modes import own
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.checkpointer import newest
from batchednodes.results.checkpoints.header import check_rows
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.lock import Lock
from batchednodes.results.folder.paths import ALONE, CONFIG, ISOLATED, METRICS, OutputFolder, checkpoints
from batchednodes.results.folder.run_folder import begin, new_folder, reopen
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Pause, Progress, never
from batchednodes.simulation.observer import ComputePlan, Job, RunObserver, Watch
from batchednodes.simulation.planning.plan import plan, screen
from batchednodes.simulation.planning.preflight import Preflight, fresh, names, prepare, resumable
from batchednodes.simulation.resume import warm_start
from batchednodes.simulation.resume.rules import DivergedError, check_goes_on, reopened
from batchednodes.simulation.resume.warm_start import Origin

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = deferred("pandas")


@dataclass(frozen=True)
class Result:
    """What a run leaves in memory.

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network.nodes": 3, "run.until": 2})
        >>> run.x.shape, run.versions.shape  # models, and how many updates of each node each other knows
        (torch.Size([3, 11]), torch.Size([3, 3]))
        >>> run.metrics[["time", "updates"]].to_dict("list")
        {'time': [0.0, 1.0, 2.0], 'updates': [0, 2, 4]}
        >>> run.model(0)
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=10, out_features=1, bias=True)
        )
    """

    metrics: "pd.DataFrame"
    """One row for each mark and network, with the keys of metrics.jsonl; read from there, where there is a folder, so
    that numbers which are not finite are None or NaN."""
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
        with own():
            if not 0 <= i < self.x.shape[0]:
                raise ValueError(f"i must be a node, 0 <= i < {self.x.shape[0]}, got {i}")
            return self.stack.module(self.x[i])


def train(
    source: str | Path | Mapping[str, Any] | Config,
    *overrides: Override,
    out: str | Path | None = None,
    watch: Watch | None = None,
    stop: Pause = never,
) -> Result:
    """Runs a config to its end.

    PyTorch's and NumPy's modes (default type and device, gradients, autocast, ...) are the run's own meanwhile, in
    `watch` and `stop` too, and the caller's again on return.

    Example:
        >>> import batchednodes
        >>> run = batchednodes.train({"network": {"nodes": 10}}, "run.until=5", {"gossip.clock.rate": "2*log(n)"})
        >>> run.metrics[["time", "loss_mean", "staleness_mean", "staleness_theory"]].round(2).iloc[-1].to_dict()
        {'time': 5.0, 'loss_mean': 0.18, 'staleness_mean': 0.73, 'staleness_theory': 0.61}

    Args:
        source: path of a YAML file, a nested mapping, or a `Config`.
        overrides: settings as "key=value", for example "gossip.clock.rate=2*log(n)", or in mappings, nested or by full
            keys: {"network": {"nodes": 50}, "gossip.clock.rate": 2}.
        out: new folder for the files of the run; None: nothing is written.
        watch: called after each window and mark.
        stop: asked often; once it returns True, the run halts within a wave, leaves a checkpoint, and its status is
            "interrupted".

    Raises:
        ValueError: a setting, the data, the model, the device or the folder is not usable, or the run does not fit in
            memory; the message names the key, the rule and the value. Nothing has been written then.
        OSError: a file cannot be written; what was written before is whole, and `resume` goes on from it.
    """
    with own():
        settings = config.load(source, overrides)
        made = fresh(settings, out)
    return start(settings, made, None if out is None else OutputFolder(Path(out)), watch, stop)


def start(
    settings: Config, made: Preflight, out: OutputFolder | None = None, watch: Watch | None = None, stop: Pause = never
) -> Result:
    """Runs settings that have been read to their end.

    Args:
        settings: of the run.
        made: the networks that they stand for.
        out: where the files of the run go; None: nothing is written.
        watch, stop: as of `train`, and so are errors.
    """
    with own():
        return _new(Job(settings, made, True, watch, stop), out)


def resume(folder: str | Path, *overrides: Override, watch: Watch | None = None, stop: Pause = never) -> Result:
    """Goes on with a run that was killed or interrupted, in place; or extends one that is finished.

    On one device the result is bit for bit that of a run without a pause.

    Example:
        >>> import batchednodes
        >>> settings = {"network.nodes": 3, "run": {"mark_every": 1}}
        >>> batchednodes.train(settings, "run.until=2", out="run").metrics["time"].tolist()
        [0.0, 1.0, 2.0]
        >>> longer = batchednodes.resume("run", "run.until=4")
        >>> bool((longer.x == batchednodes.train(settings, "run.until=4").x).all())
        True

    Args:
        folder: of the run.
        overrides: settings to change, "run.until=200" or {"run.until": 200}; few can, see `changes.check_resumed`.
        watch: called after each window and mark.
        stop: as in `train`.

    Raises:
        ValueError: the folder holds no run, or one that diverged, another process works in it, or a setting must not
            change.
        OSError: a file cannot be written.
    """
    with own():
        place, settings = Path(folder), reopened(folder, overrides)
        with Lock(Inside(place)):
            return go_on(settings, resumable(place, settings), place, watch, stop)


def go_on(settings: Config, made: Preflight, folder: Path, watch: Watch | None = None, stop: Pause = never) -> Result:
    """Goes on with the run in a folder, which is locked, with settings that have been read; see `resume`."""
    with own():
        return _continued(Job(settings, made, True, watch, stop), Inside(folder))


def _new(job: Job, out: OutputFolder | Inside | None) -> Result:
    """Runs a task from its start, in a new folder, or one that is empty."""
    with _assembled(job, None) as (run, means, origin):
        if out is None:
            return _run(job, run, RunObserver(job, run, means, None, origin))
        written = config.dump(job.settings), names(job.made.configs)
        with new_folder(out, *written) if isinstance(out, OutputFolder) else begin(out, *written) as lock:
            return _run(job, run, RunObserver(job, run, means, lock.folder, origin))


def _continued(job: Job, folder: Inside) -> Result:
    """Runs a task from where it is in its folder, which is locked."""
    start = newest(folder, assembly.device(job.settings), lambda s: check_rows(folder, s.header))
    if start is not None:
        check_goes_on(folder, start.header, job.settings, job.made.points, job.made.files)
    with _assembled(job, start) as (run, means, origin):
        ended = start is not None and start.clocks.time >= job.settings.run.until
        reopen(folder, config.dump(job.settings), ended)
        return _run(job, run, RunObserver(job, run, means, folder, start or origin))


@contextmanager
def _assembled(job: Job, start: Snapshot | None) -> Iterator[tuple[Simulation, ComputePlan, Origin | None]]:
    """Yields all parts of a run, and where its models come from, with torch's threads set as the run needs them."""
    made, configs = job.made, job.made.configs
    screen(configs, made.sizes)
    events = made.events or assembly.timeline(configs)
    need = plan(configs, events, made.sizes)
    need.refuse_unless_fits()
    means = ComputePlan(need.chunks, need.threads, need.copies)
    if start is not None and start.journal.devices[-1] == devices.label(start.state.x.device):
        means = replace(means, chunks=Chunks(**start.journal.chunks), threads=start.journal.threads)
    with threads(means.threads):
        run = assembly.assemble(configs, events, means.chunks, None if start is None else start.state, made.take())
        branched = start is None and job.settings.run.start_from is not None
        yield (
            run,
            means,
            warm_start.start_(run.state, run.declared, events.networks.sizes, job.settings) if branched else None,
        )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Lets torch compute with some threads of the CPU, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(job: Job, run: Simulation, observer: RunObserver) -> Result:
    """Runs to the end, then the isolated nodes if they are asked for, each from where it is."""
    with observer, named_faults():
        progress = observer.begin(run.engine.begin())
        if progress.clocks.time < job.settings.run.until:
            progress = run.engine.run_(run.state, progress, observer)
            if progress.clocks.time < job.settings.run.until and not observer.stopped:
                return _result(run, observer, progress, observer.interrupt(progress))
        observer.save(progress)
        known = observer.known()
        if known is not None:
            return _result(run, observer, progress, known)
        isolated = None
        if job.settings.run.baseline == "isolated" and not observer.stopped:
            alone = _isolated(job, observer.folder)
            if alone["status"] == "interrupted":
                return _result(run, observer, progress, observer.interrupt(progress))
            isolated = alone["networks"]
        summary = observer.summary(progress, "diverged" if observer.stopped else "finished", isolated)
        observer.finish(summary)
        return _result(run, observer, progress, summary)


def _result(run: Simulation, observer: RunObserver, progress: Progress, summary: dict[str, Any]) -> Result:
    layout, versions = run.evaluator.tracking.layout, run.state.versions
    tables = tuple(layout.block(versions, g) for g in range(layout.sizes.size))
    rows = [{key: Section(v) if isinstance(v, dict) else v for key, v in row.items()} for row in observer.metrics()]
    metrics = pd.DataFrame(rows)
    folder = None if observer.folder is None else observer.folder.path
    models = run.evaluator.models(run.state, progress.clocks.time)
    return Result(metrics, summary, models, tables, folder, run.problem.stack)


def _isolated(job: Job, folder: Inside | None) -> dict[str, Any]:
    """Returns the summary of the same nodes when none of them ever gossips.

    It is a run of its own, in a folder among the checkpoints until it is finished, so that it can go on too; its
    rows of metrics stay.
    """
    settings = _silent(replace(job.settings, name=f"{job.settings.name[:90]}-isolated"))
    made = prepare([replace(p, config=_silent(p.config)) for p in job.made.points])
    alone = replace(job, settings=settings, made=made, boards=False)
    if folder is None:
        return _new(alone, None).summary
    made.summed = job.made.files
    place = checkpoints(folder) / ISOLATED
    summary = _left(alone, place)
    if summary is None:
        with suppress(FileNotFoundError):
            place.remove_folder(whole=True)
        place.make()
        summary = _new(alone, place).summary
    if summary["status"] != "interrupted":
        (folder / ALONE).replace([(place / METRICS).read()])
        place.remove_folder(whole=True)
    return summary


def _left(alone: Job, place: Inside) -> dict[str, Any] | None:
    """Returns the summary of isolated nodes that go on in their folder; None where they begin anew.

    That is so where none have begun, where they ended sooner, before the run was extended, and where they diverged.
    """
    file = place / CONFIG
    if not file.is_file() or config.load(file.path) != alone.settings:
        return None
    try:
        with Lock(place):
            return _continued(alone, place).summary
    except DivergedError:
        return None


def _silent(c: Config) -> Config:
    """Returns the settings of nodes that never gossip; where rounds say when they would, all messages get lost."""
    rounds = isinstance(c.timing, Rounds)
    lost = Independent(1.0)
    gossip = replace(c.gossip, loss=lost) if rounds else replace(c.gossip, clock=Never())
    return replace(
        c,
        gossip=gossip,
        network=replace(c.network, churn=replace(c.network.churn, start="fresh")),
        run=replace(c.run, baseline="none", checkpoint_folder=None),
        staleness=replace(c.staleness, track="none"),
    )
