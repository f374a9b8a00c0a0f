r"""Delays: how long a message is under way.

Draw k of a sender gives the delay of the k-th message that it sends. Under `timing: rounds` a delay is a whole number
of steps: that of `uniform` is uniform over all integers of its range, both ends included; others are rounded down.

Notation: n nodes, k number of a message among those of its sender.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit

from batchednodes.events.links.trace_files import table
from batchednodes.events.links.traces import Links
from batchednodes.numerics import rng
from batchednodes.numerics.functions import each, law
from batchednodes.numerics.logarithm import log
from batchednodes.numerics.values import PerNode, number, per_node, shown

NONE, CONSTANT, UNIFORM, EXPONENTIAL, LOGNORMAL, TRACE, LINKS, TIMED, OWN = range(9)
"""Laws, as the compiled loop knows them."""

_LONGEST = 1 << 20
"""The most delays of a trace."""

_FORMS = (("delay",), ("from", "to", "delay"), ("time", "from", "to", "delay"))
"""Columns of a trace."""


@dataclass(frozen=True)
class DelayLaw:
    """The law of each node's messages."""

    law: int
    """One of the laws above, the same for all nodes of a network."""
    a: Float64[np.ndarray, " n"]
    """First parameter of the law: constant, lowest, mean or median [s]."""
    b: Float64[np.ndarray, " n"]
    """Second parameter: highest [s], or the standard deviation of the logarithm."""
    latency: Float64[np.ndarray, " n"]
    """Mean of the law [s]."""
    transfer: Float64[np.ndarray, " n"]
    """Time that one model takes on the sender's link [s]; messages of one sender wait for each other; 0: none."""
    spread: float = 0.0
    """Standard deviation of the logarithm of the speed over links of one sender."""
    trace: Float64[np.ndarray, " d"] | None = None
    """Delays of a trace [s]."""
    links: Links | None = None
    """Delays of a trace for each link."""
    where: Int64[np.ndarray, " n"] | None = None
    """Address of an inverse CDF, a function of u, a and b; None: the law is none of the user's own."""

    @classmethod
    def by(
        cls,
        delay: Callable[[float, float, float], float],
        mean: Float64[np.ndarray, " n"],
        a: Float64[np.ndarray, " n"] | float,
        b: Float64[np.ndarray, " n"] | float,
        key: str,
    ) -> "DelayLaw":
        """Returns laws of any form.

        Args:
            delay: inverse CDF delay(u, a, b) [s] of a number u uniform on (0, 1); plain Python that numba can compile;
                of more than two parameters as in `Gaps.by`.
            mean: of the delays of each sender [s], from which memory is planned.
            a: first parameter of each sender, or one for all.
            b: second parameter.
            key: path of the delay in the settings, for messages.

        Raises:
            ValueError: numba cannot compile the function, or it returns what is no time.
        """
        try:
            first, second = each(mean.size, a, b)
            where = law(delay, first, second)
        except ValueError as error:
            raise ValueError(f"{key}: delay {error}") from None
        return cls(OWN, first, second, np.array(mean, float), 0.0 * mean, where=where)


class Delay(ABC):
    """A law of the time between sending and arrival."""

    instant: ClassVar[bool] = False
    """Whether all messages arrive at once: then they are not simulated as such, and nodes may meet."""
    reads_files: ClassVar[bool] = False
    """Whether `delays` reads files, which is left until the run is made."""

    @abstractmethod
    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        """Returns the law of the first `size` of n nodes, for models of some bytes.

        Raises:
            ValueError: a setting is out of range for some node.
        """


@dataclass(frozen=True)
class Instant(Delay):
    """Messages arrive at once.

    Example:
        >>> from batchednodes.events.links.delay import Instant
        >>> Instant().delays(2, 0, "gossip.delay", 2, model=40_000).latency.tolist()
        [0.0, 0.0]
    """

    instant: ClassVar[bool] = True

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        none = np.zeros(size)
        return DelayLaw(NONE, none, none, none, none)


@dataclass(frozen=True)
class Constant(Delay):
    """Each message takes the same time.

    Example:
        >>> from batchednodes.events.links.delay import Constant
        >>> Constant([0.1, 2.0]).delays(2, 0, "gossip.delay", 2, model=40_000).latency.tolist()  # by sender [s]
        [0.1, 2.0]
    """

    time: PerNode = 1.0
    """Delay of the messages that a node sends [s]; non-negative and finite."""

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        time = per_node(self.time, n, seed, f"{key}.time", unit="s", size=size)
        return DelayLaw(CONSTANT, time, np.zeros(size), time, np.zeros(size))


@dataclass(frozen=True)
class UniformDelay(Delay):
    """Delays are uniform between two ends.

    Example:
        >>> from batchednodes.events.links.delay import UniformDelay
        >>> UniformDelay(low=0.5, high=1.5).delays(2, 0, "gossip.delay", 2, model=40_000).latency.tolist()  # means [s]
        [1.0, 1.0]
    """

    low: PerNode = 0.0
    """Shortest delay [s]; non-negative and finite."""

    high: PerNode = 1.0
    """Longest delay [s]; at least `low`, finite."""

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        low = per_node(self.low, n, seed, f"{key}.low", unit="s", size=size)
        high = per_node(self.high, n, seed, f"{key}.high", unit="s", size=size)
        bad = np.flatnonzero(high < low)
        if bad.size:
            raise ValueError(f"{key}.high must be at least {key}.low, got {high[bad[0]]:g} and {low[bad[0]]:g} [s]")
        return DelayLaw(UNIFORM, low, high, low / 2 + high / 2, np.zeros(size))


@dataclass(frozen=True)
class ExponentialDelay(Delay):
    """Delays are exponential.

    Example:
        >>> from batchednodes.events.links.delay import ExponentialDelay
        >>> ExponentialDelay(mean="1/n").delays(10, 0, "gossip.delay", 1, model=40_000).latency.tolist()  # mean [s]
        [0.1]
    """

    mean: PerNode = 1.0
    """Mean delay of the messages that a node sends [s]; non-negative and finite."""

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        mean = per_node(self.mean, n, seed, f"{key}.mean", unit="s", size=size)
        return DelayLaw(EXPONENTIAL, mean, np.zeros(size), mean, np.zeros(size))


@dataclass(frozen=True)
class LogNormalDelay(Delay):
    """Delays are log-normal, as those of many real networks are.

    Example:
        >>> from batchednodes.events.links.delay import LogNormalDelay
        >>> law = LogNormalDelay(median=1.0, sigma=1.0).delays(2, 0, "gossip.delay", 1, model=40_000)
        >>> law.latency.round(3).item()  # the mean, exp(1/2): few messages are very late
        1.649
    """

    median: PerNode = 1.0
    """Median delay of the messages that a node sends [s]; positive and finite."""

    sigma: float = 0.5
    """Standard deviation of the logarithm of the delay [dimensionless]; in [0, 5]."""

    def __post_init__(self) -> None:
        number(self.sigma, 1, "sigma", high=5.0, open_high=False)

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        median = per_node(self.median, n, seed, f"{key}.median", open_low=True, unit="s", size=size)
        with np.errstate(over="ignore"):  # a mean of inf: all of them are under way at the end
            mean = median * math.exp(self.sigma**2 / 2)
        return DelayLaw(LOGNORMAL, median, np.full(size, float(self.sigma)), mean, np.zeros(size))


@dataclass(frozen=True)
class Bandwidth(Delay):
    """A message takes its size over the bandwidth of its link, after those that its sender has not finished yet.

    Those that are lost take their time, too; requests have no size.

    Example:
        >>> from batchednodes.events.links.delay import Bandwidth
        >>> law = Bandwidth(rate=1e6, latency=0.05).delays(2, 0, "gossip.delay", 1, model=4_000_000)
        >>> law.transfer.item(), law.latency.item()  # a model of 4 MB keeps its sender's link busy for 4 s
        (4.0, 0.05)
    """

    rate: PerNode = 1e6
    """Bandwidth of the uplink of a node [B/s]; positive and finite."""

    spread: float = 0.0
    """Standard deviation of the logarithm of the bandwidth over the links of one node [dimensionless], in [0, 5]; 0:
    all links of a node are alike."""

    latency: PerNode = 0.0
    """Time that a message takes besides [s]; non-negative and finite."""

    def __post_init__(self) -> None:
        number(self.spread, 1, "spread", high=5.0, open_high=False)

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        rate = per_node(self.rate, n, seed, f"{key}.rate", open_low=True, unit="B/s", size=size)
        latency = per_node(self.latency, n, seed, f"{key}.latency", unit="s", size=size)
        with np.errstate(over="ignore"):
            transfer = model / rate
        return DelayLaw(CONSTANT, latency, np.zeros(size), latency, transfer, float(self.spread))


@dataclass(frozen=True)
class TraceDelay(Delay):
    """Messages take the delays of a file: of one list for all links, or of each link.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.links.delay import TraceDelay
        >>> np.savetxt("delays.txt", [0.1, 0.4, 1.0])
        >>> law = TraceDelay("delays.txt").delays(2, 0, "gossip.delay", 1, model=40_000)
        >>> law.trace.tolist(), law.latency.item()  # drawn uniformly; the mean
        ([0.1, 0.4, 1.0], 0.5)
    """

    path: str
    """Text file of at most 2^20 rows, relative to the working directory. One delay a line [s]: each message takes one
    of them, drawn uniformly. With a first line `from,to,delay`: one of those of its link. With `time,from,to,delay`:
    that of its link whose time [s] was the last to come before it was sent, or else the first."""

    reads_files: ClassVar[bool] = True

    def delays(self, n: int, seed: int, key: str, size: int, model: int) -> DelayLaw:
        rule, none = f"{key}.path", np.zeros(size)
        form, rows = table(self.path, rule, _FORMS, _LONGEST)
        if not len(rows) or rows[:, -1].min() < 0:
            got = "none" if not len(rows) else f"{rows[:, -1].min():g}"
            raise ValueError(f"{rule} must hold non-negative delays [s], got {got} in {shown(self.path)}")
        if form == _FORMS[0]:
            return DelayLaw(TRACE, none, none, np.full(size, rows.mean()), none, trace=rows[:, 0])
        links = Links.of(dict(zip(form, rows.T, strict=True)), n, rule, shown(self.path))
        return DelayLaw(TIMED if links.timed else LINKS, none, none, links.late(), none, links=links)


@njit(nogil=True, cache=True)
@no_type_check
def normal(high, low):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns a standard normal number (Box, Muller)."""
    return math.sqrt(-2.0 * log(rng.unit(high))) * math.cos(2.0 * math.pi * rng.unit(low))
