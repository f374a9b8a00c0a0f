"""DFedAvgM: decentralized federated averaging, whose local momentum begins anew in each round.

    At an update of i:           what local steps keep (momentum, or moments of an optimizer) is set to 0, then
                                 x_i <- LocalSGD(x_i), `local.steps` or `local.epochs` with `local.momentum`;
    at a contact, or in a round: x_i <- sum_j W_ij x_j.

Reference:
    T. Sun, D. Li, B. Wang, "Decentralized federated averaging", IEEE Trans. Pattern Anal. Mach. Intell. 45(4), 2023,
    Algorithm 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.averages import average_
from batchednodes.algorithms.base import Algorithm, Context, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")


@dataclass(frozen=True)
class DFedAvgM(Algorithm):
    """Local SGD with momentum of its own in each update, and averages.

    Example:
        >>> import batchednodes
        >>> local = {"steps": 5, "momentum": 0.9, "lr": 0.01}
        >>> rounds = {"timing": {"kind": "synchronous"}, "run.until": 5, "algorithm.kind": "dfedavgm"}
        >>> run = batchednodes.train({"network.nodes": 5, "local": local}, rounds)
        >>> first, last = run.metrics["loss_mean"].iloc[[0, -1]]
        >>> bool(last < first / 2)
        True
    """

    averages: ClassVar[bool] = True

    def update_(self, r: Rows, k: Context) -> None:
        r |= {name: torch.zeros_like(r[name]) for name in k.kept}
        r["x"] = k.descend(r["x"])

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x = e.actor, rows["x"]
        if e.kind == UPDATE:
            for name in k.kept:
                rows[name][i] = 0
            x[i] = k.descend(x[i])
        else:
            average_(x, e)
