"""Command line: the confusion matrix of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchednodes.cli.console import console, loading
from batchednodes.numerics import start
from batchednodes.numerics.expressions import shown
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes.figures import result
    from batchednodes.results import tables
else:
    result = deferred("batchednodes.figures.result")
    tables = deferred("batchednodes.results.tables")


def confusion(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="DIR", show_default=False)],
    node: Annotated[
        str, typer.Option(help="A node's number; `mean`: the mean model; `each`: the sum over nodes, each by its own.")
    ] = "mean",
    own_tests: Annotated[
        bool, typer.Option("--own-tests", help="On nodes' own test rows, of `task.own_tests`, not those of all.")
    ] = False,
    network: Annotated[int, typer.Option(help="Number of the network in its batch.", min=0)] = 0,
    csv: Annotated[bool, typer.Option("--csv", help="Print it as CSV.")] = False,
) -> None:
    """Prints how often the models of a run take rows with each label for each label: a line for each true one.

    Example: `batchednodes confusion runs/mine-1 --node each --own-tests`
    """
    if node not in ("mean", "each") and not (node.isascii() and node.isdigit()):
        raise ValueError(f"--node must be the number of a node, mean or each, got {shown(node)}")
    start.check_torch()
    with loading("the run and PyTorch", csv):
        run = result.Result.load(folder)
        i = node if node in ("mean", "each") else run.row(int(node), network)
        found = run.confusion(i, own_tests=own_tests, network=network)
    if csv:
        return print(found.to_csv().rstrip())
    counts = found.to_numpy()
    lines = [[f"{label}", *(f"{count}" for count in row)] for label, row in enumerate(counts)]
    right, whole = int(counts.trace()), int(counts.sum())
    title = f"true labels, and those taken: {right:,} of {whole:,} rows right"
    terminal = console()
    for table in tables.tables(tables.Cells(["label"], [f"{label}" for label in found], lines), title, terminal.width):
        terminal.print(table)
