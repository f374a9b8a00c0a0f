r"""Test loss of the average model, the median and the worst user against time: regression on nodes with few samples.

The paper's claim 1: every user's model converges where mean staleness stays bounded as n grows.

Choices that the paper leaves open. A node owns two samples, fewer than a model has parameters, so that no user can
learn alone. The step size suits the samples of all users together, but not those of every user: on two samples of large
norm its own steps overshoot (17% of users of linear regression; 1 in 7,000 would at the step of `staleness_criterion`,
where nobody fails at capacity 1, n up to 300). What a user learns from others undoes that, if it comes often enough;
between two contacts the error of such a user grows geometrically. So the longest time without news, of the worst of n
users, decides: about log n / capacity under uniform gossip. The size of the effect depends on these choices; that it
grows with n at constant capacity, and does not at capacity log n, is the claim. Networks of different n share the data
and the clocks of the nodes that they have in common. Curves are medians over six replicas, since failures are rare and
large in small networks; the range of six holds the median of their law with probability 1 - 2^-5 = 97%.

Notation: n nodes, sigma noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table

from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, where
from batchednodes.figures.published.regimes import REGIMES, Regime, zipped
from batchednodes.results import ticks

_USERS = {"average model": "loss_mean_model", "median user": "loss_median", "worst user": "loss_max"}
"""What is drawn, and its metric."""

_NOISE = 0.1
"""Standard deviation sigma of the noise of training and test targets; sigma^2 is the least expected test loss."""

_TOP = 30.0
"""Upper end of the axis of test loss: losses that grow without bound end there, at an arrow."""

_EDGE, _ARROW = 0.75 * _TOP, r"$\uparrow$"
"""Where a line ends that leaves the frame, and its marker there."""

_LONE: dict[str, Any] = {"linestyle": "none", "markersize": 6}
"""How a marker without a line is drawn."""

_SAMPLES = 2
"""Training samples of a node, and of its minibatch."""


@dataclass(frozen=True)
class Regression(Experiment):
    """The figure of one regression."""

    data: str
    """Kind of the data: linear_regression or nonlinear_regression."""
    features: int
    model: dict[str, Any]
    lr: float
    """Step size of local SGD."""
    until: float
    """Length of the run [s]; an update takes 1 s in the mean."""
    nodes: tuple[int, ...]
    replicas: int
    """Networks of each point, with other seeds; at least 2."""
    regimes: tuple[Regime, ...] = REGIMES

    def batches(self) -> dict[str, dict[str, Any]]:
        networks = [
            {"network.nodes": n, "staleness.track": min(n, 32)} | regime.settings()
            for regime in self.regimes
            for n in self.nodes
        ]
        data = {"kind": self.data, "features": self.features, "noise": _NOISE, "samples_per_node": _SAMPLES}
        run = {
            "dtype": "float64",  # so that diverging users can be followed to the end
            "network": {"nodes": max(self.nodes)},
            "update": {"clock": {"kind": "shifted_exponential", "delay": 0.5, "rate": 2.0}},
            "local": {"lr": self.lr, "batch_size": _SAMPLES},
            "task": {"data": data, "model": self.model},
            "run": {"until": self.until, "mark_every": self.until / 20},
            "staleness": {"track": 1},
            "sweep": zipped(networks),
            "sweep_mode": "zip",
            "replicas": self.replicas,
        }
        return {"all": run}

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        rows, points = metrics["all"], []
        rows = rows.assign(scheme=[scheme["kind"] for scheme in rows["gossip.scheme"]])
        for (scheme, capacity, n, time), group in groups(rows, ["scheme", "gossip.clock.rate", "n", "time"]):
            point = {"scheme": scheme, "capacity": capacity, "n": n, "time": time, "replicas": len(group)}
            staleness = column(group, "staleness_mean").mean()
            for user, key in _USERS.items():
                logs = np.log(column(group, key))
                ends = {"loss": np.median(logs), "loss_lowest": logs.min(), "loss_highest": logs.max()}
                losses = {name: math.exp(value) for name, value in ends.items()}
                points.append(point | {"user": user} | losses | {"staleness": staleness})
        return pd.DataFrame(points)

    def draw(self, table: pd.DataFrame) -> Figure:
        sizes = sorted(set(table["n"]))
        figure = Figure(figsize=(7.0, 6.0), layout="constrained")
        panels = figure.subplots(len(_USERS), len(sizes), sharex=True, sharey=True, squeeze=False)
        for line, user in zip(panels, _USERS, strict=True):
            for axes, n in zip(line, sizes, strict=True):
                self._panel(axes, where(table, user=user, n=n))
                axes.set_title(f"{user}, n = {n}")
            line[0].set_ylabel("test loss")
        for axes in panels[-1]:
            axes.set_xlabel("simulated time [s]")
        handles, labels = panels[0][0].get_legend_handles_labels()
        handles += [Line2D([], [], color="0.3", marker=marker, **_LONE) for marker in ("|", _ARROW)]
        labels += [f"range of {max(table['replicas']):.0f} replicas", f"beyond {_TOP:g}"]
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return figure

    def _panel(self, axes: Axes, table: pd.DataFrame) -> None:
        for k, regime in enumerate(self.regimes):
            own = where(table, scheme=regime.kind, capacity=regime.capacity)
            time, loss, every = column(own, "time"), column(own, "loss"), slice(k % 5, None, 5)
            far = ~(loss <= _TOP)
            leaves = far & ~np.concatenate([[False], far[:-1]])
            line = np.where(far, np.where(leaves, _EDGE, np.nan), loss)
            axes.plot(time, line, **regime.style, label=regime.label, markevery=np.flatnonzero(~far)[every].tolist())
            low, high = (np.minimum(column(own, f"loss_{end}"), _TOP)[every] for end in ("lowest", "highest"))
            axes.vlines(time[every], low, high, color=regime.colour, linewidth=0.6, alpha=0.6)
            axes.plot(time[leaves], np.full(leaves.sum(), _EDGE), color=regime.colour, marker=_ARROW, **_LONE)
        axes.axhline(_NOISE**2, color="black", linestyle=":", linewidth=0.8, label="noise of the test targets")
        axes.set(yscale="log", ylim=(0.6 * _NOISE**2, _TOP))
        ticks.plain(axes.yaxis)
        axes.grid(visible=True)

    def findings(self, table: pd.DataFrame) -> list[Table]:
        last, sizes = _end(table), sorted(set(table["n"]))
        title = f"test loss of the worst user at t = {column(last, 'time')[0]:g} s: median and range of replicas"
        shown = Table("scheme", "capacity", "bounded staleness", *(f"n = {n}" for n in sizes), title=title)
        for regime in self.regimes:
            cells = []
            for n in sizes:
                p = _point(last, regime, n)
                cells.append(f"{p['loss']:.3g} ({p['loss_lowest']:.2g} to {p['loss_highest']:.2g})")
            shown.add_row(regime.kind, regime.capacity, "yes" if regime.bounded else "no", *cells)
        shown.caption = (
            f"at n = {sizes[-1]}: {self.separation(table):.3g} between the best that fails and the worst that holds"
        )
        return [shown]

    def separation(self, table: pd.DataFrame) -> float:
        """Returns by which factor regimes differ: in the worst user's loss, at the end and at the largest n.

        It is the least loss over regimes of unbounded staleness over the largest loss over those of bounded staleness.
        """
        last, n = _end(table), max(table["n"])
        fail = [_point(last, regime, n)["loss"] for regime in self.regimes if not regime.bounded]
        hold = [_point(last, regime, n)["loss"] for regime in self.regimes if regime.bounded]
        return min(fail, default=math.nan) / max(hold, default=math.nan)


def _end(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of worst users at the end of the run."""
    return where(table, time=max(table["time"]), user="worst user")


def _point(rows: pd.DataFrame, regime: Regime, n: int) -> dict[str, float]:
    """Returns the loss of a regime, with its range over replicas."""
    own = where(rows, scheme=regime.kind, capacity=regime.capacity, n=n)
    return {key: float(column(own, key)[0]) for key in ("loss", "loss_lowest", "loss_highest")}


def linear(size: Size) -> Regression:
    """Returns the figure of linear regression, 10 features, at a size."""
    nodes, replicas = _shape(size)
    return Regression("linear_regression", 10, {"kind": "linear", "bias": False}, 0.11, 40.0, nodes, replicas)


def nonlinear(size: Size) -> Regression:
    """Returns the figure of nonlinear regression, a teacher of 16 and a student of 8 hidden units, at a size."""
    nodes, replicas = _shape(size)
    model = {"kind": "mlp", "hidden": [8], "activation": "tanh"}
    return Regression("nonlinear_regression", 5, model, 0.4, 40.0, nodes, replicas)


def _shape(size: Size) -> tuple[tuple[int, ...], int]:
    return ((10, 100, 300) if size == "quick" else (10, 100, 1000)), 6
