r"""Splits: pictures of which node owns which labels, and how many rows.

Notation: n nodes, S training samples, K labels, i node, k label.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from batchednodes import config
from batchednodes.config import Config
from batchednodes.data import DataSizes, LabelCounts
from batchednodes.numerics.memory import gib
from batchednodes.simulation.build import datasets
from batchednodes.simulation.planning import memory_plan

MOST = 4
"""The most splits in one picture."""

_BARS, _COLOURS = 100, 20
"""The most nodes, and labels, that are drawn as bars; beyond, shares are a map."""

_COLUMNS, _ROWS = 400, 400
"""The most columns of a map, each the mean over some nodes, and the most rows, each the sum over some labels."""

_BINS = 40
"""The most bins of a histogram of sizes."""

_WIDE = 20
"""Ratio of the largest to the smallest size from which on their axis is logarithmic."""

_TITLE = 58
"""Characters of a line of a title."""

_SHARE = 0.9
"""Part of the free memory that the data may take."""


@dataclass(frozen=True, eq=False)
class Split:
    """Which node owns how many rows of each label."""

    name: str
    """Of the run, or of its setting."""

    law: str
    """The partition, in words."""

    sizes: Int64[np.ndarray, " n"]
    """Rows of each node."""

    labels: LabelCounts | None
    """Rows of each label; None where rows have no label, or several each."""

    @property
    def words(self) -> str:
        """Returns what the split is, and how heterogeneous, on one line."""
        head = ": ".join(part for part in (self.name, self.law) if part)
        if self.labels is None:
            return f"{head}; {len(self.sizes):,} nodes"
        found = self.labels.heterogeneity()
        return f"{head}; label heterogeneity {found.distance:.3f} ({found.chance:.3f} by chance)"


def has_picture(chosen: Config) -> bool:
    """Returns whether a split is worth a picture: rows have a label each, or a partition is asked for."""
    return chosen.task.partition is not None or _sizes(chosen).one_label


def key(chosen: Config) -> str:
    """Returns what tells the splits of one picture apart; replicas of one setting have the same."""
    task = config.to_dict(chosen)["task"]
    return repr((task["data"], task["partition"], chosen.network.nodes))


def deal(chosen: Config, name: str) -> Split:
    """Returns the split of a network, whose data are loaded.

    Raises:
        ValueError: the data cannot be used, do not suit their partition, or do not fit in memory.
    """
    sizes, there = _sizes(chosen), memory_plan.free_host()
    needed = sizes.samples * (8 * sizes.numbers + 100)
    if needed > _SHARE * there:
        raise ValueError(f"task.data must fit in memory, got {gib(needed)} needed with {gib(there)} free")
    data, shards = datasets.split(replace(chosen, task=replace(chosen.task, shift=None)))
    return Split(name, _law(chosen, data.node is not None), shards.sizes, datasets.label_counts(data, shards))


def _sizes(chosen: Config) -> DataSizes:
    (sizes,) = datasets.sizes([chosen])
    return sizes


def _law(chosen: Config, natural: bool) -> str:
    """Returns the partition in words, its first setting and what is not by default: "dirichlet, alpha = 0.3"."""
    partition, plain = chosen.task.partition, config.to_dict(chosen)["task"]["partition"]
    if partition is None:
        return "natural" if natural else "iid"
    kind, *settings = plain.items()
    usual = vars(type(partition)())
    some = [f"{key} = {value}" for place, (key, value) in enumerate(settings) if place == 0 or value != usual[key]]
    return ", ".join([kind[1], *some])


# ---------------------------------------------------------------------------------------------------------- drawing


def draw(splits: Sequence[Split]) -> Figure:
    """Returns the picture of a few splits side by side: labels by node, and a histogram of sizes."""
    labelled = any(split.labels is not None for split in splits)
    wide = 7.2 if len(splits) == 1 else 4.8 * len(splits)
    figure = Figure(figsize=(wide, 5.6 if labelled else 2.8), layout="constrained")
    ratios = {"height_ratios": [2, 1]} if labelled else {}
    places = figure.subplots(2 if labelled else 1, len(splits), squeeze=False, gridspec_kw=ratios)
    for split, column in zip(splits, places.T, strict=True):
        if split.labels is not None:
            _labels(figure, column[0], split.labels)
        elif labelled:
            column[0].set_axis_off()
        lines = [
            line for part in split.words.split("; ") for line in textwrap.wrap(part, _TITLE, break_on_hyphens=False)
        ]
        column[0].set_title("\n".join(lines).replace("$", r"\$"), fontsize="medium")
        _histogram(column[-1], split.sizes)
    colours = [_colours(split.labels) for split in splits if split.labels is not None and _as_bars(split.labels)]
    if colours:
        longest = max(colours, key=len)
        handles = [Patch(color=colour, label=f"{label}") for label, colour in enumerate(longest)]
        figure.legend(handles=handles, title="label", loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _whole() -> MaxNLocator:
    """Returns ticks at whole numbers."""
    return MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10])


def _as_bars(labels: LabelCounts) -> bool:
    return len(labels.sizes) <= _BARS and len(labels.totals) <= _COLOURS


def _colours(labels: LabelCounts) -> list:
    count = len(labels.totals)
    return list(colormaps["tab10" if count <= 10 else "tab20"](np.arange(count)))


def _labels(figure: Figure, axes: Axes, labels: LabelCounts) -> None:
    """Draws the labels of each node: bars of their counts for few nodes, else a map of their shares."""
    n = len(labels.sizes)
    if _as_bars(labels):
        counts, bottom = np.zeros((n, len(labels.totals)), dtype=np.int64), np.zeros(n, dtype=np.int64)
        counts[labels.node, labels.label] = labels.count
        for colour, rows in zip(_colours(labels), counts.T, strict=True):
            axes.bar(np.arange(n), rows, width=0.9 if n <= _BARS // 2 else 1.0, bottom=bottom, color=colour)
            bottom += rows
        axes.set(xlabel="node", ylabel="training rows", xlim=(-0.6, n - 0.4))
        axes.yaxis.set_major_locator(_whole())
    else:
        shares = shares_of(labels)
        picture = axes.imshow(
            shares,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            cmap="Blues",
            vmin=0,
            extent=(0, n, -0.5, len(labels.totals) - 0.5),
        )
        figure.colorbar(picture, ax=axes, label="share of a node's rows")
        each = "" if n <= _COLUMNS else f"; a column is the mean of {-(-n // _COLUMNS):,}"
        axes.set(xlabel=f"nodes, in order of their most frequent label{each}", ylabel="label")
        axes.yaxis.set_major_locator(_whole())
    axes.xaxis.set_major_locator(_whole())


def shares_of(labels: LabelCounts) -> Float64[np.ndarray, "rows columns"]:
    """Returns the share of each label among the rows of a node, nodes in order of their most frequent label.

    Among nodes of one label, the one with the largest share of it comes first. Where there are many nodes, each column
    is the mean over some that follow one another, all of near-equal number; where there are many labels, rows are sums.
    """
    n, types = len(labels.sizes), len(labels.totals)
    share = labels.count / labels.sizes[labels.node]
    best = np.lexsort((labels.label, -share, labels.node))[np.searchsorted(labels.node, np.arange(n))]
    order = np.lexsort((-share[best], labels.label[best]))
    columns, rows = min(n, _COLUMNS), min(types, _ROWS)
    column = np.empty(n, dtype=np.int64)
    column[order] = np.arange(n) * columns // n
    cell = labels.label * rows // types * columns + column[labels.node]
    return np.bincount(cell, share, rows * columns).reshape(rows, columns) / np.bincount(column)


def _histogram(axes: Axes, sizes: Int64[np.ndarray, " n"]) -> None:
    """Draws how many nodes own how many rows."""
    low, high = int(sizes.min()), int(sizes.max())
    if high > _WIDE * low:
        edges = np.unique(np.rint(np.geomspace(low, high + 1, _BINS + 1))) - 0.5
        axes.set_xscale("log")
    else:
        width = -(-(high - low + 1) // _BINS)
        edges = np.arange(low, high + width + 1, width) - 0.5
        axes.xaxis.set_major_locator(_whole())
    if low == high:
        edges = np.array([low - 0.5, low + 0.5])
        axes.set_xlim(low - 3, low + 3)
    axes.hist(sizes, edges.tolist(), color="0.45", edgecolor="white", linewidth=0.4)
    axes.set(xlabel=f"training rows of a node (mean {sizes.mean():,.4g})", ylabel="nodes")
    axes.yaxis.set_major_locator(_whole())
