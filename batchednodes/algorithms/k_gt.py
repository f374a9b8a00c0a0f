r"""K-GT: gradient tracking with several local steps, whose sum is tracked.

Node i keeps a correction c_i, 0 at the start. A round is, with K = `local.steps`,

    v <- x, then K times v <- v - eta (g(v) + c);    z = (x - v) / (K eta);
    c <- c - z + W z,    x <- W (x - s K eta z).

Here a row holds c - z and, beside the model, z, which is mixed as the model is; their sum is c after the average. The
sum of c_i over the nodes stays 0. With K = s = 1 this is gradient tracking, of which z is the tracker.

Reference:
    Y. Liu, T. Lin, A. Koloskova, S. U. Stich, "Decentralized gradient tracking with local steps", Optim. Methods
    Softw., 2024.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.numerics.values import number

LEAST = 2.0**-126
"""Added to a step size, which it does not change unless that is 0; then no step is tracked."""


@dataclass(frozen=True)
class KGT(Algorithm):
    """Gradient tracking with local steps, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 8, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local": {"lr": 0.05, "steps": 4}, "run.until": 600}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "k_gt", "share": 0.5}})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # in spite of local steps
        True
    """

    share: float = 1.0
    """s, the share of the local steps that a model takes; positive; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {"c": Field(), "z": Field()}
    emits: ClassVar[tuple[str, ...]] = ("x", "z")
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x": lambda all_: all_["x"].sum(0),
        "sum of c": lambda all_: (all_["c"] + all_["z"]).sum(0),
    }

    def __post_init__(self) -> None:
        number(self.share, 1, "share", open_low=True)

    def update_(self, r: Rows, k: Context) -> None:
        c = r["c"] + r["z"]
        moved = r["x"] - k.descend_by(r["x"], lambda x, grad: x - k.lr * (grad(x) + c))
        r["z"] = moved / (k.steps * k.lr + LEAST)
        r["c"] = c - r["z"]
        r["x"] = r["x"] - self.share * moved

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, c, z = e.actor, rows["x"], rows["c"], rows["z"]
        if e.kind == UPDATE:
            c[i] += z[i]
            v = k.descend_by(x[i].clone(), lambda y, grad: y - k.lr * (grad(y) + c[i]))
            z[i] = (x[i] - v) / (k.steps * k.lr + LEAST)
            c[i] -= z[i]
            x[i] += self.share * (v - x[i])
        elif e.kind == ROUND:
            for some in (x, z):
                some[e.nodes] = e.matrix @ some[e.nodes]
