"""LED, local exact diffusion: several local steps between averages, with a correction that makes them exact.

Node i keeps y_i, 0 at the start. A round is

    phi <- x, then `local.steps` times phi <- phi - eta g(phi) - beta y;    x <- W phi,    y <- y + phi - x.

The sum of y_i over the nodes stays 0.

Reference:
    S. A. Alghunaim, "Local exact-diffusion for decentralized optimization and learning", IEEE Trans. Autom. Control 69,
    2024.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.numerics.values import number


@dataclass(frozen=True)
class LED(Algorithm):
    """Local exact diffusion, in synchronous rounds.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 8, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local": {"lr": 0.1, "steps": 4}, "run.until": 300}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "led", "beta": 0.1}})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # in spite of local steps
        True
    """

    beta: float = 0.1
    """Part of the correction that each local step takes; positive; dimensionless; at most 1 / local.steps in sound
    runs."""

    fields: ClassVar[dict[str, Field]] = {"y": Field()}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x": lambda all_: all_["x"].sum(0),
        "sum of y": lambda all_: all_["y"].sum(0),
    }

    def __post_init__(self) -> None:
        number(self.beta, 1, "beta", open_low=True)

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = k.descend_by(r["x"], lambda x, grad: x - k.lr * grad(x) - self.beta * r["y"])

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["y"] = r["y"] + (r["x"] - mixed["x"])
        r["x"] = mixed["x"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, y = e.actor, rows["x"], rows["y"]
        if e.kind == UPDATE:
            x[i] = k.descend_by(x[i].clone(), lambda z, grad: z - k.lr * grad(z) - self.beta * y[i])
        elif e.kind == ROUND:
            phi = x[e.nodes].clone()
            x[e.nodes] = e.matrix @ phi
            y[e.nodes] += phi - x[e.nodes]
