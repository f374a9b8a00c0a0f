"""FedProx: FedAvg whose local steps are pulled back to the model of the round, so that data that differ drag less.

A fraction of the nodes, S, is drawn anew each round; only they train. With x the model that all nodes have:

    At an update of i in S:    y <- x, then H = local.steps times y <- y - eta (g_i(y) + mu (y - x)), and x_i <- y;
    in a round, for all i:     x_i <- 1/|S| sum_{j in S} x_j.

Those are gradient steps on f_i(y) + mu/2 |y - x|^2; with mu = 0 this is FedAvg, unweighted.

Reference:
    T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith, "Federated optimization in heterogeneous
    networks", MLSys 2020, Algorithm 2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Context, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number
from batchednodes.topology import GlobalMean, RoundLaw, RoundWeights


@dataclass(frozen=True)
class FedProx(Algorithm):
    """Federated averaging with a proximal term, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> task = {"task.data.kind": "quadratics", "local": {"lr": 0.1, "steps": 10}, "run.until": 100}
        >>> task |= {"network.nodes": 5, "timing": {"kind": "synchronous"}, "dtype": "float64"}
        >>> runs = [batchednodes.train(task, f"algorithm={{kind: fedprox, mu: {mu}}}") for mu in (0, 3)]
        >>> dragged, held = (run.metrics["suboptimality"].iloc[-1] for run in runs)
        >>> bool(held < dragged / 2)  # ten steps on data that differ lead less far apart
        True
    """

    mu: float = 0.01
    """Strength of the proximal term [1/unit of lr]; at least 0 and finite."""

    fraction: float = 1.0
    """Nodes that train in a round over all nodes [dimensionless]; in (0, 1]; their number is rounded, at least 1."""

    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number(self.mu, 1, "mu")
        number(self.fraction, 1, "fraction", high=1.0, open_low=True, open_high=False)

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return GlobalMean(weights.n, seed, self.fraction)

    def update_(self, r: Rows, k: Context) -> None:
        x = r["x"]
        r["x"] = k.descend_by(x, lambda y, grad: y - k.lr * (grad(y) + self.mu * (y - x)))

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x = rows["x"]
        if e.kind == UPDATE:
            start = x[e.actor].clone()
            x[e.actor] = k.descend_by(start, lambda y, grad: y - k.lr * grad(y) - k.lr * self.mu * (y - start))
        else:
            x[e.nodes] = e.matrix @ x[e.nodes]
