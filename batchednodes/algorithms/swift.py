r"""SWIFT: nodes never wait, and average with the model of each neighbour that came last.

Node i keeps m_ij, the model of neighbour j that came last. At its update, with d_i neighbours and w = 1 / (1 + d_i),

    x_i <- (1 - sum_j w) x_i + sum_j w m_ij + (LocalSGD(x_i) - x_i),     the sums over the j whose model counts.

With `memory` a model counts from the time when it first comes; without, only in the first update after it came, which
takes less memory at a real node. What does not count leaves its weight to x_i. Only every `every`-th update averages.

Reference:
    M. Bornstein, T. Rabbani, E. Wang, A. S. Bedi, F. Huang, "SWIFT: rapid decentralized federated learning via
    wait-free model communication", ICLR 2023, Algorithm 1; without memory, its appendix.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import MEET, UPDATE
from batchednodes.numerics.values import count


@dataclass(frozen=True)
class Swift(Algorithm):
    """Averages of the models that came last, without waiting.

    Example:
        >>> import batchednodes
        >>> apart = {"network.nodes": 6, "task.model.init": "independent", "local.lr": 0, "gossip.clock": {"rate": 12}}
        >>> run = batchednodes.train(apart, {"algorithm": {"kind": "swift", "every": 2}})
        >>> first, last = run.metrics["consensus_distance"].iloc[[0, -1]]
        >>> bool(last < first / 10)
        True
    """

    memory: bool = True
    """Whether the model that came last from a neighbour counts again in later updates."""
    every: int = 1
    """Every how many updates of its own a node averages; at least 1."""

    fields: ClassVar[dict[str, Field]] = {"newest": Field(lives="edge"), "counts": Field(width=1, lives="edge")}
    timing: ClassVar[tuple[str, ...]] = ("events",)
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count(self.every, 1, "every")

    def update_(self, r: Rows, k: Context) -> None:
        step = k.descend(r["x"]) - r["x"]
        counts = r["counts"] * k.neighbours.unsqueeze(2) / (1 + k.neighbours.sum(1)).view(-1, 1, 1)
        counts = counts * ((k.count + 1) % self.every == 0).unsqueeze(2)
        r["x"] = (1 - counts.sum(1)) * r["x"] + (counts * r["newest"]).sum(1) + step
        if not self.memory:
            r["counts"] = r["counts"] * (counts == 0)

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["newest"], r["counts"] = mixed["x"], r["counts"] * 0 + 1

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, n = e.actor, e.edges.begins.numel() - 1
        if e.kind == UPDATE:
            x = rows["x"][e.actor].clone()
            new, edges = k.descend(x) - x, (e.edges.keys // n == e.actor).nonzero().flatten().tolist()
            for at in edges if (k.count + 1) % self.every == 0 else ():
                if rows["counts"][at] > 0:
                    new += (rows["newest"][at] - x) / (1 + len(edges))
                    rows["counts"][at] = float(self.memory)
            rows["x"][e.actor] = x + new
            return
        for row, origin, to in [(i, e.origin, e.peer), (e.peer, e.peer, i)][: 2 if e.kind == MEET else 1]:
            at = int((e.edges.keys == to * n + origin).nonzero())
            rows["newest"][at], rows["counts"][at] = rows["x"][row], 1.0
