r"""Overview: TensorBoard's charts across a sweep, final metrics against each swept setting.

Notation: r replicas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard.summary import image, scalar, text

from batchednodes.config.names import named
from batchednodes.numerics.values import evaluate
from batchednodes.results import comparison, tables, ticks
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.tensorboard import Board
from batchednodes.results.metrics import catalogue

_METRICS = {metric.key: metric.chart for metric in catalogue.METRICS if metric.chart is not None}
"""Key of the final metrics and its words; those that no network has are left out."""

_STYLES = ("o-", "s--", "^-.", "v:", "D-", "P--")
"""Marks and lines in turn, so that a print in grey can be read."""


@dataclass(frozen=True)
class _Series:
    """Networks that differ in one setting only, and in their seeds."""

    name: str
    """The other settings, in short words."""
    values: list[float]
    """Values of the setting, in increasing order."""
    rows: list[list[dict[str, Any]]]
    """Final metrics of the replicas of each."""


def write(folder: Inside, networks: Sequence[dict[str, Any]], isolated: Sequence[dict[str, Any]] | None) -> None:
    """Writes the charts of a sweep as a run of TensorBoard in a new folder.

    All is in the group sweep, where a step is no time: a curve's tag is metric, swept setting and all other settings in
    words; its step is the setting's value if all of them are whole numbers, else the rank of the value. Means over
    replicas.

    Args:
        folder: does not exist yet.
        networks: final metrics of each network, with its settings.
        isolated: those of the same networks without gossip, if they were run.
    """
    board = Board(folder)
    board.add(text("final_metrics", tables.markdown(tables.cells(networks, isolated))))
    for key in comparison.swept(networks):
        series = list(_series(networks, key))
        if series:
            rows = [row for one in series for group in one.rows for row in group]
            for metric in _METRICS:
                if comparison.known(rows, metric).size:
                    board.add(image(f"sweep/{metric}/{key}", _picture(key, metric, series), dataformats="HWC"))
            for one in series:
                for tag, step, value in _curves(key, one):
                    board.add(scalar(tag, value), step)
    board.close()


def _series(networks: Sequence[dict[str, Any]], key: str) -> Iterator[_Series]:
    """Yields the series of a setting; none where some of its values are not numbers, or all are the same."""
    others = [other for other in comparison.swept(networks) if other != key]
    for members in comparison.groups(networks, others).values():
        rows: dict[float, list[dict[str, Any]]] = {}
        for k in members:
            value = _number(networks[k][key], networks[k]["n"], key)
            if value is None:
                return
            rows.setdefault(value, []).append(networks[k])
        if len(rows) > 1:
            name = named({other: networks[members[0]].get(other) for other in others})
            yield _Series(name or "all", sorted(rows), [rows[value] for value in sorted(rows)])


def _number(value: Any, n: int, key: str) -> float | None:
    """Returns a setting as a number, expressions in n evaluated; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return evaluate(value, n, key) if isinstance(value, str) else float(value)
    except ValueError:  # a word, such as the kind of a graph
        return None


def _curves(key: str, series: _Series) -> Iterator[tuple[str, int, float]]:
    """Yields tag, step and value of each point of the metrics of a series."""
    whole = all(value.is_integer() and value >= 0 for value in series.values)
    for metric in _METRICS:
        for value, found in zip(*_points(series, metric), strict=True):
            yield (
                f"sweep/{metric}/{key}/{series.name}",
                int(value) if whole else series.values.index(value),
                found.mean(),
            )


def _picture(key: str, metric: str, series: list[_Series]) -> np.ndarray:
    """Returns an image [height, width, 4] of a metric against a setting, with 95% intervals over replicas."""
    figure = Figure(figsize=(4.4, 3.2 + 0.18 * len(series)), layout="constrained", dpi=110)
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    for k, one in enumerate(series):
        _draw(axes, metric, one, k)
    wide = all(one.values[0] > 0 for one in series) and any(one.values[-1] > 8 * one.values[0] for one in series)
    law = metric == "staleness_average" and any(_points(one, "staleness_theory")[0] for one in series)
    axes.set(
        xlabel=key,
        ylabel=_METRICS[metric] + (", \N{EM DASH} exact law" if law else ""),
        xscale="log" if wide else "linear",
    )
    if wide:
        ticks.at(axes.xaxis, sorted({value for one in series for value in one.values}))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="x-small", frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _draw(axes: Axes, metric: str, series: _Series, k: int) -> None:
    """Draws the means of a metric with their intervals, and the exact law beside staleness."""
    values, found = _points(series, metric)
    means = np.array([f.mean() for f in found])
    ends = [comparison.interval(f, metric) or (mean, mean) for f, mean in zip(found, means, strict=True)]
    low, high = np.array(ends).reshape(-1, 2).T
    style = {"fmt": _STYLES[k % len(_STYLES)], "color": f"C{k}", "markersize": 4, "capsize": 3}
    axes.errorbar(values, means, (means - low, high - means), label=series.name, **style)
    if metric == "staleness_average":
        values, found = _points(series, "staleness_theory")
        axes.plot(values, [f.mean() for f in found], "_k", markersize=14, zorder=4)


def _points(series: _Series, metric: str) -> tuple[list[float], list[np.ndarray]]:
    """Returns the values of the setting where a metric is known, and what it is there."""
    found = [comparison.known(rows, metric) for rows in series.rows]
    return [v for v, f in zip(series.values, found, strict=True) if f.size], [f for f in found if f.size]
