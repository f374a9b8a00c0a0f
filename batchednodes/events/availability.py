r"""Availability: when nodes are reachable, and when they belong to the network at all.

A node that is off sends nothing, and what arrives is gone. Whether it goes on computing is `update.while_off`.

Notation: n nodes, k number of a change among those of its node.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit

from batchednodes.events.links.trace_files import table
from batchednodes.events.messages.records import bits
from batchednodes.numerics import rng
from batchednodes.numerics.functions import each, law, of_three
from batchednodes.numerics.logarithm import log
from batchednodes.numerics.values import PerNode, number, per_node, shown

ALWAYS, PER_MESSAGE, MARKOV, DIURNAL, TRACE, OWN = range(6)
"""Laws, as the compiled loop knows them."""

_CHANGES = 1 << 22
"""The most lines of a trace."""


@dataclass(frozen=True)
class AvailabilityLaw:
    """When each node is on."""

    law: int
    """One of the laws above, the same for all nodes of a network."""
    a: Float64[np.ndarray, " n"]
    """First parameter: probability that it is on, mean time on [s], or period [s]."""
    b: Float64[np.ndarray, " n"]
    """Second parameter: mean time off [s], or part of the period that it is on."""
    begins: Int64[np.ndarray, " n1"] | None = None
    """Of a trace: where the changes of each node begin, and the end of the last."""
    changes: Float64[np.ndarray, " c"] | None = None
    """Of a trace: when each node changes [s], in order of time; every node is on before."""
    where: int = 0
    """Address of the inverse CDF of the times that a node stays on, or off; 0: the law is built in."""

    @classmethod
    def by(
        cls,
        stay: Callable[[float, float, float], float],
        on: Float64[np.ndarray, " n"],
        off: Float64[np.ndarray, " n"],
        key: str,
    ) -> "AvailabilityLaw":
        """Returns laws by which nodes, on at first, stay on and off in turn for independent times of any law.

        Args:
            stay: inverse CDF stay(u, mean, is_off) [s] of a number u uniform on (0, 1), with a mean; is_off is 1.0 or
                0.0; plain Python that numba can compile.
            on: mean time that each node stays on [s].
            off: mean time that it stays off [s]; or one for all.
            key: path of the availability in the settings, for messages.

        Raises:
            ValueError: numba cannot compile the function, or it returns what is no time.
        """
        try:
            first, second = each(on.size, on, off)
            where = law(stay, first, np.zeros(on.size))
            law(stay, second, np.ones(on.size))
        except ValueError as error:
            raise ValueError(f"{key}: stay {error}") from None
        return cls(OWN, first, second, where=int(where[0]) if where.size else 0)

    @property
    def turnover(self) -> Float64[np.ndarray, " n"]:
        """Mean number of changes of each node [1/s]; 0 for a trace, all of whose changes are known."""
        if self.law not in (MARKOV, DIURNAL, OWN):
            return np.zeros(self.a.size)
        with np.errstate(over="ignore"):
            return 2.0 / (self.a if self.law == DIURNAL else self.a + self.b)


class Availability(ABC):
    """A law of when nodes are on."""

    spans: ClassVar[bool] = True
    """Whether nodes are off for spans of time, in which they may pause; else never, or for single messages only."""
    reads_files: ClassVar[bool] = False
    """Whether `presence` reads files, which is left until the run is made."""

    @abstractmethod
    def presence(self, n: int, seed: int, key: str, size: int) -> AvailabilityLaw:
        """Returns the law of the first `size` of n nodes.

        Raises:
            ValueError: a setting is out of range for some node.
        """


@dataclass(frozen=True)
class Always(Availability):
    """Nodes are always on.

    Example:
        >>> from batchednodes.events.availability import Always
        >>> Always().presence(10, 0, "network.availability", 2).turnover.tolist()  # changes in a second
        [0.0, 0.0]
    """

    spans: ClassVar[bool] = False

    def presence(self, n: int, seed: int, key: str, size: int) -> AvailabilityLaw:
        return AvailabilityLaw(ALWAYS, np.ones(size), np.ones(size))


@dataclass(frozen=True)
class PerMessage(Availability):
    """A message finds its receiver on with some probability, independently; under `timing: rounds`, once a step.

    Senders are always on.

    Example:
        >>> from batchednodes.events.availability import PerMessage
        >>> law = PerMessage([0.5, 1.0]).presence(2, 0, "network.availability", 2)
        >>> law.a.tolist()  # the probability that each node takes a message
        [0.5, 1.0]
    """

    probability: PerNode = 0.8
    """Probability that a node is on [dimensionless]; in [0, 1]."""

    spans: ClassVar[bool] = False

    def presence(self, n: int, seed: int, key: str, size: int) -> AvailabilityLaw:
        p = per_node(self.probability, n, seed, f"{key}.probability", high=1.0, open_high=False, size=size)
        return AvailabilityLaw(PER_MESSAGE, p, p)


@dataclass(frozen=True)
class Markov(Availability):
    """Nodes go on and off, each by itself, for exponential times; they begin in the long-run law.

    Example:
        >>> from batchednodes.events.availability import Markov
        >>> law = Markov(mean_on=8.0, mean_off=2.0).presence(1, 0, "network.availability", 1)
        >>> (law.a / (law.a + law.b)).item(), law.turnover.item()  # part of the time that it is on, changes in a second
        (0.8, 0.2)
    """

    mean_on: PerNode = 8.0
    """Mean time that a node is on [s]; positive and finite."""

    mean_off: PerNode = 2.0
    """Mean time that a node is off [s]; positive and finite."""

    def presence(self, n: int, seed: int, key: str, size: int) -> AvailabilityLaw:
        on, off = (per_node(getattr(self, name), n, seed, f"{key}.{name}", open_low=True, unit="s", size=size)
                   for name in ("mean_on", "mean_off"))  # fmt: skip
        return AvailabilityLaw(MARKOV, on, off)


@dataclass(frozen=True)
class Diurnal(Availability):
    """Each node is on for the same part of each day, which begins at a random hour of its own.

    Example:
        >>> from batchednodes.events.availability import Diurnal
        >>> law = Diurnal(period=24.0, share=0.25).presence(1, 0, "network.availability", 1)
        >>> law.turnover.item() * 24.0  # it goes on and off once a day
        2.0
    """

    period: float = 24.0
    """Length of a day [s]; positive and finite."""

    share: PerNode = 0.5
    """Part of the day that a node is on [dimensionless]; in (0, 1)."""

    def __post_init__(self) -> None:
        number(self.period, 1, "period", open_low=True, unit="s")

    def presence(self, n: int, seed: int, key: str, size: int) -> AvailabilityLaw:
        share = per_node(self.share, n, seed, f"{key}.share", high=1.0, open_low=True, size=size)
        return AvailabilityLaw(DIURNAL, np.full(size, float(self.period)), share)


@dataclass(frozen=True)
class TraceAvailability(Availability):
    """Nodes go on and off as a file says.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.availability import TraceAvailability
        >>> np.savetxt("trace.txt", [(3.0, 1, 0), (5.0, 1, 1)])  # node 1 is off from 3 s to 5 s
        >>> TraceAvailability("trace.txt").presence(2, 0, "network.availability", 2).changes.tolist()
        [3.0, 5.0]
    """

    path: str
    """Text file, relative to the working directory, of lines "time [s], node, 1 (on) or 0 (off)", in any order, after
    a line `time,node,on` or not; a node is on until its first line says otherwise."""

    reads_files: ClassVar[bool] = True

    def presence(self, n: int, seed: int, key: str, size: int) -> AvailabilityLaw:
        _, rows = table(self.path, f"{key}.path", (("time", "node", "on"),), _CHANGES)
        if not rows.size:
            raise ValueError(f"{key}.path must hold at least one change, got none in {shown(self.path)}")
        time, node, on = rows.T
        good = (time >= 0) & (node == np.floor(node)) & (node >= 0) & (node < n) & np.isin(on, (0, 1))
        if not good.all():
            bad = shown(" ".join(f"{v:g}" for v in rows[np.argmin(good)]))
            rule = f"a time from 0 on, a node of 0 .. {n - 1}, and 0 or 1"
            raise ValueError(f"{key}.path must have lines of {rule}, got {bad} in {shown(self.path)}")
        order = np.lexsort((time, node))
        time, node, on = time[order], node[order].astype(np.int64), on[order]
        before = np.where(np.append(-1, node[:-1]) == node, np.append(1, on[:-1]), 1.0)
        kept = (on != before) & (node < size)
        begins = np.searchsorted(node[kept], np.arange(size + 1))
        return AvailabilityLaw(TRACE, np.ones(size), np.ones(size), begins, time[kept])


@dataclass(frozen=True)
class Churn:
    """Nodes that come late, or leave for good.

    Example:
        >>> from batchednodes.events.availability import Churn
        >>> from batchednodes.numerics.values import Uniform
        >>> joins, leaves = Churn(join=Uniform(0.0, 10.0)).times(3, 0, "network.churn", 3)
        >>> joins.round(2).tolist(), leaves.tolist()
        ([7.89, 4.03, 0.47], [inf, inf, inf])
    """

    join: PerNode = 0.0
    """When a node joins the network [s], non-negative and finite; before, it does nothing."""

    leave: PerNode | None = None
    """When a node leaves it for good [s], positive and finite; later than `join`; null: never."""

    start: Literal["fresh", "neighbour"] = "fresh"
    """Model of a node that joins after t = 0: `fresh`, its initial one; `neighbour`, that of a random neighbour which
    is on at that time, if there is one."""

    def times(self, n: int, seed: int, key: str, size: int) -> Float64[np.ndarray, "2 n"]:
        """Returns when each of the first `size` of n nodes joins and leaves [s].

        Raises:
            ValueError: a setting is out of range for some node.
        """
        join = per_node(self.join, n, seed, f"{key}.join", unit="s", size=size)
        if self.leave is None:
            return np.stack([join, np.full(size, np.inf)])
        leave = per_node(self.leave, n, seed, f"{key}.leave", open_low=True, unit="s", size=size)
        bad = np.flatnonzero(leave <= join)
        if bad.size:
            raise ValueError(
                f"{key}.leave must be later than {key}.join, got {leave[bad[0]]:g} and {join[bad[0]]:g} [s] at node "
                f"{bad[0]}"
            )
        return np.stack([join, leave])


@njit(nogil=True, cache=True)
@no_type_check
def open_presences(laws, s):  # noqa: ANN001, ANN201  (numba infers the types)
    """Lets each node begin on or off, for what its clocks look at, too."""
    for i in range(laws.n):
        changes, change = _first_change(i, laws)
        s.nodes[i].changes, s.nodes[i].change = changes, change
        s.nodes[i].worked, s.nodes[i].work = changes, change


@njit(nogil=True, cache=True)
@no_type_check
def _first_change(i, laws):  # noqa: ANN001, ANN202
    """Returns how many changes node i has behind it at t = 0 (0: on, 1: off) and when the next comes [s]."""
    one = laws.nodes[i]
    if one.law != MARKOV and one.law != DIURNAL:
        return 0, change_after(i, 0, 0.0, laws)
    high, _ = bits(i, rng.AVAILABLE, 0, laws)
    u = rng.unit(high)
    if one.law == MARKOV:
        k = 0 if u < one.on_a / (one.on_a + one.on_b) else 1
        return k, change_after(i, k, 0.0, laws)
    since = u * one.on_a  # it has been on for so long, if that is less than its part of the day
    return (0, one.on_b * one.on_a - since) if since < one.on_b * one.on_a else (1, one.on_a - since)


@njit(nogil=True, cache=True)
@no_type_check
def change_after(i, k, now, laws):  # noqa: ANN001, ANN201
    """Returns when node i, which changed for the k-th time now, changes again [s]; it is off if k is odd."""
    one = laws.nodes[i]
    if one.law == MARKOV:
        high, _ = bits(i, rng.AVAILABLE, k + 1, laws)
        return now - (one.on_b if k & 1 else one.on_a) * log(rng.unit(high))
    if one.law == OWN:
        high, _ = bits(i, rng.AVAILABLE, k + 1, laws)
        off = k & 1
        return now + of_three(one.on_by, rng.unit(high), one.on_b if off else one.on_a, float(off))
    if one.law == DIURNAL:
        return now + one.on_a * ((1.0 - one.on_b) if k & 1 else one.on_b)
    if one.law == TRACE and laws.begins[i] + k < laws.begins[i + 1]:
        return laws.turns[laws.begins[i] + k]
    return np.inf
