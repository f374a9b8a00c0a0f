r"""Gradient tracking by events finds the optimum exactly where SGD, quasi-global momentum and A2CiD2 stop short of it.

Nodes of a ring meet their neighbours at random and take full gradient steps at random; their quadratics have optima of
their own. With a fixed step size the mean of their models stays away from the common optimum, however gossip is
accelerated, unless gradients are tracked. Staleness, beside, is that of the same events.

Notation: n nodes, zeta^2 heterogeneity.

Reference:
    S. Pu, A. Nedic, "Distributed stochastic gradient tracking methods", Mathematical Programming 187, 2021.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.figures.published import compared
from batchednodes.figures.published.compared import Compared
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, known

_METHODS = {
    "gossip_sgd": ("SGD", "#0072B2"),
    "quasi_global": ("quasi-global momentum", "#CC79A7"),
    "acid": ("A2CiD2", "#009E73"),
    "gradient_tracking": ("gradient tracking", "#D55E00"),
}
"""Algorithm -> in words, colour."""

_EXACT = 1e-14
"""Suboptimality that is rounding: a difference of losses near 1."""

_DRAWN = 1e-18
"""Suboptimality below which it is drawn as this."""


@dataclass(frozen=True)
class EventTracking(Experiment):
    """The figure, for a ring."""

    events: int
    """Updates and meetings of all nodes."""
    lr: float
    """Step size of all methods."""
    nodes: int = 32
    """Number of nodes n, at least 3."""
    updates: float = 0.4
    """Part of the events that are updates; in (0, 1)."""
    heterogeneity: float = 1.0
    """zeta^2."""

    def batches(self) -> dict[str, dict[str, Any]]:
        return {kind: self._batch(kind) for kind in _METHODS}

    def _batch(self, kind: str) -> dict[str, Any]:
        until = self.events / self.nodes
        return {
            "network": {"nodes": self.nodes, "topology": {"kind": "ring"}},
            "update": {"clock": {"kind": "exponential", "rate": self.updates}},
            "gossip": {"exchange": "meet", "clock": {"kind": "poisson", "rate": 1 - self.updates}},
            "algorithm": {"kind": kind},
            "local": {"lr": self.lr},
            "task": {"data": {"kind": "quadratics", "heterogeneity": self.heterogeneity}},
            "run": {"until": until, "mark_every": until / 100, "eval_nodes": 1},
            "staleness": {"track": self.nodes},
            "dtype": "float64",
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        curves = [
            pd.DataFrame({
                "method": kind,
                "events": column(rows, "time") * self.nodes,
                "suboptimality": column(rows, "suboptimality"),
                "staleness": column(rows, "staleness_mean"),
            })
            for kind, rows in metrics.items()
        ]  # fmt: skip
        ends = {kind: float(column(rows, "suboptimality")[-1]) for kind, rows in metrics.items()}
        return pd.concat([*curves, compared.rows(_claims(ends))])

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (kind,), own in groups(known(table, "method"), ["method"]):
            name, colour = _METHODS[kind]
            left.plot(own["events"], np.maximum(own["suboptimality"], _DRAWN), color=colour, label=name)
            right.plot(own["events"], own["staleness"], color=colour)
        left.set(title="(a) suboptimality of the mean model", ylabel="suboptimality", yscale="log")
        right.set(title="(b) staleness, of the same events", ylabel="mean staleness [updates]", ylim=(0, None))
        for axes in (left, right):
            axes.set_xlabel("events of all nodes")
            axes.grid(visible=True)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        ends = Table("method", "suboptimality", "mean staleness", title="at the end")
        for (kind,), own in groups(known(table, "method"), ["method"]):
            late = column(own, "staleness")[len(own) // 2 :].mean()
            ends.add_row(_METHODS[kind][0], f"{column(own, 'suboptimality')[-1]:.3g}", f"{late:.4g}")
        return [compared.shown(table, "suboptimality at the end: what theory says"), ends]


def _claims(ends: Mapping[str, float]) -> Iterator[Compared]:
    """Yields what is said of each method beside its suboptimality at the end: none is left, or about a thousandth."""
    for kind, end in ends.items():
        name = _METHODS[kind][0]
        if kind == "gradient_tracking":
            yield Compared(f"{name}: suboptimality", 0.0, end, absolute=_EXACT)
        else:
            yield Compared(f"{name}: log10 of suboptimality", -3.0, math.log10(end), absolute=1.0)


def sized(size: Size) -> EventTracking:
    """Returns the figure at a size."""
    return EventTracking(100_000, 0.05)
