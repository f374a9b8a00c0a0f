"""DFedSAM: local steps of sharpness-aware minimization, whose gradients are those of the worst model near by.

    At an update of i, for each minibatch:   x_i <- x_i - eta g_i(x_i + rho g_i(x_i) / |g_i(x_i)|),
                                             both gradients of that minibatch;
    at a contact, or in a round:             x_i <- sum_j W_ij x_j.

Weight decay counts as part of the loss.

Reference:
    Y. Shi, L. Shen, K. Wei, Y. Sun, B. Yuan, X. Wang, D. Tao, "Improving the model consistency of decentralized
    federated learning", ICML 2023, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.averages import average_
from batchednodes.algorithms.base import Algorithm, Context, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class DFedSAM(Algorithm):
    """Local sharpness-aware steps, and averages.

    Example:
        >>> import batchednodes
        >>> rounds = {"timing": {"kind": "synchronous"}, "run.until": 5}
        >>> sharp = {"algorithm": {"kind": "dfedsam", "rho": 0.05}, "local": {"steps": 5, "lr": 0.05}}
        >>> run = batchednodes.train({"network.nodes": 5}, rounds, sharp)
        >>> first, last = run.metrics["loss_mean"].iloc[[0, -1]]
        >>> bool(last < first / 2)
        True
    """

    rho: float = 0.01
    """How far the gradient's model is from the node's; non-negative and finite; of the unit of parameters."""

    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.rho, 1, "rho")

    def gradients(self) -> int:
        return 2

    def update_(self, r: Rows, k: Context) -> None:
        def step(x: Any, grad: Any) -> Any:
            g = grad(x)
            return x - k.lr * grad(x + self.rho * g / g.norm(dim=1, keepdim=True).clamp(min=1e-12))

        r["x"] = k.descend_by(r["x"], step)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x = e.actor, rows["x"]
        if e.kind == UPDATE:

            def step(y: Any, grad: Any) -> Any:
                g = grad(y)
                return y - k.lr * grad(y + self.rho * g / max(1e-12, float(g.norm())))

            x[i] = k.descend_by(x[i].clone(), step)
        else:
            average_(x, e)
