r"""ProxSkip, or Scaffnew, over a network: averages are skipped at random, and a correction makes up for it.

Node i keeps y_i, 0 at the start. In a round

    z = x - eta g(x) - y;
    with probability p:   x <- z - (z - W z) / (2 chi),    y <- y + beta (z - x);
    else                  x <- z.

All nodes of a network see the same coin. The sum of y_i over the nodes stays 0. With p = beta = chi = 1 this is exact
diffusion.

References:
    K. Mishchenko, G. Malinovsky, S. Stich, P. Richtarik, "ProxSkip: yes! Local gradient steps provably lead to
    communication acceleration! Finally!", ICML 2022.
    L. Guo, S. A. Alghunaim, K. Yuan, L. Condat, J. Cao, "Revisiting decentralized ProxSkip: achieving linear speedup",
    arXiv 2310.07983, 2023.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.numerics.values import number

_COIN = 0
"""Stream of the coin."""


@dataclass(frozen=True)
class ProxSkip(Algorithm):
    """Gradient steps in each synchronous round, and averages in some.

    Example:
        >>> import batchednodes
        >>> ring = {"network.nodes": 8, "network.topology.kind": "ring", "timing.kind": "synchronous"}
        >>> task = {"task.data.kind": "quadratics", "local.lr": 0.3, "run.until": 600}
        >>> run = batchednodes.train(ring, task, {"algorithm": {"kind": "proxskip", "probability": 0.5, "beta": 0.5}})
        >>> bool(run.metrics["distance_to_optimum"].iloc[-1] < 1e-5)  # by about 300 averages
        True
    """

    probability: float = 0.7
    """p, with which a round has an average; in (0, 1]; dimensionless."""

    beta: float = 0.7
    """Share of what an average moves a model that the correction takes up; positive; dimensionless; p in the paper."""

    chi: float = 1.0
    """Averages are by I - (I - W) / (2 chi); at least 1; dimensionless."""

    fields: ClassVar[dict[str, Field]] = {"y": Field()}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False
    laws: ClassVar[dict[str, Law]] = {
        "sum of x": lambda all_: all_["x"].sum(0),
        "sum of y": lambda all_: all_["y"].sum(0),
    }

    def __post_init__(self) -> None:
        number(self.probability, 1, "probability", high=1.0, open_low=True, open_high=False)
        number(self.beta, 1, "beta", open_low=True)
        number(self.chi, 1, "chi", low=1.0)

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = r["x"] - k.lr * k.grad(r["x"]) - r["y"]

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        met = (k.common(_COIN, 1) < self.probability).to(r["x"].dtype)
        moved = met * (r["x"] - mixed["x"]) / (2 * self.chi)
        r["x"] = r["x"] - moved
        r["y"] = r["y"] + self.beta * moved

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x, y = e.actor, rows["x"], rows["y"]
        if e.kind == UPDATE:
            x[i] -= k.lr * k.grad(x[i]) + y[i]
        elif e.kind == ROUND and float(k.common(_COIN, 1)) < self.probability:
            z = x[e.nodes].clone()
            x[e.nodes] = (1 - 1 / (2 * self.chi)) * z + (e.matrix @ z) / (2 * self.chi)
            y[e.nodes] += self.beta * (z - x[e.nodes])
