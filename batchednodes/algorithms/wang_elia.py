"""The algorithm of Wang and Elia: gradient descent under proportional and integral control of disagreement.

Node i keeps z_i, 0 at the start, and the step d_i that waits for the average. A round is, with K = (I - W) / 2,

    d = -eta g(x),    x' = x - K (x + z) + d,    z <- z + K x,    x <- x'.

The sums of z_i and, but for the steps, of x_i over the nodes stay as they are. Both x and z are sent.

References:
    J. Wang, N. Elia, "Control approach to distributed optimization", Allerton 2010.
    M. Bin, I. Notarnicola, T. Parisini, "Stability, linear convergence, and robustness of the Wang-Elia algorithm for
    distributed consensus optimization", CDC 2022.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE


@dataclass(frozen=True)
class WangElia(Algorithm):
    """Distributed gradient descent as a control loop, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 5, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local.lr": 0.3, "run.until": 100}
        >>> run = batchednodes.train(ring, task, {"algorithm.kind": "wang_elia", "dtype": "float64"})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # though the nodes' own optima differ
        True
    """

    fields: ClassVar[dict[str, Field]] = {"z": Field(), "d": Field()}
    emits: ClassVar[tuple[str, ...]] = ("x", "z")
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x + d": lambda all_: (all_["x"] + all_["d"]).sum(0),
        "sum of z": lambda all_: all_["z"].sum(0),
    }

    def update_(self, r: Rows, k: Context) -> None:
        r["d"] = -k.lr * k.grad(r["x"])

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        apart, z = (r["x"] - mixed["x"]) / 2, (r["z"] - mixed["z"]) / 2
        r["x"] = r["x"] - apart - z + r["d"]
        r["z"] = r["z"] + apart
        r["d"] = 0 * r["d"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind == UPDATE:
            rows["d"][e.actor] = -k.lr * k.grad(rows["x"][e.actor])
        elif e.kind == ROUND:
            x, z, d = (rows[name][e.nodes] for name in ("x", "z", "d"))
            control = (e.matrix.new_ones(len(x)).diag() - e.matrix) / 2
            before = x.clone()
            x += d - control @ (x + z)
            z += control @ before
            d.zero_()
