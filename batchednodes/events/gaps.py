r"""Laws of the times between a node's actions, and the compiled loops that draw them.

Every built-in law gives independent gaps of one form,

    gap = shift + scale * E,    E = -log(u) ~ Exp(1),

so that one compiled loop makes the timeline of all of them. A law of the user's own may be any: its inverse CDF, a
function of u and two parameters of the node, is compiled, and called by that loop.

Notation: n nodes, u uniform on (0, 1).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit, uint64

from batchednodes.numerics.functions import each, law, of_three
from batchednodes.numerics.logarithm import log
from batchednodes.numerics.rng import unit


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
    """Laws of the times between a node's actions, one for each node: shift + scale * Exp(1), or by inverse CDFs.

    Example:
        >>> from batchednodes.events.clocks import ShiftedExponential
        >>> gaps = ShiftedExponential(delay=0.5, rate=2.0).gaps(3, 0, "update.clock")
        >>> gaps.shift.tolist(), gaps.scale.tolist()
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        >>> gaps.rate.tolist()  # one action in 0.5 + 1/2 s
        [1.0, 1.0, 1.0]
    """

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

    @functools.cached_property
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
        """Returns the same laws, but the nodes given (a boolean mask, or indices) never act.

        Example:
            >>> import numpy as np
            >>> from batchednodes.events.clocks import Poisson
            >>> Poisson(2.0).gaps(3, 0, "gossip.clock").silence(np.array([1])).rate.tolist()
            [2.0, 0.0, 2.0]
        """
        shift, scale = self.shift.copy(), self.scale.copy()
        shift[nodes], scale[nodes] = math.inf, 0.0
        if self.quantiles is None:
            return Gaps(shift, scale)
        where = self.quantiles.where.copy()
        where[nodes] = 0
        return Gaps(shift, scale, replace(self.quantiles, where=where))

    def thinned(self, share: Float64[np.ndarray, " n"]) -> "Gaps":
        """Returns laws with as many actions in the long run as if each counted with some probability; 0: as 1.

        Example:
            >>> import numpy as np
            >>> from batchednodes.events.clocks import Poisson
            >>> Poisson(2.0).gaps(2, 0, "gossip.clock").thinned(np.array([0.5, 1.0])).rate.tolist()
            [1.0, 2.0]
        """
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
    """Returns the laws of several networks, one after the other.

    Example:
        >>> from batchednodes.events.clocks import Never, Poisson
        >>> from batchednodes.events.gaps import join
        >>> join([Poisson("log2(n)").gaps(n, 0, "gossip.clock") for n in (2, 4)]).rate.tolist()
        [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    """
    shift, scale = np.concatenate([g.shift for g in parts]), np.concatenate([g.scale for g in parts])
    if all(g.quantiles is None for g in parts):
        return Gaps(shift, scale)
    none = [Quantiles(np.zeros(g.shift.size, np.int64), 0 * g.scale, 0 * g.scale) for g in parts]
    some = [g.quantiles or empty for g, empty in zip(parts, none, strict=True)]
    columns = (np.concatenate([getattr(q, name) for q in some]) for name in ("where", "a", "b"))
    return Gaps(shift, scale, Quantiles(*columns))
