"""SwarmSGD: nodes make some local steps, then average with a random neighbour, which they may find at work.

    blocking:       at an update of i:     x_i <- LocalSGD(x_i);
    not blocking:   at an update of i:     x_i <- x_i + (LocalSGD(b_i) - b_i), b_i <- x_i, where b_i is the model from
                                           which the node began to compute;
    at a meeting of i and j:               x_i, x_j <- (x_i + x_j) / 2.

Without blocking a partner that is at work keeps what it is about to find, and gets the average besides: x_i is the copy
that others see. Each interaction is one update and one meeting, `gossip.clock: {kind: at_update}`, after `local.steps`
steps, a number or {kind: geometric, mean: H}; or contacts of a clock of their own, as in the paper's analysis. With one
step and no blocking this is AD-PSGD. Averages are of the models themselves: no lattice quantizer.

Reference:
    G. Nadiradze, A. Sabour, P. Davies, S. Li, D. Alistarh, "Asynchronous decentralized SGD with quantized and local
    updates", NeurIPS 2021, Algorithms 1 and 2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import UPDATE


@dataclass(frozen=True)
class SwarmSGD(Algorithm):
    """Local steps, and pairwise averages that may not wait for them.

    Example:
        >>> import batchednodes
        >>> gossip = {"gossip": {"exchange": "meet", "clock": {"kind": "at_update", "order": "after"}}}
        >>> swarm = {"algorithm": {"kind": "swarm_sgd", "blocking": True}, "local.steps": 4, "run.until": 5}
        >>> run = batchednodes.train({"network.nodes": 5}, gossip, swarm)
        >>> first, last = run.metrics["loss_mean"].iloc[[0, -1]]
        >>> bool(last < first / 2)
        True
    """

    blocking: bool = False
    """Whether local steps begin from the model of the instant at which they end, as if partners had waited for each
    other; else from that at which the node began to compute."""

    fields: ClassVar[dict[str, Field]] = {"begun": Field(start="model")}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("events",)
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def update_(self, r: Rows, k: Context) -> None:
        start = r["x"] if self.blocking else r["begun"]
        r["x"] = r["x"] + (k.descend(start) - start)
        r["begun"] = r["x"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, j, x, begun = e.actor, e.peer, rows["x"], rows["begun"]
        if e.kind == UPDATE:
            x[i] = k.descend(x[i]) if self.blocking else x[i] + k.descend(begun[i]) - begun[i]
            begun[i] = x[i]
        else:
            a, b = x[i].clone(), x[j].clone()
            x[i], x[j] = (1 - e.weight) * a + e.weight * b, (1 - e.weight) * b + e.weight * a
