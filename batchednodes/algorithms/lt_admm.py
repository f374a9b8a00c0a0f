r"""LT-ADMM: ADMM over the edges of a graph, with local training in place of its minimisation.

Node i keeps z_ij of each of its d_i neighbours j, rho x_i at the start. A round is

    c = beta (rho d_i x - sum_j z_ij),    then `local.steps` times x <- x - eta g(x) - c,
    z_ij <- (1 - a) z_ij - a (z_ji - 2 rho x_j).

The pull c is that of the model from which an update begins; that of `admm` follows each of its steps.

Reference:
    X. Ren, N. Bastianello, K. H. Johansson, T. Parisini, "Communication-efficient stochastic distributed learning",
    arXiv 2501.13516, 2025, without variance reduction.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.admm import begun, edges_of, exchange_, relaxed, sent
from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class LTADMM(Algorithm):
    """ADMM with local training, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> task = {"task.data": {"kind": "quadratics"}, "local": {"lr": 0.2, "steps": 4}, "run.until": 50}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "lt_admm", "beta": 0.1}})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # in spite of local steps
        True
    """

    beta: float = 0.1
    """Step size of the pull to the neighbours; positive and finite; of the dimension of a step size."""
    penalty: float = 1.0
    """Rho, weight of the constraint; positive and finite; of the dimension of a curvature."""
    relaxation: float = 0.5
    """A, how far duals move; in (0, 1]; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {"z": Field(lives="edge")}
    emits: ClassVar[tuple[str, ...]] = ("z",)
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("beta", "penalty"):
            number(getattr(self, name), 1, name, open_low=True)
        number(self.relaxation, 1, "relaxation", high=1.0, open_low=True, open_high=False)

    def update_(self, r: Rows, k: Context) -> None:
        x, here = r["x"], k.neighbours.unsqueeze(2).to(r["x"].dtype)
        r["z"] = begun(r["z"], self.penalty * x, k)
        pull = self.beta * (self.penalty * here.sum(1) * x - (here * r["z"]).sum(1))
        r["x"] = k.descend_by(x, lambda x, grad: x - k.lr * grad(x) - pull)

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"z": sent(r["z"], r["x"], self.penalty)}

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["z"] = relaxed(r["z"], mixed["z"], self.relaxation, k)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind != UPDATE:
            exchange_(rows, e, self.penalty, self.relaxation, {"z": "x"})
            return
        x = rows["x"][e.actor].clone()
        mine = [at for at, (node, _) in enumerate(edges_of(e)) if node == e.actor]
        if k.count == 0:
            rows["z"][mine] = self.penalty * x
        pull = self.beta * (self.penalty * x - rows["z"][mine]).sum(0)
        rows["x"][e.actor] = k.descend_by(x, lambda x, grad: x - k.lr * grad(x) - pull)
