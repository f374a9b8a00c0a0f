"""Tuning: the step size of an entrant by successive halving, by the same rule for all.

All candidates of a rung are networks of one batch. After a quarter of the budget, say, the worse half leaves, then
again after half of it, and at its end the best one stays. Since a network in a batch is what it is alone, whoever stays
begins anew and comes to the same models again. The seeds are others than those of the race, so that what is ranked has
not been looked at.

Notation: c candidates, m seeds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from batchednodes.config import Config
from batchednodes.figures.race.entrants import TUNING, Entrant
from batchednodes.figures.race.entry import rung_of
from batchednodes.figures.race.ranking import Standing, measured, order, scored
from batchednodes.figures.race.rules import Rules, rungs

Run = Callable[[Config, str], tuple[list[dict[str, Any]], bool]]
"""Runs settings in a folder of some name, and returns the rows of metrics, and whether the run diverged."""


def tuned(entrant: Entrant, rules: Rules, run: Run) -> tuple[float, list[dict[str, Any]]]:
    """Returns the value of what is tuned that an entrant does best with, and what was seen of all candidates.

    Args:
        entrant: whose.
        rules: of the race.
        run: runs a rung.
    """
    assert rules.tuned is not None
    key, values = rules.tuned
    seen = list[dict[str, Any]]()
    for rung, part in enumerate(rungs(len(values)), 1):
        settings = rung_of(entrant, rules, values, rung, part)
        rows, _ = run(settings, f"{TUNING}/{entrant.folder}-{rung}")
        standings = list(_standings(rows, key, values, rules))
        ranked = order(standings, rules)
        last = part == 1
        stay = sorted(ranked[: 1 if last else -(-len(values) // 2)])
        for k, (value, one) in enumerate(zip(values, standings, strict=True)):
            first = {"algorithm": entrant.name, "rung": rung, "until": settings.run.until, key: value}
            seen += [
                first | {"seed": settings.seed + j, "score": score, "final": final, "stays": k in stay}
                for j, (score, final) in enumerate(zip(one.scores.tolist(), one.finals.tolist(), strict=True))
            ]
        values = tuple(values[k] for k in stay)
    return values[0], seen


def _standings(rows: Sequence[dict[str, Any]], key: str, values: Sequence[float], rules: Rules) -> Iterator[Standing]:
    """Yields what each candidate has come to; what is spent is proportional to time."""
    of_network = dict[tuple[float, int], list[dict[str, Any]]]()
    for row in rows:
        of_network.setdefault((float(row[key]), row["replica"]), []).append(row)
    for value in values:
        found = []
        for j in range(rules.seeds):
            own = of_network[value, j]
            spent = np.array([row["time"] for row in own], float)
            found.append(scored(measured(own, rules.metric), spent, rules, False))
        yield Standing(str(value), *np.array(found).T)
