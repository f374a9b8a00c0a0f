r"""ADMM over the edges of a graph: consensus as a constraint, by one dual vector for each node and neighbour.

Node i keeps z_ij of each of its d_i neighbours j, 0 at the start. At an update, from x = x_i on, `inner` times

    x <- x - eta (g_i(x) + rho d_i x - sum_j z_ij),

towards the x that minimises f_i(x) + rho d_i |x|^2 / 2 - <x, sum_j z_ij>; when a message z_ji - 2 rho x_j comes,

    z_ij <- (1 - a) z_ij - a (z_ji - 2 rho x_j).

In rounds all nodes send to all neighbours; at single contacts this is its randomized form, which losses only slow down.

Reference:
    N. Bastianello, R. Carli, L. Schenato, M. Todescato, "Asynchronous distributed optimization over lossy networks via
    relaxed ADMM: stability and linear convergence", IEEE Trans. Autom. Control 66(6), 2021, Algorithm 2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import MEET, PUSH, ROUND, UPDATE
from batchednodes.numerics.values import count, number


@dataclass(frozen=True)
class ADMM(Algorithm):
    """The alternating direction method of multipliers, relaxed, with a few gradient steps for its minimisation.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 6, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> task = {"task.data": {"kind": "quadratics"}, "local.lr": 0.1, "run.until": 150}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "admm", "inner": 5}})
        >>> bool(run.metrics["suboptimality"].iloc[-1] < 1e-3 * run.metrics["suboptimality"].iloc[0])
        True
    """

    penalty: float = 0.5
    """Rho, weight of the constraint; positive and finite; of the dimension of a curvature."""
    relaxation: float = 0.5
    """A, how far duals move; in (0, 1]; dimensionless."""
    inner: int = 10
    """Gradient steps of an update; at least 1."""

    fields: ClassVar[dict[str, Field]] = {"z": Field(lives="edge")}
    descends: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.penalty, 1, "penalty", open_low=True)
        number(self.relaxation, 1, "relaxation", high=1.0, open_low=True, open_high=False)
        count(self.inner, 1, "inner")

    def update_(self, r: Rows, k: Context) -> None:
        here, x = k.neighbours.unsqueeze(2).to(r["x"].dtype), r["x"]
        pull, weight = (here * r["z"]).sum(1), self.penalty * here.sum(1)
        for _ in range(self.inner):
            x = x - k.lr * (k.grad(x) + weight * x - pull)
        r["x"] = x

    def emit_(self, r: Rows, k: Context) -> Rows:
        x = r["x"] if r["z"].dim() == 2 else r["x"].unsqueeze(1)  # of a contact; of all neighbours
        return {"z": r["z"] - 2 * self.penalty * x}

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["z"] = (1 - self.relaxation) * r["z"] - self.relaxation * mixed["z"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, n = e.actor, e.edges.begins.numel() - 1
        edges = [divmod(key, n) for key in e.edges.keys.tolist()]
        if e.kind == UPDATE:
            mine, x = [at for at, (node, _) in enumerate(edges) if node == i], rows["x"][i].clone()
            pull = rows["z"][mine].sum(0)
            for _ in range(self.inner):
                x = x - k.lr * (k.grad(x) + self.penalty * len(mine) * x - pull)
            rows["x"][i] = x
            return
        lines = {PUSH: [(i, e.peer)], MEET: [(i, e.peer), (e.peer, i)]}.get(e.kind, edges)
        before = rows["z"].clone()
        for origin, to in lines:
            if e.kind == ROUND and origin not in range(e.nodes.start, e.nodes.stop):
                continue
            there, back = edges.index((to, origin)), edges.index((origin, to))
            came = before[back] - 2 * self.penalty * rows["x"][origin]
            rows["z"][there] = (1 - self.relaxation) * before[there] - self.relaxation * came
