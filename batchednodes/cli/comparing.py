"""The command `compare`: final metrics of runs side by side, and their ranking."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchednodes.cli.arguments import Force, Formats
from batchednodes.cli.console import console, say
from batchednodes.cli.race import By, Rank
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes.figures import plots
    from batchednodes.figures.race import finished
    from batchednodes.results import comparison, tables
    from batchednodes.results.folder import paths
else:
    plots = deferred("batchednodes.figures.plots")
    finished = deferred("batchednodes.figures.race.finished")
    comparison = deferred("batchednodes.results.comparison")
    tables = deferred("batchednodes.results.tables")
    paths = deferred("batchednodes.results.folder.paths")

Finals = Sequence[dict[str, Any]]


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="DIR")],
    by: By = None,
    rank: Rank = "final",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for a picture of the ranking, and its tables as CSV.")
    ] = None,
    formats: Formats = None,
    force: Force = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print numbers as CSV, with the ends of intervals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a table for LaTeX.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
) -> None:
    """Prints the final metrics of runs side by side, with 95% intervals over replicas, the best run first.

    Several runs are ranked over the seeds that all have, and so are the settings of one where `--by`, `--rank` or
    `--out` is given.

    Example: `batchednodes compare runs/mine-1 runs/mine-2 --by loss_mean --latex > table.tex`
    """
    if csv + as_json + latex + markdown > 1:
        raise ValueError("compare must get one of --csv, --json, --latex and --markdown, got several; leave one")
    if out is not None:
        plots.check_formats(formats or ["png", "pdf"])
        paths.check_absent(out, [] if force else finished.names(formats or ["png", "pdf"]))
    once = {os.path.realpath(run): run for run in runs}  # else a run named twice would count as two replicas
    found = {run: comparison.read(run) for run in once.values()}
    for run, (_, why) in found.items():
        if why is not None:
            say("warning", f"{run} is not finished: {why}")
    rows = [row for networks, _ in found.values() for row in networks]
    ranking = _ranked({run: networks for run, (networks, _) in found.items()}, by, rank, out is not None)
    if csv or as_json:
        table = tables.frame(rows) if ranking is None else ranking.frame(tables.frame(rows))
        print(table.to_csv(index=False).rstrip() if csv else tables.records(table))
    else:
        _print(
            tables.cells(rows, None) if ranking is None else ranking.cells(tables.cells(rows, None)), latex, markdown
        )
    if ranking is not None and out is not None:
        written = ranking.leave(out, formats or ["png", "pdf"], force)
        for path in written if not (csv or as_json or latex or markdown) else ():
            print(path)


def _ranked(found: Mapping[Path, Finals], by: str | None, rank: str, drawn: bool) -> "finished.Ranked | None":
    """Returns the ranking of runs, where it is asked for or there are several; None where these cannot be ranked.

    Raises:
        ValueError: it is asked for, and cannot be.
    """
    asked = by is not None or rank != "final" or drawn
    if not asked and len(found) < 2:
        return None
    try:
        rows = [row for run, finals in found.items() for row in finished.at_marks(run, finals, rank, drawn)]
        diverged = [str(run) for run in found if comparison.summary(run).get("status") == "diverged"]
        return finished.ranked([row for finals in found.values() for row in finals], rows, diverged, by, rank)
    except ValueError as error:
        if asked:
            raise
        say("warning", f"runs are not ranked: {error}")
        return None


def _print(found: "tables.Cells", latex: bool, markdown: bool) -> None:
    """Prints a table, for a terminal or for documents."""
    if latex or markdown:
        return print((tables.latex if latex else tables.markdown)(found))
    terminal = console()
    for table in tables.tables(found, "final metrics", terminal.width):
        terminal.print(table)
