r"""Clocks: when a node acts; each is a law of gaps, see `gaps`.

Notation: n nodes, c delay [s], mu rate of the exponential part [1/s].
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from batchednodes.events.gaps import Gaps
from batchednodes.numerics.values import PerNode, per_node


class Clock(ABC):
    """A law of gaps between a node's actions; every node starts at t = 0 and has its own, independent draws."""

    never: ClassVar[bool] = False
    """Whether no node ever acts by it."""

    @abstractmethod
    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        """Returns the law of each of n nodes, or of the first of them.

        Args:
            n: number of nodes of the network.
            seed: of the network; used where a setting is a distribution over nodes.
            key: path of this clock in the settings, for error messages and addresses of draws.
            size: number of nodes whose laws are asked for, the first ones; None: all n.

        Raises:
            ValueError: a setting is out of range for some node.
        """

    def at_update(self) -> Literal["before", "after"] | None:
        """Returns on which side of each update its node makes a contact, instead of by gaps; None: by gaps."""
        return None

    def to_all(self) -> bool:
        """Returns whether contacts at updates are with all neighbours, not with one of them."""
        return False


def _memoryless(rate: Float64[np.ndarray, " n"]) -> Gaps:
    with np.errstate(divide="ignore", over="ignore"):  # below 6e-309 the mean gap is not finite: never
        scale = 1.0 / rate
    never = ~np.isfinite(scale)
    return Gaps(np.where(never, math.inf, 0.0), np.where(never, 0.0, scale))


@dataclass(frozen=True)
class Poisson(Clock):
    """Memoryless actions: gaps are exponential.

    Example:
        >>> from batchednodes.events.clocks import Poisson
        >>> Poisson(rate="log2(n)").gaps(4, 0, "gossip.clock").rate.tolist()
        [2.0, 2.0, 2.0, 2.0]
    """

    rate: PerNode = "log(n)"
    """Mean number of actions of one node per second [1/s]; non-negative and finite; 0: never."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        return _memoryless(per_node(self.rate, n, seed, f"{key}.rate", unit="1/s", size=size))


@dataclass(frozen=True)
class Exponential(Clock):
    """Memoryless update times: gaps are exponential.

    Example:
        >>> from batchednodes.events.clocks import Exponential
        >>> from batchednodes.numerics.values import Uniform
        >>> Exponential(rate=Uniform(1.0, 3.0)).gaps(3, 0, "update.clock").rate.round(2).tolist()  # devices differ
        [1.46, 1.08, 2.45]
    """

    rate: PerNode = 1.0
    """Mean number of updates of one node per second [1/s]; non-negative and finite; 0: never."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        return _memoryless(per_node(self.rate, n, seed, f"{key}.rate", unit="1/s", size=size))


@dataclass(frozen=True)
class ShiftedExponential(Clock):
    """Computing takes a fixed time, then an exponential wait; the reference paper's model of local updates.

    Example:
        >>> from batchednodes.events.clocks import ShiftedExponential
        >>> gaps = ShiftedExponential(delay=0.5, rate=2.0).gaps(1, 0, "update.clock")
        >>> gaps.rate.item()  # an update takes 0.5 s and a wait of mean 1/2 s
        1.0
    """

    delay: PerNode = 0.5
    """Fixed computing time c of an update [s]; non-negative and finite."""

    rate: PerNode = 2.0
    """Rate mu of the exponential wait that follows [1/s]; positive and finite; its mean is 1/mu."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        shift = per_node(self.delay, n, seed, f"{key}.delay", unit="s", size=size)
        wait = _memoryless(per_node(self.rate, n, seed, f"{key}.rate", open_low=True, unit="1/s", size=size))
        return Gaps(shift + wait.shift, wait.scale)


@dataclass(frozen=True)
class Deterministic(Clock):
    """Actions at exact multiples of a period; simultaneous ones happen in the order of node numbers.

    Example:
        >>> from batchednodes.events.clocks import Deterministic
        >>> Deterministic(period=[0.5, 2]).gaps(2, 0, "update.clock").rate.tolist()
        [2.0, 0.5]
    """

    period: PerNode = 1.0
    """Time between two actions of one node [s]; positive and finite."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        shift = per_node(self.period, n, seed, f"{key}.period", open_low=True, unit="s", size=size)
        return Gaps(shift, np.zeros(shift.size))


@dataclass(frozen=True)
class AtUpdate(Clock):
    """A contact at each completion of an update, at its instant, or one with each neighbour; only for `gossip.clock`.

    Example:
        >>> from batchednodes.events.clocks import AtUpdate
        >>> AtUpdate(order="after").gaps(2, 0, "gossip.clock").rate.tolist()  # no contacts but those at updates
        [0.0, 0.0]

    Reference:
        X. Lian, W. Zhang, C. Zhang, J. Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML
        2018: a node averages with a random neighbour, then applies its gradient.
    """

    order: Literal["before", "after"] = "before"
    """Whether the contact is made before the update is applied, or after it."""

    peers: Literal["one", "all"] = "one"
    """With whom: one random neighbour; or all of them, one after the other, in the order of their numbers, on a graph
    that does not change."""

    def to_all(self) -> bool:
        return self.peers == "all"

    def at_update(self) -> Literal["before", "after"] | None:
        return self.order

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        """Returns laws by which nodes make no contact on their own."""
        return Never().gaps(n, seed, key, size)


@dataclass(frozen=True)
class Never(Clock):
    """The node never acts.

    Example:
        >>> from batchednodes.events.clocks import Never
        >>> Never().gaps(2, 0, "gossip.clock").rate.tolist()
        [0.0, 0.0]
    """

    never: ClassVar[bool] = True

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        some = n if size is None else size
        return Gaps(np.full(some, math.inf), np.zeros(some))
