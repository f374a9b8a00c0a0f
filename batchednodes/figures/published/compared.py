r"""Compared values: what was published, how far from it may be, and what was found here.

    name | published ± allowed | here ± twice its standard error | inside?

A figure appends the rows of `rows` to the table that it plots, so its CSV keeps them, and shows them by `shown`. The
published values that figures need lie beside this file, in values/, and are read by `published`.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

import pandas as pd
from rich.table import Table

from batchednodes.figures.published.frames import known


@dataclass(frozen=True)
class Compared:
    """A published value beside the same value here.

    Example:
        >>> from batchednodes.figures.published.compared import Compared
        >>> Compared("steps", 51.0, 51.0).inside, Compared("rate", 0.1, 0.12, absolute=0.01).inside
        (True, False)
        >>> Compared("a mean", 1.0, 1.3, published_error=0.1, here_error=0.1).inside  # 0.3 is over 2 sqrt(0.02) = 0.283
        False
    """

    value: str
    """What it is of, in words."""
    published: float
    """The published number; NaN where it was published that there is none."""
    here: float
    """The number found here; NaN where there is none."""
    absolute: float = 0.0
    """How far apart the two may be."""
    relative: float = 0.0
    """How far apart they may be, over the published one."""
    published_error: float = 0.0
    """Standard error of the published number, where it is a mean."""
    here_error: float = 0.0
    """Standard error of the number here, where it is a mean over seeds."""

    @property
    def allowed(self) -> float:
        """How far from the published value one without an error of its own may be; two standard errors are allowed."""
        return self._near() + 2 * self.published_error

    @property
    def inside(self) -> bool:
        """Whether both are the same as far as is allowed, beside two standard errors of their difference."""
        return self.used <= 1

    @property
    def used(self) -> float:
        """How much of what is allowed is used up: over 1 where it is not inside."""
        if math.isnan(self.published) or math.isnan(self.here):
            return 0.0 if math.isnan(self.published) and math.isnan(self.here) else math.inf
        if self.published == self.here:
            return 0.0
        room = self._near() + 2 * math.hypot(self.published_error, self.here_error)
        return abs(self.here - self.published) / room if room else math.inf

    def _near(self) -> float:
        return max(self.absolute, self.relative * abs(self.published))


def published(name: str) -> dict[str, Any]:
    """Returns a file of published values by its name without `.json`: its source, how they came, and the values."""
    folder = resources.files("batchednodes.figures.published") / "values"
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def rows(values: Iterable[Compared]) -> pd.DataFrame:
    """Returns a row for each value, to be appended to the table of a figure."""
    return pd.DataFrame([asdict(one) | {"inside": one.inside} for one in values])


def compared(table: pd.DataFrame) -> list[Compared]:
    """Returns the values of a table of `rows`, which other rows may be part of, and which a CSV file may have kept."""
    own = known(table, "value")
    keys = [field.name for field in fields(Compared)]
    return [Compared(str(name), *map(float, numbers)) for name, *numbers in own[keys].itertuples(index=False)]


def shown(table: pd.DataFrame, title: str) -> Table:
    """Returns the values of a table as one to print, which says in words how many lie inside, and which do not."""
    values = compared(table)
    found = Table("value", "published", "here", "inside?", title=title, caption=verdict(values))
    for one in values:
        inside = "yes" if one.inside else "NO"
        found.add_row(one.value, _text(one.published, one.allowed), _text(one.here, 2 * one.here_error), inside)
    return found


def verdict(values: Iterable[Compared]) -> str:
    """Returns how many values lie inside, and the names of those that do not."""
    all_of_them = list(values)
    outside = [one.value for one in all_of_them if not one.inside]
    if not outside:
        return f"all {len(all_of_them)} published values are met"
    return f"{len(outside)} of {len(all_of_them)} published values are NOT met: {'; '.join(outside)}"


def _text(number: float, half_width: float) -> str:
    """Returns a number with its interval, or, where it has none, to the last digit."""
    if math.isnan(number):
        return "none"
    return f"{number:.6g} ± {half_width:.2g}" if half_width else f"{number!r}".removesuffix(".0")


def shown_by_group(table: pd.DataFrame, title: str) -> Table:
    """Returns the values of a table as one to print, a row for all whose names agree up to a colon.

    Of each group that value is shown which is nearest to its bounds, or furthest outside.
    """
    values, groups = compared(table), dict[str, list[Compared]]()
    for one in values:
        groups.setdefault(one.value.partition(": ")[0], []).append(one)
    found = Table(
        "values", "inside", "nearest to its bounds", "published", "here", title=title, caption=verdict(values)
    )
    for name, own in groups.items():
        worst = max(own, key=lambda one: one.used)
        cells = (_text(worst.published, worst.allowed), _text(worst.here, 2 * worst.here_error))
        count = sum(one.inside for one in own)
        inside = f"all {len(own)}" if count == len(own) else f"{count} of {len(own)}"
        found.add_row(name, inside, worst.value.partition(": ")[2], *cells)
    return found
