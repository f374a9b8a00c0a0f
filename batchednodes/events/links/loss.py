r"""Losses: which messages never arrive.

Notation: n nodes, p probability of a loss.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64
from numba import njit

from batchednodes.events.messages.records import bits
from batchednodes.numerics import rng
from batchednodes.numerics.values import PerNode, per_node


class Loss(ABC):
    """A law of losses."""

    @abstractmethod
    def losses(self, n: int, seed: int, key: str, size: int) -> Float64[np.ndarray, "4 n"]:
        """Returns, for the first `size` of n nodes, the law of a channel of two states, good and bad.

        The rows are the probabilities of a loss in the good state and in the bad one, and those with which the channel
        goes from good to bad, and from bad to good, before each message.

        Raises:
            ValueError: a setting is out of range for some node.
        """


@dataclass(frozen=True)
class NoLoss(Loss):
    """No message is lost.

    Example:
        >>> from batchednodes.events.links.loss import NoLoss
        >>> NoLoss().losses(1, 0, "gossip.loss", 1)[:2].tolist()  # in the good state and in the bad one
        [[0.0], [0.0]]
    """

    def losses(self, n: int, seed: int, key: str, size: int) -> Float64[np.ndarray, "4 n"]:
        return np.zeros((4, size))


@dataclass(frozen=True)
class Independent(Loss):
    """Each message is lost with the same probability, independently.

    Example:
        >>> from batchednodes.events.links.loss import Independent
        >>> Independent(0.2).losses(1, 0, "gossip.loss", 1)[:2].tolist()  # in the good state and in the bad one
        [[0.2], [0.2]]
    """

    probability: PerNode = 0.1
    """Probability that a message which a node sends is lost [dimensionless]; in [0, 1]."""

    def losses(self, n: int, seed: int, key: str, size: int) -> Float64[np.ndarray, "4 n"]:
        p = per_node(self.probability, n, seed, f"{key}.probability", high=1.0, open_high=False, size=size)
        return np.stack([p, p, 0 * p, 0 * p])


@dataclass(frozen=True)
class Bursts(Loss):
    """Losses come in bursts: the channel of each sender may change before each of its messages.

    Channels begin in the long-run law, so that losses are as frequent at first as later on; those that never change are
    good.

    Example:
        >>> from batchednodes.events.links.loss import Bursts
        >>> good, bad, worsens, recovers = Bursts(good_to_bad=0.05, bad_to_good=0.2).losses(1, 0, "gossip.loss", 1)
        >>> (worsens / (worsens + recovers)).item(), (1 / recovers).item()  # part that is lost, in bursts of five
        (0.2, 5.0)

    References:
        E. N. Gilbert, "Capacity of a burst-noise channel", Bell System Technical Journal 39, 1960.
        E. O. Elliott, "Estimates of error rates for codes on burst-noise channels", Bell System Technical J. 42, 1963.
    """

    good_to_bad: PerNode = 0.05
    """Probability that a good channel is bad at the next message [dimensionless]; in [0, 1]."""

    bad_to_good: PerNode = 0.4
    """Probability that a bad channel is good at the next message [dimensionless]; in [0, 1]."""

    good: PerNode = 0.0
    """Probability of a loss while the channel is good [dimensionless]; in [0, 1]."""

    bad: PerNode = 1.0
    """Probability of a loss while the channel is bad [dimensionless]; in [0, 1]."""

    def losses(self, n: int, seed: int, key: str, size: int) -> Float64[np.ndarray, "4 n"]:
        names = ("good", "bad", "good_to_bad", "bad_to_good")
        limits = {"high": 1.0, "open_high": False, "size": size}
        return np.stack([per_node(getattr(self, name), n, seed, f"{key}.{name}", **limits) for name in names])


@njit(nogil=True, cache=True)
@no_type_check
def open_channels(laws, s):  # noqa: ANN001, ANN201  (numba infers the types)
    """Lets the channel of each node begin in the long-run law of its two states."""
    for i in range(laws.n):
        one = laws.nodes[i]
        high, _ = bits(i, rng.CHANNEL, 0, laws)
        s.nodes[i].channel = rng.unit(high) * (one.good_to_bad + one.bad_to_good) < one.good_to_bad
