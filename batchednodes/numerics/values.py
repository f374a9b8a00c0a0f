r"""Per-node quantities: a number, a list of n numbers, an expression in n, or a distribution over the nodes.

Notation: n nodes, u uniform draws of (0, 1), one for each node.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeGuard, no_type_check

import numpy as np
import scipy
from jaxtyping import Bool, Float64
from numba import njit

from batchednodes.numerics import rng
from batchednodes.numerics.expressions import evaluate, shown

LARGEST = 10**9
"""The largest size of anything: features, widths, examples of a minibatch; products of two fit 64 bits."""


def check_sizes(**sizes: int | None) -> None:
    """Checks that sizes are in 1..LARGEST, or None.

    Example:
        >>> from batchednodes.numerics.values import check_sizes
        >>> check_sizes(steps=1, batch_size=32, chunk=None)
        >>> check_sizes(steps=1, batch_size=0)
        Traceback (most recent call last):
            ...
        ValueError: batch_size must be at least 1, got 0

    Raises:
        ValueError: names the first that is not.
    """
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {shown(value)}")
        if value is not None and value > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST:,}, got {shown(value)}")


# ---------------------------------------------------------------------------------------------------- distributions


class Distribution(ABC):
    """The law of one quantity over the nodes: heterogeneous speeds, weights, step sizes."""

    @abstractmethod
    def draw(self, n: int, seed: int, key: str) -> Float64[np.ndarray, " n"]:
        """Returns the values of nodes 0..n-1; that of node i depends on (seed, key, i) only, not on n.

        Args:
            n: number of nodes.
            seed: of the network; 0 <= seed < 2^63.
            key: full path of the setting, as "gossip.clock.rate"; two settings draw independently.
        """


@njit(nogil=True, cache=True)
@no_type_check
def _uniform(seed, stream, name, out):  # noqa: ANN001, ANN202  (numba infers the types)
    for i in range(out.size):
        out[i] = rng.unit(rng.block(seed, stream, i, name)[0])


def _draws(n: int, seed: int, key: str) -> Float64[np.ndarray, " n"]:
    out = np.empty(n)
    _uniform(np.uint64(seed), rng.VALUES, rng.code(key), out)
    return out


@dataclass(frozen=True)
class LogNormal(Distribution):
    """Lognormal over nodes: exp of a normal; the usual law of device speeds.

    Example:
        >>> from batchednodes.numerics.values import LogNormal
        >>> LogNormal(median=2.0, sigma=0.5).draw(4, 0, "update.clock.rate").round(2).tolist()
        [1.38, 0.84, 2.69, 2.58]
    """

    median: float = 1.0
    """Median over nodes [unit of the setting]; positive and finite."""
    sigma: float = 0.5
    """Standard deviation of the logarithm [dimensionless]; at least 0 and finite."""

    def __post_init__(self) -> None:
        number(self.median, 1, "median", open_low=True)
        number(self.sigma, 1, "sigma")

    def draw(self, n: int, seed: int, key: str) -> Float64[np.ndarray, " n"]:
        """Returns median exp(sigma z), z = Phi^-1(u)."""
        with np.errstate(over="ignore"):  # infinite, and refused as out of range
            return self.median * np.exp(self.sigma * scipy.special.ndtri(_draws(n, seed, key)))


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform over nodes between two values.

    Example:
        >>> from batchednodes.numerics.values import Uniform
        >>> Uniform(1.0, 3.0).draw(4, 0, "gossip.clock.rate").round(2).tolist()
        [1.64, 1.76, 2.18, 1.15]
        >>> Uniform(1.0, 3.0).draw(2, 0, "gossip.clock.rate").round(2).tolist()  # nodes 0 and 1 keep theirs
        [1.64, 1.76]
    """

    low: float = 0.5
    """Smallest value [unit of the setting]; finite."""
    high: float = 1.5
    """Largest value [unit of the setting]; finite, at least `low`."""

    def __post_init__(self) -> None:
        number(self.low, 1, "low", low=-math.inf, open_low=True)
        number(self.high, 1, "high", low=self.low)

    def draw(self, n: int, seed: int, key: str) -> Float64[np.ndarray, " n"]:
        """Returns low + (high - low) u."""
        return self.low + (self.high - self.low) * _draws(n, seed, key)


@dataclass(frozen=True)
class Exponential(Distribution):
    """Exponential over nodes: many small values, few large ones.

    Example:
        >>> from batchednodes.numerics.values import Exponential
        >>> draws = Exponential(mean=2.0).draw(10_000, 0, "gossip.delay.mean")
        >>> draws.mean().round(1).item(), (draws < 2.0).mean().round(2).item()  # 1 - 1/e are below the mean
        (2.0, 0.64)
    """

    mean: float = 1.0
    """Mean over nodes [unit of the setting]; positive and finite."""

    def __post_init__(self) -> None:
        number(self.mean, 1, "mean", open_low=True)

    def draw(self, n: int, seed: int, key: str) -> Float64[np.ndarray, " n"]:
        """Returns -mean log(u)."""
        return -self.mean * np.log(_draws(n, seed, key))


@dataclass(frozen=True)
class Choice(Distribution):
    """Each node draws one of a few values: classes of devices.

    Example:
        >>> from batchednodes.numerics.values import Choice
        >>> phones = Choice([1.0, 10.0], probabilities=[0.75, 0.25])  # about every fourth is fast
        >>> phones.draw(8, 1, "update.clock.rate").tolist()
        [1.0, 1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 1.0]
    """

    values: list[float]
    """The values [unit of the setting]; at least one, all finite."""
    probabilities: list[float] | None = None
    """Probability of each value [dimensionless]; at least 0, sum 1; none given: all equal."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values must be a list of at least one number, got an empty list")
        _listed(self.values, len(self.values), "values", _Range(-math.inf, math.inf, True, True, ""))
        if self.probabilities is None:
            return
        if len(self.probabilities) != len(self.values):
            given = len(self.probabilities)
            raise ValueError(
                f"probabilities must be a list of {len(self.values)} numbers, one for each value, got {given}"
            )
        p = _listed(self.probabilities, len(self.values), "probabilities", _Range(0.0, 1.0, False, False, ""))
        if abs(p.sum() - 1.0) > 1e-9:  # decimals as people write them, 0.1 + 0.2 + 0.7, sum to 1 within rounding only
            raise ValueError(f"probabilities must sum to 1, got a sum of {p.sum():g}")

    def draw(self, n: int, seed: int, key: str) -> Float64[np.ndarray, " n"]:
        """Returns the first value whose cumulated probability is above u."""
        k = len(self.values)
        p = np.full(k, 1 / k) if self.probabilities is None else np.array(self.probabilities, dtype=float)
        steps = np.cumsum(p)[:-1] / p.sum()
        return np.array(self.values, dtype=float)[np.searchsorted(steps, _draws(n, seed, key), side="right")]


PerNode = int | float | str | list | tuple | Distribution
"""One quantity of every node: a number, an expression in n, a list of n numbers, or a distribution."""


# ------------------------------------------------------------------------------------------------ ranges and reading


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    open_low: bool
    open_high: bool
    unit: str

    def holds(self, x: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        above = x > self.low if self.open_low else x >= self.low
        return above & (x < self.high if self.open_high else x <= self.high)

    def rule(self) -> str:
        ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
        unit = f" [{self.unit}]" if self.unit else ""
        if self.high < math.inf:
            return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}{unit}"
        finite = " and finite" if self.open_high else ""
        if self.low == -math.inf:
            return (finite.removeprefix(" and ") or "a number") + unit
        least = f"more than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return ("positive" if self.low == 0 and self.open_low else least) + finite + unit


def _is_number(x: object) -> TypeGuard[int | float]:
    return isinstance(x, int | float | np.integer | np.floating) and not isinstance(x, bool)


def _plain(x: int | float, key: str) -> float:
    try:
        return float(x)
    except OverflowError:
        raise ValueError(f"{key} must be a finite number, got an integer beyond float64") from None


def _listed(value: list | tuple, n: int, key: str, span: _Range) -> Float64[np.ndarray, " n"]:
    if len(value) != n:
        raise ValueError(f"{key} must be a number, or a list of n = {n} numbers, got a list of {len(value)}")
    for i, x in enumerate(value):
        if not _is_number(x):
            raise ValueError(f"{key} must be a list of numbers, got {shown(x)} at position {i}")
    return _checked(np.array([_plain(x, key) for x in value], dtype=np.float64), key, span, "position")


def _checked(x: Float64[np.ndarray, " n"], key: str, span: _Range, word: str) -> Float64[np.ndarray, " n"]:
    for bad in np.flatnonzero(~span.holds(x))[:1]:
        raise ValueError(f"{key} must be {span.rule()}, got {x[bad]:g} at {word} {bad}")
    return x


def per_node(
    value: Any,
    n: int,
    seed: int,
    key: str,
    *,
    low: float = 0.0,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = True,
    unit: str = "",
    size: int | None = None,
) -> Float64[np.ndarray, " _"]:
    """Returns one number for each node, or for the first nodes, each within its range.

    Example:
        >>> from batchednodes.numerics.values import Uniform, per_node
        >>> per_node("log2(n)", 4, 0, "gossip.clock.rate").tolist()
        [2.0, 2.0, 2.0, 2.0]
        >>> per_node([1, 2, 3, 4], 4, 0, "gossip.clock.rate").tolist()
        [1.0, 2.0, 3.0, 4.0]
        >>> per_node(Uniform(0.0, 1.0), 4, 0, "gossip.clock.rate").round(3).tolist()
        [0.318, 0.38, 0.588, 0.073]
        >>> per_node(-1, 4, 0, "gossip.clock.rate", unit="1/s")
        Traceback (most recent call last):
            ...
        ValueError: gossip.clock.rate must be at least 0 and finite [1/s], got -1

    Args:
        value: what the user wrote: a number, an expression in n, a list of n numbers, or a distribution over nodes.
        n: number of nodes, at least 1.
        seed: of the network, for distributions; 0 <= seed < 2^63.
        key: full path of the setting: names it in messages, and separates its draws from those of other settings.
        low, high: the range [unit].
        open_low, open_high: whether an end itself is excluded; NaN always is.
        unit: shown in messages, as "1/s".
        size: number of nodes that count, 0 <= size <= n; None: all.

    Raises:
        ValueError: value is none of these, or leaves the range at one of these nodes.
    """
    span, some = _Range(low, high, open_low, open_high, unit), n if size is None else size
    if isinstance(value, Distribution):
        drawn = np.asarray(value.draw(some, seed, key))
        if drawn.shape != (some,) or drawn.dtype.kind not in "iuf":  # of a distribution of the user's own
            raise ValueError(f"{key} must draw {some} numbers, got {drawn.dtype} of shape {[*drawn.shape]}")
        return _checked(drawn.astype(np.float64, copy=False), key, span, "node")
    if isinstance(value, list | tuple):
        return _listed(value, n, key, span)[:some]
    kinds = f"a number, a list of n = {n} numbers, an expression in n or a distribution"
    return np.full(some, _single(value, n, key, span, kinds))


def number(
    value: Any,
    n: int,
    key: str,
    *,
    low: float = 0.0,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = True,
    unit: str = "",
) -> float:
    """Returns one number within its range; arguments as in `per_node`, but no list and no distribution.

    Example:
        >>> from batchednodes.numerics.values import number
        >>> number("1/sqrt(n)", 100, "local.lr")
        0.1
        >>> number(1.5, 100, "gossip.weight", high=1.0, open_high=False)
        Traceback (most recent call last):
            ...
        ValueError: gossip.weight must be in [0, 1], got 1.5

    Raises:
        ValueError: value is neither a number nor an expression in n, or is out of range.
    """
    return _single(value, n, key, _Range(low, high, open_low, open_high, unit), "a number or an expression in n")


def _single(value: object, n: int, key: str, span: _Range, kinds: str) -> float:
    if isinstance(value, str):
        x, got = evaluate(value, n, key), None
    elif _is_number(value):
        x, got = _plain(value, key), shown(value)
    else:
        raise ValueError(f"{key} must be {kinds}, got {shown(value)}")
    if not span.holds(np.array([x])).all():
        raise ValueError(f"{key} must be {span.rule()}, got {got or f'{shown(value)} = {x:g} at n = {n}'}")
    return x


def count(value: Any, n: int, key: str, *, low: int = 1, high: int | None = None) -> int:
    """Returns one integer of low..high. A number must be whole; an expression in n is rounded to the nearest integer.

    Example:
        >>> from batchednodes.numerics.values import count
        >>> count("sqrt(n)", 50, "degree"), count(3.0, 50, "degree")
        (7, 3)
        >>> count(2.5, 50, "degree")
        Traceback (most recent call last):
            ...
        ValueError: degree must be an integer at least 1, got 2.5

    Raises:
        ValueError: value is neither a whole number nor an expression in n, or is out of range.
    """
    rule = f"an integer at least {low}" if high is None else f"an integer in [{low}, {high}]"
    if isinstance(value, str):
        x = round(evaluate(value, n, key))
    elif _is_number(value) and abs(value) < 2**63 and value == int(value):
        x = int(value)
    else:
        raise ValueError(f"{key} must be {rule}, got {shown(value)}")
    if x < low or (high is not None and x > high):
        got = f"{shown(value)} = {shown(x)} at n = {n}" if isinstance(value, str) else shown(value)
        raise ValueError(f"{key} must be {rule}, got {got}")
    return x
