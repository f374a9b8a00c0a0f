"""Command line: train, resume, plan, list, plot, compare, confusion, race, figure.

What a user got wrong is refused here, as far as settings and the sizes of data say so, before PyTorch is imported.
"""

import io
import json
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from batchednodes import __version__
from batchednodes.cli import comparing, counterfactuals, over_ranks, race
from batchednodes.cli.arguments import ConfigFile, Force, Formats, OutFolder, Overrides, Quiet, Ranks, TimeLimit
from batchednodes.cli.confusion import confusion
from batchednodes.cli.console import Output, check_written, console, loading, say
from batchednodes.cli.interruption import seconds
from batchednodes.figures.published import EXPERIMENTS
from batchednodes.numerics import ranks, start
from batchednodes.numerics.expressions import shown
from batchednodes.numerics.lazy import deferred
from batchednodes.results.metrics import catalogue

if TYPE_CHECKING:
    from batchednodes import config
    from batchednodes.cli import commands
    from batchednodes.config import hints, reference, sweep
    from batchednodes.figures import plots
    from batchednodes.numerics import memory
    from batchednodes.results import comparison
    from batchednodes.results.folder import inside, lock, paths
    from batchednodes.simulation.planning import preflight
    from batchednodes.simulation.resume import rules
else:
    config = deferred("batchednodes.config")
    commands = deferred("batchednodes.cli.commands")
    hints = deferred("batchednodes.config.hints")
    reference = deferred("batchednodes.config.reference")
    sweep = deferred("batchednodes.config.sweep")
    plots = deferred("batchednodes.figures.plots")
    memory = deferred("batchednodes.numerics.memory")
    comparison = deferred("batchednodes.results.comparison")
    inside = deferred("batchednodes.results.folder.inside")
    lock = deferred("batchednodes.results.folder.lock")
    paths = deferred("batchednodes.results.folder.paths")
    preflight = deferred("batchednodes.simulation.planning.preflight")
    rules = deferred("batchednodes.simulation.resume.rules")

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(asked: bool) -> bool:
    """Returns what was asked; typer takes it for the value of the option."""
    if asked:
        print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Asynchronous decentralized learning of many nodes, simulated exactly and at scale."""


@app.command()
def train(
    settings: ConfigFile,
    overrides: Overrides = None,
    out: OutFolder = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Folder of a run whose models are the initial ones.", metavar="DIR")
    ] = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
    over: Ranks = None,
) -> None:
    """Trains the nodes of a config and leaves curves, metrics and final models in a new folder.

    Examples: `batchednodes train mine.yaml network.nodes=50 -o runs/small`;
    `batchednodes train mine.yaml 'sweep.gossip.clock.rate=[1, log(n)]' replicas=4`
    """
    chosen = config.load(settings, overrides or [])
    if start_from is not None:
        if any(override.startswith("run.start_from=") for override in overrides or []):
            raise ValueError(
                f"--from must not stand beside run.start_from=..., got {shown(start_from)}; leave one of both"
            )
        chosen = replace(chosen, run=replace(chosen.run, start_from=start_from))
    if out and ranks.again() and _is_of(Path(out), chosen):
        return resume(Path(out), time_limit=time_limit, quiet=quiet)
    place, limit = paths.OutputFolder(out) if out else paths.OutputFolder.numbered(chosen.name), seconds(time_limit)
    start.check_torch()
    over_ranks.check(over, chosen.device)
    if over and over > 1:
        paths.check_new(place.folder)
        over_ranks.launch(over)
    with loading("data, graph and PyTorch", quiet):
        made = preflight.fresh(chosen, place.folder)
        run = commands.train  # imports PyTorch
    run(chosen, made, place, limit, quiet)


def _is_of(folder: Path, chosen: "config.Config") -> bool:
    """Returns whether a folder holds a run of some settings."""
    try:
        return config.to_dict(rules.reopened(folder, [])) == config.to_dict(chosen)
    except (ValueError, OSError):
        return False


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="DIR", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="What may change: `run.until=200`.", metavar="KEY=VALUE", show_default=False),
    ] = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
    over: Ranks = None,
) -> None:
    """Goes on with a run, or a race, that was killed or interrupted, in place, bit for bit; or extends a finished run.

    Example: `batchednodes resume runs/mine-1 run.until=200`
    """
    limit = seconds(time_limit)
    if (inside.Inside(folder) / paths.RACE).is_file():
        over_ranks.check_alone("a race", over)
        return race.resume(folder, overrides or [], limit, quiet)
    chosen = rules.reopened(folder, overrides or [])
    paths.check_writable(folder)
    start.check_torch()
    over_ranks.check(over, chosen.device)
    if over and over > 1:
        over_ranks.launch(over)
    with lock.locked(inside.Inside(folder)):
        with loading("the run and PyTorch", quiet):
            made = preflight.resumable(folder, chosen)
            run = commands.resume  # imports PyTorch
        run(chosen, made, paths.OutputFolder(folder), limit, quiet)


@app.command("plan")
def plan_command(
    settings: ConfigFile,
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few waves and a mark, and say how long the whole run would take.")
    ] = False,
    over: Ranks = None,
) -> None:
    """Shows the data, graph, expected events, waves and memory of a config, and whether it fits; leaves nothing.

    Example: `batchednodes plan mine.yaml network.nodes=1000 --measure`
    """
    chosen = config.load(settings, overrides or [])
    start.check_torch()
    made = preflight.prepare(sweep.points(chosen))
    commands.show_plan(made, measure, over or ranks.size())


@app.command("list")
def list_command(
    key: Annotated[
        str,
        typer.Argument(
            help="Details of sections and settings that begin so, as `gossip`, `task.data.path`; `metrics`."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known as JSON.")] = False,
) -> None:
    """Lists every section and kind of the settings, a whole key a line; of some, with units, ranges and meanings.

    Examples: `batchednodes list`; `batchednodes list gossip.clock`; `batchednodes list metrics`
    """
    if key == "metrics":
        return _print_metrics(as_json)
    known = reference.catalogue()
    kinds = [kind for kind in (one.beginning(key) for one in known) if kind is not None]
    if not kinds:
        keys = (path for kind in known for path in (kind.section, *(setting.path for setting in kind.settings)))
        near = hints.nearest(key, ["metrics", *keys]) or "; `batchednodes list` shows all"
        raise ValueError(f"section must be one of the settings, got {shown(key)}{near}")
    if as_json:
        return print(json.dumps([asdict(kind) for kind in kinds], indent=2))
    terminal = console()
    if not key:
        return terminal.print(Text("\n").join(line for kind in kinds for line in _lines(kind)), soft_wrap=True)
    for kind in kinds:
        _print_kind(terminal, kind)


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(help="Class of an algorithm, `module:Class` or `path/to/file.py:Class`; or a built-in kind."),
    ],
    args: Annotated[
        list[str] | None, typer.Argument(help="Its settings: `pull=0.2`.", metavar="KEY=VALUE", show_default=False)
    ] = None,
    cases: Annotated[int, typer.Option(help="Random networks to try.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="Of the random networks.", min=0)] = 0,
) -> None:
    """Checks an algorithm of one's own: waves equal one event at a time, laws hold, runs go on after a stop.

    Example: `batchednodes check mine.py:MyAlgorithm pull=0.2`
    """
    start.check_torch()
    settings = dict(config.assigned(text) for text in args or [])
    commands.check(target, settings, cases, seed)


@app.command()
def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, drawn together; or configs, whose split is drawn.", metavar="DIR|CONFIG"),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the pictures.", show_default="DIR/figures, or figures/DIR+DIR"),
    ] = None,
    formats: Formats = None,
    force: Force = False,
) -> None:
    """Draws the curves of runs (loss, accuracy, consensus, staleness), and the labels of each node.

    Example: `batchednodes plot runs/mine-1 runs/mine-2 --out both --format svg`
    """
    for run in runs:
        if not run.is_file():
            comparison.check_file(run, paths.METRICS, "run")
    if out is not None:
        paths.check_absent(out, [])
    elif len(folders := [run for run in runs if not run.is_file()]) == 1:
        (inside.Inside(folders[0]) / paths.FIGURES).status()
    start.wake_collector()
    drawn = plots.plot(runs, out, formats or ["png", "pdf"], force)
    for path in drawn.paths:
        print(path)
    for words in drawn.splits:
        print(words)


app.command()(comparing.compare)
app.command()(confusion)
app.command()(race.race)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.", metavar="NAME")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller networks: two or three minutes on two cores.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the picture, its numbers and settings.")] = Path(
        "figures"
    ),
    formats: Formats = None,
    force: Force = False,
) -> None:
    """Runs and draws a published figure: PNG, PDF, the plotted numbers as CSV, the settings of its runs as YAML.

    Example: `batchednodes figure staleness-scaling --quick`
    """
    if name not in EXPERIMENTS:
        near = hints.nearest(name, EXPERIMENTS)
        raise ValueError(f"NAME must be one of {', '.join(EXPERIMENTS)}, got {shown(name)}{near}")
    over_ranks.check_alone("figure", None)
    kinds = formats or ["png", "pdf"]
    paths.check_absent(out, [] if force else [f"{name}.{kind}" for kind in (*kinds, "csv")])
    start.check_torch()
    commands.figure(name, quick, out, kinds, force)


app.command()(counterfactuals.influence)
app.command()(counterfactuals.reached)


def main() -> None:
    """Runs the command line; what a user can cause ends in one message and exit code 2."""
    over_ranks.begin()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    noting: Any = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = noting
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say("warning", message)
            warnings.filterwarnings("always", message=r"network\.topology", category=UserWarning)
            warnings.filterwarnings("default", message=r"task\.data", category=UserWarning)
            _run()
    finally:
        for stream in noting:
            stream.close()
        sys.stdout, sys.stderr = before


def _run() -> None:
    try:
        try:
            app(prog_name="batchednodes")
        except SystemExit as end:
            if not end.code:
                check_written()
            raise
    except start.MemoryEndedError:
        raise  # to where the process began
    except Exception as error:
        said: object = config.blamed(error, config.READER.bases) or error
        if memory.exhausted(error):
            advice = "lower network.nodes, the model or staleness.track, or use a smaller dtype"
            said = f"the run must fit in memory, got: {memory.reason(error)}; {advice}"
        known = said is not error or isinstance(error, ValueError | OSError | MemoryError)
        if ranks.several():
            over_ranks.fail(str(said), error, known)
        if not known:
            raise
        say("error", said)
        sys.exit(2)


def _print_metrics(as_json: bool) -> None:
    """Prints key, unit and meaning of each metric."""
    if as_json:
        told = [{"key": one.key, "unit": one.unit, "meaning": one.meaning} for one in catalogue.METRICS]
        return print(json.dumps(told, indent=2))
    for metric in catalogue.METRICS:
        console().print(Text(f"{metric.key:<30} {metric.unit:<10} {metric.meaning}"), soft_wrap=True)


def _title(kind: "reference.Kind") -> Text:
    """Returns the key, name and summary of a section or kind, below an empty line."""
    title = [(kind.section or "top level", "bold"), *([": kind ", (kind.name, "bold")] if kind.name else [])]
    default = " (default)" if kind.default and kind.name else ""
    return Text.assemble("\n", *title, f"{default}  {kind.summary}")


def _lines(kind: "reference.Kind") -> list[Text]:
    """Returns a section or kind and its settings, a whole key a line."""
    return [_title(kind), *(Text(f"  {setting.path} = {setting.default}") for setting in kind.settings)]


def _print_kind(terminal: Console, kind: "reference.Kind") -> None:
    """Prints a section or kind and its settings, with what is known of each."""
    terminal.print(_title(kind))
    for name, fact in kind.facts:
        terminal.print(Text(f"  {name}: {fact}"))
    for setting in kind.settings:
        terminal.print(Text(f"  {setting.path} = {setting.default}"), soft_wrap=True)
        for line in (f"accepts {setting.type}", setting.meaning):
            terminal.print(Padding(Text(line), (0, 0, 0, 6)))
