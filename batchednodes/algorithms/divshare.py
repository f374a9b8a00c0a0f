r"""DivShare: models travel in fragments, each to a receiver of its own, so that slow links hold up a part at most.

Each contact brings one of `fragments` equal parts of the sender's model, drawn at random. Node j adds up what comes,
entry by entry, s_j, and counts it, c_j. At its update

    x_j <- LocalSGD((x_j + s_j) / (1 + c_j)),       s_j, c_j <- 0.

With `fragments: 1` it is Epidemic Learning without rounds: the average of all models that came before a timeout.

References:
    S. Biswas, A.-M. Kermarrec, A. Marouani, R. Pires, R. Sharma, M. de Vos, "Boosting asynchronous decentralized
    learning with model fragmentation", WWW 2025, Algorithm 1.
    M. de Vos et al., "Epidemic learning: boosting decentralized learning with randomized communication", NeurIPS 2023.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import MEET, UPDATE
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import count

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")

_STREAM = 1
"""Of the draws of fragments."""


@dataclass(frozen=True)
class DivShare(Algorithm):
    """Averages, entry by entry, of the fragments of models that have come since the last update.

    Example:
        >>> import batchednodes
        >>> apart = {"network.nodes": 6, "task.model.init": "independent", "local.lr": 0, "gossip.clock": {"rate": 12}}
        >>> run = batchednodes.train(apart, {"algorithm": {"kind": "divshare", "fragments": 4}})
        >>> first, last = run.metrics["consensus_distance"].iloc[[0, -1]]
        >>> bool(last < first / 10)
        True
    """

    fragments: int = 10
    """Parts of a model, 1 / Omega; at least 1."""

    fields: ClassVar[dict[str, Field]] = {"sum": Field(lives="inbox"), "count": Field(lives="inbox")}
    emits: ClassVar[tuple[str, ...]] = ("sum",)
    timing: ClassVar[tuple[str, ...]] = ("events",)
    weighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count(self.fragments, 1, "fragments")

    def payload(self, p: int, item: int) -> int:
        return -(-p // self.fragments) * item

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = k.descend((r["x"] + r["sum"]) / (1 + r["count"]))

    def emit_(self, r: Rows, k: Context) -> Rows:
        brought = self._brought(k.uniform(_STREAM, 1), r["x"])
        return {"sum": r["x"] * brought, "count": brought}

    def _brought(self, u: Any, x: Any) -> Any:
        """Returns which entries of models a message brings, as 0 and 1, given a number in (0, 1) for each."""
        place = torch.arange(x.shape[-1], device=x.device).to(x.dtype) * self.fragments // x.shape[-1]
        above = u * self.fragments - place
        return (above >= 0).to(x.dtype) * (above < 1).to(x.dtype)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, x = e.actor, rows["x"]
        if e.kind == UPDATE:
            mean = (x[e.actor] + rows["sum"][e.actor]) / (1 + rows["count"][e.actor])
            x[e.actor] = k.descend(mean)
            rows["sum"][e.actor], rows["count"][e.actor] = 0, 0
            return
        for row, origin, to in [(i, e.origin, e.peer), (e.peer, e.peer, i)][: 2 if e.kind == MEET else 1]:
            brought = self._brought(e.draws(x.new_tensor([origin]).long(), _STREAM, 1)[0], x[row])
            rows["sum"][to] += x[row] * brought
            rows["count"][to] += brought
