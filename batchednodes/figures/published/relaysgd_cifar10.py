r"""The CIFAR-10 table of RelaySGD: accuracy of the worst of 16 nodes, whose data differ more or less.

VGG-11 on CIFAR-10 by ten methods, each with the authors' graph, step sizes and 200 epochs, for label proportions of
Dirichlet's law with alpha = 1, 0.1 and 0.01, three seeds each. That needs a GPU, and `batchednodes[hf]`, which finds
the images on the Hub once; on a CPU, and quickly, it is a small perceptron on handwritten digits, which shows in a
minute or two in what order the methods suffer from heterogeneity, and has no published values.

Notation: n nodes, alpha concentration of label proportions.

Reference:
    T. Vogels, L. He, A. Koloskova, T. Lin, S. P. Karimireddy, S. U. Stich, M. Jaggi, "RelaySum for decentralized deep
    learning on heterogeneous data", NeurIPS 2021, table 2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.figures.published.compared import Compared, published, rows, shown
from batchednodes.figures.published.estimates import errors, interval, over_replicas
from batchednodes.figures.published.experiment import Experiment, Size
from batchednodes.figures.published.frames import column, where

_ALPHAS = (1.0, 0.1, 0.01)

_SURE = math.erf(math.sqrt(2))
"""Confidence of two standard errors of a normal law."""

_RING = {"topology": {"kind": "ring"}}
_SMOOTH = _RING | {"weights": {"kind": "constant", "value": 1 / 3 - 0.01}}
"""As D2 has it: at 1/3 a ring has the eigenvalue -1/3, at which what noise leaves stays."""
_TREES = {"topology": {"kind": "double_binary_tree"}}
_HOPS = {"topology": {"kind": "one_peer_exponential", "period": 1.0}}
_RELAY = {"kind": "relay_sgd", "trees": 2}
_QUASI = {"kind": "quasi_global", "nesterov": True}


@dataclass(frozen=True)
class Method:
    """A line of the table."""

    name: str
    """As the table has it."""
    algorithm: dict[str, Any]
    network: dict[str, Any]
    lr: tuple[float, float, float]
    """Step sizes that the authors tuned, for each alpha."""
    quick: float
    """Step size for the perceptron."""
    momentum: bool = False
    """Whether nodes have a momentum of 0.9, by Nesterov's step."""


METHODS = {
    "all-reduce": Method("all-reduce", {"kind": "all_reduce"}, {}, (0.1, 0.1, 0.1), 0.5),
    "all-reduce-momentum": Method("all-reduce + momentum", {"kind": "all_reduce"}, {}, (0.1, 0.1, 0.1), 0.1, True),
    "relaysgd": Method("RelaySGD", _RELAY, _TREES, (1.2, 0.6, 0.3), 0.5),
    "relaysgd-momentum": Method("RelaySGD + local momentum", _RELAY, _TREES, (0.6, 0.3, 0.15), 0.1, True),
    "d-psgd": Method("D-PSGD", {"kind": "d_psgd"}, _RING, (0.4, 0.1, 0.2), 0.5),
    "quasi-global": Method("D-PSGD + quasi-global momentum", _QUASI, _RING, (0.1, 0.025, 0.05), 0.1),
    "d2": Method("D2", {"kind": "d2"}, _SMOOTH, (0.2, 0.2, 0.1), 0.5),
    "d2-momentum": Method("D2 + local momentum", {"kind": "d2"}, _SMOOTH, (0.05, 0.05, 0.0126), 0.1, True),
    "sgp": Method("SGP", {"kind": "push_sum"}, _HOPS, (0.4, 0.2, 0.2), 0.5),
    "sgp-momentum": Method("SGP + local momentum", {"kind": "push_sum"}, _HOPS, (0.1, 0.1, 0.025), 0.1, True),
}
"""Name of a run -> line of the table; those of all-reduce have data that are alike, as published."""


@dataclass(frozen=True)
class Heterogeneity(Experiment):
    """The table, for some methods and values of alpha."""

    images: bool
    """Whether VGG-11 learns CIFAR-10; else a perceptron learns digits."""
    epochs: float
    """Length of each run: passes over the data."""
    replicas: int
    """Seeds; at least 2."""
    methods: tuple[str, ...] = tuple(METHODS)

    @property
    def steps(self) -> int:
        """Rounds of an epoch."""
        return (50_000 if self.images else 1437) // 16 // 32

    def batches(self) -> dict[str, dict[str, Any]]:
        return {name: self._run(METHODS[name]) for name in self.methods}

    def _run(self, method: Method) -> dict[str, Any]:
        until, lr = float(self.epochs * self.steps), method.lr if self.images else (method.quick,) * 3
        momentum = {"momentum": 0.9, "nesterov": True} if method.momentum else {}
        falls = [0.75 * until, 0.9 * until]  # the authors': after 150 and 180 of 200 epochs
        alike = method.algorithm["kind"] == "all_reduce"
        splits = [{"kind": "iid"} if alike else {"kind": "dirichlet", "alpha": alpha} for alpha in _ALPHAS]
        return {
            "network": {"nodes": 16} | method.network,
            "timing": {"kind": "synchronous"},
            "algorithm": method.algorithm,
            "local": {"batch_size": 32, "lr": 0.1, "weight_decay": 1e-4, **momentum}
            | {"schedule": {"kind": "milestones", "falls": falls, "warmup": until / 40}},
            "task": self._task(),
            "run": {"until": until, "mark_every": until / 20},
            "staleness": {"track": "none"},
            "sweep": {"task.partition": splits, "local.lr": [*lr]},
            "sweep_mode": "zip",
            "replicas": self.replicas,
        }

    def _task(self) -> dict[str, Any]:
        if not self.images:
            return {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [32]}}
        data = {"kind": "huggingface", "path": "uoft-cs/cifar10", "features": ["img"], "standardize": "train"}
        augment = [{"kind": "crop", "padding": 4}, {"kind": "flip"}]
        return {
            "data": data,
            "augment": augment,
            "model": {"kind": "python", "target": "batchednodes.models.vgg:vgg11"},
        }

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        found = []
        for name, own in metrics.items():
            last = own.take(np.flatnonzero(column(own, "time") == column(own, "time").max()))
            alphas = [_ALPHAS[k // self.replicas] for k in last["network"]]
            mean = over_replicas(last.assign(alpha=alphas), ["alpha"], "accuracy_min")
            found.append(mean.assign(method=name))
        table = pd.concat(found, ignore_index=True)
        return pd.concat([table, rows(_compared(table))], ignore_index=True) if self.images else table

    def draw(self, table: pd.DataFrame) -> Figure:
        figure = Figure(figsize=(7.0, 3.4), layout="constrained")
        axes, height = figure.subplots(), 0.25
        told = published("relaysgd_cifar10")["values"] if self.images else {}
        for k, alpha in enumerate(_ALPHAS):
            own = where(table, alpha=alpha)
            at = np.array([self.methods.index(name) for name in own["method"]]) + (k - 1) * height
            ends = errors(own, "accuracy_min")
            style = {"height": height, "color": ("#0072B2", "#56B4E9", "#E69F00")[k], "label": f"alpha = {alpha:g}"}
            axes.barh(at, own["accuracy_min"], xerr=ends, error_kw={"linewidth": 0.8}, **style)
            old = [told.get(f"{name}/{alpha:g}", {}).get("mean", np.nan) for name in own["method"]]
            axes.plot(old, at, "|", color="black", markersize=7, label="published" if self.images and not k else None)
        axes.set_yticks(range(len(self.methods)), [METHODS[name].name for name in self.methods])
        what = "VGG-11 on CIFAR-10" if self.images else "a perceptron on handwritten digits"
        axes.set(xlabel="test accuracy of the worst of 16 nodes", xlim=(0, 1), title=f"{what}, {self.epochs:g} epochs")
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure

    def findings(self, table: pd.DataFrame) -> list[Table]:
        title = "test accuracy of the worst node [%], with 95% intervals"
        made = Table("method", *(f"alpha = {alpha:g}" for alpha in _ALPHAS), title=title)
        for name in self.methods:
            own = where(table, method=name)
            ends = zip(100 * column(own, "accuracy_min"), 100 * errors(own, "accuracy_min")[1], strict=True)
            made.add_row(METHODS[name].name, *(f"{mean:.1f} ± {half:.1f}" for mean, half in ends))
        return [made, shown(table, "CIFAR-10, as published and here")] if self.images else [made]


def _compared(table: pd.DataFrame) -> list[Compared]:
    """Returns published means over three seeds beside those here; as seeds are few, standard errors are Student's."""
    found = list[Compared]()
    for name, told in published("relaysgd_cifar10")["values"].items():
        method, alpha = name.split("/")
        own = where(table, method=method, alpha=float(alpha))
        if own.empty or not told["seeds"]:  # how far seeds differ was not published
            continue
        error = interval(np.array(told["seeds"]), _SURE).half_width / 2
        here, half = float(column(own, "accuracy_min")[0]), float(errors(own, "accuracy_min")[1, 0])
        words = f"{METHODS[method].name}, alpha = {alpha}"
        found.append(Compared(words, told["mean"], here, 5e-4, published_error=error, here_error=half / 2))
    return found


def sized(size: Size) -> Heterogeneity:
    """Returns the table; on a CPU that of digits, quick: of fewer epochs and seeds."""
    if size == "cuda":
        return Heterogeneity(True, 200.0, 3)
    return Heterogeneity(False, 60.0, 6) if size == "quick" else Heterogeneity(False, 200.0, 10)
