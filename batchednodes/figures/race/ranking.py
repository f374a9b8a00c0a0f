r"""Ranking: entrants in the order of their means over seeds, with intervals, and which of them are tied.

Two are tied where the 95% interval of the mean of their paired differences, seed by seed, holds 0.

Notation: m seeds, k marks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from batchednodes.figures.race.rules import Rules
from batchednodes.results.comparison import half_width, interval


@dataclass(frozen=True)
class Standing:
    """What the networks of an entrant have come to, seed by seed."""

    name: str
    """Of the entrant."""
    scores: Float64[np.ndarray, " m"]
    """What is ranked; NaN where there is none: a run diverged, or never reached the target."""
    finals: Float64[np.ndarray, " m"]
    """Final values of the metric; NaN where a run diverged."""

    def key(self, rules: Rules) -> tuple[float, float, float]:
        """Returns what entrants are sorted by: those with a score for each seed come first, by its mean.

        The others follow, those with more scores first, then by the mean of their finite final values.
        """
        missing = np.isnan(self.scores)
        sign = 1 if rules.falls else -1
        of_score = 1 if rules.target is not None else sign
        score = of_score * float(self.scores.mean()) if not missing.any() else math.inf
        known = self.finals[~np.isnan(self.finals)]
        return float(missing.sum()), score, sign * float(known.mean()) if known.size else math.inf


def scored(
    values: Float64[np.ndarray, " k"], spent: Float64[np.ndarray, " k"], rules: Rules, diverged: bool
) -> tuple[float, float]:
    """Returns score and final value of one network; NaN where there is none.

    Args:
        values: of the metric at the marks; NaN where it is not finite.
        spent: of the budget at the marks, or time.
        rules: what is ranked.
        diverged: whether the run ended before its time.
    """
    final, known = math.nan if diverged else float(values[-1]), values[~np.isnan(values)]
    if rules.target is not None:
        there = values <= rules.target if rules.falls else values >= rules.target
        return (float(spent[there.argmax()]) if there.any() else math.nan), final
    if rules.rank == "final":
        return final, final
    best = (known.min() if rules.falls else known.max()) if known.size else math.nan
    return float(best), final


def measured(rows: Sequence[Mapping[str, Any]], metric: str) -> Float64[np.ndarray, " k"]:
    """Returns the values of a metric in some rows; NaN where there is none that is finite."""
    values = np.array([np.nan if row.get(metric) is None else row[metric] for row in rows], float)
    return np.where(np.isfinite(values), values, np.nan)


def order(standings: Sequence[Standing], rules: Rules) -> list[int]:
    """Returns the numbers of entrants, the best first; equal ones stay in the order in which they were given."""
    return sorted(range(len(standings)), key=lambda k: standings[k].key(rules))


def table(standings: Sequence[Standing], more: Mapping[str, Mapping[str, Any]], rules: Rules) -> pd.DataFrame:
    """Returns the ranking, a row for each entrant, the best first.

    Args:
        standings: of all entrants.
        more: what else is said of each, by name.
        rules: what is ranked.
    """
    ranked = [standings[k] for k in order(standings, rules)]
    tied = {name: [] for name in (one.name for one in ranked)}
    place = {one.name: rank for rank, one in enumerate(ranked, 1)}
    differences = {(row["first"], row["second"]): row for row in _pairs(ranked)}
    for (first, second), row in differences.items():
        if row["tied"]:
            tied[first].append(place[second])
            tied[second].append(place[first])
    rows = []
    for one in ranked:
        scores, gap = one.scores[~np.isnan(one.scores)], differences.get((ranked[0].name, one.name))
        ends = interval(scores, rules.metric if rules.target is None else "time") or (math.nan, math.nan)
        behind = {key: -gap[other] if gap else math.nan for key, other in
                  (("gap", "difference"), ("gap_low", "high"), ("gap_high", "low"))}  # fmt: skip
        rows.append(
            {"rank": place[one.name], "algorithm": one.name, "seeds": scores.size}
            | {"score": float(scores.mean()) if scores.size else math.nan, "low": ends[0], "high": ends[1]}
            | behind
            | {"tied_with": " ".join(map(str, sorted(tied[one.name])))}
            | dict(more[one.name])
        )
    return pd.DataFrame(rows)


def pairs(standings: Sequence[Standing], rules: Rules) -> pd.DataFrame:
    """Returns the mean difference of each two entrants, better ranked less worse, with its 95% interval."""
    return pd.DataFrame(list(_pairs([standings[k] for k in order(standings, rules)])))


def score(row: dict[str, Any], seeds: int) -> str:
    """Returns a mean with its interval, or why there is none."""
    if row["seeds"] == seeds:
        return with_ends(row, "score")
    why = "diverged" if row["diverged"] else "none"
    return why if row["seeds"] == 0 else f"{with_ends(row, 'score')}, {row['seeds']} of {seeds} seeds"


def with_ends(row: dict[str, Any], key: str) -> str:
    """Returns a value with the ends of its interval, as far as they are known."""
    low, high = (row[name] for name in (("low", "high") if key == "score" else (f"{key}_low", f"{key}_high")))
    if not math.isfinite(row[key]):
        return ""
    return f"{row[key]:.4g}" + (f" ({low:.4g} to {high:.4g})" if math.isfinite(low) else "")


def _pairs(ranked: Sequence[Standing]) -> Iterator[dict[str, Any]]:
    for first, second in combinations(ranked, 2):
        apart = first.scores - second.scores
        row: dict[str, Any] = {"first": first.name, "second": second.name}
        mean, low, high, tied = float(apart.mean()), math.nan, math.nan, None
        if apart.size > 1 and not np.isnan(apart).any():
            half = half_width(apart) or 0.0  # all equal but for rounding
            low, high = mean - half, mean + half
            tied = bool(low <= 0 <= high)
        yield row | {"difference": mean, "low": low, "high": high, "tied": tied}
