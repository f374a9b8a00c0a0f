"""Finished runs ranked as entrants of a race are: their settings in the order of a metric, over seeds that all have.

Notation: s settings, m seeds, k marks.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from batchednodes.config.names import named
from batchednodes.figures import plots
from batchednodes.figures.race import picture, ranking
from batchednodes.figures.race.ranking import Standing, measured
from batchednodes.figures.race.rules import AXES, Rules
from batchednodes.results import comparison
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.paths import METRICS, check_absent, make
from batchednodes.results.tables import Cells

PICTURE, TABLES = "ranking", ("ranking", "pairs", "curves")
"""Names of the picture and of the tables that a ranking is written to."""

MOST = 100
"""Settings that are ranked at most: each two of them are compared."""

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Ranked:
    """A ranking of the settings of runs."""

    rules: Rules
    """What is ranked, and over how many seeds."""
    places: list[int]
    """Numbers of the settings, the best first, in the order of `comparison.groups`."""
    ranking: pd.DataFrame
    """A row for each setting, the best first, as of a race, where it is called `algorithm`."""
    pairs: pd.DataFrame
    """Paired differences of each two settings, with their intervals."""
    curves: pd.DataFrame
    """The metric at each mark that was given, setting by setting and seed by seed."""

    def frame(self, table: pd.DataFrame) -> pd.DataFrame:
        """Returns the table of the same settings, the best first, with its place, gap to the first and ties.

        Args:
            table: of `tables.frame`.
        """
        found = table.iloc[self.places].reset_index(drop=True)
        keys = ("rank", "score", "low", "high", "gap", "gap_low", "gap_high", "tied_with")
        names = {"score": f"{self.rules.rank} {self.rules.metric}", "low": "score_low", "high": "score_high"}
        ranked = {names.get(key, key): self.ranking[key] for key in keys}
        return pd.concat([found, pd.DataFrame(ranked)], axis="columns")

    def cells(self, found: Cells) -> Cells:
        """Returns cells of the same settings likewise, in words.

        Args:
            found: of `tables.cells`.
        """
        seeds = self.rules.seeds
        heads = ["rank", self.rules.words, "gap to the first", "tied with"]
        lines = [
            [
                *found.lines[k],
                str(row["rank"]),
                ranking.score(row, seeds),
                ranking.with_ends(row, "gap"),
                row["tied_with"],
            ]
            for k, row in zip(self.places, self.ranking.to_dict("records"), strict=True)
        ]
        return replace(found, columns=[*found.columns, *heads], lines=lines)

    def leave(self, out: Path, formats: Sequence[str], force: bool = False) -> list[Path]:
        """Writes the picture and the tables, each as CSV, into a folder, and returns their paths.

        Args:
            out: the folder; it need not be there.
            formats: of the picture.
            force: whether files that are there are replaced.

        Raises:
            ValueError: the folder has one of these files, or cannot be written.
        """
        folder = Inside(out)
        check_absent(out, [] if force else names(formats))
        make(out)
        with matplotlib.rc_context(plots.PAPER):
            figure = picture.draw(self.curves, self.ranking, self.rules)
            plots.save(figure, [folder / f"{PICTURE}.{kind}" for kind in formats], force)
        for name in TABLES:
            table: pd.DataFrame = getattr(self, name).rename(columns={"algorithm": "setting"})
            plots.write(folder / f"{name}.csv", table.to_csv(index=False).encode(), force)
        return [out / name for name in names(formats)]


def names(formats: Sequence[str]) -> list[str]:
    """Returns the names of the files that `Ranked.leave` writes."""
    return [*(f"{PICTURE}.{kind}" for kind in formats), *(f"{name}.csv" for name in TABLES)]


def at_marks(run: Path, finals: Sequence[dict[str, Any]], rank: str, drawn: bool) -> list[dict[str, Any]]:
    """Returns the rows of a run that a ranking needs, each with its `run`.

    Args:
        run: folder of the run.
        finals: final metrics of its networks, which will do where their ends alone are ranked.
        rank: as of `ranked`.
        drawn: whether the ranking is drawn, with its curves.
    """
    if rank == "final" and not drawn:
        return [*finals]
    return [{"run": str(run)} | comparison.checked(row) for row in comparison.rows(run, METRICS)]


def ranked(
    finals: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    diverged: Sequence[str],
    by: str | None = None,
    rank: str = "final",
) -> Ranked:
    """Returns the ranking of the settings of runs.

    Seeds that some setting lacks are left out; where a metric is asked for, a warning says so: gaps and ties are of
    differences, seed by seed.

    Args:
        finals: final metrics of all networks, each with its `run`.
        rows: metrics of these at marks, each with its `run`; the same as `finals` where their ends alone are ranked.
        diverged: runs that diverged: none of their networks has a final value.
        by: metric, as of a race; None: accuracy where all have one, else suboptimality, else loss.
        rank: "final", "best" or "to=0.9", as of a race.

    Raises:
        ValueError: the metric is none of these runs, or there is no seed that all settings have; the message says so.
    """
    rules = Rules(1, by=by or _usual(finals), rank=rank)
    keys = comparison.swept(finals)
    groups = comparison.groups(finals, keys)
    if not 2 <= len(groups) <= MOST:
        rule = f"DIR must be of 2 to {MOST} settings to be ranked"
        raise ValueError(f"{rule}, got {len(groups)}; leave --by, --rank and --out out, or compare others")
    _check_measured(rows, rules)
    labels, found = _labels(finals, keys, [*groups.values()]), comparison.groups(rows, keys)
    curves = {label: _by_seed([rows[k] for k in found[setting]]) for label, setting in zip(labels, groups, strict=True)}
    seeds = _shared([*curves.values()], by is not None)
    rules, bad = replace(rules, seeds=len(seeds)), {*diverged}
    standings = [
        Standing(label, *np.array([_scored(own[seed], rules, bad) for seed in seeds]).T)
        for label, own in curves.items()
    ]
    told = {one.name: {"diverged": any(row[0]["run"] in bad for row in curves[one.name].values())} for one in standings}
    table = ranking.table(standings, told, rules)
    marks = pd.DataFrame(
        {"algorithm": label, "seed": seed[0], "time": row["time"], rules.metric: value}
        for label, own in curves.items()
        for seed in seeds
        for row, value in zip(own[seed], measured(own[seed], rules.metric), strict=True)
    )
    return Ranked(rules, ranking.order(standings, rules), table, ranking.pairs(standings, rules), marks)


def _usual(finals: Sequence[Row]) -> str:
    """Returns the metric that is ranked where none is named."""
    usual = ("accuracy_mean", "suboptimality")
    return next((key for key in usual if all(row.get(key) is not None for row in finals)), "loss_mean")


def _check_measured(rows: Sequence[Row], rules: Rules) -> None:
    """Raises ValueError where no run has a value of the metric, or it is one that nothing can be ranked by."""
    axis = rules.metric in AXES
    if axis or not np.isfinite(measured(rows, rules.metric)).any():
        why = "by which nothing can be ranked" if axis else "which has no value"
        raise ValueError(f"--by must be a metric that these runs measured, got {rules.metric}, {why}")


def _labels(finals: Sequence[Row], keys: Sequence[str], groups: Sequence[Sequence[int]]) -> list[str]:
    """Returns a name of each setting, none twice, with the last word of a run's path where that will do."""
    firsts = [finals[members[0]] for members in groups]
    runs = [*dict.fromkeys(str(row["run"]) for row in firsts)]
    last = Counter(Path(run).name for run in runs)
    short = {run: Path(run).name if last[Path(run).name] == 1 else run for run in runs}
    own = [{key: short[str(row[key])] if key == "run" else row.get(key, "") for key in keys} for row in firsts]
    found = [named(one) for one in own]
    return [name if found.count(name) == 1 else f"{name} ({k})" for k, name in enumerate(found, 1)]


def _by_seed(rows: Sequence[Row]) -> dict[tuple[Any, int], list[Row]]:
    """Returns the rows of a setting by seed, and by how many networks of the setting had this seed before."""
    places, taken = dict[tuple[Any, Any], tuple[Any, int]](), Counter[Any]()
    found = dict[tuple[Any, int], list[Row]]()
    for row in rows:
        network = row["run"], row["network"]
        if network not in places:
            places[network] = row["seed"], taken[row["seed"]]
            taken[row["seed"]] += 1
        found.setdefault(places[network], []).append(row)
    return found


def _shared(settings: Sequence[Mapping[tuple[Any, int], Any]], asked: bool) -> list[tuple[Any, int]]:
    """Returns the seeds that all settings have; asked: whether to warn of those that are left out.

    Raises:
        ValueError: there is none.
    """
    shared = [seed for seed in settings[0] if all(seed in own for own in settings)]
    most = max(len(own) for own in settings)
    if not shared:
        raise ValueError("DIR must be of runs with a seed that all have to be ranked, got none; run them with one")
    if asked and len(shared) < most:
        warnings.warn(f"the ranking is over {len(shared)} seeds that all settings have, of up to {most}", stacklevel=3)
    return shared


def _scored(rows: Sequence[Row], rules: Rules, diverged: set[str]) -> tuple[float, float]:
    """Returns what is ranked of one network, and its final value."""
    spent = np.array([row["time"] for row in rows], float)
    return ranking.scored(measured(rows, rules.metric), spent, rules, str(rows[0]["run"]) in diverged)
