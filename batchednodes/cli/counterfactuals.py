"""Commands about what nodes did to others: what they changed, and how many of their updates reached whom."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from batchednodes.cli.arguments import ConfigFile, OutFolder, Overrides, Quiet
from batchednodes.cli.console import console, loading
from batchednodes.numerics import start
from batchednodes.numerics.expressions import shown
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    import pandas as pd

    from batchednodes import config
    from batchednodes.cli import commands
    from batchednodes.figures import influence as influences
    from batchednodes.figures import result
    from batchednodes.results.folder import paths
    from batchednodes.simulation.planning import preflight
else:
    config = deferred("batchednodes.config")
    commands = deferred("batchednodes.cli.commands")
    influences = deferred("batchednodes.figures.influence")
    result = deferred("batchednodes.figures.result")
    paths = deferred("batchednodes.results.folder.paths")
    preflight = deferred("batchednodes.simulation.planning.preflight")

AsCsv = Annotated[bool, typer.Option("--csv", help="Print a row for each node as CSV.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the same as JSON.")]


def influence(
    settings: ConfigFile,
    without: Annotated[
        str, typer.Option(help="Nodes from whom nothing comes: each in a network of its own, then all.", metavar="I,J")
    ],
    overrides: Overrides = None,
    out: OutFolder = None,
    csv: AsCsv = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Runs a config and, in the same batch, the same network with nodes silent: what had they changed?

    Example: `batchednodes influence mine.yaml network.nodes=50 --without 3,7`
    """
    _check_one(csv, as_json)
    chosen = influences.settings(config.load(settings, overrides or []), _numbers(without))
    place = paths.OutputFolder(out) if out else paths.OutputFolder.numbered(chosen.name)
    start.check_torch()
    quiet = quiet or csv or as_json
    with loading("data, graph and PyTorch", quiet):
        made = preflight.fresh(chosen, place.folder)
        run = commands.train  # imports PyTorch
    run(chosen, made, place, None, quiet)
    found = result.Result.load(place.folder).influence
    if csv or as_json:
        return _print(found, csv)
    table, rows = Table(title="what silent nodes had changed, over all others"), influences.summary(found)
    for column in rows.columns:
        table.add_column(str(column).replace("_", " "), justify="right")
    for row in rows.itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    return console(quiet=quiet).print(table)


def reached(
    folder: Annotated[Path, typer.Argument(help="Folder of the run.", metavar="DIR", show_default=False)],
    network: Annotated[int, typer.Option(help="Number of the network in its batch.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Prints how many updates of each tracked node are in each node's model: who could have learnt from whom.

    Example: `batchednodes reached runs/mine-1 > reached.csv`
    """
    _print(result.Result.load(folder).reached(network).reset_index(), not as_json)


def _print(found: "pd.DataFrame", csv: bool) -> None:
    print(found.to_csv(index=False).rstrip() if csv else found.to_json(orient="records"))


def _check_one(csv: bool, as_json: bool) -> None:
    """Raises ValueError where two forms are asked for."""
    if csv and as_json:
        raise ValueError("influence must get one of --csv and --json, got both; leave one")


def _numbers(text: str) -> list[int]:
    """Returns the numbers of nodes that a user wrote with commas between them."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"--without must be numbers of nodes with commas between, got {shown(text)}; --without 3,7")
    return [int(word) for word in words]
