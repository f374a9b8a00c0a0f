"""AD-PSGD: a node averages with a random neighbour when its gradient is done, then applies the gradient, by then stale.

Node i keeps b_i, the model from which it began to compute. At its completion

    1. it meets a random neighbour j: x_i, x_j <- (x_i + x_j) / 2;
    2. x_i <- x_i + (LocalSGD(b_i) - b_i), in one step x_i - eta g_i(b_i), and b_i <- x_i.

Reference:
    X. Lian, W. Zhang, C. Zhang, J. Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML 2018,
    Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import UPDATE


@dataclass(frozen=True)
class ADPSGD(Algorithm):
    """Stale gradients, and one average at each completion.

    Example:
        >>> import batchednodes
        >>> method = {"algorithm": {"kind": "ad_psgd"}, "gossip": {"clock": {"kind": "at_update"}, "exchange": "meet"}}
        >>> run = batchednodes.train({"network.nodes": 5, "run.until": 5}, method)
        >>> run.metrics[["updates", "gossips"]].iloc[-1].tolist()  # a node meets another whenever it updates
        [24, 24]
    """

    fields: ClassVar[dict[str, Field]] = {"begun": Field(start="model")}
    mixing: ClassVar[Any] = "double"
    contact: ClassVar[Any] = "at_update"
    timing: ClassVar[tuple[str, ...]] = ("events",)
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = r["x"] + (k.descend(r["begun"]) - r["begun"])
        r["begun"] = r["x"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, j, x = e.actor, e.peer, rows["x"]
        if e.kind == UPDATE:
            x[i] += k.descend(rows["begun"][i]) - rows["begun"][i]
            rows["begun"][i] = x[i]
        else:
            a, b = x[i].clone(), x[j].clone()
            x[i], x[j] = (1 - e.weight) * a + e.weight * b, (1 - e.weight) * b + e.weight * a
