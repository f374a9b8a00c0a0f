r"""Robust consensus under attack: a chain of four honest nodes with two attackers, who push the halves of it apart.

Honest nodes begin at 0, 0, 200, 200 and only mix; each attacker is tied to one of the middle nodes and sends what keeps
it away from its neighbour (`dissensus`). The squared error after 1, 10 and 100 rounds, for merge rules, weights of the
bottleneck and weights of the attackers, is compared with that of the authors' code, to rounding.

Notation: beta weight of the bottleneck, delta that of an attacker, W gossip matrix of honest nodes.

Reference:
    L. He, S. P. Karimireddy, M. Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", arXiv 2202.01545,
    2022.
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
from batchednodes.figures.published.frames import column, groups, take, where
from batchednodes.figures.published.points import START, problem
from batchednodes.topology import Graph, PeerSampler, Weighted, Weights

_MERGES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "SCClip": ("ClippedGossip", {"kind": "clipped_gossip", "tau": "oracle"}, "o", "#0072B2"),
    "Median": ("median", {"kind": "median"}, "s", "#D55E00"),
    "TM": ("trimmed mean", {"kind": "trimmed_mean", "trim": "oracle"}, "^", "#009E73"),
    "Median*": ("weighted median", {"kind": "median", "copies": 100}, "v", "#CC79A7"),
    "TM*": ("weighted trimmed mean", {"kind": "trimmed_mean", "trim": "oracle", "copies": 100}, "D", "#E69F00"),
}
"""Published name of a merge rule -> name, settings, marker and colour."""

_POINTS = [100.0, 100.0, 0.0, 0.0, 200.0, 200.0]
"""Where nodes begin: 0 and 1 attack, and lie in the middle of the others, so that the mean of all is that of these."""

_ROUNDS = (1, 10, 100)
"""After which errors were published."""

_NEAR, _ROUNDING = 1e-9, 1e-12
"""How far errors may be off, over their size; and the unit in the last place, for the size of the points, that makes
them so where they are the squares of a difference."""


@dataclass(frozen=True)
class Written(Weights):
    """Contact probabilities of an undirected graph, written out edge by edge.

    Example:
        >>> from batchednodes.figures.published.byzantine import Written
        >>> from batchednodes.topology import Chain
        >>> Written([0, 1], [1, 2], [0.5, 0.25]).chooser(Chain().graph(3, 0)).probabilities().toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 0.25], [0.0, 0.25, 0.0]]
    """

    i: list[int]
    """One end of each edge."""
    j: list[int]
    """The other."""
    weight: list[float]
    """Its probability, from both ends."""

    def chooser(self, graph: Graph) -> PeerSampler | None:
        dense = np.zeros((graph.n, graph.n))
        dense[self.i, self.j] = dense[self.j, self.i] = self.weight
        return Weighted.of(graph, dense[np.repeat(np.arange(graph.n), graph.degrees), graph.indices])


def chain(delta: float, beta: float) -> tuple[list[int], list[int], list[float]]:
    """Returns the edges of the published chain with their weights: nodes 0 and 1 attack nodes 3 and 4 of 2-3-4-5."""
    return [2, 3, 4, 0, 1], [3, 4, 5, 3, 4], [1 / 3, beta, 1 / 3, delta, delta]


@dataclass(frozen=True)
class Dissensus(Experiment):
    """The figure, for some chains."""

    chains: tuple[tuple[float, float], ...]
    """(delta, beta) of each."""
    merges: tuple[str, ...] = tuple(_MERGES)
    """Published names of merge rules."""

    def batches(self) -> dict[str, dict[str, Any]]:
        return {_MERGES[name][0].replace(" ", "-"): self._run(_MERGES[name][1]) for name in self.merges}

    def _run(self, merge: dict[str, Any]) -> dict[str, Any]:
        i, j, _ = chain(0.1, 0.1)
        target = "batchednodes.figures.published.byzantine:Written"
        weights = [dict(zip(("i", "j", "weight"), chain(*one), strict=True)) for one in self.chains]
        return {
            "dtype": "float64",
            "network": {
                "nodes": len(_POINTS),
                "topology": {"kind": "edges", "i": i, "j": j},
                "attack": {"kind": "dissensus", "nodes": [0, 1], "epsilon": 0.05},
            },
            "timing": {"kind": "synchronous"},
            "gossip": {"merge": merge},
            "local": START,
            "task": {"data": problem("Points", at=_POINTS)},
            "run": {"until": float(_ROUNDS[-1])},
            "staleness": {"track": "none"},
            "sweep": {"network.weights": [{"kind": "python", "target": target, "args": one} for one in weights]},
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        found = []
        for name, own in zip(self.merges, metrics.values(), strict=True):
            deltas, betas = (np.array([one[side] for one in self.chains])[own["network"]] for side in (0, 1))
            error, spread = (np.square(column(own, key)) for key in ("distance_to_optimum", "consensus_distance"))
            columns = {"merge": name, "delta": deltas, "beta": betas, "round": own["time"]}
            found.append(pd.DataFrame(columns | {"error": error, "consensus": spread}))
        found = pd.concat(found)
        return pd.concat([found, rows(self._compared(found))], ignore_index=True)

    def _compared(self, found: pd.DataFrame) -> list[Compared]:
        """Returns the published errors of these chains beside those here."""
        values, made = published("byzantine")["values"], list[Compared]()
        for (merge, delta, beta), own in groups(found, ["merge", "delta", "beta"]):
            told = values.get(f"{merge}/delta_max={delta:g}/beta={beta:g}")
            if told is None:
                continue
            at, time = f"beta = {beta:g}", column(own, "round")
            made.append(Compared(f"p of the chain: {at}", told["p"], gap(beta), 0.0, _NEAR))
            for key in ("error", "consensus"):
                for t, number in zip(_ROUNDS, told[key][1:], strict=True):
                    near = max(_NEAR * number, 2 * _ROUNDING * number**0.5 + _ROUNDING**2)
                    name = f"{key} of {_MERGES[merge][0]}, delta = {delta:g}: {at}, round {t}"
                    made.append(Compared(name, number, float(column(own, key)[time == t][0]), near))
        return made

    def draw(self, table: pd.DataFrame) -> Figure:
        deltas = sorted({delta for delta, _ in self.chains})
        figure = Figure(figsize=(7.0, 3.4), layout="constrained")
        panels = figure.subplots(1, len(deltas), sharey=True, squeeze=False)[0]
        for axes, delta in zip(panels, deltas, strict=True):
            _panel(axes, take(table, column(table, "delta") == delta))
            axes.set_title(f"attackers' weight {delta:g}")
        panels[0].set_ylabel(f"squared error after {_ROUNDS[-1]} rounds")
        handles = {label: h for h, label in zip(*panels[0].get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        return [shown_by_group(table, "consensus under dissensus, of the authors' code and here")]


def gap(beta: float) -> float:
    """Returns (1 - lambda_2)^2 of the gossip matrix of honest nodes."""
    i, j, weight = (np.array(part[:3]) for part in chain(0.0, beta))
    w = np.zeros((4, 4))
    w[i - 2, j - 2] = w[j - 2, i - 2] = weight
    w += np.diag(1 - w.sum(1))
    return float((1 - np.linalg.eigvalsh(w)[-2]) ** 2)


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    values = published("byzantine")["values"]
    for merge, (name, _, marker, colour) in _MERGES.items():
        own = where(table, merge=merge, round=float(_ROUNDS[-1])).sort_values("beta")
        if own.empty:
            continue
        axes.plot([gap(beta) for beta in own["beta"]], np.maximum(own["error"], 1e-20), color=colour, label=name)
        cases = [values.get(f"{merge}/delta_max={own['delta'].iloc[0]:g}/beta={beta:g}") for beta in own["beta"]]
        told = [(one["p"], max(one["error"][-1], 1e-20)) for one in cases if one is not None]
        axes.plot(*zip(*told, strict=True), marker, color=colour, markersize=4)
    axes.plot([], [], "o", color="0.4", markersize=4, label="authors' code")
    axes.set(xscale="log", yscale="log", xlabel=r"connectivity of honest nodes $(1 - \lambda_2)^2$")
    axes.grid(visible=True)


def sized(size: Size) -> Dissensus:
    """Returns the figure: all published chains, at every size."""
    names = [name.split("/")[1:] for name in published("byzantine")["values"]]
    return Dissensus(tuple(dict.fromkeys((float(d.split("=")[1]), float(b.split("=")[1])) for d, b in names)))
