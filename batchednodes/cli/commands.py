"""Commands: what those that run or draw something do once their arguments are read, and what they print."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from batchednodes.cli.console import check_written, console, say
from batchednodes.cli.interruption import Interruption
from batchednodes.config import Config
from batchednodes.data import DataSizes, Heterogeneity
from batchednodes.figures.published import EXPERIMENTS
from batchednodes.numerics import devices, start
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.memory import gib
from batchednodes.results import tables
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.paths import OutputFolder, states
from batchednodes.results.metrics import catalogue
from batchednodes.simulation.build import datasets, learning
from batchednodes.simulation.engine import Progress as Advance
from batchednodes.simulation.planning import plan
from batchednodes.simulation.planning.connectivity import connectivity
from batchednodes.simulation.planning.loaded import facts
from batchednodes.simulation.planning.plan import Plan
from batchednodes.simulation.planning.preflight import Preflight
from batchednodes.simulation.resume import rules

if TYPE_CHECKING:
    from batchednodes.figures.published import experiment
    from batchednodes.simulation import check as kit
    from batchednodes.simulation import measure, training
else:
    kit = deferred("batchednodes.simulation.check")
    training = deferred("batchednodes.simulation.training")
    measure = deferred("batchednodes.simulation.measure")
    experiment = deferred("batchednodes.figures.published.experiment")

_SCORED = 3
"""Examples scored for each that is learned from, above which marks dominate: forward alone is a third of the work."""


def train(settings: Config, made: Preflight, place: OutputFolder, limit: float | None, quiet: bool) -> None:
    """Trains the networks of a config into a new folder; see `_run`."""
    _run(lambda watch, stop: training.start(settings, made, place, watch, stop), place, limit, quiet)


def resume(settings: Config, made: Preflight, place: OutputFolder, limit: float | None, quiet: bool) -> None:
    """Goes on with the run in a folder, which is locked; see `_run`."""
    _run(lambda watch, stop: training.go_on(settings, made, place.folder, watch, stop), place, limit, quiet)


def _run(
    begin: Callable[["training.Watch", Interruption], "training.Outcome"],
    place: OutputFolder,
    limit: float | None,
    quiet: bool,
) -> None:
    """Runs to the end, or until interrupted, and reports.

    Raises:
        ValueError: the run diverged.
        OSError: a file, or standard output, cannot be written.
        typer.Exit: it was interrupted.
    """
    start.wake_collector()
    terminal = console(quiet=quiet)
    with Interruption(limit) as interruption:
        try:
            with bar(terminal) as shown:
                watch = Watch(shown)
                watch.begin("starting", "building the run; kernels that are new on this machine are compiled")
                result = begin(watch, interruption)
        except OSError as error:
            left = f"; once that is mended, {to_go_on(place)}" if any(states(Inside(place.folder))) else ""
            raise OSError(f"{error}{left}") from error
        summary = result.summary
        if summary["status"] == "diverged":
            raise ValueError(f"{summary['message']}; everything until then is in {result.folder}")
        if summary["status"] == "interrupted":
            say("interrupted", f"{summary['message']}; {to_go_on(place)}")
            raise typer.Exit(interruption.code)
        _report(terminal, result)
        check_written(result.folder)


def to_go_on(place: OutputFolder) -> str:
    """Returns the command that goes on with what is in a folder, in words."""
    return f"to go on: batchednodes resume {shlex.quote(str(place.folder))}"


def show_plan(prepared: Preflight, measured: bool) -> None:
    """Prints the graph, the data and the plan of a batch of networks; measured: and how long it would take."""
    if measured:
        start.wake_collector()
    configs = prepared.configs
    events, made = plan.planned(prepared)
    graph = connectivity(configs[0], events, 0)
    dealt = prepared.take() or []
    if dealt and made.fits:
        learning.check_lookups(configs, dealt)
    labels = (datasets.heterogeneity(*one) for one in dealt)
    labels = [one for one in labels if one is not None] if made.fits else []
    known = {"features of an example": made.features} | facts(prepared.sizes[0], dealt[0] if dealt else None)
    known |= _marks(configs, prepared.sizes, made.updates) | _spread(labels)
    first = " (first network)" if made.networks > 1 else ""
    contacts = {f"{label}{first}": value for label, value in graph.words().items()}
    time_of = measure.measure(prepared, made, events) if measured and made.fits else None
    terminal, times = console(), [] if time_of is None else [time_of.ways, _times(time_of)]
    _show_plan(terminal, made, [_counts(made), known, contacts, *_sizes(made), *times])
    if time_of is not None and time_of.marks_dominate:
        terminal.print("marks take most of the time: raise run.mark_every, or score fewer nodes by run.eval_nodes")


def _marks(configs: Sequence[Config], sizes: Sequence[DataSizes], updates: float) -> dict[str, str]:
    """Returns how many marks a run has, and how much they score beside what updates learn from, in words."""
    run, (first, *_) = configs[0].run, sizes
    count = run.marks
    nodes = [min(c.network.nodes, run.eval_nodes or c.network.nodes) for c in configs]
    scored = sum(n * one.test_samples for n, one in zip(nodes, sizes, strict=True))
    steps, examples = configs[0].local.shape(max(1, first.samples // configs[0].network.nodes))
    ratio = count * scored / max(1.0, updates * steps * examples)
    found = {"marks": f"{count:,}, each scores {scored:,} examples", "scored for each example learned": f"{ratio:.2g}"}
    if ratio > _SCORED:
        found["note on marks"] = "they dominate; raise run.mark_every, or lower run.eval_nodes"
    return found


def figure(name: str, quick: bool, out: Path, formats: Sequence[str], force: bool) -> None:
    """Runs and draws a published figure, and prints what it found, and where it is."""
    start.wake_collector()
    size = "quick" if quick else "cuda" if devices.count() else "cpu"
    terminal = console()
    with bar(terminal) as shown:
        published = experiment.publish(name, EXPERIMENTS[name](size), out, Watch(shown), formats, force)
    for table in published.findings:
        terminal.print(table)
    for path in published.paths:
        terminal.print(path, highlight=False, soft_wrap=True)


def bar(terminal: Console) -> Progress:
    """Returns a bar for each run, which goes away at its end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=terminal, transient=True)


class Watch:
    """Shows simulated time, events per second and loss of the run in progress."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.tasks = bar, dict[str, tuple[TaskID, float]]()
        self.first: TaskID | None = None

    def begin(self, name: str, status: str) -> None:
        """Says what is done until the run shows how far it is."""
        self.first = self.bar.add_task(name, total=None, status=status)

    def __call__(self, chosen: Config, progress: Advance, row: dict[str, Any]) -> None:
        if self.first is not None:
            self.bar.remove_task(self.first)
            self.first = None
        if chosen.name not in self.tasks:
            self.tasks[chosen.name] = (
                self.bar.add_task(chosen.name, total=chosen.run.until, status=""),
                time.perf_counter(),
            )
        task, begun = self.tasks[chosen.name]
        speed = progress.events / max(1e-9, time.perf_counter() - begun)
        status = f"t = {progress.clocks.time:.4g} s  {_rate(speed)} events/s  loss {_words(row['loss_mean'])}"
        self.bar.update(task, completed=progress.clocks.time, status=status)


def _report(terminal: Console, result: "training.Outcome") -> None:
    networks, isolated = result.summary["networks"], result.summary["isolated"]
    if len(networks) > 1:
        title = f"{len(networks)} networks at t = {networks[0]['time']:g} s"
        for table in tables.tables(tables.cells(networks, isolated), title, terminal.width):
            terminal.print(table)
    else:
        terminal.print(_network_table(networks[0], isolated[0] if isolated else None))
    for line in _notes(result, networks):
        terminal.print(line, highlight=False, soft_wrap=True)


def _network_table(final: dict[str, Any], isolated: dict[str, Any] | None) -> Table:
    title = f"n = {final['n']} nodes at t = {final['time']:g} s"
    table = Table("", "gossip", *(["isolated"] if isolated else []), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    measure = "loss" if final["accuracy_mean"] is None else "accuracy"
    roles: dict[str, catalogue.Role] = {
        "mean node": "mean", "worst node": "worst", "best node": "best", "average model": "average"
    }  # fmt: skip
    for label, role in roles.items():
        key = catalogue.roles(measure)[role]
        table.add_row(f"{measure}, {label}", *(_words(row[key]) for row in (final, isolated) if row))
    for label, key in {"mean node": "accuracy_own_mean", "worst 10%": "accuracy_own_worst"}.items():
        if final.get(key) is not None:
            table.add_row(f"own test rows, {label}", *(_words(row[key]) for row in (final, isolated) if row))
    table.add_row("consensus distance", *(_words(row["consensus_distance"]) for row in (final, isolated) if row))
    return table


def _words(value: float | None) -> str:
    """Returns a number in words; files have none for one that is not finite."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _rate(value: float) -> str:
    """Returns a number of events in a second in words: whole where there are many, else to three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _notes(result: "training.Outcome", networks: list[dict[str, Any]]) -> list[str]:
    summary = result.summary
    speed = f"{_rate(summary['events_per_second'])} events/s, {_rate(summary['updates_per_second'])} updates/s"
    wave = f", {summary['mean_wave']:.1f} events a wave" if summary["mean_wave"] else ""
    start = summary["start"]
    return [
        *([_origin(start)] if start else []),
        *([f"stopped     {summary['message']}"] if summary["status"] == "stopped" else []),
        *(_staleness(networks[0]) if len(networks) == 1 else []),
        *(_split(summary["heterogeneity"][0]) if len(networks) == 1 else []),
        *_diverged(summary["diverged"], networks[0]["quarantined"] is not None),
        f"speed       {speed}{wave}, {summary['wall_seconds']:.1f} s on {summary['device']}",
        f"results     {result.folder}",
        f"curves      tensorboard --logdir {shlex.quote(str(result.folder))} --host localhost",
    ]


def _origin(start: dict[str, Any]) -> str:
    changed = rules.words(start["changed"])
    return f"started     from {start['folder']} at t = {start['time']:g} s{'; ' if changed else ''}{changed}"


def _staleness(final: dict[str, Any]) -> list[str]:
    """Returns one line on measured staleness and its law; none where it is not tracked."""
    if final["staleness_mean"] is None:
        return []
    measured = f"{final['staleness_mean']:.4f} at the end"
    if final["staleness_average"] is not None:
        width = final["staleness_average_half_width"]
        interval = f" +- {width:.4f} (95%)" if width is not None else ""
        measured = f"{final['staleness_average']:.4f}{interval}, mean over the second half"
    law = final["staleness_theory"]
    return [f"staleness   {measured}" + (f"; exact law {law:.4f}" if law is not None else "")]


def _split(found: dict[str, float] | None) -> list[str]:
    """Returns one line on how heterogeneous labels are; none where there are none."""
    if found is None:
        return []
    return [f"labels      heterogeneity {found['distance']:.3f} over nodes ({found['chance']:.3f} by chance)"]


def _diverged(found: dict[str, Any], quarantined: bool) -> list[str]:
    """Returns one line on nodes that are not finite; none if all are."""
    if not found["count"]:
        return []
    count, it = (f"{found['count']} nodes", "them") if found["count"] > 1 else ("one node", "it")
    return [f"divergence  {count} {'quarantined' if quarantined else 'not finite'}; summary.json names {it}"]


def _counts(made: Plan) -> dict[str, str]:
    """Returns what a plan expects, and how it would be computed, in words."""
    found = {
        "networks": f"{made.networks:,}",
        "nodes": f"{made.nodes:,}",
        "parameters of a node": f"{made.parameters:,}",
        "updates, expected": f"{made.updates:,.0f}",
        "gossips, expected": f"{made.gossips:,.0f}",
        "waves, expected": f"{made.waves:,.0f}",
        "rows of a chunk": f"{made.chunks.update:,}",
        "threads": f"{made.threads}",
    }
    if made.flying is not None:
        found[f"models under way at once, {'at most' if made.exact else 'about'}"] = f"{made.flying:,.0f}"
        found["rows for them"] = f"{made.slots:,}"
    return found


def _show_plan(terminal: Console, made: Plan, sections: Sequence[dict[str, str]]) -> None:
    table = Table("", "", title=f"plan on {made.device}", show_header=False)
    table.columns[1].justify = "right"
    for section in sections:
        for label, value in section.items():
            table.add_row(label, value)
        table.add_section()
    terminal.print(table)


def _spread(labels: Sequence[Heterogeneity]) -> dict[str, str]:
    """Returns how heterogeneous the labels of networks are, in words."""
    found = {}
    for label, values in {
        "label heterogeneity": [one.distance for one in labels],
        "label heterogeneity, by chance": [one.chance for one in labels],
    }.items():
        if values:
            found[label] = " to ".join(dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values))))
    return found


def _sizes(made: Plan) -> list[dict[str, str]]:
    """Returns what memory a plan needs, by part and whole, in words."""
    whole = {"total": gib(made.total), "free": gib(made.available), "fits": "yes" if made.fits else "no"}
    return [{part: gib(size) for part, size in made.memory.items()}, whole]


def _times(measured: "measure.WallTime") -> dict[str, str]:
    """Returns the wall time of the parts of a run, in words."""
    parts = {"start, with compiling": measured.start, "updates": measured.updates, "mixing": measured.mixing}
    parts |= {"marks": measured.marks} | ({"isolated nodes": measured.isolated} if measured.isolated else {})
    return {f"wall time, {part}": f"{seconds:,.3g} s" for part, seconds in (parts | {"total": measured.total}).items()}


def check(target: str, args: dict[str, Any], cases: int, seed: int) -> None:
    """Checks an algorithm, and prints each rule with what was found.

    Raises:
        ValueError: something does not hold.
    """
    start.wake_collector()
    failures = {failure.what: failure for failure in kit.check(target, args, cases, seed)}
    for rule in kit.RULES:
        print(f"{'FAILED' if rule in failures else 'holds '}  {rule}")
    for failure in failures.values():
        print(f"\n{failure}")
    if failures:
        raise ValueError(f"{target} must hold all rules, got {len(failures)} of {len(kit.RULES)} that fail")
