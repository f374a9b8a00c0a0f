"""Momentum tracking: each node follows the mean momentum of all, so that heterogeneous data do no harm to it either.

Node i keeps a momentum u_i and a tracker y_i, 0 at the start; in the paper's letters y = u - c. In a round

    u_i <- beta u_i + g_i(x_i),  y_i <- y_i + u_i - u_i of the round before,
    x_i <- sum_j W_ij x_j - eta y_i,  y_i <- sum_j W_ij y_j.

The sum of y_i - u_i over the nodes stays 0. The step is taken after the mixing, as the paper has it, so that the row of
x waits for a step s_i = eta y_i that its model has made: the model is x_i - s_i.

Reference:
    Y. Takezawa, H. Bao, K. Niwa, R. Sato, M. Yamada, "Momentum tracking: momentum acceleration for decentralized deep
    learning on heterogeneous data", Transactions on Machine Learning Research, 2023, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class MomentumTracking(Algorithm):
    """Steps along a tracker of the mean momentum, in rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> ring |= {"run.until": 100}
        >>> task = {"task.data": {"kind": "linear_regression", "heterogeneity": 1.0}, "local.lr": 5e-3}
        >>> kinds = ("quasi_global", "momentum_tracking")
        >>> runs = [batchednodes.train(ring, task, {"algorithm.kind": kind}) for kind in kinds]
        >>> pulled, tracked = (run.metrics["consensus_distance"].iloc[-1] for run in runs)
        >>> bool(tracked < pulled / 3)  # its own data pull no node away
        True
    """

    beta: float = 0.9
    """Decay of the momentum, 0 <= beta < 1; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {"y": Field(), "u": Field(), "step": Field()}
    emits: ClassVar[tuple[str, ...]] = ("x", "y")
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x": lambda all_: all_["x"].sum(0),
        "sum of y - u": lambda all_: (all_["y"] - all_["u"]).sum(0),
    }

    def __post_init__(self) -> None:
        number(self.beta, 1, "beta", high=1.0)

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = self.model(r)
        u = self.beta * r["u"] + k.grad(r["x"])
        r["y"] = r["y"] + (u - r["u"])
        r["u"], r["step"] = u, k.lr * r["y"]

    def model(self, r: Rows) -> Any:
        return r["x"] - r["step"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, y, u = e.actor, rows["x"], rows["y"], rows["u"]
        if e.kind == UPDATE:
            x[i] -= rows["step"][i]
            before = u[i].clone()
            u[i] = self.beta * u[i] + k.grad(x[i])
            y[i] += u[i] - before
            rows["step"][i] = k.lr * y[i]
        else:
            for some in (x, y):
                some[e.nodes] = e.matrix @ some[e.nodes]
