"""Command line: train, resume, plan, list, plot, compare, figure."""

import io
import math
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from batchednodes import assembly, branch, comparison, config, dealing, figures, memory, sweep, training
from batchednodes.catalogue import Kind, catalogue
from batchednodes.config import Config
from batchednodes.connectivity import Connectivity, connectivity
from batchednodes.data import Heterogeneity
from batchednodes.engine import Progress as Advance
from batchednodes.experiments import EXPERIMENTS, publish
from batchednodes.interruption import Interruption, seconds
from batchednodes.memory import gib
from batchednodes.plan import Plan, plan, screen
from batchednodes.record import next_folder
from batchednodes.values import shown

app = typer.Typer(
    help="Asynchronous decentralized learning of many nodes, simulated exactly and at scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

ConfigFile = Annotated[
    Path,
    typer.Argument(help="YAML file of settings; every setting has a default.", metavar="CONFIG", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings that replace those of the file: `network.nodes=50 'gossip.clock.rate=2*log(n)'`.",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option(help="New folder for the results.", show_default="runs/<name>-<n>")]
TimeLimit = Annotated[
    str | None,
    typer.Option(help="Wall time after which to halt with a checkpoint: `2h`, `90min`; exit code 124.", metavar="TIME"),
]
_QUICK = 256 << 20
"""Memory of the data up to which a plan loads them [B]: some seconds."""

Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@app.command()
def train(
    settings: ConfigFile,
    overrides: Overrides = None,
    out: Out = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Folder of a run whose models are the initial ones.", metavar="DIR")
    ] = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
) -> None:
    """Trains the nodes of a config and leaves curves, metrics and final models in a new folder."""
    chosen = config.load(settings, overrides or [])
    if start_from is not None:
        chosen = replace(chosen, run=replace(chosen.run, start_from=start_from))
    folder = out or next_folder(chosen.name)
    _run(lambda watch, stop: training.train(chosen, out=folder, watch=watch, stop=stop), folder, time_limit, quiet)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="DIR", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="What may change: `run.until=200`.", metavar="KEY=VALUE", show_default=False),
    ] = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
) -> None:
    """Goes on with a run that was killed or interrupted, in place and bit for bit; or extends a finished one."""
    changed = overrides or []
    _run(lambda watch, stop: training.resume(folder, *changed, watch=watch, stop=stop), folder, time_limit, quiet)


def _run(
    start: Callable[[training.Watch, Interruption], training.Result], folder: Path, time_limit: str | None, quiet: bool
) -> None:
    """Runs to the end, or until interrupted, and reports.

    Raises:
        ValueError: the run diverged.
        typer.Exit: it was interrupted.
    """
    console, limit = Console(quiet=quiet), None if time_limit is None else seconds(time_limit)
    with Interruption(limit) as interruption:
        with _bar(console) as bar:
            result = start(_Watch(bar), interruption)
        summary = result.summary
        if summary["status"] == "diverged":
            raise ValueError(f"{summary['message']}; everything until then is in {result.folder}")
        if summary["status"] == "interrupted":
            go_on = f"to go on: batchednodes resume {shlex.quote(str(folder))}"
            _say("[yellow]interrupted:[/yellow]", f"{summary['message']}; {go_on}")
            raise typer.Exit(interruption.code)
        _report(console, result)


@app.command("plan")
def plan_command(settings: ConfigFile, overrides: Overrides = None) -> None:
    """Shows the graph, expected events, waves and memory of a config, and whether it fits; runs nothing."""
    chosen = config.load(settings, overrides or [])
    configs = [p.config for p in sweep.points(chosen)]
    screen(configs)
    events = assembly.timeline(configs)
    made, graph = plan(configs, events), connectivity(configs[0], events, 0)
    _show_plan(Console(), made, graph, _labels(configs) if made.fits and _is_quick(made) else [])


def _is_quick(made: Plan) -> bool:
    """Returns whether the data are so few that a plan may load them, to say how they are split."""
    return made.memory["data"] + made.memory["data while it is loaded (host)"] <= _QUICK


def _labels(configs: Sequence[Config]) -> list[Heterogeneity]:
    """Returns how heterogeneous the labels of each network are; nothing where targets are real numbers."""
    if not dealing.sizes(configs[:1])[0].is_classes:
        return []
    found = (dealing.heterogeneity(*dealing.split(c)) for c in configs)
    return [one for one in found if one is not None]


@app.command("list")
def list_command(
    section: Annotated[str, typer.Argument(help="Only sections that begin so, as `gossip` or `task.data`.")] = "",
) -> None:
    """Lists every section and kind of the settings, with defaults, units and ranges."""
    console, kinds = Console(), [k for k in catalogue() if k.section.startswith(section)]
    if not kinds:
        raise ValueError(f"section must be one of the settings, got {shown(section)}; `batchednodes list` shows all")
    for kind in kinds:
        title = f"[bold]{kind.section or 'top level'}[/bold]" + (
            f": kind [bold]{kind.name}[/bold]" if kind.name else ""
        )
        console.print(f"\n{title}{' (default)' if kind.default and kind.name else ''}  {escape(kind.summary)}")
        if kind.settings:
            console.print(_settings_table(kind))


@app.command()
def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, drawn together; or configs, whose split is drawn.", metavar="DIR|CONFIG"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures.", show_default="DIR/figures, or figures")
    ] = None,
) -> None:
    """Draws the curves of runs (loss, accuracy, consensus, staleness), and the labels of each node, as PNG and PDF."""
    drawn = figures.plot(runs, out)
    for path in drawn.paths:
        print(path)
    for words in drawn.splits:
        print(words)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="DIR")],
) -> None:
    """Prints the final metrics of runs side by side, with 95% intervals over replicas."""
    rows = [row for run in runs for row in comparison.read(run)]
    Console().print(comparison.table(rows, None, "final metrics"))


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.", metavar="NAME")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller networks: two or three minutes on two cores.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the picture, its numbers and settings.")] = Path("figures"),
) -> None:
    """Runs and draws a published figure: PNG, PDF, the plotted numbers as CSV, the settings of its runs as YAML."""
    if name not in EXPERIMENTS:
        raise ValueError(f"NAME must be one of {', '.join(EXPERIMENTS)}, got {shown(name)}")
    size = "quick" if quick else "cuda" if torch.cuda.is_available() else "cpu"
    console = Console()
    with _bar(console) as bar:
        published = publish(name, EXPERIMENTS[name](size), out, _Watch(bar))
    for table in published.findings:
        console.print(table)
    for path in published.paths:
        console.print(path, highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the command line; what a user can cause ends in one message and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.filterwarnings("always", message=r"network\.topology", category=UserWarning)
        try:
            app(prog_name="batchednodes")
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if memory.exhausted(error):
                advice = "lower network.nodes, the model or staleness.track, or use a smaller dtype"
                error = f"the run must fit in memory, got: {memory.reason(error)}; {advice}"
            elif isinstance(error, RuntimeError):
                raise
            _say("[bold red]error:[/bold red]", error)
            sys.exit(2)
        except KeyboardInterrupt:
            _say("[yellow]interrupted:[/yellow]", "before anything was written")
            sys.exit(130)


def _show_warning(message: Warning | str, *_: Any) -> None:
    _say("[yellow]warning:[/yellow]", message)


def _say(label: str, message: object) -> None:
    Console(stderr=True, soft_wrap=True).print(f"{label} {escape(str(message))}", highlight=False)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


class _Watch:
    """Shows simulated time, events per second and loss of the run in progress."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.tasks = bar, dict[str, tuple[TaskID, float]]()

    def __call__(self, chosen: Config, progress: Advance, row: dict[str, Any]) -> None:
        if chosen.name not in self.tasks:
            self.tasks[chosen.name] = (
                self.bar.add_task(chosen.name, total=chosen.run.until, status=""),
                time.perf_counter(),
            )
        task, begun = self.tasks[chosen.name]
        speed = progress.events / max(1e-9, time.perf_counter() - begun)
        status = f"t = {progress.clocks.time:.4g} s  {speed:,.0f} events/s  loss {_words(row['loss_mean'])}"
        self.bar.update(task, completed=progress.clocks.time, status=status)


def _report(console: Console, result: training.Result) -> None:
    networks, isolated = result.summary["networks"], result.summary["isolated"]
    if len(networks) > 1:
        console.print(
            comparison.table(networks, isolated, f"{len(networks)} networks at t = {networks[0]['time']:g} s")
        )
    else:
        console.print(_network_table(networks[0], isolated[0] if isolated else None))
    for line in _notes(result, networks):
        console.print(line, highlight=False, soft_wrap=True)


def _network_table(final: dict[str, Any], isolated: dict[str, Any] | None) -> Table:
    title = f"n = {final['n']} nodes at t = {final['time']:g} s"
    table = Table("", "gossip", *(["isolated"] if isolated else []), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    measure, worst, best = ("loss", "max", "min") if final["accuracy_mean"] is None else ("accuracy", "min", "max")
    rows = {"mean node": "mean", "worst node": worst, "best node": best, "average model": "mean_model"}
    for label, key in rows.items():
        table.add_row(f"{measure}, {label}", *(_words(row[f"{measure}_{key}"]) for row in (final, isolated) if row))
    table.add_row("consensus distance", *(_words(row["consensus_distance"]) for row in (final, isolated) if row))
    return table


def _words(value: float | None) -> str:
    """Returns a number in words; files have none for one that is not finite."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _notes(result: training.Result, networks: list[dict[str, Any]]) -> list[str]:
    summary = result.summary
    speed = f"{summary['events_per_second']:,.0f} events/s, {summary['updates_per_second']:,.0f} updates/s"
    wave = f", {summary['mean_wave']:.1f} events a wave" if summary["mean_wave"] else ""
    start = summary["start"]
    return [
        *([_origin(start)] if start else []),
        *(_staleness(networks[0]) if len(networks) == 1 else []),
        *(_split(summary["heterogeneity"][0]) if len(networks) == 1 else []),
        *_diverged(summary["diverged"], networks[0]["quarantined"] is not None),
        f"speed       {speed}{wave}, {summary['wall_seconds']:.1f} s on {summary['device']}",
        f"results     {result.folder}",
        f"curves      tensorboard --logdir {result.folder} --host localhost",
    ]


def _origin(start: dict[str, Any]) -> str:
    changed = branch.words(start["changed"])
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


def _show_plan(console: Console, made: Plan, graph: Connectivity, labels: list[Heterogeneity]) -> None:
    table = Table("", "", title=f"plan on {made.device}", show_header=False)
    table.columns[1].justify = "right"
    waves = f"{made.waves:,.0f}"
    for label, value in {
        "networks": f"{made.networks:,}",
        "nodes": f"{made.nodes:,}",
        "parameters of a node": f"{made.parameters:,}",
        "updates, expected": f"{made.updates:,.0f}",
        "gossips, expected": f"{made.gossips:,.0f}",
        "waves, expected": waves,
        "rows of a chunk": f"{made.chunks.update:,}",
        "threads": f"{made.threads}",
    }.items():
        table.add_row(label, value)
    if made.flying is not None:
        table.add_row("models under way at once, at most", f"{made.flying:,.0f}")
        table.add_row("rows for them", f"{made.slots:,}")
    for label, values in {
        "label heterogeneity": [one.distance for one in labels],
        "label heterogeneity, by chance": [one.chance for one in labels],
    }.items():
        if values:
            ends = dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values)))
            table.add_row(label, " to ".join(ends))
    table.add_section()
    first = " (first network)" if made.networks > 1 else ""
    for label, value in graph.words().items():
        table.add_row(f"{label}{first}", value)
    table.add_section()
    for part, size in made.memory.items():
        table.add_row(part, gib(size))
    table.add_section()
    table.add_row("total", gib(made.total))
    table.add_row("free", gib(made.available))
    table.add_row("fits", "yes" if made.fits else "no")
    console.print(table)


def _settings_table(kind: Kind) -> Table:
    table = Table("setting", "accepts", "default", "meaning", box=None, pad_edge=True)
    for setting in kind.settings:
        table.add_row(*(escape(text) for text in (setting.path, setting.type, setting.default, setting.meaning)))
    return table
