r"""Clocks: when a node acts.

Every law of this module gives independent gaps of one form,

    gap = shift + scale * E,    E = -log(u) ~ Exp(1),

so that one compiled loop makes the timeline of all of them. A law of the user's own may be any: its inverse CDF, a
function of u and two parameters of the node, is compiled, and called by that loop.

Notation: n nodes, u uniform on (0, 1), c delay [s], mu rate of the exponential part [1/s].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit, uint64

from batchednodes.numerics.functions import each, law, of_three
from batchednodes.numerics.logarithm import log
from batchednodes.numerics.rng import unit
from batchednodes.numerics.values import PerNode, per_node


@dataclass(frozen=True)
class Quantiles:
    """Laws of gaps by their inverse CDFs, functions of u and two parameters of each node."""

    where: Int64[np.ndarray, " n"]
    """Address of the compiled function; 0 where the gap is of the form shift + scale * Exp(1)."""

    a: Float64[np.ndarray, " n"]
    """First parameter."""

    b: Float64[np.ndarray, " n"]
    """Second parameter."""

    def part(self, nodes: slice) -> "Quantiles":
        """Returns those of some nodes."""
        return Quantiles(self.where[nodes], self.a[nodes], self.b[nodes])


@dataclass(frozen=True)
class Gaps:
    """Laws of the times between a node's actions, one for each node: shift + scale * Exp(1), or by inverse CDFs."""

    shift: Float64[np.ndarray, " n"]
    """Fixed part of the gap [s]; non-negative; infinite where the node never acts."""

    scale: Float64[np.ndarray, " n"]
    """Mean of the exponential part of the gap [s]; non-negative and finite; of a law by its inverse CDF, the mean."""

    quantiles: Quantiles | None = None
    """Laws of another form; None: there is none. What is expected of them goes by their means."""

    @classmethod
    def by(
        cls,
        gap: Callable[[float, float, float], float],
        mean: Float64[np.ndarray, " n"],
        a: Float64[np.ndarray, " n"] | float,
        b: Float64[np.ndarray, " n"] | float,
        key: str,
    ) -> "Gaps":
        """Returns laws of any form.

        Args:
            gap: inverse CDF gap(u, a, b) [s] of a number u uniform on (0, 1); plain Python that numba can compile. Two
                parameters are the limit: a law of more takes the number of the node for a, and looks them up in an
                array of its module, or of the function that it is defined in, which numba takes for a constant.
            mean: of each node's gaps [s]; positive; infinite: the node never acts.
            a: first parameter of each node, or one for all.
            b: second parameter.
            key: path of the clock in the settings, for messages.

        Raises:
            ValueError: a mean is not positive, numba cannot compile the function, or it returns what is no time.
        """
        bad = np.flatnonzero(~(mean > 0))
        if bad.size:
            raise ValueError(f"{key} must have gaps with a positive mean [s], got {mean[bad[0]]:g} at node {bad[0]}")
        try:
            first, second = each(mean.size, a, b)
            quantiles = Quantiles(law(gap, first, second), first, second)
        except ValueError as error:
            raise ValueError(f"{key}: gap {error}") from None
        made = cls(np.zeros(mean.size), np.array(mean, float), quantiles)
        never = np.isinf(mean)
        return made.silence(never) if never.any() else made

    @property
    def rate(self) -> Float64[np.ndarray, " n"]:
        """Long-run mean number of actions per second [1/s], by the renewal theorem; 0 where the node never acts."""
        return 1.0 / (self.shift + self.scale)

    def is_memoryless(self) -> bool:
        """Returns whether all gaps are exponential, or infinite."""
        return self.quantiles is None and not self.shift[np.isfinite(self.shift)].any()

    def part(self, nodes: slice) -> "Gaps":
        """Returns the laws of some nodes."""
        return Gaps(self.shift[nodes], self.scale[nodes], self.quantiles and self.quantiles.part(nodes))

    def compiled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns shift, scale, address and parameters as compiled loops take them; no address: there are none."""
        if self.quantiles is None:
            none = np.zeros(0)
            return self.shift, self.scale, np.zeros(0, np.int64), none, none
        q, own = self.quantiles, self.quantiles.where != 0
        return np.where(own, 0.0, self.shift), np.where(own, 1.0, self.scale), q.where, q.a, q.b

    def silence(self, nodes: np.ndarray) -> "Gaps":
        """Returns the same laws, but the nodes given (a boolean mask, or indices) never act."""
        shift, scale = self.shift.copy(), self.scale.copy()
        shift[nodes], scale[nodes] = math.inf, 0.0
        if self.quantiles is None:
            return Gaps(shift, scale)
        where = self.quantiles.where.copy()
        where[nodes] = 0
        return Gaps(shift, scale, replace(self.quantiles, where=where))

    def thinned(self, share: Float64[np.ndarray, " n"]) -> "Gaps":
        """Returns laws with as many actions in the long run as if each counted with some probability; 0: as 1."""
        part = np.where(share > 0, share, 1.0)
        return Gaps(self.shift / part, self.scale / part, self.quantiles)


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def gap(shift, scale, bits):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the gap of one law for 64 random bits [s]."""
    return shift - scale * log(unit(bits)) if scale > 0.0 else shift


@njit(nogil=True, cache=True)
@no_type_check
def next_gap(i, laws, bits):  # noqa: ANN001, ANN201
    """Returns the gap of node i for 64 random bits [s]; laws: see `Gaps.compiled`."""
    shift, scale, where, a, b = laws
    if where.size > 0 and where[i] != 0:
        return of_three(where[i], unit(bits), a[i], b[i])
    return gap(shift[i], scale[i], bits)


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
def gaps_by(nodes, first, bits, laws, out):  # noqa: ANN001, ANN201
    """Writes the gap of each node whose law is by an inverse CDF in place of -log(u); arguments as in `act`."""
    _, _, where, a, b = laws
    for k in range(nodes.size):
        i = uint64(first) + nodes[k]
        if where[i] != 0:
            out[k] = of_three(where[i], unit(bits[k]), a[i], b[i])


@njit(nogil=True, cache=True)
@no_type_check
def act(nodes, first, wait, laws, following, made, until, time, actor):  # noqa: ANN001, ANN201
    """Notes the next action of each node and draws the time of the one after; returns how many act again in time.

    Nothing here depends on a branch that a processor cannot foresee, however many actions each node has.

    Args:
        nodes: numbers in the network, without a sign; those that act again come first afterwards, in their order.
        first: first node of the network.
        wait: exponential part of the gap of each over its mean, see `waits`.
        laws: of the gaps of all nodes [s], see `Gaps.compiled`.
        following: time of the next action of each node [s].
        made: actions of each node so far.
        until: the time [s].
        time: receives the time of each action [s].
        actor: receives its node.
    """
    shift, scale, kept = laws[0], laws[1], 0
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
    shift, scale = np.concatenate([g.shift for g in parts]), np.concatenate([g.scale for g in parts])
    if all(g.quantiles is None for g in parts):
        return Gaps(shift, scale)
    none = [Quantiles(np.zeros(g.shift.size, np.int64), 0 * g.scale, 0 * g.scale) for g in parts]
    some = [g.quantiles or empty for g, empty in zip(parts, none, strict=True)]
    columns = (np.concatenate([getattr(q, name) for q in some]) for name in ("where", "a", "b"))
    return Gaps(shift, scale, Quantiles(*columns))


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
