"""All-reduce SGD: all nodes have the mean of all models after each round, an upper baseline for any graph.

    At an update of i:     x_i <- LocalSGD(x_i), in one step x_i - eta g_i(x_i);
    in a round:            x_i <- 1/n sum_j x_j.

With one local step this is parallel SGD, where all nodes add up their gradients: plain SGD on all data. Momentum
buffers stay at their nodes; their mean is that of the mean gradient. The sum of x over all nodes is kept.

Reference:
    M. Zinkevich, M. Weimer, A. Smola, L. Li, "Parallelized stochastic gradient descent", NeurIPS 2010.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Law, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.topology import GlobalMean, RoundLaw, RoundWeights


@dataclass(frozen=True)
class AllReduce(Algorithm):
    """Local SGD, and the mean of all models in each round, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> settings = {"network": {"nodes": 5, "topology": {"kind": "ring"}}, "timing": {"kind": "synchronous"}}
        >>> run = batchednodes.train(settings, {"algorithm": {"kind": "all_reduce"}, "run.until": 3})
        >>> bool(run.metrics["consensus_distance"].max() < 1e-6), int(run.metrics["gossips"].iloc[-1])
        (True, 15)
    """

    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        return GlobalMean(weights.n, seed)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x = rows["x"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
        else:
            x[e.nodes] = e.matrix @ x[e.nodes]
