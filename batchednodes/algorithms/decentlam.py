"""DecentLaM: momentum of the step that mixing and gradient make together, so that it adds no bias to theirs.

In a round, with x_j and g_j of its beginning,

    z_i = sum_j W_ij (x_j - eta g_j(x_j)),  m_i <- beta m_i + (x_i - z_i) / eta,  x_i <- x_i - eta m_i.

So x_i <- z_i - eta beta m_i with the momentum before, and eta m_i is how far the model moved in the round before: no
division by eta is needed. Node i keeps the model o_i of the last round's beginning and its step size; its row of x is
z_i, and waits for a step s_i = eta beta m_i that its model has made: the model is x_i - s_i.

Reference:
    K. Yuan, Y. Chen, X. Huang, Y. Zhang, P. Pan, Y. Xu, W. Yin, "DecentLaM: decentralized momentum SGD for large-batch
    deep training", ICCV 2021, Algorithm 2.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import number

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")


@dataclass(frozen=True)
class DecentLaM(Algorithm):
    """Heavy-ball steps along what mixing and gradients make together, in rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> task = {"task.data": {"kind": "linear_regression"}, "local.lr": 0.02, "run.until": 40}
        >>> runs = [batchednodes.train(ring, task, {"algorithm.kind": kind}) for kind in ("gossip_sgd", "decentlam")]
        >>> plain, faster = (run.metrics["loss_mean_model"].iloc[-1] for run in runs)
        >>> bool(faster < plain / 2)
        True
    """

    beta: float = 0.9
    """Decay of the momentum, 0 <= beta < 1; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {"old": Field(start="model"), "step": Field(), "eta": Field(width=1)}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def __post_init__(self) -> None:
        number(self.beta, 1, "beta", high=1.0)

    def update_(self, r: Rows, k: Context) -> None:
        x = self.model(r)
        change = torch.where(r["eta"] > 0, k.lr / r["eta"], 1.0)  # of a schedule
        r["step"] = self.beta * change * (r["old"] - x)
        r["x"] = x - k.lr * k.grad(x)
        r["old"], r["eta"] = x, k.lr

    def model(self, r: Rows) -> Any:
        return r["x"] - r["step"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x = e.actor, rows["x"]
        if e.kind == UPDATE:
            old, step, eta = (rows[name][i] for name in ("old", "step", "eta"))
            x[i] -= step
            m = (old - x[i]) / eta if eta > 0 else torch.zeros_like(old)
            step.copy_(k.lr * self.beta * m)
            old.copy_(x[i])
            eta.fill_(k.lr)
            x[i] -= k.lr * k.grad(old)
        else:
            x[e.nodes] = e.matrix @ x[e.nodes]
