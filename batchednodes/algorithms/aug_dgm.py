"""Aug-DGM, or ATC-DIGing: gradient tracking whose tracker is averaged before it is used, after each gradient.

Node i keeps a tracker y_i and its last gradient g_i, 0 at the start. A round has two exchanges,

    y <- W (y + g(x) - g), the first time y <- g(x);    g <- g(x);    then x <- W (x - eta y),

where `gradient_tracking` has one, of both. The sum of y_i - g_i over the nodes stays 0. Step sizes may differ.

References:
    J. Xu, S. Zhu, Y. C. Soh, L. Xie, "Augmented distributed gradient methods for multi-agent optimization under
    uncoordinated constant stepsizes", CDC 2015.
    A. Nedic, A. Olshevsky, W. Shi, C. A. Uribe, "Geometrically convergent distributed optimization with uncoordinated
    step-sizes", ACC 2017: ATC-DIGing.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE


@dataclass(frozen=True)
class AugDGM(Algorithm):
    """The augmented distributed gradient method, in synchronous rounds of two exchanges.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 4, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local.lr": [0.4, 0.6, 0.8, 1.0], "run.until": 50}
        >>> run = batchednodes.train(ring, task, {"algorithm.kind": "aug_dgm"})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though each has a step size of its own
        True
    """

    fields: ClassVar[dict[str, Field]] = {"y": Field(), "g": Field(), "eta": Field(width=1), "begun": Field(width=1)}
    emits: ClassVar[tuple[str, ...]] = ("y",)
    mixes_after: ClassVar[tuple[str, ...]] = ("x",)
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {"sum of y - g": lambda all_: (all_["y"] - all_["g"]).sum(0)}

    def update_(self, r: Rows, k: Context) -> None:
        g = k.grad(r["x"])
        r["y"] = r["y"] + (g - r["g"])
        r["g"], r["eta"] = g, k.lr

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["y"] = mixed["y"].where(r["begun"] > 0, r["y"])
        r["begun"] = 0 * r["begun"] + 1
        r["x"] = r["x"] - r["eta"] * r["y"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, y = e.actor, rows["x"], rows["y"]
        if e.kind == UPDATE:
            g = k.grad(x[i])
            y[i] += g - rows["g"][i]
            rows["g"][i], rows["eta"][i] = g, k.lr
        elif e.kind == ROUND:
            if rows["begun"][e.nodes].any():
                y[e.nodes] = e.matrix @ y[e.nodes]
            rows["begun"][e.nodes] = 1
            x[e.nodes] = e.matrix @ (x[e.nodes] - rows["eta"][e.nodes] * y[e.nodes])
