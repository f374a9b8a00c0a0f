r"""Final error of the worst user against measured mean staleness, over n, lambda, c and mu, under both schemes.

If staleness is what decides, networks of all sizes, capacities, clocks and schemes lie on one rising curve. The curve
here is the best rising one through all points (isotonic regression of the logarithm), and the figure says how far
points scatter about it, and whether one scheme lies above the other.

Choices that the paper leaves open. Linear regression with 10 features and two samples a node, so that no user can learn
alone; a step size that suits every user, so that errors stay bounded and stale users are merely slow. All runs last 60
update times in the mean, since a rate of updates only sets the unit of time. Staleness is the mean over the second
half; where it is large it has not become stationary by then. Losses are geometric means over replicas.

Notation: n nodes, lambda gossip capacity, c fixed part and 1/mu mean of the random part of an update's time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.figures.published.estimates import interval, time_averages
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, where
from batchednodes.figures.published.regimes import zipped

_UPDATES = 60
"""Length of a run, in mean times of an update."""

_NOISE = 0.1
"""Standard deviation of the noise of training and test targets; its square is the least expected test loss."""

_USERS = {"worst user": "loss_max", "median user": "loss_median"}
"""What is drawn, and its metric."""

_COLOURS = {"uniform": "#0072B2", "freshest": "#D55E00"}


@dataclass(frozen=True)
class StalenessCriterion(Experiment):
    """The figure, for a grid of settings."""

    nodes: tuple[int, ...]
    """At most six numbers of nodes."""
    uniform: tuple[str, ...]
    """Capacities of uniform gossip, in contacts per mean update time; expressions in n."""
    freshest: tuple[str, ...]
    """The same of the opportunistic scheme."""
    clocks: tuple[tuple[float, float], ...]
    """Fixed time c [s] and rate mu [1/s] of updates."""
    replicas: int
    """Networks of each point, with other seeds."""

    def batches(self) -> dict[str, dict[str, Any]]:
        """Returns one run for the clocks of each mean update time, which sets the length of the run."""
        return {f"mean-{mean:g}": self._batch(mean) for mean in sorted({_mean(*clock) for clock in self.clocks})}

    def _batch(self, mean: float) -> dict[str, Any]:
        clocks = [(c, mu) for c, mu in self.clocks if _mean(c, mu) == mean]
        schemes = [("uniform", f) for f in self.uniform] + [("freshest", f) for f in self.freshest]
        networks = [
            {
                "network.nodes": n,
                "gossip.scheme": {"kind": kind},
                "gossip.clock.rate": f"({capacity})/{mean:g}",
                "update.clock": {"kind": "shifted_exponential", "delay": c, "rate": mu},
                "staleness.track": min(n, 32),
            }
            for n in self.nodes
            for kind, capacity in schemes
            for c, mu in clocks
        ]
        return {
            "network": {"nodes": max(self.nodes)},
            "local": {"lr": 0.05, "batch_size": 2},
            "task": {
                "data": {"kind": "linear_regression", "features": 10, "noise": _NOISE, "samples_per_node": 2},
                "model": {"kind": "linear", "bias": False},
            },
            "run": {"until": _UPDATES * mean, "mark_every": _UPDATES * mean / 2},
            "staleness": {"track": 1},
            "sweep": zipped(networks),
            "sweep_mode": "zip",
            "replicas": self.replicas,
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        points = []
        for rows in metrics.values():
            final = time_averages(rows, 0.5)
            final = final.assign(point=final["network"] // self.replicas)
            points += [_row(group) for _, group in groups(final, ["point"])]
        table = pd.DataFrame(points)
        x = np.log(column(table, "staleness"))
        fits = {f"{key}_fit": np.exp(rising(x, np.log(column(table, key)))) for key in _USERS.values()}
        return table.assign(**fits)

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.2), layout="constrained")
        panels, sizes = figure.subplots(1, len(_USERS), sharex=True, sharey=True), sorted(set(table["n"]))
        for axes, letter, (user, key) in zip(panels, "ab", _USERS.items(), strict=True):
            for scheme, colour in _COLOURS.items():
                for n, marker in zip(sizes, "osD^v*", strict=False):
                    own = where(table, scheme=scheme, n=n)
                    style = {"color": colour, "markerfacecolor": colour if scheme == "uniform" else "white"}
                    axes.plot(own["staleness"], own[key], marker, **style, label=f"{scheme}, n = {n}")
            line = table.sort_values("staleness")
            axes.plot(line["staleness"], line[f"{key}_fit"], color="0.3", linewidth=0.9, label="best rising curve")
            axes.axhline(_NOISE**2, color="black", linestyle=":", linewidth=0.8, label="noise of the test targets")
            axes.set(xscale="log", yscale="log", xlabel="mean staleness [updates]", title=f"({letter}) {user}")
            axes.grid(visible=True)
        panels[0].set_ylabel("final test loss")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        shown = Table("", "rank correlation", "scatter about the curve", *_COLOURS, title="one curve for all networks?")
        for user, key in _USERS.items():
            ranks = [pd.Series(column(table, one)).rank().to_numpy() for one in ("staleness", key)]
            rank = float(np.corrcoef(np.stack(ranks))[0, 1])
            error = np.log(column(table, key) / column(table, f"{key}_fit"))
            means = [_factor(float(error[table["scheme"] == scheme].mean())) for scheme in _COLOURS]
            shown.add_row(user, f"{rank:.3f}", _factor(math.sqrt(float((error**2).mean()))), *means)
        shown.caption = "factors of the final test loss; under a scheme: its mean distance from the curve"
        return [shown]


def _mean(c: float, mu: float) -> float:
    """Returns the mean time of an update [s], the same for clocks that differ by rounding."""
    return round(c + 1 / mu, 9)


def _row(group: pd.DataFrame) -> dict[str, Any]:
    """Returns one point from its replicas: geometric means of losses, with 95% intervals."""
    first = group.iloc[0]
    clock, scheme = first["update.clock"], first["gossip.scheme"]
    row: dict[str, Any] = {
        "scheme": scheme["kind"], "capacity": first["gossip.clock.rate"], "n": first["n"],
        "c": clock["delay"], "mu": clock["rate"], "replicas": len(group),
    }  # fmt: skip
    staleness = interval(column(group, "staleness"), 0.95)
    row |= {"staleness": staleness.mean, "staleness_low_95": staleness.low, "staleness_high_95": staleness.high}
    for key in _USERS.values():
        logs = interval(np.log(column(group, key)), 0.95)
        row |= {key: math.exp(logs.mean), f"{key}_low_95": math.exp(logs.low), f"{key}_high_95": math.exp(logs.high)}
    return row


def rising(x: Float64[np.ndarray, " k"], y: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """Returns the values, at each x, of the non-decreasing function of x that is nearest to y in mean square.

    Example:
        >>> import numpy as np
        >>> from batchednodes.figures.published.staleness_criterion import rising
        >>> rising(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 5.0])).tolist()
        [1.0, 2.5, 2.5, 5.0]
    """
    order = np.lexsort((y, x))
    means: list[float] = []
    weights: list[int] = []
    for value in y[order]:
        means.append(float(value))
        weights.append(1)
        while len(means) > 1 and means[-2] > means[-1]:  # pool adjacent violators
            total = weights[-2] + weights[-1]
            means[-2:] = [(weights[-2] * means[-2] + weights[-1] * means[-1]) / total]
            weights[-2:] = [total]
    out = np.empty_like(y)
    out[order] = np.repeat(means, weights)
    return out


def _factor(log: float) -> str:
    return f"x {math.exp(log):.2f}"


def sized(size: Size) -> StalenessCriterion:
    """Returns the figure at a size."""
    clocks = ((0.25, 4.0), (0.1, 10 / 9), (0.9, 10.0), (1.0, 1.0))
    if size == "quick":
        return StalenessCriterion((30, 100), ("0.2", "0.4", "1", "5"), ("1", "n/8", "n/4", "n/2", "2*n"), clocks, 3)
    uniform = ("0.1", "0.2", "0.3", "0.5", "1", "2", "5", "10")
    freshest = ("1", "log(n)", "n/16", "n/8", "n/6", "n/4", "n/2", "n", "4*n")
    return StalenessCriterion((30, 100, 300), uniform, freshest, clocks, 4)
