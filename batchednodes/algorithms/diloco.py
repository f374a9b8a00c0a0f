"""DiLoCo: many local steps of one optimizer, then one step of another, with Nesterov momentum, along what they changed.

All nodes begin a round from the same model x. A server would keep x and the outer momentum u: here all nodes hold the
same.

    At an update of i:     x_i <- what H = local.steps steps of `local.optimizer` make of x; its moments stay at i;
    in a round:            D = x - 1/n sum_j x_j,    u <- beta u + D,    x <- x - s (D + beta u), and x_i <- x.

With beta = 0 and s = 1 this is local steps and the mean of all models.

Reference:
    A. Douillard, Q. Feng, A. A. Rusu, R. Chhaparia, Y. Donchev, A. Kuncoro, M. Ranzato, A. Szlam, J. Shen, "DiLoCo:
    distributed low-communication training of language models", 2023, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number
from batchednodes.topology import GlobalMean, RoundLaw, RoundWeights


@dataclass(frozen=True)
class DiLoCo(Algorithm):
    """Inner steps at each node, outer steps with Nesterov momentum for all, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> rounds = {"network.nodes": 4, "timing": {"kind": "synchronous"}, "run.until": 10}
        >>> inner = {"optimizer": {"kind": "adamw"}, "steps": 20, "lr": 0.01}
        >>> run = batchednodes.train(rounds, {"algorithm": {"kind": "diloco"}, "local": inner})
        >>> loss = run.metrics["loss_mean"]
        >>> bool(loss.iloc[-1] < loss.iloc[0] / 2)
        True
    """

    step: float = 0.7
    """Step size of the outer optimizer s [dimensionless]; positive and finite."""

    momentum: float = 0.9
    """Its momentum beta [dimensionless]; 0 <= momentum < 1."""

    fields: ClassVar[dict[str, Field]] = {"base": Field(start="model"), "u": Field()}
    emits: ClassVar[tuple[str, ...]] = ("x", "base")
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    spares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number(self.step, 1, "step", open_low=True)
        number(self.momentum, 1, "momentum", high=1.0)

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return GlobalMean(weights.n, seed)

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        d = mixed["base"] - mixed["x"]
        r["u"] = self.momentum * r["u"] + d
        r["x"] = r["base"] = mixed["base"] - self.step * (d + self.momentum * r["u"])

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x, base, u = rows["x"], rows["base"], rows["u"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
            return
        start = base[e.nodes].mean(0)
        d = start - x[e.nodes].mean(0)
        u[e.nodes] = u[e.nodes] * self.momentum + d
        x[e.nodes] = base[e.nodes] = start - self.step * d - self.step * self.momentum * u[e.nodes]
