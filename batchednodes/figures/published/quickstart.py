r"""The picture of the README: handwritten digits on 100 nodes that hold about 14 images each, mostly of few classes.

Notation: n nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from batchednodes.figures import curves
from batchednodes.figures.curves import Curve
from batchednodes.figures.published.experiment import Experiment, Size

_KEPT = (
    *("time", "n", "loss_mean", "loss_min", "loss_max", "loss_mean_model"),
    *("accuracy_mean", "accuracy_min", "accuracy_max", "accuracy_mean_model"),
    *("consensus_distance", "staleness_mean", "staleness_theory"),
)
"""Metrics that are drawn; quantiles of so small a staleness are 0, 1 or 2."""


@dataclass(frozen=True)
class Quickstart(Experiment):
    """The curves of configs/quickstart.yaml."""

    until: float = 600.0
    """Length of the run [s]."""

    def batches(self) -> dict[str, dict[str, Any]]:
        """Returns the settings of configs/quickstart.yaml, but for its baseline, which has no curve.

        They are repeated here, since an installed package lacks that file; a test holds them together.
        """
        run = {
            "network": {"nodes": 100},
            "update": {"clock": {"kind": "shifted_exponential", "delay": 1, "rate": 1}},
            "gossip": {"clock": {"kind": "poisson", "rate": "log(n)"}},
            "local": {"steps": 1, "batch_size": 32, "lr": 0.5},
            "task": {
                "data": {"kind": "digits"},
                "partition": {"kind": "dirichlet", "alpha": 0.5},
                "model": {"kind": "mlp", "hidden": [64]},
            },
            "run": {"until": self.until, "mark_every": 10},
        }
        return {"all": run}

    def table(self, metrics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        return metrics["all"].filter(items=_KEPT)

    def draw(self, table: pd.DataFrame) -> Figure:
        return curves.draw([Curve({}, table)])

    def findings(self, table: pd.DataFrame) -> list[Table]:
        last, late = table.iloc[-1], table[table["time"] > table["time"].max() / 2]
        shown = Table("n", "time [s]", "accuracy, mean", "worst node", "average model", "staleness", "its law")
        accuracies = [f"{last[f'accuracy_{key}']:.3f}" for key in ("mean", "min", "mean_model")]
        staleness = [f"{late['staleness_mean'].mean():.4f}", f"{last['staleness_theory']:.4f}"]
        shown.add_row(f"{last['n']:.0f}", f"{last['time']:g}", *accuracies, *staleness)
        return [shown]


def sized(size: Size) -> Quickstart:
    """Returns the picture; quick: a third of the run."""
    return Quickstart(200.0) if size == "quick" else Quickstart()
