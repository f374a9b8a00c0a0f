r"""What a kind of graph is, and what several kinds check.

Notation: n nodes.
"""

from abc import ABC, abstractmethod

from batchednodes.numerics.values import shown
from batchednodes.topology.graph import Graph
from batchednodes.topology.peer_sampler import PeerSampler


def at_least(name: str, value: int, low: int) -> None:
    """Raises ValueError if a setting is below its least value."""
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {shown(value)}")


def below_n(name: str, value: int, n: int, remedy: str) -> None:
    """Raises ValueError if a setting is not below the number of nodes; remedy: what to use instead."""
    if value >= n:
        nodes = "1 node" if n == 1 else f"{n} nodes"
        raise ValueError(
            f"{name} must be below the number of nodes, got {name}={value} with {nodes}; use topology {remedy}"
        )


class Topology(ABC):
    """The kind of graph that a network of any size gets."""

    @abstractmethod
    def graph(self, n: int, seed: int) -> Graph | PeerSampler | None:
        """Returns the graph of n nodes, or what chooses among them, the same for the same (n, seed); None: complete.

        Args:
            n: number of nodes, at least 1.
            seed: of the network, 0 <= seed < 2^64; only random kinds use it.

        Raises:
            ValueError: the kind does not exist, or is not possible, at this n; the message says what it needs.
        """

    @abstractmethod
    def contacts(self, n: int) -> float:
        """Returns about how many contacts the graph of n nodes stores, an undirected edge as two, without making it."""

    def names(self) -> list[str] | None:
        """Returns what nodes 0, 1, ... are called where the graph comes from; None: they have numbers only."""
        return None


class Changing(Topology):
    """A kind of graph that changes from round to round."""

    @abstractmethod
    def seconds(self, n: int) -> float:
        """Returns the length of a round [s]; positive and finite.

        Raises:
            ValueError: it is not at this n.
        """
