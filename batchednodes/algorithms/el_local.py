"""EL-Local, epidemic learning: in each round every node sends its model to s others, drawn anew by itself.

    At an update of i:     x_i <- LocalSGD(x_i);
    in a round:            i sends x_i to s random nodes, then takes the mean of its own and the k models that came:
                           x_i <- (x_i + sum of these) / (1 + k).

The rows of W sum to 1, its columns do so in expectation only: the mean model is not kept.

Reference:
    M. de Vos, S. Farhadkhani, R. Guerraoui, A.-M. Kermarrec, R. Pires, R. Sharma, "Epidemic learning: boosting
    decentralized learning with randomized communication", NeurIPS 2023, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchednodes.algorithms.base import Algorithm, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import count, shown
from batchednodes.topology import RoundLaw, RoundWeights, UniformWeights
from batchednodes.topology.time_varying_peers import NewPeers


@dataclass(frozen=True)
class ELLocal(Algorithm):
    """Local SGD, and models sent to random nodes, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> method = {"algorithm": {"kind": "el_local", "peers": 2}, "timing": {"kind": "synchronous"}}
        >>> run = batchednodes.train({"network.nodes": 10, "run.until": 5}, method)
        >>> int(run.metrics["gossips"].iloc[-1])  # ten nodes send two models in each of five rounds
        100
    """

    peers: int | None = None
    """Nodes that each node sends its model to in a round, s [nodes]; at least 1, below n; null: log2 n, rounded up."""

    timing: ClassVar[tuple[str, ...]] = ("rounds",)

    def __post_init__(self) -> None:
        if self.peers is not None:
            count(self.peers, 1, "peers")

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        n = weights.n
        peers = max(1, min(n - 1, (n - 1).bit_length())) if self.peers is None else self.peers
        if peers >= n:
            raise ValueError(f"peers must be below the number of nodes, got {shown(peers)} with network.nodes={n}")
        graph = NewPeers(weights.period, n, seed, peers)
        return RoundWeights(n, graph, UniformWeights(), "row", False, weights.period)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x = rows["x"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
        else:
            x[e.nodes] = e.matrix @ x[e.nodes]
