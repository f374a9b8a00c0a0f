"""Gradient tracking: each node follows the mean gradient of all, so that heterogeneous data do no harm.

Node i keeps a tracker y_i, 0 at the start, and its last gradient g_i, 0 at the start.

    At an update of i:           y_i <- y_i + g_i(x_i) - g_i, g_i <- g_i(x_i), x_i <- x_i - eta y_i;
    at a meeting, or a round:    x and y are mixed by the same doubly stochastic W.

The sum of y_i - g_i over the nodes stays 0. In rounds this is the form x <- W (x - eta y), y <- W y + g' - g (ATC),
of which the next update adds the difference of gradients.

References:
    P. Di Lorenzo, G. Scutari, "NEXT: in-network nonconvex optimization", IEEE Trans. Signal Inf. Process. Netw. 2(2),
    2016.
    T. Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS 2021: reference code.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import MEET, ROUND, UPDATE


@dataclass(frozen=True)
class GradientTracking(Algorithm):
    """Steps along a tracker of the mean gradient, which is mixed as the models are.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> task = {"task.data": {"kind": "linear_regression", "heterogeneity": 1.0}, "local.lr": 0.05, "run.until": 40}
        >>> kinds = ("gossip_sgd", "gradient_tracking")
        >>> runs = [batchednodes.train(ring, task, {"algorithm": {"kind": kind}}) for kind in kinds]
        >>> pulled, tracked = (run.metrics["consensus_distance"].iloc[-1] for run in runs)
        >>> bool(tracked < pulled / 5)  # its own data pull no node away
        True
    """

    fields: ClassVar[dict[str, Field]] = {"y": Field(), "g": Field()}
    emits: ClassVar[tuple[str, ...]] = ("x", "y")
    mixing: ClassVar[Any] = "double"
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x": lambda all_: all_["x"].sum(0),
        "sum of y - g": lambda all_: (all_["y"] - all_["g"]).sum(0),
    }

    def update_(self, r: Rows, k: Context) -> None:
        g = k.grad(r["x"])
        r["y"] = r["y"] + (g - r["g"])
        r["g"] = g
        r["x"] = r["x"] - k.lr * r["y"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, j, x, y = e.actor, e.peer, rows["x"], rows["y"]
        if e.kind == UPDATE:
            g = k.grad(x[i])
            y[i] += g - rows["g"][i]
            rows["g"][i] = g
            x[i] -= k.lr * y[i]
        elif e.kind == MEET:
            for some in (x, y):
                a, b = some[i].clone(), some[j].clone()
                some[i], some[j] = (1 - e.weight) * a + e.weight * b, (1 - e.weight) * b + e.weight * a
        elif e.kind == ROUND:
            for some in (x, y):
                some[e.nodes] = e.matrix @ some[e.nodes]
