"""Ticks: numbers beside an axis that can be read, whatever it spans."""

import math
from collections.abc import Sequence

from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

_NARROW, _WIDE = 0.7, 2.0
"""Decades of a logarithmic axis below which its ticks are those of a linear one, and from which on powers of ten."""

_MOST = 9
"""The most values that have a tick each."""


def plain(axis: Axis) -> None:
    """Writes the ticks of a logarithmic axis as plain numbers: 0.2, 0.5, 1 and so on, few enough to be read."""
    low, high = sorted(axis.get_view_interval())
    if not 0 < low < high:
        return
    decades = math.log10(high / low)
    few = (1.0,) if decades >= _WIDE else (1.0, 2.0, 5.0)
    axis.set_major_locator(MaxNLocator(5) if decades < _NARROW else LogLocator(subs=few, numticks=8))
    axis.set_major_formatter(FuncFormatter(_words))
    axis.set_minor_formatter(NullFormatter())
    if decades < _NARROW:
        axis.set_minor_locator(NullLocator())


def at(axis: Axis, values: Sequence[float]) -> None:
    """Gives each of a few values on a logarithmic axis a tick; for more, as `plain`."""
    if len(values) > _MOST:
        return plain(axis)
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_words))


def _words(value: float, _: int | None = None) -> str:
    """Returns a number without an exponent where that is short."""
    return (
        f"{value:.3g}" if 1e-4 <= value < 1e3 or value >= 1e6 else f"{value:,.12g}" if value >= 1e3 else f"{value:.0e}"
    )
