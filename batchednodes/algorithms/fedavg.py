"""FedAvg: in each round a sample of nodes trains the common model, and all nodes get the mean of what they made of it.

A fraction of the nodes, S, is drawn anew each round; only they train. With m_i the examples of node i:

    At an update of i in S:    x_i <- LocalSGD(x_i), of H = local.steps steps, or epochs;
    in a round, for all i:     x_i <- sum_{j in S} m_j x_j / sum_{j in S} m_j, or the plain mean over S.

The server's model is that of every node after a round: nothing else is kept.

Reference:
    H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Aguera y Arcas, "Communication-efficient learning of deep
    networks from decentralized data", AISTATS 2017, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Field, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number
from batchednodes.topology import GlobalMean, RoundLaw, RoundWeights


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Federated averaging, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> method = {"algorithm": {"kind": "fedavg", "fraction": 0.25}, "timing": {"kind": "synchronous"}}
        >>> run = batchednodes.train({"network.nodes": 8, "run.until": 5}, method)
        >>> run.metrics[["updates", "gossips"]].iloc[-1].tolist()  # two nodes train in each round, and send a model
        [10, 10]
    """

    fraction: float = 1.0
    """Nodes that train in a round over all nodes [dimensionless]; in (0, 1]; their number is rounded, at least 1."""

    weighted: bool = True
    """Whether a node counts by how many examples it owns; else all count alike."""

    fields: ClassVar[dict[str, Field]] = {"share": Field(width=1)}
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    spares: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number(self.fraction, 1, "fraction", high=1.0, open_low=True, open_high=False)

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return GlobalMean(weights.n, seed, self.fraction)

    def update_(self, r: Rows, k: Context) -> None:
        r["x"] = k.descend(r["x"])
        r["share"] = k.owned if self.weighted else k.owned**0

    def emit_(self, r: Rows, k: Context) -> Rows:
        return {"x": r["share"] * r["x"], "share": r["share"]}

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["x"] = mixed["x"] / mixed["share"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x, share = rows["x"], rows["share"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
            share[e.actor] = k.owned if self.weighted else 1
        else:
            w = e.matrix[0] * share[e.nodes, 0]
            x[e.nodes] = (w / w.sum()) @ x[e.nodes]
