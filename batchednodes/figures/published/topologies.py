r"""Mean staleness and consensus distance on five graphs at equal gossip capacity, against the number of nodes.

Every node contacts a random neighbour once a second in the mean, the time of one update, so that graphs differ in who
meets whom alone. Staleness on the complete graph and on the ring has exact laws. The consensus distance is that of
linear regression in which every node has an optimum of its own, which pulls the models apart between contacts.

Notation: n nodes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.table import Table

from batchednodes.figures.published.estimates import errors, growth, inside, over_replicas, time_averages
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, take, where
from batchednodes.results import theory

_GRAPHS = {
    "ring": ({"kind": "ring"}, "o", "-", "#0072B2"),
    "torus": ({"kind": "torus"}, "s", "--", "#D55E00"),
    "4-regular": ({"kind": "k_regular", "degree": 4}, "D", "-.", "#009E73"),
    "exponential": ({"kind": "exponential"}, "v", ":", "#CC79A7"),
    "complete": ({"kind": "complete"}, "^", "-", "black"),
}
"""Name -> settings, marker, line and colour."""

_LAWS = {"ring": theory.mean_staleness_ring, "complete": theory.mean_staleness}

_WARM_UP = 2
"""Time that is discarded, in n_max seconds: news takes about that time to cross the ring twice."""

_SPAN = 6
"""Length of the run in the same unit."""


@dataclass(frozen=True)
class Topologies(Experiment):
    """The figure, for some numbers of nodes."""

    nodes: tuple[int, ...]
    """Each a product of two numbers that are at least 3, for the torus; at least 6."""
    replicas: int
    """Networks of each point, with other seeds; at least 2."""

    def batches(self) -> dict[str, dict[str, Any]]:
        points = [(graph, n) for graph in _GRAPHS for n in self.nodes]
        longest = float(max(self.nodes))
        run = {
            "network": {"nodes": max(self.nodes)},
            "update": {"clock": {"kind": "shifted_exponential", "delay": 0.5, "rate": 2.0}},
            "gossip": {"clock": {"kind": "poisson", "rate": 1.0}},
            "local": {"lr": 0.02, "batch_size": 20},
            "task": {
                "data": {"kind": "linear_regression", "features": 10, "heterogeneity": 1.0},
                "model": {"kind": "linear", "bias": False},
            },
            "run": {"until": _SPAN * longest, "mark_every": 0.1 * longest, "eval_nodes": 1},
            "staleness": {"track": 1},
            "sweep": {
                "network.nodes": [n for _, n in points],
                "network.topology": [_GRAPHS[graph][0] for graph, _ in points],
                "staleness.track": [min(n, 32) for _, n in points],
                "seed": [1000 * self.nodes.index(n) for _, n in points],  # one set of data and clocks for all graphs
            },
            "sweep_mode": "zip",
            "replicas": self.replicas,
        }
        return {"all": run}

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        rows = metrics["all"]
        networks, each, time = (
            time_averages(rows, _WARM_UP / _SPAN),
            len(self.nodes) * self.replicas,
            column(rows, "time"),
        )
        late = take(rows, time > _WARM_UP / _SPAN * time.max())
        squares = {k: np.square(column(own, "consensus_distance")).mean() for (k,), own in groups(late, ["network"])}
        networks = networks.assign(
            consensus=[math.sqrt(squares[k]) for k in networks["network"]],
            graph=[list(_GRAPHS)[k // each] for k in networks["network"]],
        )
        keys = ["graph", "n"]
        table = over_replicas(networks, keys, "staleness").merge(over_replicas(networks, keys, "consensus"))
        laws = [_law(graph, n) for graph, n in zip(table["graph"], table["n"], strict=True)]
        return table.assign(staleness_theory=laws)

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _lines(left, table, "staleness")
        _lines(right, table, "consensus")
        for graph in _LAWS:
            own = where(table, graph=graph)
            left.plot(own["n"], own["staleness_theory"], color="0.35", linewidth=3, alpha=0.35, label="exact law")
        left.set(title="(a) mean staleness", ylabel="mean staleness [updates]", yscale="log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_locator(NullLocator())
        right.set(title="(b) spread of the models", ylabel="consensus distance", ylim=(0, None))
        handles = {label: h for h, label in zip(*left.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        largest = max(table["n"])
        title = f"graphs at capacity 1, n = {largest}, with 95% intervals"
        shown = Table("graph", "staleness", "law", "within 99%", "exponent p of n^p", "consensus distance", title=title)
        for (graph,), own in groups(table, ["graph"]):
            last, cells = where(own, n=largest), ["", ""]
            if graph in _LAWS:
                count = int(inside(own, "staleness", "staleness_theory", 99).sum())
                cells = [f"{column(last, 'staleness_theory')[0]:.4g}", f"{count} of {len(own)}"]
            exponent = growth(column(own, "n"), column(own, "staleness")).exponent
            shown.add_row(graph, _cell(last, "staleness"), *cells, f"{exponent:.3f}", _cell(last, "consensus"))
        return [shown]


def _law(graph: str, n: int) -> float:
    return _LAWS[graph](n, 1.0, 1.0, "push") if graph in _LAWS else np.nan


def _lines(axes: Axes, table: pd.DataFrame, key: str) -> None:
    for graph, (_, marker, line, colour) in _GRAPHS.items():
        own = where(table, graph=graph)
        style = {"marker": marker, "linestyle": line, "color": colour}
        axes.errorbar(own["n"], own[key], errors(own, key), **style, capsize=2, label=graph)
    axes.set(xscale="log", xlabel="number of nodes n")
    sizes = sorted(set(table["n"]))
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True)


def _cell(row: pd.DataFrame, key: str) -> str:
    return f"{column(row, key)[0]:.4g} ± {errors(row, key)[1, 0]:.2g}"


def sized(size: Size) -> Topologies:
    """Returns the figure at a size."""
    if size == "quick":
        return Topologies((9, 16, 36, 64), 6)
    return Topologies((9, 16, 36, 64, 144, 256), 8)
