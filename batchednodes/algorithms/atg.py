r"""ADMM-tracking gradient: ADMM over the edges of a graph follows the mean model and the mean gradient of all nodes.

Node i keeps two duals of each of its d_i neighbours j, z_ij, which begins at rho x_i, and w_ij, which begins at 0. An
update is

    y = (x + sum_j z_ij) / (1 + rho d_i),    s = (g(x) + sum_j w_ij) / (1 + rho d_i),
    x <- (1 - gamma) x + gamma (y - eta s);

when a message z_ji - 2 rho y_j, w_ji - 2 rho s_j comes,

    z_ij <- (1 - a) z_ij - a (z_ji - 2 rho y_j),    w_ij <- (1 - a) w_ij - a (w_ji - 2 rho s_j).

In rounds all nodes send to all neighbours; at single contacts this is its robust form, which losses only slow down.

Reference:
    G. Carnevale, N. Bastianello, G. Notarstefano, R. Carli, "ADMM-tracking gradient for distributed optimization over
    asynchronous and unreliable networks", IEEE Trans. Autom. Control 70(8), 2025.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.admm import begun, edges_of, exchange_, relaxed, sent
from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class ATG(Algorithm):
    """Gradient descent along means that ADMM tracks.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> task = {"task.data": {"kind": "quadratics"}, "local.lr": 1.0, "run.until": 100, "dtype": "float64"}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "atg", "gamma": 0.5}})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though the nodes' own optima differ
        True
    """

    penalty: float = 1.0
    """Rho, weight of the constraint; positive and finite; dimensionless."""
    relaxation: float = 0.5
    """A, how far duals move; in (0, 1); dimensionless."""
    gamma: float = 0.1
    """How far a model moves to where the means lead; in (0, 1]; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {
        "y": Field(start="model"),
        "s": Field(),
        "z": Field(lives="edge"),
        "w": Field(lives="edge"),
    }
    emits: ClassVar[tuple[str, ...]] = ("z", "w")
    descends: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.penalty, 1, "penalty", open_low=True)
        number(self.relaxation, 1, "relaxation", high=1.0, open_low=True)
        number(self.gamma, 1, "gamma", high=1.0, open_low=True, open_high=False)

    def update_(self, r: Rows, k: Context) -> None:
        x, here = r["x"], k.neighbours.unsqueeze(2).to(r["x"].dtype)
        z = begun(r["z"], self.penalty * x, k)
        weight = 1 + self.penalty * here.sum(1)
        r["y"] = (x + (here * z).sum(1)) / weight
        r["s"] = (k.grad(x) + (here * r["w"]).sum(1)) / weight
        r["x"] = (1 - self.gamma) * x + self.gamma * (r["y"] - k.lr * r["s"])
        r["z"] = z

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"z": sent(r["z"], r["y"], self.penalty), "w": sent(r["w"], r["s"], self.penalty)}

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        for name in ("z", "w"):
            r[name] = relaxed(r[name], mixed[name], self.relaxation, k)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind != UPDATE:
            exchange_(rows, e, self.penalty, self.relaxation, {"z": "y", "w": "s"})
            return
        i, x = e.actor, rows["x"][e.actor].clone()
        mine = [at for at, (node, _) in enumerate(edges_of(e)) if node == i]
        if k.count == 0:
            rows["z"][mine] = self.penalty * x
        y = (x + rows["z"][mine].sum(0)) / (1 + self.penalty * len(mine))
        s = (k.grad(x) + rows["w"][mine].sum(0)) / (1 + self.penalty * len(mine))
        rows["y"][i], rows["s"][i] = y, s
        rows["x"][i] += self.gamma * (y - k.lr * s - x)
