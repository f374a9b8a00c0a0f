r"""MATCHA: rounds that use some edges of a graph, at random, contract the spread of models almost as well as all do.

On the three graphs of the authors' code, and for budgets of edges: how fast the spread contracts at best, and the
probabilities p of the matchings and the weight alpha that do it, compared with what their code found. Beside it runs in
which models only mix, against messages in place of rounds: a small budget gets further with as many.

Notation: b budget, p probabilities of matchings, alpha weight of an edge, rho = \|E[W^T W] - J\|.

Reference:
    J. Wang, A. K. Sahu, Z. Yang, G. Joshi, S. Kar, "MATCHA: speeding up decentralized SGD via matching decomposition
    sampling", Indian Control Conference 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.algorithms.matcha import Matching, activation, weight
from batchednodes.figures.published.compared import Compared, published, rows, shown_by_group
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, where

_STYLES = {0: ("o", "-", "#0072B2"), 1: ("s", "--", "#D55E00"), 2: ("^", "-.", "#009E73")}
"""Published graph -> marker, line and colour."""

_COLOURS = {0.1: "#CC79A7", 0.25: "#E69F00", 0.5: "#009E73", 1.0: "#0072B2"}
"""Budget of the runs -> colour."""

_RUN = 1
"""Published graph on which models mix."""

_NEAR = 1e-4
"""How far numbers may be off."""

_FLAT = {(2, 0.9): 1.2e-4}
"""Published graph and budget -> how far probabilities may be off: theirs, whose connectivity is 2e-8 below the largest,
are 1.2e-4 from where that is, and those here less than 1e-6."""


@dataclass(frozen=True)
class Budgets(Experiment):
    """The figure, for some budgets."""

    budgets: tuple[float, ...]
    """Where the contraction is drawn; in (0, 1]."""
    messages: float
    """Length of the runs: rounds with all edges."""
    replicas: int
    """Networks of each budget, with other initial models and draws."""

    def batches(self) -> dict[str, dict[str, Any]]:
        """Returns a run for each budget, longer where rounds cost less."""
        n, found = graphs()[_RUN]
        edges = np.concatenate(found)
        return {f"budget-{budget:g}": self._run(n, edges, budget) for budget in _COLOURS}

    def _run(self, n: int, edges: Matching, budget: float) -> dict[str, Any]:
        i, j = edges.T.tolist()
        until = self.messages / budget
        return {
            "dtype": "float64",
            "network": {"nodes": n, "topology": {"kind": "edges", "i": i, "j": j}},
            "timing": {"kind": "synchronous"},
            "algorithm": {"kind": "matcha", "budget": budget},
            "local": {"lr": 0.0, "batch_size": 1},
            "task": {"data": {"kind": "linear_regression"}, "model": {"kind": "linear", "init": "independent"}},
            "run": {"until": until, "mark_every": until / 20, "eval_nodes": 1},
            "staleness": {"track": "none"},
            "replicas": self.replicas,
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        spread = []
        for budget, found in zip(_COLOURS, metrics.values(), strict=True):
            for (time,), own in groups(found, ["time"]):
                squares = np.square(column(own, "consensus_distance")).mean()
                messages = column(own, "gossips").mean() / column(own, "n").mean()
                spread.append({"run": budget, "round": time, "messages": messages, "spread": squares})
        laws = [
            {"graph": g, "budget": b, "rho": weight(n, found, activation(n, found, b))[1]}
            for g, (n, found) in graphs().items()
            for b in self.budgets
        ]
        values = published("matcha")["values"]
        return pd.concat([pd.DataFrame(spread), pd.DataFrame(laws), rows(compare(values))], ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        figure, values = Figure(figsize=(7.0, 3.2), layout="constrained"), published("matcha")["values"]
        left, right = figure.subplots(1, 2)
        for g, (marker, line, colour) in _STYLES.items():
            own = where(table, graph=g)
            told = {_case(name)[2]: one["rho"] for name, one in values.items() if _case(name)[0] == g}
            left.plot(own["budget"], own["rho"], line, color=colour, label=f"graph {g}, n = {graphs()[g][0]}")
            left.plot([*told], [*told.values()], marker, color=colour, label="authors' code")
        left.set(title="(a) contraction of a round", xlabel="budget: share of the edges", ylabel=r"$\rho$")
        for budget, colour in _COLOURS.items():
            own = where(table, run=budget)
            right.plot(
                own["messages"], own["spread"], color=colour, label=f"budget {budget:g}" if budget < 1 else "all edges"
            )
        right.set(title=f"(b) models that only mix, graph {_RUN}", xlabel="messages of a node", yscale="log")
        right.set(ylabel="squared consensus distance")
        for axes in (left, right):
            axes.legend(fontsize="small")
            axes.grid(visible=True)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        return [shown_by_group(table, "MATCHA, of the authors' code and here")]


def graphs() -> dict[int, tuple[int, list[Matching]]]:
    """Returns the published graphs by their numbers: nodes, and matchings."""
    file = published("matcha")
    sizes = {g: n for g, n, _ in map(_case, file["values"])}
    found = {int(name.split("=")[1]): [np.array(edges) for edges in parts] for name, parts in file["graphs"].items()}
    return {g: (sizes[g], parts) for g, parts in found.items()}


def compare(values: Mapping[str, Mapping[str, Any]]) -> list[Compared]:
    """Returns what was found for graphs and budgets, by "graph=.../n=.../budget=...", beside what is found here."""
    found, made = list[Compared](), graphs()
    for name, told in values.items():
        g, n, budget = _case(name)
        p = activation(n, made[g][1], budget)
        alpha, rho = weight(n, made[g][1], p)
        near, at = _FLAT.get((g, budget), _NEAR), f"graph {g}, b = {budget:g}"
        found += [_one(f"p of a matching: {at}, k = {k}", told["p"][k], p[k], near) for k in range(len(p))]
        found += [_one(f"alpha: {at}", told["alpha"], alpha, _NEAR), _one(f"rho: {at}", told["rho"], rho, _NEAR)]
        found.append(_one(f"matchings: {at}", told["matchings"], len(p), 0.0))
    return found


def _one(name: str, told: int | float, here: int | float, near: float) -> Compared:
    return Compared(name, float(told), float(here), near)


def _case(name: str) -> tuple[int, int, float]:
    g, n, budget = (part.split("=")[1] for part in name.split("/"))
    return int(g), int(n), float(budget)


def sized(size: Size) -> Budgets:
    """Returns the figure; quick: fewer budgets and networks."""
    if size == "quick":
        return Budgets(tuple(k / 20 for k in range(2, 21)), 60.0, 10)
    return Budgets(tuple(k / 50 for k in range(2, 51)), 100.0, 50)
