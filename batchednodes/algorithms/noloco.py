"""NoLoCo: DiLoCo without an all-reduce: two nodes at a time average slow models and what they have learned since.

Node i keeps a slow model s_i, that from which it began to learn, and a momentum m_i, 0 at the start.

    At an update of i:                     x_i <- LocalSGD(x_i), by any optimizer;
    at a meeting, or a round, of which the means are s and x, by W:
                                           m_i <- momentum m_i + lr (x - s) + pull (s - s_i),
                                           s_i <- s_i + m_i, x_i <- s_i.

Meetings of pairs after their local steps are `timing: {kind: synchronous}` on `network.topology: {kind:
random_matching}`, or in continuous time `gossip.clock: {kind: at_update, order: after}`.

Reference:
    J. Kolehmainen, N. Blagoev, J. Donaghy, O. Ersoy, C. Nies, "NoLoCo: no-all-reduce low communication training method
    for large models", arXiv 2506.10911, 2025.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import MEET, UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class NoLoCo(Algorithm):
    """Outer steps with momentum along the mean progress of two nodes, which draw their slow models together.

    Example:
        >>> import batchednodes
        >>> pairs = {"network.topology.kind": "random_matching", "timing": {"kind": "synchronous"}}
        >>> local = {"steps": 10, "lr": 1e-3, "optimizer": {"kind": "adam"}}
        >>> method = {"algorithm": {"kind": "noloco"}, "local": local}
        >>> run = batchednodes.train({"network.nodes": 8, "run.until": 20}, pairs, method)
        >>> first, last = run.metrics["loss_mean"].iloc[[0, -1]]
        >>> bool(last < first / 2)
        True
    """

    lr: float = 0.7
    """Part of the mean progress that is taken; non-negative and finite; dimensionless."""

    momentum: float = 0.9
    """Decay of the momentum, 0 <= momentum < 1; dimensionless."""

    pull: float | None = None
    """Part of the way to the mean slow model; non-negative and finite; dimensionless; null: lr."""

    fields: ClassVar[dict[str, Field]] = {"slow": Field(start="model"), "m": Field()}
    emits: ClassVar[tuple[str, ...]] = ("x", "slow")
    mixing: ClassVar[Any] = "double"
    spares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number(self.lr, 1, "lr")
        number(self.momentum, 1, "momentum", high=1.0)
        if self.pull is not None:
            number(self.pull, 1, "pull")

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        pull = self.lr if self.pull is None else self.pull
        ahead = self.lr * (mixed["x"] - mixed["slow"]) + pull * (mixed["slow"] - r["slow"])
        r["m"] = self.momentum * r["m"] + ahead
        r["slow"] = r["slow"] + r["m"]
        r["x"] = r["slow"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x, slow, m = (rows[name] for name in ("x", "slow", "m"))
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
            return
        some, w = [e.actor, e.peer], e.weight
        matrix = x.new_tensor([[1 - w, w], [w, 1 - w]]) if e.kind == MEET else e.matrix
        some = some if e.kind == MEET else e.nodes
        fast, start = matrix @ x[some], matrix @ slow[some]
        pull = self.lr if self.pull is None else self.pull
        m[some] = self.momentum * m[some] + self.lr * (fast - start) + pull * (start - slow[some])
        slow[some] += m[some]
        x[some] = slow[some]
