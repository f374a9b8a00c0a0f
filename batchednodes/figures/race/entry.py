"""Entry: what a race is of, checked before PyTorch is imported, and read again from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from batchednodes import config
from batchednodes.config import READER, Config, sweep
from batchednodes.config.document import parse
from batchednodes.figures.race import entrants as lists
from batchednodes.figures.race import rules as laws
from batchednodes.figures.race.entrants import TUNING, Entrant
from batchednodes.figures.race.rules import Rules
from batchednodes.numerics.values import shown
from batchednodes.results import comparison
from batchednodes.results.folder.paths import CONFIG, RACE
from batchednodes.simulation.planning.preflight import prepare
from batchednodes.simulation.resume.rules import inside

AWAY = 1_000_000
"""How far the seeds of tuning are from those of the race, of which there are fewer."""


@dataclass(frozen=True)
class Entry:
    """Who races, on what, by which rules."""

    base: Config
    """Settings of the race."""
    given: dict[str, dict[str, Any]]
    """Settings of each entrant, by its name."""
    rules: Rules
    formats: tuple[str, ...] = ("png", "pdf")
    """Of the picture."""

    @staticmethod
    def of(
        base: Config,
        algorithms: str | Sequence[str] | Mapping[str, Mapping[str, Any]],
        rules: Rules,
        formats: Sequence[str] = ("png", "pdf"),
    ) -> "Entry":
        """Returns an entry that has been checked, ranked by the usual metric where none is named.

        Raises:
            ValueError: an entrant cannot run, or a rule means nothing for these runs; the message says which and why.
        """
        lists.check(base)
        rules = rules if rules.by is not None else replace(rules, by=laws.usual(base))
        rules.check(base)
        entry = Entry(base, lists.named(algorithms), rules, tuple(formats))
        for one in entry.entrants:
            if rules.tuned is not None:
                _check_untuned(entry.given[one.name], one.name, rules.tuned[0])
            for settings in entry.batches(one):
                with lists.entering(one.name):
                    prepare(sweep.points(settings))
        return entry

    @cached_property
    def entrants(self) -> list[Entrant]:
        """The entrants, in the surroundings of the race."""
        return lists.entrants(self.base, self.given, self.rules.seeds)

    def batches(self, one: Entrant) -> list[Config]:
        """Returns the settings of the largest batches of an entrant."""
        if self.rules.tuned is None:
            return [one.settings]
        values = self.rules.tuned[1]
        return [one.settings, rung_of(one, self.rules, values, 1, laws.rungs(len(values))[0])]

    def plain(self) -> dict[str, Any]:
        """Returns all but the config as plain data."""
        return {"algorithms": READER.plain(self.given, ""), **asdict(self.rules), "format": [*self.formats]}

    @staticmethod
    def read(folder: Path) -> "Entry":
        """Returns what the race in a folder is of.

        Raises:
            ValueError: the folder holds no race, or what it says of it is damaged.
        """
        text, file = comparison.text_of(folder, RACE, "race"), comparison.check_file(folder, CONFIG, "race")
        try:
            found = parse(text)
            names = {"algorithms", "format", *asdict(Rules())}
            if not isinstance(found, dict) or {*found} != names:
                raise ValueError(f"it must have the keys {', '.join(sorted(names))}")
            given, formats = found.pop("algorithms"), found.pop("format")
            return Entry(config.load(file.path), lists.named(given), Rules(**found), tuple(formats))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"DIR must hold a whole {RACE}, got {shown(str(folder))}: {error}") from None


def _check_untuned(settings: Mapping[str, Any], name: str, key: str) -> None:
    given = [one for one, _ in sweep.leaves(settings) if inside(one, [key])]
    if given:
        raise ValueError(f"{key} must be left out where --tune chooses it, got it for {shown(name)}; leave one of both")


def rung_of(entrant: Entrant, rules: Rules, values: Sequence[float], rung: int, part: float) -> Config:
    """Returns the settings of a rung: all candidates that are left, for a part of the budget.

    Raises:
        ValueError: what is tuned cannot differ between networks of one batch.
    """
    assert rules.tuned is not None
    run = entrant.settings.run
    until = part * run.until
    changes = {
        "name": f"{entrant.folder}-{TUNING}-{rung}",
        "seed": entrant.settings.seed + AWAY,
        "sweep": {rules.tuned[0]: [*values]},
        "run.until": until,
        "run.mark_every": until if rules.rank == "final" else min(until, run.mark_every),
        "run.loggers": [],
        "run.on_divergence": "ignore",  # a candidate that diverges is out, and no other
    }
    try:
        made = config.load(entrant.settings, [changes])
        sweep.points(made)
    except ValueError as error:
        raise ValueError(f"--tune cannot be of {rules.tuned[0]} for {shown(entrant.name)}: {error}") from None
    return made
