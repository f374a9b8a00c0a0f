"""Exact diffusion: D2 with (I + W) / 2 in place of W, so that any doubly stochastic, symmetric W will do.

Node i keeps s_i, what the last step made of its model before it was averaged, its model at the start. A round is

    s' = x - eta g(x),    phi = s' + x - s,    x <- (phi + W phi) / 2,    s <- s'.

The sum of x_i - s_i over the nodes stays 0 from round to round.

Reference:
    K. Yuan, B. Ying, X. Zhao, A. H. Sayed, "Exact diffusion for distributed optimization and learning", parts I and II,
    IEEE Trans. Signal Process. 67(3), 2019.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE


@dataclass(frozen=True)
class ExactDiffusion(Algorithm):
    """Adapt, correct, combine, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 8, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local.lr": 0.5, "run.until": 200}
        >>> run = batchednodes.train(ring, task, {"algorithm.kind": "exact_diffusion"})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though the nodes' own optima differ
        True
    """

    fields: ClassVar[dict[str, Field]] = {"s": Field(start="model")}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def update_(self, r: Rows, k: Context) -> None:
        s = r["x"] - k.lr * k.grad(r["x"])
        r["x"] = s + (r["x"] - r["s"])
        r["s"] = s

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = (r["x"] + mixed["x"]) / 2

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, s = e.actor, rows["x"], rows["s"]
        if e.kind == UPDATE:
            adapted = x[i] - k.lr * k.grad(x[i])
            x[i] += adapted - s[i]
            s[i] = adapted
        elif e.kind == ROUND:
            half = (e.matrix + e.matrix.new_ones(len(x[e.nodes])).diag()) / 2
            x[e.nodes] = half @ x[e.nodes]
