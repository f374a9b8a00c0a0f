"""What `race` does once its arguments are checked, and what it prints."""

from collections.abc import Callable

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from batchednodes.cli.commands import Watch, bar, to_go_on
from batchednodes.cli.console import check_written, console, say
from batchednodes.cli.interruption import Interruption
from batchednodes.figures.race import race as races
from batchednodes.figures.race import ranking
from batchednodes.figures.race.entry import Entry
from batchednodes.figures.race.race import HaltedError, Race
from batchednodes.numerics import start as process
from batchednodes.results.folder.paths import OutputFolder


def start(entry: Entry, place: OutputFolder, limit: float | None, quiet: bool) -> None:
    """Runs a race in a new folder, and prints its ranking; see `_run`."""
    _run(lambda watch, stop: races.start(entry, place, watch, stop), place, limit, quiet)


def resume(entry: Entry, place: OutputFolder, limit: float | None, quiet: bool) -> None:
    """Goes on with the race in a folder; see `_run`."""
    _run(lambda watch, stop: races.go_on(entry, place.folder, watch, stop), place, limit, quiet)


def _run(begin: Callable[[Watch, Interruption], Race], place: OutputFolder, limit: float | None, quiet: bool) -> None:
    """Runs to the end, or until interrupted, and reports.

    Raises:
        typer.Exit: it was interrupted.
    """
    process.wake_collector()
    terminal = console(quiet=quiet)
    with Interruption(limit) as interruption:
        try:
            with bar(terminal) as shown:
                watch = Watch(shown)
                watch.begin("starting", "building the first run; kernels that are new on this machine are compiled")
                found = begin(watch, interruption)
        except HaltedError as halted:
            say("interrupted", f"{halted}; {to_go_on(place)}")
            raise typer.Exit(interruption.code) from None
    _report(terminal, found)
    check_written(found.folder)


def _report(terminal: Console, race: Race) -> None:
    rules = race.rules
    tuned = None if rules.tuned is None else rules.tuned[0]
    over = "one seed" if rules.seeds == 1 else f"means over {rules.seeds} seeds, 95% intervals"
    heads = ["", "algorithm", "mixes by", *([tuned] if tuned else []), rules.words, "gap to the first", "tied with"]
    table = Table(*heads, "time [s]", "gradients", "bytes", title=f"{over}; spent: by a node, in the mean")
    for column in (0, *range(3, len(table.columns))):
        table.columns[column].justify = "right"
    for row in race.ranking.to_dict("records"):
        spent = [f"{row[name]:,.6g}" for name in ("time", "gradients", "bytes")]
        cells = [str(row["rank"]), row["algorithm"], row["mixes_by"], *([f"{row[tuned]:g}"] if tuned else [])]
        table.add_row(*cells, ranking.score(row, rules.seeds), ranking.with_ends(row, "gap"), row["tied_with"], *spent)
    terminal.print(table)
    for line in _notes(race.ranking, tuned, rules.tuned[1] if rules.tuned else ()):
        terminal.print(line, highlight=False, soft_wrap=True)
    terminal.print(f"results     {race.folder}", highlight=False, soft_wrap=True)


def _notes(table: pd.DataFrame, tuned: str | None, values: tuple[float, ...]) -> list[str]:
    """Returns a line for each entrant that does best at an end of what was tried."""
    rows = table.to_dict("records") if tuned else []
    at_end = [row for row in rows if row[tuned] in (values[0], values[-1])]
    return [
        f"note        {row['algorithm']} does best with {tuned} = {row[tuned]:g}, an end of the grid; widen --tune"
        for row in at_end
    ]
