"""EL-Oracle, epidemic learning: each round mixes over a random s-regular graph, which somebody draws anew for all.

    At an update of i:     x_i <- LocalSGD(x_i);
    in a round:            x_i <- (x_i + sum of the models of its s neighbours) / (1 + s).

These are Metropolis-Hastings weights: W is doubly stochastic, and the mean model is kept.

Reference:
    M. de Vos, S. Farhadkhani, R. Guerraoui, A.-M. Kermarrec, R. Pires, R. Sharma, "Epidemic learning: boosting
    decentralized learning with randomized communication", NeurIPS 2023, Algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy
from jaxtyping import Int64

from batchednodes.algorithms.base import Algorithm, Law, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics import rng
from batchednodes.numerics.values import count, shown
from batchednodes.topology import KRegular, RoundLaw, RoundWeights


@dataclass(frozen=True)
class ELOracle(Algorithm):
    """Local SGD, and mixing over a new random regular graph in each round, whatever `network.topology` is.

    Example:
        >>> import batchednodes
        >>> method = {"algorithm": {"kind": "el_oracle", "degree": 3}, "timing": {"kind": "synchronous"}}
        >>> run = batchednodes.train({"network.nodes": 10, "run.until": 5}, method)
        >>> int(run.metrics["gossips"].iloc[-1])  # ten nodes send a model to three others in each of five rounds
        150
    """

    degree: int | None = None
    """Neighbours of each node in a round, s [nodes]; at least 1, below n; n s is even; null: log2 n rounded up, or one
    more where that makes n s even."""

    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def __post_init__(self) -> None:
        if self.degree is not None:
            count(self.degree, 1, "degree")

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        n, degree = weights.n, self.degree
        if degree is None:
            degree = max(1, min(n - 1, (n - 1).bit_length()))
            degree += n * degree % 2
        if degree >= n:
            raise ValueError(f"degree must be below the number of nodes, got {shown(degree)} with network.nodes={n}")
        if n * degree % 2:
            raise ValueError(f"degree must be even where network.nodes is odd, got {degree} with network.nodes={n}")
        return RegularRounds(n, seed, degree)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x = rows["x"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
        else:
            x[e.nodes] = e.matrix @ x[e.nodes]


@dataclass(frozen=True)
class RegularRounds(RoundLaw):
    """Rounds of one network, each with a random regular graph of its own."""

    n: int
    """Number of nodes."""
    seed: int
    """Seed of the network."""
    degree: int
    """s."""

    def matrix(self, k: int) -> "scipy.sparse.csr_array":
        own, _ = rng.draws(self.seed, rng.REGULAR, np.zeros(1, np.int64), k)  # the graph's seed
        graph = KRegular(self.degree).graph(self.n, int(own[0]))
        assert graph is not None
        return graph.gossip_matrix()

    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        return np.full(self.n, self.degree)
