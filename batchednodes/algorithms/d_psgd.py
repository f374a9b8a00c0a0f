"""D-PSGD, decentralized gradient descent: a step and an average with all neighbours, in either order.

    adapt_then_combine (diffusion):       x <- W (x - eta g(x));
    combine_while_adapt (DGD, overlap):   x <- W x - eta g(x): gradients are computed while models are under way.

In the second order node i keeps the step d_i = LocalSGD(x_i) - x_i that is not in the model which it sends; its own is
x_i + d_i. With momentum, its buffer stays at its node.

At single contacts the first order is gossip by meetings; in the second, others meet a model without its newest step.

References:
    X. Lian et al., "Can decentralized algorithms outperform centralized algorithms? A case study for decentralized
    parallel stochastic gradient descent", NeurIPS 2017.
    J. Chen, A. H. Sayed, "Diffusion adaptation strategies for distributed optimization and learning over networks",
    IEEE Trans. Signal Process. 60(8), 2012.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import MEET, ROUND, UPDATE


@dataclass(frozen=True)
class DPSGD(Algorithm):
    """Decentralized parallel SGD, in both orders of step and average.

    Example:
        >>> import batchednodes
        >>> rounds = {"timing.kind": "synchronous", "network.nodes": 8, "network.topology.kind": "ring"}
        >>> orders = ("adapt_then_combine", "combine_while_adapt")
        >>> kinds = [{"algorithm": {"kind": "d_psgd", "order": order}} for order in orders]
        >>> first, second = (batchednodes.train(rounds, kind).metrics["consensus_distance"].iloc[-1] for kind in kinds)
        >>> bool(first < second)  # the newest steps are not averaged yet
        True
    """

    order: Literal["adapt_then_combine", "combine_while_adapt"] = "adapt_then_combine"
    """Whether a step is averaged with the model, or added to the average after it."""

    fields: ClassVar[dict[str, Field]] = {"d": Field()}
    mixing: ClassVar[Any] = "double"
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    @property
    def waits(self) -> bool:
        """Whether a step is added after the next average."""
        return self.order == "combine_while_adapt"

    def declared(self) -> dict[str, Field]:
        return {name: one for name, one in super().declared().items() if name != "d" or self.waits}

    def plain(self) -> bool:
        return not self.waits

    def update_(self, r: Rows, k: Context) -> None:
        if self.waits:
            r["x"] = r["x"] + r["d"]
            r["d"] = k.descend(r["x"]) - r["x"]
        else:
            r["x"] = k.descend(r["x"])

    def model(self, r: Rows) -> Any:
        return r["x"] + r["d"] if self.waits else r["x"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        i, j, x = e.actor, e.peer, rows["x"]
        if e.kind == UPDATE and self.waits:
            x[i] += rows["d"][i]
            rows["d"][i] = k.descend(x[i]) - x[i]
        elif e.kind == UPDATE:
            x[i] = k.descend(x[i])
        elif e.kind == MEET:
            a, b = x[i].clone(), x[j].clone()
            x[i], x[j] = (1 - e.weight) * a + e.weight * b, (1 - e.weight) * b + e.weight * a
        elif e.kind == ROUND:
            x[e.nodes] = e.matrix @ x[e.nodes]
