r"""Asynchronous DiLoCo: a server takes an outer step whenever a worker has finished, with delayed Nesterov momentum.

All nodes are workers, and node 0 is the server, too. Worker i begins from a model b_i of the server:

    at an update of i:      x_i <- what H = local.steps steps of `local.optimizer` make of x_i; moments stay at i;
    right after it:         it sends D = b_i - x_i; the server, of model x_0, takes a step; b_i <- x_0, x_i <- x_0.

The worker that shares node 0 with the server begins from b_0, and sends nothing. A step of the server, which keeps a
momentum u and a sum s of what came since u changed, both 0 at the start, is

    s <- s + D,    x_0 <- x_0 - step (D / N + c beta u);
    each N-th time instead    u <- beta u + (s + D) / N,    x_0 <- x_0 - step (D / N + (1 - c N + c) beta u),    s <- 0.

With N = 1 this is Nesterov momentum at each arrival, which stale D make unstable; with N = n a step of `diloco` for n
arrivals: the same one, where none of them is stale. The server takes one after the other, so waves of updates hold many
nodes, those of arrivals one of each network.

Reference:
    B. Liu, R. Chhaparia, A. Douillard, S. Kale, A. A. Rusu, J. Shen, A. Szlam, M. Ranzato, "Asynchronous local-SGD
    training for language modeling", 2024: delayed Nesterov momentum.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count, number

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch

_SERVER = ("x", "u", "sum", "came")
"""Fields that a step of the server changes."""


@dataclass(frozen=True)
class AsyncDiLoCo(Algorithm):
    """Workers at their own clocks, on a star whose hub, node 0, holds the model that all begin from.

    Example:
        >>> import batchednodes
        >>> star = {"network": {"nodes": 5, "topology": {"kind": "star"}}, "run.until": 20}
        >>> after = {"gossip": {"clock": {"kind": "at_update", "order": "after"}, "exchange": "meet"}}
        >>> inner = {"optimizer": {"kind": "adamw"}, "steps": 20, "lr": 0.01}
        >>> run = batchednodes.train(star, after, {"algorithm": {"kind": "async_diloco"}, "local": inner})
        >>> loss = run.metrics["loss_mean"]
        >>> bool(loss.iloc[-1] < loss.iloc[0] / 2)
        True
    """

    step: float = 0.7
    """Step size of the server [dimensionless]; positive and finite."""

    momentum: float = 0.9
    """Its momentum beta [dimensionless]; 0 <= momentum < 1."""

    every: int | None = None
    """Arrivals between two changes of the momentum N; at least 1; null: as many as there are nodes."""

    spread: float = 0.0
    """Part of the momentum that is taken at all N arrivals alike, c N, not at the last [dimensionless]; in [0, 1]."""

    fields: ClassVar[dict[str, Field]] = {
        "base": Field(start="model"),
        "u": Field(),
        "sum": Field(),
        "came": Field(width=1, dtype="int64"),
    }
    contact: ClassVar[Any] = "after_update"
    graph: ClassVar[Any] = "star"
    timing: ClassVar[tuple[str, ...]] = ("events",)
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.step, 1, "step", open_low=True)
        number(self.momentum, 1, "momentum", high=1.0)
        number(self.spread, 1, "spread", high=1.0, open_high=False)
        if self.every is not None:
            count(self.every, 1, "every", high=10**9)

    def update_(self, r: Rows, k: Context) -> None:
        server = k.node == 0
        made = k.descend(torch.where(server, r["base"], r["x"]))
        stepped = self._stepped(r, r["base"] - made, k.size)
        r |= {name: torch.where(server, stepped[name], r[name]) for name in _SERVER[1:]}
        r["x"] = torch.where(server, stepped["x"], made)
        r["base"] = torch.where(server, r["x"], r["base"])

    def emit_(self, r: Rows, k: Context) -> Rows:
        own = {name: r[name] for name in _SERVER}
        return own | {"d": r["base"] - r["x"], "server": k.node == 0, "n": k.size}

    def combine(self, own: Rows, other: Rows, w: Tensor) -> Rows:
        of = {name: torch.where(own["server"], own[name], other[name]) for name in _SERVER}
        return self._stepped(of, torch.where(own["server"], other["d"], own["d"]), own["n"])

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        server = k.node == 0
        r["x"], r["base"] = mixed["x"], torch.where(server, r["base"], mixed["x"])
        r |= {name: torch.where(server, mixed[name], r[name]) for name in _SERVER[1:]}

    def _stepped(self, r: Rows, d: Tensor, n: Tensor) -> Rows:
        """Returns what the server keeps after a step, given what came and how many nodes there are."""
        every = n if self.every is None else torch.full_like(n, self.every)
        total, came, c = r["sum"] + d, r["came"] + 1, self.spread / every
        last = came >= every
        u = torch.where(last, self.momentum * r["u"] + total / every, r["u"])
        share = torch.where(last, 1 - self.spread + c, c)
        x = r["x"] - self.step * (d / every + share * self.momentum * u)
        return {"x": x, "u": u, "sum": torch.where(last, 0, total), "came": torch.where(last, 0, came)}

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x, base, u, total, came = (rows[name] for name in ("x", "base", "u", "sum", "came"))
        i = e.actor
        if e.kind == UPDATE and int(e.known.index[i]):
            x[i] = k.descend(x[i])
            return
        j = i if e.kind == UPDATE or int(e.known.index[i]) == 0 else e.peer
        worker = j if e.kind == UPDATE else i + e.peer - j
        d = base[worker] - (k.descend(base[worker]) if worker == j else x[worker])
        n = int(e.known.sizes[j]) if self.every is None else self.every
        total[j] += d
        came[j] += 1
        c = self.spread / n
        if int(came[j]) == n:
            u[j] = u[j] * self.momentum + total[j] / n
            total[j] = came[j] = 0
            c += 1 - self.spread
        x[j] -= self.step * d / n + self.step * c * self.momentum * u[j]
        x[worker] = base[worker] = x[j]
