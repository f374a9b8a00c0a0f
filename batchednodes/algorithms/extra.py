"""EXTRA: decentralized gradient descent that adds up how far averages moved models, and so is exact.

Node i keeps y_i, 0 at the start, and the step d_i that waits for the average. A round is

    d = -eta g(x),    x' = W x + y + d,    y <- y + theta (W x - x),    x <- x',

the same as x'' = x' + W x' - W~ x - eta (g' - g) with the paper's second matrix W~ = (1 - theta) W + theta I, which is
(I + W) / 2 by default. The sum of y_i over the nodes stays 0. With theta = 1, where y is the whole integral of what
averages moved, the same is x <- s' - s + W x of steps s' = x - eta g(x): decent-bench's SimpleGT.

Reference:
    W. Shi, Q. Ling, G. Wu, W. Yin, "EXTRA: an exact first-order algorithm for decentralized consensus optimization",
    SIAM J. Optim. 25(2), 2015.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class EXTRA(Algorithm):
    """The exact first-order algorithm, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 8, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local.lr": 0.3, "run.until": 300}
        >>> run = batchednodes.train(ring, task, {"algorithm.kind": "extra", "dtype": "float64"})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though the nodes' own optima differ
        True
    """

    theta: float = 0.5
    """Part of what an average moves that is added up; in (0, 1]; dimensionless; proofs in the paper are up to 1/2."""

    fields: ClassVar[dict[str, Field]] = {"y": Field(), "d": Field()}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x + d": lambda all_: (all_["x"] + all_["d"]).sum(0),
        "sum of y": lambda all_: all_["y"].sum(0),
    }

    def __post_init__(self) -> None:
        number(self.theta, 1, "theta", high=1.0, open_low=True, open_high=False)

    def update_(self, r: Rows, k: Context) -> None:
        r["d"] = -k.lr * k.grad(r["x"])

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        moved = mixed["x"] - r["x"]
        r["x"] = mixed["x"] + r["y"] + r["d"]
        r["y"] = r["y"] + self.theta * moved
        r["d"] = 0 * r["d"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind == UPDATE:
            rows["d"][e.actor] = -k.lr * k.grad(rows["x"][e.actor])
        elif e.kind == ROUND:
            x, y, d = (rows[name][e.nodes] for name in ("x", "y", "d"))
            moved = e.matrix @ x - x
            x += moved + y + d
            y += self.theta * moved
            d.zero_()
