r"""Estimates: means with intervals over replicas, time averages of networks, laws of growth.

Notation: m replicas, n nodes, v mean staleness, p exponent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from scipy.special import stdtrit

from batchednodes.figures.published.frames import column, groups, take


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its confidence interval by Student's t."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width


def interval(values: Float64[np.ndarray, " m"], confidence: float) -> Interval:
    """Returns the interval of the mean of independent values; infinite from one value.

    Example:
        >>> import numpy as np
        >>> from batchednodes.figures.published.estimates import interval
        >>> found = interval(np.array([0.9, 1.0, 1.1]), confidence=0.95)
        >>> round(found.low, 3), round(found.high, 3)
        (0.752, 1.248)

    Args:
        values: at least one, about normal.
        confidence: 0 < confidence < 1.
    """
    m = values.size
    if m < 2:
        return Interval(float(values.mean()), math.inf)
    quantile = float(stdtrit(m - 1, (1 + confidence) / 2))
    return Interval(float(values.mean()), quantile * float(values.std(ddof=1)) / math.sqrt(m))


def time_averages(metrics: pd.DataFrame, part: float) -> pd.DataFrame:
    """Returns the last row of each network, with `staleness` the exact mean over the last part of the run.

    Args:
        metrics: rows of all marks and networks of a run.
        part: of the run that is discarded as warm-up, up to one of its marks; 0 <= part < 1.
    """
    time = column(metrics, "time")
    end = time.max()
    first = take(metrics, np.isclose(time, part * end)).set_index("network")
    last = take(metrics, time == end).set_index("network")
    gained = last["staleness_integral"] - first["staleness_integral"]
    return last.assign(staleness=gained / (last["time"] - first["time"])).reset_index()


def over_replicas(rows: pd.DataFrame, keys: Sequence[str], value: str, also: Sequence[str] = ()) -> pd.DataFrame:
    """Returns one row for each setting: the mean of a value over its replicas, with 95% and 99% intervals.

    Args:
        rows: one for each network.
        keys: columns that tell settings apart, kept in order of appearance.
        value: column to average; its name is kept, and begins those of the ends, `value_low_95` and so on.
        also: columns that are equal in all replicas of a setting, kept as they are.
    """
    out = []
    for names, group in groups(rows, keys):
        row: dict[str, Any] = dict(zip(keys, names, strict=True))
        values = column(group, value)
        row |= {"replicas": len(group), value: float(values.mean())}
        for percent in (95, 99):
            ends = interval(values, percent / 100)
            row |= {f"{value}_low_{percent}": ends.low, f"{value}_high_{percent}": ends.high}
        out.append(row | {key: group[key].iloc[0] for key in also})
    return pd.DataFrame(out)


def errors(table: pd.DataFrame, key: str) -> Float64[np.ndarray, "2 k"]:
    """Returns how far the ends of the 95% intervals of a column are below and above it, as error bars want them."""
    mean = column(table, key)
    return np.stack([mean - column(table, f"{key}_low_95"), column(table, f"{key}_high_95") - mean])


def inside(table: pd.DataFrame, key: str, law: str, percent: int) -> Bool[np.ndarray, " k"]:
    """Returns where the law lies within the interval of a column; never where there is no law."""
    theory = column(table, law)
    return (column(table, f"{key}_low_{percent}") <= theory) & (theory <= column(table, f"{key}_high_{percent}"))


@dataclass(frozen=True)
class Growth:
    """How a quantity v grows with n, as far as the points show."""

    exponent: float
    """p of v = c n^p, by least squares of log v against log n."""
    half_width: float
    """Half-width of its 95% interval, from the scatter about the line; infinite from two points."""
    law: str
    """Which of flat, log n and power describes the points best."""


FLAT = 0.05
"""Exponents up to this are called flat: less than a factor 1.5 over three decades of n."""


def growth(n: Float64[np.ndarray, " k"], v: Float64[np.ndarray, " k"]) -> Growth:
    """Returns the fitted growth of positive values v at two or more different n.

    `flat or falling`: p <= 0.05. Otherwise whichever of v = a + b log n and v = c n^p has the smaller sum of squared
    relative errors: both have two constants.

    Example:
        >>> import numpy as np
        >>> from batchednodes.figures.published.estimates import growth
        >>> n = np.array([10.0, 100.0, 1000.0])
        >>> growth(n, np.log(n)).law, growth(n, 3 * n**0.5).law, round(growth(n, 3 * n**0.5).exponent, 3)
        ('log n', 'power', 0.5)
    """
    x, y = np.log(n), np.log(v)
    slope, start = np.polyfit(x, y, 1)
    error = y - (start + slope * x)
    half_width = math.inf
    if n.size > 2:
        scatter = math.sqrt(float(error @ error) / (n.size - 2) / float(((x - x.mean()) ** 2).sum()))
        half_width = float(stdtrit(n.size - 2, 0.975)) * scatter
    design = np.stack([np.ones_like(x), x], 1) / v[:, None]
    logarithmic = design @ np.linalg.lstsq(design, np.ones_like(v), rcond=None)[0] - 1
    law = "log n" if float(logarithmic @ logarithmic) <= float(np.square(np.expm1(-error)).sum()) else "power"
    return Growth(float(slope), half_width, "flat or falling" if slope <= FLAT else law)
