"""Tables: rows and columns of a data frame, with one type each.

Notation: k rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64


def column(table: pd.DataFrame, key: str) -> Float64[np.ndarray, " k"]:
    """Returns a column of numbers; NaN where there is none."""
    return np.asarray(table[key], dtype=np.float64)


def take(table: pd.DataFrame, kept: Bool[np.ndarray, " k"]) -> pd.DataFrame:
    """Returns the rows where a mask is true."""
    return table.take(np.flatnonzero(kept))


def known(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Returns the rows where a column has a value."""
    return take(table, np.asarray(pd.notna(table[key]), dtype=bool))


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Returns the rows whose columns have the given values."""
    kept = np.ones(len(table), dtype=bool)
    for key, value in values.items():
        kept &= np.asarray(table[key] == value, dtype=bool)
    return take(table, kept)


def groups(table: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yields the values of some columns, each combination once in order of appearance, with their rows."""
    for names, group in table.groupby(list(keys), sort=False):
        assert isinstance(names, tuple)
        yield names, group
