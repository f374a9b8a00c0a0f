"""Quasi-global momentum: a node's momentum follows where its model goes, mixing included, in place of its gradients.

Node i keeps m_i, 0 at the start, and o_i, the model from which its last update began.

    At an update of i:           m_i <- mu m_i + (1 - mu) (o_i - x_i) / eta, o_i <- x_i,
                                 d_i = beta m_i + g_i(x_i), with nesterov d_i <- g_i(x_i) + beta d_i,
                                 x_i <- x_i - eta d_i;
    at a contact, or in a round: x_i <- sum_j W_ij x_j.

So m_i takes in each move of the model once, at the next update: in rounds this is the published form, whose momentum is
made after the mixing; between single contacts it is the move of all contacts since the last update together, over the
step size of that update. The first update has seen none, and takes m_i = 0.

The form x - eta (mu m + g) / (1 + mu) of other codes is this one with eta / (1 + mu) for eta, beta = mu / (1 + mu).

Reference:
    T. Lin, S. P. Karimireddy, S. U. Stich, M. Jaggi, "Quasi-global momentum: accelerating decentralized deep learning
    on heterogeneous data", ICML 2021, Algorithm 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.averages import average_
from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import number

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")


@dataclass(frozen=True)
class QuasiGlobal(Algorithm):
    """Heavy-ball steps by the momentum of the mixed models.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> task = {"task.data": {"kind": "linear_regression", "heterogeneity": 1.0}, "local.lr": 5e-3, "run.until": 40}
        >>> runs = [batchednodes.train(ring, task, {"algorithm.kind": kind}) for kind in ("gossip_sgd", "quasi_global")]
        >>> plain, faster = (run.metrics["loss_mean_model"].iloc[-1] for run in runs)
        >>> bool(faster < plain / 2)
        True
    """

    beta: float = 0.9
    """Weight of the momentum in a step, 0 <= beta < 1; dimensionless."""

    mu: float = 0.9
    """Decay of the momentum, 0 <= mu < 1; dimensionless."""

    nesterov: bool = False
    """Whether a step looks ahead by the momentum (Nesterov)."""

    fields: ClassVar[dict[str, Field]] = {"m": Field(), "old": Field(start="model"), "eta": Field(width=1)}
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.beta, 1, "beta", high=1.0)
        number(self.mu, 1, "mu", high=1.0)

    def update_(self, r: Rows, k: Context) -> None:
        moved = torch.where(r["eta"] > 0, (r["old"] - r["x"]) / r["eta"], 0.0)
        r["m"] = self.mu * r["m"] + (1 - self.mu) * moved
        g = k.grad(r["x"])
        d = self.beta * r["m"] + g
        r["old"], r["eta"] = r["x"], k.lr
        r["x"] = r["x"] - k.lr * (g + self.beta * d if self.nesterov else d)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x = e.actor, rows["x"]
        if e.kind == UPDATE:
            m, old, eta = (rows[name][i] for name in ("m", "old", "eta"))
            m *= self.mu
            if eta > 0:
                m += (1 - self.mu) * (old - x[i]) / eta
            old.copy_(x[i])
            eta.fill_(k.lr)
            g = k.grad(old)
            x[i] = old - k.lr * (self.beta * m + g if not self.nesterov else g + self.beta * (self.beta * m + g))
        else:
            average_(x, e)
