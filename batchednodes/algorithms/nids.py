r"""NIDS: exact gradient descent over a network, in which each node may have a step size of its own.

Node i keeps s_i, what the last step made of its model. The first round is x <- s = x - eta g(x); each other one

    s' = x - eta g(x),    phi = s' + x - s,    x <- phi - c_i (phi - W phi),    s <- s',

with c_i = 1/2, so that I - c (I - W) = (I + W) / 2; or, for step sizes eta_i of their own, c_i = c eta_i with a common
c of at most 1 / (2 max_i eta_i): then sum_i x_i / eta_i is kept, and the limit is the optimum whatever the eta_i are.

Reference:
    Z. Li, W. Shi, M. Yan, "A decentralized proximal-gradient method with network independent step-sizes and separated
    convergence rates", IEEE Trans. Signal Process. 67(17), 2019, equation (9), without proximal term.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class NIDS(Algorithm):
    """Network-independent step sizes, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 4, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local.lr": [0.2, 0.4, 0.6, 0.8], "run.until": 300}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "nids", "c": 0.6}})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though each has a step size of its own
        True
    """

    c: float | None = None
    """c of I - c eta_i (I - W); positive, at most 1 / (2 max eta_i) in sound runs; dimensionless; null: (I + W) / 2,
    for step sizes that are all the same."""

    fields: ClassVar[dict[str, Field]] = {"s": Field(start="model"), "share": Field(width=1)}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.c is not None:
            number(self.c, 1, "c", open_low=True)

    def update_(self, r: Rows, k: Context) -> None:
        s = r["x"] - k.lr * k.grad(r["x"])
        r["x"] = s + (r["x"] - r["s"])
        r["s"] = s
        share = 0.5 if self.c is None else self.c * k.lr
        r["share"] = share * (k.count > 0).to(s.dtype)

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = r["x"] - r["share"] * (r["x"] - mixed["x"])

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, s = e.actor, rows["x"], rows["s"]
        if e.kind == UPDATE:
            adapted = x[i] - k.lr * k.grad(x[i])
            x[i] += adapted - s[i]
            s[i] = adapted
            rows["share"][i] = (0.5 if self.c is None else self.c * k.lr) if k.count else 0.0
        elif e.kind == ROUND:
            share = rows["share"][e.nodes]
            x[e.nodes] = (1 - share) * x[e.nodes] + share * (e.matrix @ x[e.nodes])
