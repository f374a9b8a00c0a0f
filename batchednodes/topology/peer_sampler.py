r"""What chooses the peer of a contact where it is no uniform neighbour in one graph: weights, or a graph that changes.

Notation: n nodes, m contacts, i j nodes.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import scipy
from jaxtyping import Float64, Int32, Int64, UInt64

from batchednodes.topology.graph import Graph
from batchednodes.topology.peer_sampling_kernels import PeerRule

ROUNDS = 10**9
"""The most rounds of a run on a graph that changes."""


class PeerSampler(ABC):
    """A rule for one network; nodes have their numbers in it."""

    @abstractmethod
    def peers(
        self, time: Float64[np.ndarray, " m"], node: Int32[np.ndarray, " m"], bits: UInt64[np.ndarray, " m"]
    ) -> Int32[np.ndarray, " m"]:
        """Returns the peer of each contact; -1: there is nobody, and no contact.

        Args:
            time: of the contact [s].
            node: who makes it.
            bits: 64 random bits for each.
        """

    @abstractmethod
    def share(self) -> Float64[np.ndarray, " n"]:
        """Returns the part of its contacts for which each node finds a peer, in the long run; 0: never."""

    @abstractmethod
    def union(self) -> Graph | None:
        """Returns whom each node may ever contact; None: everyone."""

    @abstractmethod
    def probabilities(self) -> "scipy.sparse.csr_array":
        """Returns the probability that a contact of node i is with node j, in the long run; row sums are `share`."""

    @property
    def seconds(self) -> float:
        """Length of a round of a graph that changes [s]."""
        return math.inf

    @property
    def cycle(self) -> int | None:
        """After how many rounds a graph that changes is as it was; None: never."""
        return None

    def at(self, time: float) -> Graph:
        """Returns the graph at some time [s]; only of graphs that change."""
        raise ValueError(f"the graph of {type(self).__name__} does not change")

    def weights(self, time: float) -> Float64[np.ndarray, " e"] | None:
        """Returns the weights of the contacts of `at(time)` in a synchronous round; None: uniform ones."""
        return None

    @abstractmethod
    def rule(self) -> PeerRule:
        """Returns the same for single draws in compiled code."""


def rounds(time: Float64[np.ndarray, " m"], period: float) -> Int64[np.ndarray, " m"]:
    """Returns the round to which each time belongs: floor(time / period)."""
    return np.floor(time / period).astype(np.int64)
