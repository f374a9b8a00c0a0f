r"""Steps until methods in rounds find the optimum of quadratics, each at its best step size, as RelaySGD was shown.

The step size of each method is searched for on each problem by the published procedure, and the steps and step sizes
that come out are those which were published, to the digit. Nodes that differ slow down gossip and tracked gradients;
relayed models and D2 they do not. Drawn are the errors at the step sizes that were found (figures 7 and 8 of the paper:
a ring or chain, and a star), and the steps against the number of nodes (its figure 2).

Notation: n nodes, zeta^2 heterogeneity.

Reference:
    T. Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS 2021.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.table import Table

from batchednodes.figures.published import compared, relaysgd_cases, tuning
from batchednodes.figures.published.compared import Compared, published
from batchednodes.figures.published.experiment import Experiment, Size, Train
from batchednodes.figures.published.frames import column, groups, known, take, where
from batchednodes.figures.published.relaysgd_cases import METHODS, TARGET, Case, case, errors
from batchednodes.figures.published.tuning import Tuned

_LINES = {"ring": "-", "chain": "-", "star": "-", "tree": "--", "exponential": ":"}
_TITLES = {"fig7": "ring or chain of 32", "fig8": "star of 32", "fig2": "steps against n"}

_NODES = (6, 8, 12, 16, 24, 32)
"""Numbers of nodes of figure 2 that are searched for; all that were published, up to 96, take an hour."""


@dataclass(frozen=True)
class RelaySGDQuadratics(Experiment):
    """The figure, for some searches."""

    cases: tuple[Case, ...]
    """At least one of the paper's figure 7 or 8."""
    found: Mapping[str, Tuned] = field(default_factory=dict)
    """What was found for each, by its key; those that are not here are searched for."""

    def tuned(self, train: Train) -> "RelaySGDQuadratics":
        unknown = [one for one in self.cases if one.key not in self.found]
        return replace(self, found={**self.found, **relaysgd_cases.tuned(unknown, train)})

    def batches(self) -> dict[str, dict[str, Any]]:
        return {part: self._batch(some) for part, some in self._curves()}

    def _curves(self) -> Iterator[tuple[str, list[Case]]]:
        """Yields the cases whose errors are drawn, with the name of their run: those of a method and figure."""
        drawn = {}
        for one in self.cases:
            if one.figure != "fig2":
                drawn.setdefault(f"{one.figure}-{one.method}", []).append(one)
        yield from drawn.items()

    def _batch(self, some: Sequence[Case]) -> dict[str, Any]:
        """Returns the settings of a run at the step sizes that were found, a quarter longer than the longest took."""
        best = [self.found.get(one.key, Tuned(None, None, None)) for one in some]
        last = max(4, math.ceil(1.25 * max(one.steps or 0 for one in best)))
        marks = [int(step) for step in tuning.points(some[0].budget) if step <= last]
        return relaysgd_cases.settings([(one, b.tried or TARGET) for one, b in zip(some, best, strict=True)], marks)

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        parts = [pd.DataFrame([_row(one, self.found[one.key]) for one in self.cases])]
        for part, some in self._curves():
            for one, (_, own) in zip(some, groups(metrics[part], ["network"]), strict=True):
                same = {"figure": one.figure, "method": one.method, "heterogeneity": one.heterogeneity}
                curve = {"step": own["time"].to_numpy()[1:], "error": errors(own)}
                parts.append(pd.DataFrame(same | curve))
        return pd.concat([*parts, compared.rows(_compared(self.cases, self.found))])

    def draw(self, table: pd.DataFrame) -> Figure:
        curves, best = known(table, "error"), known(table, "steps")
        kinds = list(dict.fromkeys([*curves["figure"], *best["figure"]]))
        zetas = {kind: sorted(set(where(best, figure=kind)["heterogeneity"])) for kind in kinds}
        width = max(map(len, zetas.values()))
        figure = Figure(figsize=(1.0 + 2.0 * width, 0.6 + 1.9 * len(kinds)), layout="constrained")
        grid = figure.subplots(len(kinds), width, squeeze=False)
        for row, kind in zip(grid, kinds, strict=True):
            for axes in row[len(zetas[kind]) :]:
                axes.set_visible(False)
            for axes, zeta in zip(row, zetas[kind], strict=False):
                own = {"figure": kind, "heterogeneity": zeta}
                if kind == "fig2":
                    _steps(axes, where(best, **own))
                else:
                    _errors(axes, where(curves, **own))
                axes.set_title(rf"{_TITLES[kind]}, $\zeta^2 = {zeta:g}$")
            row[0].set_ylabel("steps to an error of $10^{-6}$" if kind == "fig2" else "error of the mean model")
        handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        own = known(table, "value")
        second = np.array([str(value).startswith("figure 2,") for value in own["value"]], dtype=bool)
        found = [compared.shown(take(own, ~second), "tuned steps and step sizes")]
        if second.any():
            found.append(_summary(take(own, second)))
        return found


def _row(one: Case, best: Tuned) -> dict[str, Any]:
    same = {"figure": one.figure, "method": one.method, "graph": one.graph, "n": one.nodes, "seed": one.seed}
    return same | {"heterogeneity": one.heterogeneity, "steps": best.steps, "lr": best.lr}


def _compared(cases: Sequence[Case], found: Mapping[str, Tuned]) -> Iterator[Compared]:
    """Yields steps and step size of each case that was published, which must be equal to the digit."""
    printed = published("relaysgd_tuning")["values"]
    for one in cases:
        if one.key in printed:
            steps, lr = printed[one.key]
            best = found[one.key]
            yield Compared(f"{one.name}: steps", float(steps), math.nan if best.steps is None else float(best.steps))
            yield Compared(f"{one.name}: step size", lr, math.nan if best.lr is None else best.lr)


def _errors(axes: Axes, curves: pd.DataFrame) -> None:
    """Draws errors against steps."""
    for (method,), own in groups(curves, ["method"]):
        axes.plot(own["step"], own["error"], color=METHODS[method][3], label=METHODS[method][0])
    axes.axhline(TARGET, color="0.5", linestyle="--", linewidth=0.8)
    axes.set(xscale="log", yscale="log", ylim=(TARGET / 10, 2), xlabel="steps")
    axes.grid(visible=True)


def _steps(axes: Axes, best: pd.DataFrame) -> None:
    """Draws steps against the number of nodes."""
    for (method, graph), own in groups(best, ["method", "graph"]):
        nodes = sorted({int(n) for n in own["n"]})
        mean = [float(column(where(own, n=n), "steps").mean()) for n in nodes]
        label = f"{METHODS[method][0]}, {graph}" if graph in ("tree", "exponential") else METHODS[method][0]
        axes.plot(nodes, mean, marker=".", color=METHODS[method][3], linestyle=_LINES[graph], label=label)
    sizes = sorted({int(n) for n in best["n"]})
    axes.set(xscale="log", yscale="log", xlabel="number of nodes n")
    axes.set_xticks(sizes[:: max(1, len(sizes) // 4)], [str(n) for n in sizes[:: max(1, len(sizes) // 4)]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=True)


def _summary(table: pd.DataFrame) -> Table:
    """Returns how many values of figure 2 are met, for each method, graph and zeta^2, since they are many."""
    values = compared.compared(table)
    counts = dict[tuple[str, str], list[bool]]()
    for one in values:
        method, _, rest = one.value.removeprefix("figure 2, ").partition(", n = ")
        counts.setdefault((method, rest.partition("zeta^2 = ")[2].partition(":")[0]), []).append(one.inside)
    title = "figure 2: steps and step sizes for each n"
    found = Table("method", "zeta^2", "published", "inside", title=title, caption=compared.verdict(values))
    for (method, zeta), inside in counts.items():
        found.add_row(method, zeta, str(len(inside)), str(sum(inside)))
    return found


def sized(size: Size) -> RelaySGDQuadratics:
    """Returns the figure at a size."""
    cases = [case(key) for key in published("relaysgd_tuning")["values"]]
    if size == "quick":
        return RelaySGDQuadratics(tuple(one for one in cases if one.figure == "fig7" and one.key != "fig7/gossip/10"))
    return RelaySGDQuadratics(tuple(one for one in cases if one.figure != "fig2" or one.nodes in _NODES))
