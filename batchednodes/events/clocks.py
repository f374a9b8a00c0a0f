r"""Clocks: when a node acts.

Every law of this module gives independent gaps of one form,

    gap = shift + scale * E,    E = -log(u) ~ Exp(1),

so that one compiled loop makes the timeline of all of them.

Letters: n nodes, u uniform on (0, 1), c delay [s], mu rate of the exponential part [1/s].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints, no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64
from numba import njit, uint64

from batchednodes.numerics.logarithm import log
from batchednodes.numerics.rng import draws, unit, units
from batchednodes.numerics.values import PerNode, per_node

_AHEAD = 1 << 18
"""Actions of all nodes that an open law draws at once, at most."""


@dataclass(frozen=True)
class Gaps:
    """Laws of the times between a node's actions, one for each node: shift + scale * Exp(1)."""

    shift: Float64[np.ndarray, " n"]
    """Fixed part of the gap [s]; non-negative; infinite where the node never acts."""

    scale: Float64[np.ndarray, " n"]
    """Mean of the exponential part of the gap [s]; non-negative and finite; of open laws, the mean of the gap."""

    laws: "tuple[OpenLaw, ...]" = ()
    """Laws of another form, of some nodes."""

    @property
    def rate(self) -> Float64[np.ndarray, " n"]:
        """Long-run mean number of actions per second [1/s], by the renewal theorem; 0 where the node never acts."""
        return 1.0 / (self.shift + self.scale)

    def part(self, nodes: slice) -> "Gaps":
        """Returns the laws of some nodes."""
        laws = tuple(law.moved(-nodes.start) for law in self.laws if nodes.start <= law.first < nodes.stop)
        return Gaps(self.shift[nodes], self.scale[nodes], laws)

    def law(self, first: int) -> "OpenLaw | None":
        """Returns the law of the network with some first node, if it is of another form."""
        return next((law for law in self.laws if law.first == first), None)

    def silence(self, nodes: np.ndarray) -> "Gaps":
        """Returns the same laws, but the nodes given (a boolean mask, or indices) never act."""
        shift, scale = self.shift.copy(), self.scale.copy()
        shift[nodes], scale[nodes] = math.inf, 0.0
        return Gaps(shift, scale, self.laws)

    def thinned(self, share: Float64[np.ndarray, " n"]) -> "Gaps":
        """Returns laws with as many actions in the long run as if each counted with some probability; 0: as 1."""
        part = np.where(share > 0, share, 1.0)
        return Gaps(self.shift / part, self.scale / part)


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def gap(shift, scale, bits):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the gap of one law for 64 random bits [s]."""
    return shift - scale * log(unit(bits)) if scale > 0.0 else shift


@njit(nogil=True, cache=True)
@no_type_check
def due(nodes, first, following, until, out):  # noqa: ANN001, ANN201
    """Lists the nodes that act up to some time, by their numbers in the network; returns how many they are.

    Args:
        nodes: the first node to look at, and one more than the last.
        first: first node of the network.
        following: time of the next action of each node [s].
        until: the time [s].
        out: receives the list.
    """
    size = 0
    for i in range(nodes[0], nodes[1]):
        out[uint64(size)] = i - first  # an index without a sign needs no check, here and below
        size += following[i] <= until
    return size


@njit(nogil=True, cache=True)
@no_type_check
def waits(bits, out):  # noqa: ANN001, ANN201
    """Writes -log(u) ~ Exp(1) for each 64 random bits; the loop is compiled to vector instructions."""
    for a in range(bits.size):
        out[a] = -log(unit(bits[a]))


@njit(nogil=True, cache=True)
@no_type_check
def act(nodes, first, wait, laws, following, made, until, time, actor):  # noqa: ANN001, ANN201
    """Notes the next action of each node and draws the time of the one after; returns how many act again in time.

    Nothing here depends on a branch that a processor cannot foresee, however many actions each node has.

    Args:
        nodes: numbers in the network, without a sign; those that act again come first afterwards, in their order.
        first: first node of the network.
        wait: exponential part of the gap of each over its mean, see `waits`.
        laws: shift and scale of the gaps of all nodes [s].
        following: time of the next action of each node [s].
        made: actions of each node so far.
        until: the time [s].
        time: receives the time of each action [s].
        actor: receives its node.
    """
    (shift, scale), kept = laws, 0
    for a in range(time.size):
        i = uint64(first) + nodes[a]
        k, again = made[i] + 1, following[i] + (shift[i] + scale[i] * wait[a])
        time[a], actor[a], made[i] = following[i], i, k
        following[i] = again if scale[i] > 0.0 else (k + 1) * shift[i]  # exact multiples
        nodes[uint64(kept)] = nodes[a]
        kept += following[i] <= until
    for a in range(time.size, nodes.size):
        nodes[uint64(kept)] = nodes[a]
        kept += 1
    return kept


def join(parts: "list[Gaps]") -> Gaps:
    """Returns the laws of several networks, one after the other."""
    firsts = np.cumsum([0, *(g.shift.size for g in parts)])
    laws = tuple(law.moved(int(first)) for g, first in zip(parts, firsts, strict=False) for law in g.laws)
    return Gaps(np.concatenate([g.shift for g in parts]), np.concatenate([g.scale for g in parts]), laws)


@dataclass(frozen=True, eq=False)
class OpenLaw:
    """Gaps of the nodes of one network by an inverse distribution function, for all of them at once."""

    first: int
    """First node of the network."""
    quantile: Callable[..., Float64[np.ndarray, " m"]]
    """Maps numbers in (0, 1) [m], and parameters of as many nodes by name, to gaps [s]."""
    parameters: dict[str, Any]
    """By name; of all nodes [n], or one for all."""

    def moved(self, by: int) -> "OpenLaw":
        """Returns the law of the same nodes, whose numbers are larger."""
        return OpenLaw(self.first + by, self.quantile, self.parameters)

    def gap(self, u: Float64[np.ndarray, " m"], local: Int64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Returns gaps of some nodes, by their numbers in the network [s].

        Raises:
            ValueError: the law gives something else than numbers of at least 0.
        """
        named = {name: a[local] if isinstance(a, np.ndarray) else a for name, a in self.parameters.items()}
        found = np.asarray(self.quantile(u, **named), float)
        if found.shape != u.shape or not (found >= 0).all():
            raise ValueError(f"a clock must give one gap of at least 0 [s] for each node, got {found}")
        return found

    def begin(self, seed: int, stream: int, never: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Returns when each node of the network acts first [s]; inf: those that never do."""
        local = np.arange(never.size)
        high, _ = draws(seed, stream, local, 0)
        return np.where(never, np.inf, self.gap(units(high), local))

    def act_(
        self, seed: int, stream: int, following: np.ndarray, made: np.ndarray, until: float, mean: np.ndarray
    ) -> tuple[Float64[np.ndarray, " m"], Int64[np.ndarray, " m"], Int64[np.ndarray, " m"], UInt64[np.ndarray, " m"]]:
        """Lets nodes act up to some time; their k-th gap is from draw k.

        Args:
            seed: of the network.
            stream: of the draws.
            following: when each node of the network acts next [s]; changed.
            made: its actions so far; changed.
            until: the time [s].
            mean: gap of each node [s].

        Returns:
            Times [s], nodes by their numbers in the network, numbers of the actions, and 64 random bits for each.
        """
        parts = [(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))]
        while (local := np.flatnonzero(following <= until)).size:
            ahead = 1 + int(1.1 * float(((until - following[local]) / mean[local]).max()))
            k = max(1, min(ahead, _AHEAD // local.size))  # actions of each node that are drawn at once
            number = made[local, None] + np.arange(1, k + 1)
            node = np.repeat(local, k)
            high, low = draws(seed, stream, node, number.ravel())
            gaps = self.gap(units(high), node).reshape(-1, k)
            times = np.cumsum(np.concatenate([following[local, None], gaps], 1), axis=1)
            due = times[:, :-1] <= until
            count = due.sum(1)
            following[local] = times[np.arange(local.size), count]
            made[local] += count
            at = due.ravel()
            parts.append((times[:, :-1].ravel()[at], node[at], number.ravel()[at], low[at]))
        time, node, number, bits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return time, node, number, bits


class Clock(ABC):
    """A law of gaps between a node's actions; every node starts at t = 0 and has its own, independent draws."""

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


@dataclass(frozen=True)
class Quantile(Clock):
    """Any law of gaps, by its inverse distribution function: a class of one's own has `quantile` and `mean`.

    @dataclass(frozen=True)
    class Weibull(Quantile):
        scale: PerNode = 1.0
        shape: PerNode = 0.7

        def quantile(self, u, scale, shape):
            return scale * (-np.log(u)) ** (1 / shape)

        def mean(self, scale, shape):
            return scale * scipy.special.gamma(1 + 1 / shape)
    """

    @abstractmethod
    def quantile(self, u: Float64[np.ndarray, " m"], **settings: Any) -> Float64[np.ndarray, " m"]:
        """Returns the gap of each of m nodes for a uniform number in (0, 1) [s]; at least 0, and finite.

        Args:
            u: the numbers.
            settings: the fields of the class by name; those that may differ from node to node [m].
        """

    @abstractmethod
    def mean(self, **settings: Any) -> Float64[np.ndarray, " m"]:
        """Returns the mean gap of each node [s], positive: windows, plans and theory need the rate of actions."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        own, some, hints = {}, n if size is None else size, get_type_hints(type(self))
        for one in fields(self):
            value, varies = getattr(self, one.name), hints[one.name] == PerNode
            own[one.name] = per_node(value, n, seed, f"{key}.{one.name}", size=size) if varies else value
        mean = np.broadcast_to(np.asarray(self.mean(**own), float), some).copy()
        if not ((mean > 0) & np.isfinite(mean)).all():
            raise ValueError(f"{key} must have a mean gap that is positive and finite [s], got {mean.min():g}")
        return Gaps(np.zeros(some), mean, (OpenLaw(0, self.quantile, own),))


def _memoryless(rate: Float64[np.ndarray, " n"]) -> Gaps:
    with np.errstate(divide="ignore", over="ignore"):  # below 6e-309 the mean gap is not finite: never
        scale = 1.0 / rate
    never = ~np.isfinite(scale)
    return Gaps(np.where(never, math.inf, 0.0), np.where(never, 0.0, scale))


@dataclass(frozen=True)
class Poisson(Clock):
    """Memoryless actions: gaps are exponential."""

    rate: PerNode = "log(n)"
    """Mean number of actions of one node per second [1/s]; non-negative and finite; 0: never."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        return _memoryless(per_node(self.rate, n, seed, f"{key}.rate", unit="1/s", size=size))


@dataclass(frozen=True)
class Exponential(Clock):
    """Memoryless update times: gaps are exponential."""

    rate: PerNode = 1.0
    """Mean number of updates of one node per second [1/s]; non-negative and finite; 0: never."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        return _memoryless(per_node(self.rate, n, seed, f"{key}.rate", unit="1/s", size=size))


@dataclass(frozen=True)
class ShiftedExponential(Clock):
    """Computing takes a fixed time, then an exponential wait; the reference paper's model of local updates."""

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
    """Actions at exact multiples of a period; simultaneous ones happen in the order of node numbers."""

    period: PerNode = 1.0
    """Time between two actions of one node [s]; positive and finite."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        shift = per_node(self.period, n, seed, f"{key}.period", open_low=True, unit="s", size=size)
        return Gaps(shift, np.zeros(shift.size))


@dataclass(frozen=True)
class AtUpdate(Clock):
    """A contact at each completion of an update, at its instant; only for `gossip.clock`.

    Reference:
        X. Lian, W. Zhang, C. Zhang, J. Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML
        2018: a node averages with a random neighbour, then applies its gradient.
    """

    order: Literal["before", "after"] = "before"
    """Whether the contact is made before the update is applied, or after it."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        """Returns laws by which nodes make no contact on their own."""
        return Never().gaps(n, seed, key, size)


@dataclass(frozen=True)
class Never(Clock):
    """The node never acts."""

    def gaps(self, n: int, seed: int, key: str, size: int | None = None) -> Gaps:
        some = n if size is None else size
        return Gaps(np.full(some, math.inf), np.zeros(some))
