r"""Mean staleness against the number of nodes: uniform and opportunistic gossip at several capacities.

The paper's claims 2 and 3. Under uniform gossip staleness grows like log n at constant capacity and stays flat at
capacity log n. If only the freshest nodes transmit, it grows without bound at capacities 1 and log n, and stays bounded
at capacity n.

Choices that the paper leaves open: the mean time of an update is 1 s, so that capacities are also contacts per update.
Uniform gossip has the paper's shifted exponential (0.5 s and a mean wait of 0.5 s). The opportunistic scheme has
exponential updates, for which its law is exact; at capacity n also the shifted exponential, which has no law. The task
is the smallest there is, since staleness does not depend on models.

Notation: n nodes, v mean staleness, mu updates per second of a node.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.figures.published.estimates import errors, growth, inside, over_replicas, time_averages
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, take, where
from batchednodes.numerics.values import per_node
from batchednodes.results import theory

_CLOCKS = {
    "shifted": {"kind": "shifted_exponential", "delay": 0.5, "rate": 2.0},
    "exponential": {"kind": "exponential", "rate": 1.0},
}
"""Laws of the update time, of mean 1 s."""

_LARGEST_LAW = 1000
"""The opportunistic law takes time n^3 where many nodes hold an update; beyond, its points have none."""

_TRACKED = 32
"""Sources followed in a network, or all of a smaller one."""

_WARM_UP = 5
"""Time that is discarded, in mean stalenesses times the update time; a start from equal models fades like exp(-t/v)."""

_SPAN = 12
"""Length of a run in the same unit."""


@dataclass(frozen=True)
class Curve:
    """One line of the figure."""

    scheme: str
    capacity: str
    clock: str
    nodes: tuple[int, ...]

    def law(self, n: int) -> float:
        """Returns the exact mean staleness; NaN where there is no law, or it takes too long."""
        capacity = float(per_node(self.capacity, n, 0, "gossip.clock.rate")[0])
        if self.scheme == "uniform":
            return theory.mean_staleness(n, capacity, 1.0, "push")
        if self.clock != "exponential" or (self.capacity == "n" and n > _LARGEST_LAW):
            return math.nan
        return theory.freshest_staleness(n, capacity, 1.0)

    def network(self, n: int) -> dict[str, Any]:
        """Returns the settings of one network."""
        return {
            "network.nodes": n,
            "gossip.clock.rate": self.capacity,
            "update.clock": _CLOCKS[self.clock],
            "staleness.track": min(n, _TRACKED),
        } | ({} if self.scheme == "uniform" else {"gossip.scheme": {"kind": self.scheme}})


@dataclass(frozen=True)
class StalenessScaling(Experiment):
    """The figure, for some numbers of nodes."""

    nodes: tuple[int, ...]
    """Under uniform gossip, and opportunistic gossip at capacity n."""
    nodes_log: tuple[int, ...]
    """Under opportunistic gossip at capacity log n, whose runs take time n^2."""
    nodes_constant: tuple[int, ...]
    """Under opportunistic gossip at capacity 1, whose runs take time n^2 log n."""
    replicas: int
    """Networks of each point, with other seeds; at least 2."""

    def curves(self) -> list[Curve]:
        """Returns the lines of the figure."""
        return [
            Curve("uniform", "1", "shifted", self.nodes),
            Curve("uniform", "log(n)", "shifted", self.nodes),
            Curve("freshest", "1", "exponential", self.nodes_constant),
            Curve("freshest", "log(n)", "exponential", self.nodes_log),
            Curve("freshest", "n", "exponential", self.nodes),
            Curve("freshest", "n", "shifted", self.nodes),
        ]

    def batches(self) -> dict[str, dict[str, Any]]:
        """Returns one run for all networks of about the same mean staleness, as long as the largest needs."""
        groups: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        for k, (curve, n) in enumerate((c, n) for c in self.curves() for n in c.nodes):
            lag = curve.law(n) if curve.scheme == "uniform" or curve.capacity != "n" else 1.0
            step = max(2, math.ceil(2 * math.log10(lag)))
            part = f"lag-{10 ** (step / 2):.0f}"
            seed = 1000 * k  # points share no draw, so that their errors are independent
            groups.setdefault(part, []).append((lag, curve.network(n) | {"seed": seed}))
        return {part: self._batch([g[1] for g in group], max(g[0] for g in group)) for part, group in groups.items()}

    def _batch(self, networks: list[dict[str, Any]], lag: float) -> dict[str, Any]:
        lag = max(lag, 8.0)
        schemed = [{"gossip.scheme": {"kind": "uniform"}} | one for one in networks]
        if all("gossip.scheme" not in one for one in networks):
            schemed = networks
        return {
            "network": {"nodes": _TRACKED},
            "staleness": {"track": 1},
            "local": {"lr": 0.01, "batch_size": 1},
            "task": {
                "data": {"kind": "linear_regression", "features": 1, "samples_per_node": 1, "test_samples": 1},
                "model": {"kind": "linear", "bias": False},
            },
            "run": {"until": _SPAN * lag, "mark_every": _WARM_UP * lag, "eval_nodes": 1},
            "sweep": {key: [one[key] for one in schemed] for key in schemed[0]},
            "sweep_mode": "zip",
            "replicas": self.replicas,
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        rows = pd.concat([time_averages(m, _WARM_UP / _SPAN) for m in metrics.values()])
        points = []
        for k, (curve, n) in enumerate((c, n) for c in self.curves() for n in c.nodes):
            own = rows[rows["seed"] // 1000 == k].assign(
                scheme=curve.scheme, capacity=curve.capacity, clock=curve.clock
            )
            points.append(
                over_replicas(own, ["scheme", "capacity", "clock", "n"], "staleness", ["time"]).assign(
                    theory=curve.law(n)
                )
            )
        laws = [
            {"scheme": c.scheme, "capacity": c.capacity, "clock": c.clock, "n": n, "replicas": 0, "theory": c.law(n)}
            for c in self.curves()
            for n in self.nodes
            if n not in c.nodes and n <= _LARGEST_LAW
        ]  # too long to simulate
        table = pd.concat([*points, pd.DataFrame(laws)], ignore_index=True)
        return table.rename(columns={"time": "until", "clock": "update_clock"})

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _lines(left, where(table, scheme="uniform"))
        _lines(right, where(table, scheme="freshest"))
        left.set(title="(a) uniform gossip", ylim=(0, None))
        right.set(title="(b) opportunistic: only the freshest transmit", yscale="log")
        handles = {
            label: h for axes in (left, right) for h, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        return [_growths(table), _check(table)]


_STYLES = {
    ("1", "shifted"): ("o", "-", "#0072B2"),
    ("1", "exponential"): ("o", "-", "#0072B2"),
    ("log(n)", "shifted"): ("s", "--", "#D55E00"),
    ("log(n)", "exponential"): ("s", "--", "#D55E00"),
    ("n", "exponential"): ("^", "-.", "#009E73"),
    ("n", "shifted"): ("v", "", "black"),
}
"""Marker, line and colour of each capacity and update clock."""


def _lines(axes: Axes, table: pd.DataFrame) -> None:
    for (capacity, clock), rows in groups(table, ["capacity", "update_clock"]):
        (marker, line, colour), law = _STYLES[capacity, clock], rows.sort_values("n")
        axes.plot(law["n"], law["theory"], line, color=colour, linewidth=0.9)
        own, lawful = _measured(rows), not np.isnan(column(rows, "theory")).all()
        label = f"capacity {capacity.replace('(n)', ' n')}" + ("" if lawful else ", shifted exponential updates")
        style: dict[str, Any] = {
            "fmt": marker,
            "color": colour,
            "markerfacecolor": colour if lawful else "none",
            "label": label,
        }
        axes.errorbar(own["n"], own["staleness"], errors(own, "staleness"), **style, capsize=2)
    axes.plot([], [], color="0.4", linewidth=0.9, label="exact law")
    axes.set(xscale="log", xlabel="number of nodes n", ylabel="mean staleness [updates]")
    axes.grid(visible=True)


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    return take(table, column(table, "replicas") > 0)


def _growths(table: pd.DataFrame) -> Table:
    shown = Table("scheme", "capacity", "updates", "n", "exponent p of n^p", "grows like", title="growth of staleness")
    for names, own in groups(_measured(table), ["scheme", "capacity", "update_clock"]):
        cells = ["", ""]
        if len(own) > 1:
            fit = growth(column(own, "n"), column(own, "staleness"))
            width = f" ± {fit.half_width:.2g}" if math.isfinite(fit.half_width) else ""
            cells = [f"{fit.exponent:.3f}{width}", fit.law]
        shown.add_row(*names, f"{min(own['n'])} to {max(own['n'])}", *cells)
    return shown


def _check(table: pd.DataFrame) -> Table:
    lawful = _measured(take(table, ~np.isnan(column(table, "theory"))))
    counts = [int(inside(lawful, "staleness", "theory", percent).sum()) for percent in (95, 99)]
    deviation = np.abs(column(lawful, "staleness") / column(lawful, "theory") - 1).max()
    shown = Table("points with a law", "within 95%", "within 99%", "largest deviation", title="measurement against law")
    shown.add_row(str(len(lawful)), *(str(k) for k in counts), f"{deviation:.2%}")
    return shown


def sized(size: Size) -> StalenessScaling:
    """Returns the figure at a size."""
    if size == "quick":
        return StalenessScaling((10, 30, 100, 300, 1000), (10, 30, 100, 300), (10, 30, 100), 6)
    nodes = (10, 30, 100, 300, 1000, 3000) + ((10_000, 30_000) if size == "cuda" else ())
    return StalenessScaling(nodes, (10, 30, 100, 300), (10, 30, 100, 300), 8)
