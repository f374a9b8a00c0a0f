"""Race: from a config and some algorithms to their ranking, in a folder from which it can go on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from batchednodes import config
from batchednodes.config import Config, sweep
from batchednodes.config.document import write
from batchednodes.figures import plots
from batchednodes.figures.published.frames import column, groups
from batchednodes.figures.race import picture, ranking, tuning
from batchednodes.figures.race.entrants import Entrant, entering
from batchednodes.figures.race.entry import Entry
from batchednodes.figures.race.ranking import Standing
from batchednodes.figures.race.rules import Rules
from batchednodes.figures.race.spending import Spending
from batchednodes.numerics.values import shown
from batchednodes.results import comparison
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.lock import Lock
from batchednodes.results.folder.paths import CONFIG, FINAL, METRICS, RACE, SUMMARY, OutputFolder
from batchednodes.results.folder.run_folder import new_folder
from batchednodes.simulation import training
from batchednodes.simulation.engine import Pause, never
from batchednodes.simulation.planning.plan import planned
from batchednodes.simulation.planning.preflight import prepare
from batchednodes.simulation.training import Watch

TABLES = ("ranking", "pairs", "curves", "tuning")
"""Tables of a race, each a CSV file."""


class HaltedError(Exception):
    """A race was asked to halt; what has been run stays, and it can go on."""


@dataclass(frozen=True, eq=False, repr=False)
class Race:
    """What a race has found.

    Example:
        >>> import batchednodes
        >>> settings = {"network.nodes": 4, "run": {"until": 4, "mark_every": 1}, "local.lr": 0.1}
        >>> race = batchednodes.race(settings, algorithms="gossip_sgd, d_psgd, fedavg", seeds=2)
        >>> race
        <Race of 3 by final loss_mean: fedavg, ...
        >>> list(race.ranking.columns)[:6]
        ['rank', 'algorithm', 'seeds', 'score', 'low', 'high']
    """

    rules: Rules
    """What was the same for all."""
    settings: dict[str, Config]
    """Of the run of each entrant, by its name, with the step size that was chosen: `batchednodes.train` repeats it."""
    ranking: pd.DataFrame
    """A row for each entrant, the best first: mean score and interval, the gap to the first, ties, what was spent."""
    pairs: pd.DataFrame
    """Paired differences of each two entrants, with their intervals."""
    curves: pd.DataFrame
    """The metric at the marks of each entrant and seed, beside what had been spent."""
    tuning: pd.DataFrame
    """What each candidate came to, rung by rung and seed by seed; empty where nothing was tuned."""
    folder: Path | None = field(default=None)
    """Where the files lie; None if none were asked for."""

    def __repr__(self) -> str:
        first = ", ".join(self.ranking["algorithm"])
        return f"<Race of {len(self.ranking)} by {self.rules.words}: {first}>"

    def plot(self) -> Figure:
        """Returns the picture of the race: curves, and the ranking with its intervals."""
        with matplotlib.rc_context(plots.PAPER):
            return picture.draw(self.curves, self.ranking, self.rules)


def lengths(entry: Entry) -> list[Entrant]:
    """Returns the entrants, each with the length of its run by which a node has spent the budget, in the mean.

    Each has as many marks as the config has.

    Raises:
        ValueError: one does not spend it in a thousand times the time of the config.
    """
    base, rules, found = entry.base, entry.rules, list[Entrant]()
    if rules.spent == "time" and rules.amount is None:
        return entry.entrants
    amount, until = rules.amount, base.run.until
    if amount is None:
        usual = config.load(base, [{"replicas": rules.seeds}])
        amount = float(Spending.of(usual).at([until])[rules.spent].mean())
    for one in entry.entrants:
        end = None if amount == 0 else Spending.of(one.settings).until(rules.spent, amount, until)
        if end is None:
            raise ValueError(
                f"--budget must be one that all spend, got {rules.spent}={amount:g}, of which {shown(one.name)} spends "
                "too little; choose another one, or leave it out"
            )
        marks = max(1, round(until / base.run.mark_every))
        run = {"run.until": end, "run.mark_every": end / marks}
        found.append(replace(one, settings=config.load(one.settings, [run])))
    return found


def start(entry: Entry, out: OutputFolder | None, watch: Watch | None = None, stop: Pause = never) -> Race:
    """Runs a race, in a new folder.

    Args:
        entry: what runs.
        out: where its files go; None: nothing is written.
        watch: called after each window and mark of each run.
        stop: whether to halt.

    Raises:
        ValueError: an entrant cannot run, or does not fit in memory.
        HaltedError: it was asked to halt.
    """
    plots.check_formats(entry.formats)
    found = lengths(entry)
    _check_fit(entry, found)
    if out is None:
        return _run(entry, found, None, ("png",), watch, stop)
    with new_folder(out, config.dump(entry.base)) as lock:
        (lock.folder / RACE).replace([write(entry.plain()).encode()])
        return _run(entry, found, lock.folder, entry.formats, watch, stop)


def _check_fit(entry: Entry, found: Sequence[Entrant]) -> None:
    """Checks that the batches of all entrants fit in memory, before any of them runs.

    Raises:
        ValueError: one does not; the message says which, and has the numbers.
    """
    for one in found:
        for settings in entry.batches(one):
            with entering(one.name):
                planned(prepare(sweep.points(settings)))[1].refuse_unless_fits()


def go_on(entry: Entry, folder: Path, watch: Watch | None = None, stop: Pause = never) -> Race:
    """Goes on with the race in a folder; runs that are finished stay. Arguments and errors as of `start`."""
    with Lock(Inside(folder)) as lock:
        return _run(entry, lengths(entry), lock.folder, entry.formats, watch, stop)


def _run(
    entry: Entry, found: list[Entrant], folder: Inside | None, formats: Sequence[str], watch: Watch | None, stop: Pause
) -> Race:
    """Tunes and runs all entrants, and leaves the ranking."""
    rules, seen, standings, curves = entry.rules, list[dict[str, Any]](), list[Standing](), list[pd.DataFrame]()
    settings, more = dict[str, Config](), dict[str, dict[str, Any]]()

    def run(chosen: Config, name: str) -> tuple[list[dict[str, Any]], bool]:
        return _rows(chosen, None if folder is None else folder / name, watch, stop)

    for one in found:
        chosen, best = one.settings, dict[str, Any]()
        if rules.tuned is not None:
            value, candidates = tuning.tuned(one, rules, run)
            seen += candidates
            best = {rules.tuned[0]: value}
            chosen = config.load(chosen, [best])
        rows, diverged = run(chosen, one.folder)
        curves.append(_curves(one, chosen, rows, rules))
        _check_measured(curves[-1], diverged, rules)
        standings.append(_standing(one.name, curves[-1], rules, diverged))
        last = curves[-1].groupby("seed").last()[["time", "gradients", "bytes"]].mean().to_dict()
        more[one.name] = best | {"mixes_by": one.way} | last | {"diverged": diverged, "folder": one.folder}
        settings[one.name] = chosen
    tables = ranking.table(standings, more, rules), ranking.pairs(standings, rules)
    whole, place = pd.concat(curves, ignore_index=True), None if folder is None else folder.path
    race = Race(rules, settings, *tables, whole, pd.DataFrame(seen), place)
    if folder is not None:
        _leave(race, folder, formats)
    return race


def _check_measured(curves: pd.DataFrame, diverged: bool, rules: Rules) -> None:
    """Raises ValueError where a run has no value of the metric at any mark."""
    if not diverged and not np.isfinite(column(curves, rules.metric)).any():
        raise ValueError(f"--by must be a metric that these runs measure, got {rules.metric}, which has no value")


def _leave(race: Race, folder: Inside, formats: Sequence[str]) -> None:
    """Writes the tables and the picture of a race."""
    for name in TABLES:
        table: pd.DataFrame = getattr(race, name)
        if len(table):
            (folder / f"{name}.csv").replace([table.to_csv(index=False).encode()])
    with matplotlib.rc_context(plots.PAPER):
        plots.save(race.plot(), [folder / f"race.{kind}" for kind in formats], force=True)


def _rows(
    settings: Config, folder: Inside | None, watch: Watch | None, stop: Pause
) -> tuple[list[dict[str, Any]], bool]:
    """Returns the rows of metrics of a run, and whether it diverged; one that is finished stays, another goes on.

    Raises:
        HaltedError: it was asked to halt.
        ValueError: the folder holds another run.
    """
    if folder is None:
        return _seen(training.train(settings, watch=watch, stop=stop))
    if (folder / CONFIG).is_file() and config.load((folder / CONFIG).path) != settings:
        raise ValueError(f"DIR must hold the runs of its race, got another one in {shown(str(folder))}; remove that")
    if (folder / SUMMARY).is_file():
        summary = comparison.summary(folder.path)
        if summary["status"] in ("finished", "diverged"):
            return comparison.rows(folder.path, METRICS), summary["status"] == "diverged"
    go: Callable[..., training.Outcome] = training.resume if folder.is_folder() else training.train
    given = (folder.path,) if folder.is_folder() else (settings,)
    found = _seen(go(*given, watch=watch, stop=stop, **({} if folder.is_folder() else {"out": folder.path})))
    if settings.sweep:
        (folder / FINAL).remove()  # of candidates nobody wants the models
    return found


def _seen(outcome: training.Outcome) -> tuple[list[dict[str, Any]], bool]:
    if outcome.summary["status"] == "interrupted":
        raise HaltedError(outcome.summary["message"])
    return [dict(row) for row in outcome.rows], outcome.summary["status"] == "diverged"


def _curves(one: Entrant, settings: Config, rows: Sequence[Mapping[str, Any]], rules: Rules) -> pd.DataFrame:
    """Returns the metric at each mark of an entrant, seed by seed, beside what had been spent."""
    times = sorted({float(row["time"]) for row in rows})
    spent, place = Spending.of(settings).at(times), {time: k for k, time in enumerate(times)}
    values = ranking.measured(rows, rules.metric)
    table = pd.DataFrame(
        {
            "algorithm": one.name,
            "seed": row["seed"],
            "time": row["time"],
            **{name: spent[name][place[float(row["time"])], int(row["network"])] for name in spent},
            rules.metric: value,
        }
        for row, value in zip(rows, values, strict=True)
    )
    return table.sort_values(["seed", "time"], kind="stable", ignore_index=True)


def _standing(name: str, curves: pd.DataFrame, rules: Rules, diverged: bool) -> Standing:
    """Returns what an entrant has come to."""
    found = [
        ranking.scored(column(own, rules.metric), column(own, rules.spent), rules, diverged)
        for _, own in groups(curves, ["seed"])
    ]
    return Standing(name, *np.array(found).T)
