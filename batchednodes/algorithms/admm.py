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

from collections.abc import Mapping
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
    emits: ClassVar[tuple[str, ...]] = ("z",)
    descends: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.penalty, 1, "penalty", open_low=True)
        number(self.relaxation, 1, "relaxation", high=1.0, open_low=True, open_high=False)
        count(self.inner, 1, "inner")

    def gradients(self) -> int:
        return self.inner

    def update_(self, r: Rows, k: Context) -> None:
        here, x = k.neighbours.unsqueeze(2).to(r["x"].dtype), r["x"]
        pull, weight = (here * r["z"]).sum(1), self.penalty * here.sum(1)
        for _ in range(self.inner):
            x = x - k.lr * (k.grad(x) + weight * x - pull)
        r["x"] = x

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"z": sent(r["z"], r["x"], self.penalty)}

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["z"] = relaxed(r["z"], mixed["z"], self.relaxation, k)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind != UPDATE:
            exchange_(rows, e, self.penalty, self.relaxation, {"z": "x"})
            return
        mine, x = [at for at, (node, _) in enumerate(edges_of(e)) if node == e.actor], rows["x"][e.actor].clone()
        pull = rows["z"][mine].sum(0)
        for _ in range(self.inner):
            x = x - k.lr * (k.grad(x) + self.penalty * len(mine) * x - pull)
        rows["x"][e.actor] = x


def sent(z: Any, x: Any, penalty: float) -> Any:
    """Returns z - 2 rho x, what a node sends to each neighbour: of a contact [w, p]; to all of them [w, d, p]."""
    return z - 2 * penalty * (x if z.dim() == 2 else x.unsqueeze(1))


def relaxed(z: Any, came: Any, relaxation: float, k: Context) -> Any:
    """Returns (1 - a) z - a came; in a round [w, d, p] z itself of neighbours that W lets send nothing."""
    new = (1 - relaxation) * z - relaxation * came
    return new if z.dim() == 2 else new.where((k.weights != 0).unsqueeze(2), z)


def begun(z: Any, start: Any, k: Context) -> Any:
    """Returns duals [w, d, p]; at the first update of a node a value [w, p], the same for all neighbours."""
    return start.unsqueeze(1).where((k.count == 0).unsqueeze(2), z)


def edges_of(e: Any) -> list[tuple[int, int]]:
    """Returns node and neighbour of each directed edge of an event, in the order of their rows."""
    n = e.edges.begins.numel() - 1
    return [divmod(key, n) for key in e.edges.keys.tolist()]


def exchange_(rows: Rows, e: Any, penalty: float, relaxation: float, of: Mapping[str, str]) -> None:
    """Does to one contact or round what messages of ADMM do, in plain PyTorch.

    Args:
        rows: changed.
        e: the event.
        penalty: rho.
        relaxation: a.
        of: names of duals -> names of the rows that are to agree.
    """
    edges, first = edges_of(e), e.nodes.start
    lines = {PUSH: [(e.actor, e.peer)], MEET: [(e.actor, e.peer), (e.peer, e.actor)]}.get(e.kind, [])
    if e.kind == ROUND:
        inside = [edge for edge in edges if first <= edge[0] < e.nodes.stop]
        lines = [(origin, to) for origin, to in inside if e.matrix[to - first, origin - first]]
    for z, x in of.items():
        before = rows[z].clone()
        for origin, to in lines:
            there, back = edges.index((to, origin)), edges.index((origin, to))
            came = before[back] - 2 * penalty * rows[x][origin]
            rows[z][there] = (1 - relaxation) * before[there] - relaxation * came
