r"""Mean staleness and consensus distance on five graphs at equal gossip capacity, against the number of nodes.

Every node contacts a random neighbour once a second in the mean, the time of one update, so that graphs differ in who
meets whom alone. Staleness on the complete graph and on the ring has exact laws. The consensus distance is that of
linear regression in which every node has an optimum of its own, which pulls the models apart between contacts.

Letters: n nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.table import Table

from batchednodes import theory
from batchednodes.experiments.estimates import growth, over_replicas, time_averages
from batchednodes.experiments.experiment import Experiment, Size

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
        warm_up = _WARM_UP / _SPAN * rows["time"].max()
        late = rows[rows["time"] > warm_up]
        consensus = np.sqrt(late.groupby("network")["consensus_distance"].apply(lambda d: (d**2).mean()))
        networks = time_averages(rows, warm_up).set_index("network")
        networks["consensus"] = consensus
        graphs = list(_GRAPHS)
        networks["graph"] = [graphs[k // (len(self.nodes) * self.replicas)] for k in networks.index]
        keys = ["graph", "n"]
        table = over_replicas(networks, keys, "staleness").merge(over_replicas(networks, keys, "consensus"))
        laws = [_law(graph, n) for graph, n in zip(table["graph"], table["n"], strict=True)]
        return table.assign(staleness_theory=laws)

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _lines(left, table, "staleness")
        _lines(right, table, "consensus")
        lawful = table[table["staleness_theory"].notna()]
        for _, own in lawful.groupby("graph", sort=False):
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
        largest = table["n"].max()
        title = f"graphs at capacity 1, n = {largest}, with 95% intervals"
        shown = Table("graph", "staleness", "law", "within 99%", "exponent p of n^p", "consensus distance", title=title)
        for graph, own in table.groupby("graph", sort=False):
            last, law = own[own["n"] == largest].iloc[0], own[own["staleness_theory"].notna()]
            inside = (law["staleness_low_99"] <= law["staleness_theory"]) & (
                law["staleness_theory"] <= law["staleness_high_99"]
            )
            shown.add_row(
                str(graph),
                _cell(last, "staleness"),
                f"{last['staleness_theory']:.4g}" if len(law) else "",
                f"{int(inside.sum())} of {len(law)}" if len(law) else "",
                f"{growth(own['n'].to_numpy(dtype=float), own['staleness'].to_numpy(dtype=float)).exponent:.3f}",
                _cell(last, "consensus"),
            )
        return [shown]


def _law(graph: str, n: int) -> float:
    return _LAWS[graph](n, 1.0, 1.0, "push") if graph in _LAWS else np.nan


def _lines(axes: Axes, table: pd.DataFrame, key: str) -> None:
    for graph, (_, marker, line, colour) in _GRAPHS.items():
        own = table[table["graph"] == graph]
        errors = [own[key] - own[f"{key}_low_95"], own[f"{key}_high_95"] - own[key]]
        style = {"marker": marker, "linestyle": line, "color": colour}
        axes.errorbar(own["n"], own[key], errors, **style, capsize=2, label=graph)
    axes.set(xscale="log", xlabel="number of nodes n")
    axes.set_xticks(sorted(table["n"].unique()), [str(n) for n in sorted(table["n"].unique())], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True)


def _cell(row: pd.Series, key: str) -> str:
    return f"{row[key]:.4g} ± {row[f'{key}_high_95'] - row[key]:.2g}"


def sized(size: Size) -> Topologies:
    """Returns the figure at a size."""
    if size == "quick":
        return Topologies((9, 16, 36, 64), 6)
    return Topologies((9, 16, 36, 64, 144, 256), 8)
