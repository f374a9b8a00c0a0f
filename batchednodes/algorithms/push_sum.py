"""Push-sum, or stochastic gradient push: averages over one-way, column-stochastic links, unbiased by weights.

Node i keeps a numerator x_i and a weight w_i, 1 at the start; its model is z_i = x_i / w_i.

    At an update of i:         x_i <- x_i + (LocalSGD(z_i) - z_i), in one step x_i - eta g_i(z_i);
    at a push of i to j:       (x_j, w_j) += w (x_i, w_i), then (x_i, w_i) *= 1 - w;
    in a round:                (x, w) <- P (x, w), P column-stochastic.

The sums of x and of w over all nodes, and messages under way, are kept.

Reference:
    M. Assran, N. Loizou, N. Ballas, M. Rabbat, "Stochastic gradient push for distributed deep learning", ICML 2019.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import ROUND, UPDATE


@dataclass(frozen=True)
class PushSum(Algorithm):
    """Stochastic gradient push: pushes that take from their sender what they bring.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.push_sum import PushSum
        >>> PushSum().model({"x": torch.tensor([[3.0], [1.0]]), "w": torch.tensor([[1.5], [0.5]])}).tolist()
        [[2.0], [2.0]]
    """

    fields: ClassVar[dict[str, Field]] = {"w": Field(width=1, start="one")}
    emits: ClassVar[tuple[str, ...]] = ("x", "w")
    mixing: ClassVar[Any] = "column"
    laws: ClassVar[dict[str, Law]] = {"mass": lambda all_: all_["w"].sum(0), "sum of x": lambda all_: all_["x"].sum(0)}

    def update_(self, r: Rows, k: Context) -> None:
        z = r["x"] / r["w"]
        r["x"] = r["x"] + (k.descend(z) - z)

    def model(self, r: Rows) -> Any:
        return r["x"] / r["w"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        if e.kind == UPDATE:
            z = rows["x"][e.actor] / rows["w"][e.actor]
            rows["x"][e.actor] += k.descend(z) - z
            return
        for name in self.emits:
            x = rows[name]
            if e.kind == ROUND:
                x[e.nodes] = e.matrix @ x[e.nodes]
            else:
                moved = e.weight * x[e.actor]
                x[e.actor] = (1 - e.weight) * x[e.actor]
                x[e.peer] = moved if e.copies else x[e.peer] + moved
