r"""CHOCO: nodes agree exactly though each message brings a few numbers, or a few bits, of a model.

Models of 50 numbers that only mix, on rings and tori of nine nodes, and logistic regression on breast_cancer, compared
with what the authors' code finds. Runs without draws are the same but for rounding; those with draws agree as far as
seeds differ. Both are read off replicas, which differ in draws, and else in the last digits of where they begin; where
the largest numbers are nearly alike, and models diverge, these decide what becomes of a run. Intervals are of 99%.

Messages bring the 5 largest or 5 random of 50 numbers, or QSGD's 16 levels of each. Of regression they are the 3
largest or random of 30. Numbers of gossip are compared by their logarithms; below 1e-24 they are rounding, and count as
that.

Notation: gamma step size of consensus, T rounds, m replicas.

Reference:
    A. Koloskova, S. U. Stich, M. Jaggi, "Decentralized stochastic optimization and gossip algorithms with compressed
    communication", ICML 2019.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from scipy.special import stdtrit

from batchednodes.figures.published import points
from batchednodes.figures.published.compared import Compared, published, rows, shown_by_group
from batchednodes.figures.published.estimates import interval
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, groups, where
from batchednodes.figures.published.logistic import ROWS

_GOSSIP: dict[str, tuple[dict[str, Any], str, str]] = {
    "full": ({"kind": "none", "feedback": "choco"}, "all numbers", "black"),
    "top5": ({"kind": "top_k", "share": 0.1}, "5 largest", "#0072B2"),
    "rand5": ({"kind": "random_k", "share": 0.1}, "5 random", "#D55E00"),
    "qsgd16": ({"kind": "qsgd", "levels": 16}, "16 levels", "#009E73"),
}
"""Published name of a message -> settings without gamma, words and colour."""

_GAMMAS = (0.02, 0.1, 0.4)

_LEARN: dict[str, tuple[dict[str, Any], str, str]] = {
    "plain": ({"kind": "none"}, "exact averages", "black"),
    "choco_full": ({"kind": "none", "feedback": "choco", "gamma": 1.0}, "CHOCO, all numbers", "#6B6B6B"),
    "choco_top3": ({"kind": "top_k", "share": 0.1, "gamma": 0.2}, "CHOCO, 3 largest", "#0072B2"),
    "choco_rand3": ({"kind": "random_k", "share": 0.1, "gamma": 0.1}, "CHOCO, 3 random", "#D55E00"),
    "choco_qsgd16": ({"kind": "qsgd", "levels": 16, "gamma": 0.34}, "CHOCO, 16 levels", "#009E73"),
    "dcd_qsgd16": ({"kind": "qsgd", "levels": 16, "feedback": "dcd"}, "DCD, 16 levels", "#CC79A7"),
    "ecd_qsgd16": ({"kind": "qsgd", "levels": 16, "feedback": "ecd"}, "ECD, 16 levels", "#E69F00"),
}
"""Published name of a method -> settings of messages, words and colour."""

_NODES, _NUMBERS, _EPOCHS, _TAU = 9, 50, 10, 30
_STEPS = ROWS // _NODES
"""Steps of an epoch."""

_FLOOR, _DIGITS = 1e-24, math.log10(1 + 1e-6)
"""Squared distances that are rounding; how far logarithms may be off without draws: a millionth."""

_SURE = 0.99
"""Confidence of each interval: many values are compared."""


@dataclass(frozen=True)
class Choco(Experiment):
    """The figure, with some replicas."""

    rounds: int
    """Length of runs that only mix; values that were published of later rounds are left out."""
    replicas: int
    """Networks of each of them; at least 2."""
    seeds: int
    """Networks of each regression; at least 2."""
    graphs: tuple[str, ...] = ("ring", "torus")
    messages: tuple[str, ...] = tuple(_GOSSIP)
    gammas: tuple[float, ...] = _GAMMAS
    splits: tuple[str, ...] = ("random", "label-sorted")
    methods: tuple[str, ...] = tuple(_LEARN)

    def batches(self) -> dict[str, dict[str, Any]]:
        runs = {
            f"{graph}-{message}-{gamma:g}": self._mixing(graph, _GOSSIP[message][0] | {"gamma": gamma})
            for graph in self.graphs
            for message in self.messages
            for gamma in self.gammas
        }
        return runs | {
            f"{split}-{method}": self._learning(split, _LEARN[method][0])
            for split in self.splits
            for method in self.methods
        }

    def _mixing(self, graph: str, compress: dict[str, Any]) -> dict[str, Any]:
        return {
            "dtype": "float64",
            "network": {"nodes": _NODES, "topology": {"kind": graph}},
            "timing": {"kind": "synchronous"},
            "gossip": {"compress": compress},
            "local": points.START,
            "task": {"data": points.problem("NormalPoints", numbers=_NUMBERS)},
            "run": {"until": float(self.rounds), "mark_every": 10.0, "eval_nodes": 1, "on_divergence": "ignore"},
            "staleness": {"track": "none"},
            "replicas": self.replicas,
        }

    def _learning(self, split: str, compress: dict[str, Any]) -> dict[str, Any]:
        at = "batchednodes.figures.published.logistic"
        data = {"kind": "python", "target": f"{at}:BreastCancer", "args": {"by_label": split != "random"}}
        lr = 0.1 * ROWS / _TAU  # 0.1 / (lambda (t + tau)) at t = 0
        return {
            "dtype": "float64",
            "network": {"nodes": _NODES, "topology": {"kind": "ring"}},
            "timing": {"kind": "synchronous"},
            "gossip": {"compress": compress},
            "local": {"lr": lr, "schedule": {"kind": "inverse", "scale": _TAU}, "weight_decay": 1 / ROWS}
            | {"batch_size": 1, "sampling": "replacement"},
            "task": {"data": data, "model": {"kind": "linear", "bias": False, "init": "zero"}}
            | {"loss": {"kind": "function", "target": f"{at}:loss"}},
            "run": {"until": float(_EPOCHS * _STEPS), "mark_every": float(_STEPS)}
            | {"metrics": ["default", {"kind": "python", "target": f"{at}:Objective"}]},
            "staleness": {"track": "none"},
            "replicas": self.seeds,
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        told, curves, values = published("choco_logistic"), list[dict[str, Any]](), list[Compared]()
        for graph in self.graphs:
            for message in self.messages:
                for gamma in self.gammas:
                    key = {"graph": graph, "message": message, "gamma": gamma}
                    found = _agreement(metrics[f"{graph}-{message}-{gamma:g}"])
                    values += _mixed(key, found)
                    curves += [key | {"round": t, "spread": 10 ** float(v.mean())} for t, v in found.items()]
        for split in self.splits:
            for method in self.methods:
                own = metrics[f"{split}-{method}"]
                own = own.assign(suboptimality=own["objective"] - told["f_star"])
                values += _learned(split, method, own)
                for (time,), rows_ in groups(own, ["time"]):
                    mean = float(column(rows_, "suboptimality").mean())
                    curves.append({"split": split, "method": method, "epoch": round(time / _STEPS), "above": mean})
        return pd.concat([pd.DataFrame(curves), rows(values)], ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 6.2), layout="constrained")
        panels = figure.subplots(2, max(len(self.graphs), len(self.splits)), sharey="row", squeeze=False)
        for axes, graph in zip(panels[0], self.graphs, strict=False):
            _agreeing(axes, where(table, graph=graph, gamma=_GAMMAS[1]), graph)
            axes.set(title=f"models that only mix, {graph}", xlabel="round", yscale="log", ylim=(1e-16, 1e2))
        for axes, split in zip(panels[1], self.splits, strict=False):
            _learning_curves(axes, where(table, split=split), split)
            axes.set(title=f"logistic regression, {split} split", xlabel="epoch", yscale="log")
        panels[0, 0].set_ylabel("squared consensus distance")
        panels[1, 0].set_ylabel("loss above the least")
        panels[0, -1].legend(fontsize="small", loc="upper right")
        handles = {label: h for h, label in zip(*panels[1, 0].get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        for axes in panels.flat:
            axes.grid(visible=True)
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        return [shown_by_group(table, "CHOCO, of the authors' code and here")]


def _agreement(found: pd.DataFrame) -> dict[float, Float64[np.ndarray, " m"]]:
    """Returns the logarithm of squared consensus distances by the round, of all replicas."""
    squares = {time: np.square(column(own, "consensus_distance")) for (time,), own in groups(found, ["time"])}
    return {time: np.log10(np.clip(v, _FLOOR, None)) for time, v in squares.items() if time > 0}


def _mixed(key: dict[str, Any], found: dict[float, Float64[np.ndarray, " m"]]) -> list[Compared]:
    """Returns published distances of one run beside those here.

    One run was published: replicas say how far another run may be.
    """
    name = f"n={_NODES}/{key['graph']}/{key['message']}/gamma={key['gamma']:g}"
    allowed, made = 1.0 if key["message"] in ("rand5", "qsgd16") else _DIGITS, list[Compared]()
    for t, told in published("choco_gossip")["values"].get(name, {}).items():
        if told["consensus"] is None or float(t) not in found:  # the authors' code divides 0 by 0
            continue
        v = found[float(t)]
        error = interval(v, _SURE).half_width / 2 * math.sqrt(v.size + 1)
        words = f"log of the spread, {_GOSSIP[key['message']][1]}, {key['graph']}: gamma = {key['gamma']:g}, T = {t}"
        old = math.log10(max(told["consensus"], _FLOOR))
        made.append(Compared(words, old, float(v.mean()), allowed, here_error=error))
    return made


def _learned(split: str, method: str, own: pd.DataFrame) -> list[Compared]:
    """Returns published means over seeds beside those here; as seeds are few, standard errors are Student's."""
    file, made, words = published("choco_logistic"), list[Compared](), f"{_LEARN[method][1]}, {split} split"
    told, m = file["values"].get(f"ring/{split}/{method}"), file["seeds"]
    if told is None:
        return []
    wider = stdtrit(m - 1, (1 + _SURE) / 2) / 2 / math.sqrt(m)
    for (time,), some in groups(own, ["time"]):
        epoch = round(time / _STEPS)
        here = interval(column(some, "suboptimality"), _SURE)
        pair = told["subopt_mean"][epoch], here.mean
        errors = {"published_error": wider * told["subopt_std"][epoch], "here_error": here.half_width / 2}
        made.append(Compared(f"loss, {words}: epoch {epoch}", *pair, **errors))
    last = own.take(np.flatnonzero(column(own, "time") == column(own, "time").max()))
    here = interval(np.square(column(last, "consensus_distance")), _SURE)
    errors = {"published_error": wider * told["consensus_std"], "here_error": here.half_width / 2}
    return [*made, Compared(f"spread, {words}: epoch {_EPOCHS}", told["consensus_mean"], here.mean, **errors)]


def _agreeing(axes: Axes, table: pd.DataFrame, graph: str) -> None:
    values = published("choco_gossip")["values"]
    for message, (_, words, colour) in _GOSSIP.items():
        own = where(table, message=message)
        axes.plot(own["round"], own["spread"], color=colour, label=words)
        told = values.get(f"n={_NODES}/{graph}/{message}/gamma={_GAMMAS[1]:g}", {})
        end = column(own, "round").max(initial=0.0)
        kept = {float(t): one["consensus"] for t, one in told.items() if one["consensus"] and float(t) <= end}
        axes.plot([*kept], [*kept.values()], "o", color=colour, markersize=4)
    axes.plot([], [], "o", color="0.4", markersize=4, label="authors' code")


def _learning_curves(axes: Axes, table: pd.DataFrame, split: str) -> None:
    values = published("choco_logistic")["values"]
    for method, (_, words, colour) in _LEARN.items():
        own = where(table, method=method)
        axes.plot(own["epoch"], own["above"], color=colour, label=words)
        told = values.get(f"ring/{split}/{method}")
        if told is not None:
            axes.plot(range(_EPOCHS + 1), told["subopt_mean"], "o", color=colour, markersize=3)
    axes.plot([], [], "o", color="0.4", markersize=4, label="authors' code")


def sized(size: Size) -> Choco:
    """Returns the figure; quick: a third of the rounds, and fewer networks."""
    return Choco(1000, 6, 10) if size == "quick" else Choco(3000, 20, 40)
