"""Marks: how many a run may have, and times that are given one by one."""

import itertools
import math

from batchednodes.numerics.values import shown

MARKS = 1_000_000
"""The largest number of marks, and of windows, of a run."""


def check_times(times: tuple[float, ...]) -> None:
    """Checks the times of marks that are given one by one.

    Raises:
        ValueError: they do not rise from above 0, or are too many.
    """
    if not 0 < len(times) <= MARKS:
        raise ValueError(f"mark_at must be a list of 1 to {MARKS:,} times [s], got {len(times):,}; null means none")
    for before, time in itertools.pairwise((0.0, *times)):
        if not isinstance(time, int | float) or not before < time < math.inf:
            rule = f"mark_at must be positive, finite times [s], each later than the one before, {before:g}"
            raise ValueError(f"{rule}, got {shown(time)}; sort them")
