r"""All2All: each node sends its model to all neighbours, and merges what has come before it learns anew.

Node i keeps m_ij, the model of neighbour j that came last. At its update, with the weights W of `network.weights`,

    x_i <- LocalSGD((1 - sum_j W_ij) x_i + sum_j W_ij m_ij),    the sums over the j whose model came since the last one;

then it sends x_i to all neighbours. One of which nothing has come leaves its weight to x_i. In synchronous rounds that
would be D-PSGD, `d_psgd`. The mean of all that has come, however often from each, needs no rows for neighbours:
`divshare` with `fragments: 1`.

Reference:
    A. Koloskova, N. Loizou, S. Boreiri, M. Jaggi, S. U. Stich, "A unified theory of decentralized SGD with changing
    topology and local updates", ICML 2020; without its rounds, as All2All of the simulator gossipy.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import MEET, UPDATE


@dataclass(frozen=True)
class All2All(Algorithm):
    """Averages by W of what has come from all neighbours since the last update, then local SGD.

    Example:
        >>> import batchednodes
        >>> apart = {"network.nodes": 6, "task.model.init": "independent", "local.lr": 0, "run.until": 10}
        >>> clock = {"gossip.clock": {"kind": "at_update", "order": "after", "peers": "all"}}
        >>> run = batchednodes.train(apart, clock, {"algorithm.kind": "all2all"})
        >>> first, last = run.metrics["consensus_distance"].iloc[[0, -1]]
        >>> bool(last < first / 100)
        True
    """

    fields: ClassVar[dict[str, Field]] = {"newest": Field(lives="edge"), "came": Field(width=1, lives="edge")}
    contact: ClassVar[Any] = "to_all"
    timing: ClassVar[tuple[str, ...]] = ("events",)
    weighs: ClassVar[bool] = False

    def update_(self, r: Rows, k: Context) -> None:
        w = k.weights.unsqueeze(2) * r["came"]
        r["x"] = k.descend((1 - w.sum(1)) * r["x"] + (w * r["newest"]).sum(1))
        r["came"] = r["came"] * 0

    def combine(self, own: Rows, other: Rows, w: Any) -> Rows:
        return other

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["newest"], r["came"] = mixed["x"], r["came"] * 0 + 1

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, n = e.actor, e.edges.begins.numel() - 1
        if e.kind == UPDATE:
            x = rows["x"][i].clone()
            for at in (e.edges.keys // n == i).nonzero().flatten().tolist():
                if rows["came"][at] > 0:
                    x += e.edges.weights[at] * (rows["newest"][at] - rows["x"][i])
                    rows["came"][at] = 0.0
            rows["x"][i] = k.descend(x)
            return
        for row, origin, to in [(i, e.origin, e.peer), (e.peer, e.peer, i)][: 2 if e.kind == MEET else 1]:
            at = int((e.edges.keys == to * n + origin).nonzero())
            rows["newest"][at], rows["came"][at] = rows["x"][row], 1.0
