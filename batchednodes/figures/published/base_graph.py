r"""Base-(k+1) graphs: all nodes hold the mean after a short cycle of rounds in which none has more than k neighbours.

The spread of models that only mix, against synchronous rounds: other graphs contract it by a factor a round, these end
it. Beside it the lengths of the cycles, which are compared with those of the authors' code, as are the numbers of
neighbours, and the product of the gossip matrices of a cycle, which is the mean to rounding. Messages are not compared:
there nodes that wait average among themselves, which changes no product.

Notation: n nodes, k the most neighbours in a round, W gossip matrix of a round.

Reference:
    Y. Takezawa, R. Sato, H. Bao, K. Niwa, M. Yamada, "Beyond exponential graph: communication-efficient topologies for
    decentralized learning via finite-time convergence", NeurIPS 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.figures.published.compared import Compared, published, rows, shown_by_group
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, where
from batchednodes.topology.base_k_plus_1 import Edges, base_graph, simple_base_graph

_GRAPHS: dict[str, tuple[dict[str, Any], str, str]] = {
    "ring": ({"kind": "ring"}, "-", "#0072B2"),
    "torus": ({"kind": "torus"}, "--", "#D55E00"),
    "exponential": ({"kind": "exponential"}, ":", "#CC79A7"),
    "one-peer exponential": ({"kind": "one_peer_exponential"}, "-.", "#6B6B6B"),
    "Base-2": ({"kind": "base_graph", "degree": 1}, "-", "#009E73"),
    "Base-3": ({"kind": "base_graph", "degree": 2}, "--", "#56B4E9"),
    "Base-5": ({"kind": "base_graph", "degree": 4}, "-.", "#E69F00"),
}
"""Name -> settings, line and colour."""

_CYCLES = {1: ("o", "#009E73"), 2: ("s", "#56B4E9"), 3: ("^", "#CC79A7"), 4: ("D", "#E69F00")}
"""k -> marker and colour."""

_ROUNDING = 1e-15
"""Lower end of the axis of the spread: models are the same but for rounding."""


@dataclass(frozen=True)
class BaseGraphs(Experiment):
    """The figure, for networks of one size, and cycles for many."""

    nodes: int = 25
    """Of the networks whose spread is drawn: a product of two numbers of at least 3, for the torus."""
    rounds: int = 40
    """Length of their runs."""
    replicas: int = 5
    """Networks of each graph, with other initial models."""
    largest: int = 66
    """Cycles are drawn for up to this many nodes."""

    def batches(self) -> dict[str, dict[str, Any]]:
        run = {
            "dtype": "float64",
            "network": {"nodes": self.nodes},
            "timing": {"kind": "synchronous"},
            "local": {"lr": 0.0, "batch_size": 1},
            "task": {"data": {"kind": "linear_regression"}, "model": {"kind": "linear", "init": "independent"}},
            "run": {"until": float(self.rounds), "eval_nodes": 1},
            "staleness": {"track": "none"},
            "sweep": {"network.topology": [settings for settings, _, _ in _GRAPHS.values()]},
            "replicas": self.replicas,
        }
        return {"all": run}

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        found, names = metrics["all"], list(_GRAPHS)
        found = found.assign(graph=[names[k // self.replicas] for k in found["network"]])
        spread = [
            {"graph": graph, "round": time, "spread": column(own, "consensus_distance").mean()}
            for (graph, time), own in groups(found, ["graph", "time"])
        ]
        cycles = [
            {"n": n, "k": k, "length": len(base_graph(n, k)), "simple": len(simple_base_graph(n, k))}
            for k in _CYCLES
            for n in range(k + 1, self.largest + 1)
        ]
        values = published("base_graph")["values"]
        return pd.concat([pd.DataFrame(spread), pd.DataFrame(cycles), rows(compare(values))], ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for graph, (_, line, colour) in _GRAPHS.items():
            own = where(table, graph=graph)
            spread = column(own, "spread")
            shown = np.append(True, spread[:-1] > _ROUNDING)  # down to the first that is the mean
            left.plot(own["round"][shown], np.maximum(spread[shown], _ROUNDING), line, color=colour, label=graph)
        left.set(title=f"(a) models that only mix, n = {self.nodes}", xlabel="round", yscale="log")
        left.set(ylabel="consensus distance", ylim=(_ROUNDING, None))
        left.legend(loc="lower left", bbox_to_anchor=(0.27, 0), fontsize="small")
        left.grid(visible=True)
        _lengths(right, table)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        return [shown_by_group(table, "Base-(k+1) graphs, of the authors' code and here")]


def _lengths(axes: Axes, table: pd.DataFrame) -> None:
    values = published("base_graph")["values"]
    for k, (marker, colour) in _CYCLES.items():
        own = where(table, k=k)
        axes.step(own["n"], own["length"], where="mid", color=colour, linewidth=0.8, label=f"Base-{k + 1}")
        told = {int(name.split("/")[0][2:]): one["length"] for name, one in values.items() if name.endswith(f"k={k}")}
        axes.plot([*told], [*told.values()], marker, color=colour, markersize=4, label="authors' code")
    axes.set(title="(b) rounds of a cycle", xlabel="number of nodes n", ylim=(0, 17))
    axes.legend(loc="upper left", fontsize="small", ncols=2)
    axes.grid(visible=True)


def compare(values: Mapping[str, Mapping[str, int | float]]) -> list[Compared]:
    """Returns the numbers of some graphs, by "n=.../k=...", beside those here; a product may be off by 1e-7."""
    found = list[Compared]()
    for case, told in values.items():
        n, k = (int(part.split("=")[1]) for part in case.split("/"))
        cycle = base_graph(n, k)
        here = {
            "length": len(cycle),
            "simple_length": len(simple_base_graph(n, k)),
            "max_degree": max(int(np.bincount(np.append(edges.i, edges.j)).max()) for edges in cycle),
            "product_error": _error(n, cycle),
        }
        for key, words in _NAMES.items():
            allowed = 1e-7 if key == "product_error" else 0.0
            found.append(Compared(f"{words}: n = {n}, k = {k}", float(told[key]), float(here[key]), allowed))
    return found


_NAMES = {
    "length": "rounds of a cycle",
    "simple_length": "rounds of the simple graph's",
    "max_degree": "neighbours in a round",
    "product_error": "error of the mean after a cycle",
}


def _error(n: int, cycle: list[Edges]) -> float:
    """Returns how far the product of the gossip matrices of a cycle is from that of the mean, entry by entry."""
    product = np.eye(n)
    for edges in cycle:
        w = np.zeros((n, n))
        np.add.at(w, (np.append(edges.i, edges.j), np.append(edges.j, edges.i)), np.tile(edges.weight, 2))
        product = (w + np.diag(1 - w.sum(1))) @ product
    return float(np.abs(product - 1 / n).max())


def sized(size: Size) -> BaseGraphs:
    """Returns the figure; quick: two networks of each graph."""
    return BaseGraphs(replicas=2) if size == "quick" else BaseGraphs()
