"""Picture of a race: curves of all entrants against what they spend, and the ranking with its intervals beside them."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchednodes.figures.published.frames import column, groups, where
from batchednodes.figures.race.rules import BUDGETS, Rules
from batchednodes.results import ticks
from batchednodes.results.comparison import interval
from batchednodes.results.metrics.catalogue import METRICS

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "black", "#E69F00", "#56B4E9", "0.5")
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
"""How entrants are told apart, in turn; markers and lines tell them in a print in grey."""

_MARKED = 8
"""Markers of a curve, about."""

_LONGEST = 34
"""Letters of a name, at most."""

_TEN = 10.0
"""Ratio of the largest value to the least from which on the axis of one that falls is logarithmic."""


def draw(curves: pd.DataFrame, ranking: pd.DataFrame, rules: Rules) -> Figure:
    """Returns the picture of a race, from its two tables.

    Args:
        curves: a row for each entrant, seed and mark.
        ranking: a row for each entrant, the best first.
        rules: of the race.
    """
    names = [*dict.fromkeys(curves["algorithm"])]
    styles = {name: _style(k) for k, name in enumerate(names)}
    height = max(2.7, 1.0 + 0.21 * len(names))
    figure = Figure(figsize=(7.2, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    for name in ranking["algorithm"][::-1]:  # the best one on top
        _curve(left, where(curves, algorithm=name), rules, styles[name])
    left.set(xlabel=BUDGETS[rules.spent], ylabel=_words(rules))
    values = column(curves, rules.metric)
    values = values[np.isfinite(values)]
    if rules.falls and values.size and 0 < values.min() * _TEN < values.max():
        left.set_yscale("log")
        ticks.plain(left.yaxis)
    left.grid(visible=True)
    left.margins(x=0.02)
    _places(right, ranking, rules, styles)
    return figure


def _words(rules: Rules) -> str:
    """Returns what the metric is."""
    return next((metric.meaning for metric in METRICS if metric.key == rules.metric), rules.metric)


def _style(k: int) -> dict[str, Any]:
    """Returns how the k-th entrant is drawn."""
    turn = k // len(_COLOURS)
    return {
        "color": _COLOURS[k % len(_COLOURS)],
        "marker": _MARKERS[k % len(_MARKERS)],
        "linestyle": _LINES[(k + turn) % len(_LINES)],
    }


def _curve(axes: Axes, own: pd.DataFrame, rules: Rules, style: dict[str, Any]) -> None:
    """Draws the mean of an entrant over seeds, with its interval, at the mean of what has been spent."""
    marks = [marked for _, marked in groups(own, ["time"])]
    spent = np.array([column(marked, rules.spent).mean() for marked in marks])
    seeds = [column(marked, rules.metric) for marked in marks]
    seeds = [known[np.isfinite(known)] for known in seeds]
    values = np.array([known.mean() if known.size else np.nan for known in seeds])
    ends = [interval(known, rules.metric) or (value, value) for known, value in zip(seeds, values, strict=True)]
    low, high = np.array(ends).T
    every = max(1, values.size // _MARKED)
    axes.plot(spent, values, **style, markevery=every, markersize=3)
    axes.fill_between(spent, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _places(axes: Axes, ranking: pd.DataFrame, rules: Rules, styles: dict[str, dict[str, Any]]) -> None:
    """Draws the ranking: means with intervals, filled where an entrant is the first or tied with it."""
    for k, row in enumerate(ranking.to_dict("records")):
        style = styles[row["algorithm"]]
        if not math.isfinite(row["score"]):
            why = "diverged" if row["diverged"] else "not reached"
            axes.text(0.98, k, why, ha="right", va="center", color="0.4", transform=axes.get_yaxis_transform())
            continue
        best = k == 0 or "1" in row["tied_with"].split()
        face = style["color"] if best else "white"
        if math.isfinite(row["low"]):
            axes.plot([row["low"], row["high"]], [k, k], color=style["color"])
        axes.plot(row["score"], k, marker=style["marker"], color=style["color"], markerfacecolor=face)
    labels = [f"{row['algorithm'][:_LONGEST]}  {row['rank']}" for row in ranking.to_dict("records")]
    axes.set_yticks(range(len(labels)), [label.replace("$", r"\$") for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    seeds = f"mean and 95% interval over {rules.seeds} seeds" if rules.seeds > 1 else "one seed"
    axes.set_xlabel(f"{rules.rank} {_words(rules)}" if rules.target is None else rules.words)
    full = "\nfilled: the first, or tied with it" if rules.seeds > 1 else ""
    axes.set_title(f"{seeds}{full}", fontsize="small")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True)
