r"""Rounds that end in the mean of all models, or of those of a sample of nodes, whatever the graph is.

W has rank one, W = 1 w^T, and is never made: all rows of W are w, which is 1/m for the m nodes that take part.

Notation: n nodes, m nodes that take part in round k, W gossip matrix.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.numerics import rng
from batchednodes.topology.round_weights import RoundLaw


@dataclass(frozen=True)
class GlobalMean(RoundLaw):
    """In each round some nodes update; then all nodes have the mean of their models.

    Example:
        >>> from batchednodes.topology import GlobalMean
        >>> rounds = GlobalMean(n=8, seed=0, fraction=0.25)
        >>> rounds.part(0).tolist(), rounds.part(1).tolist()  # a fourth of the nodes, anew each round
        ([4, 7], [0, 2])
        >>> rounds.matrix(0).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5]
    """

    n: int
    """Number of nodes."""
    seed: int
    """Seed of the network."""
    fraction: float | int = 1.0
    """m over n, in (0, 1]; m is rounded, and at least 1."""

    @property
    def size(self) -> int:
        """Returns how many nodes take part in a round, m."""
        return max(1, round(self.fraction * self.n))

    def part(self, k: int) -> Int64[np.ndarray, " m"] | None:
        """Returns the nodes of the m least draws at the addresses (seed, node, k): uniform among all sets of m."""
        if self.size == self.n:
            return None
        draws, _ = rng.draws(self.seed, rng.TAKES_PART, np.arange(self.n), k)
        return np.sort(np.argsort(draws, kind="stable")[: self.size])

    def matrix(self, k: int) -> Float64[np.ndarray, " n"] | None:
        """Returns the row that all rows of W are; None: 1/n everywhere."""
        some = self.part(k)
        if some is None:
            return None
        w = np.zeros(self.n)
        w[some] = 1 / some.size
        return w

    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        """Returns 1 for the nodes that take part: each sends its model once, to where the mean is made."""
        sent, some = np.zeros(self.n, np.int64), self.part(k)
        sent[slice(None) if some is None else some] = min(1, self.n - 1)
        return sent

    @property
    def answered(self) -> bool:
        return True

    @property
    def few(self) -> bool:
        return self.size == self.n

    def repeats(self, k: int) -> int:
        return 0 if self.few else k
