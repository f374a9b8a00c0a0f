r"""Features that stay in their file: rows are read when they are asked for, and are what they would be in memory.

Notation: S rows, m rows that are asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int64

Memory = Literal["loaded", "mapped"]
"""Where training features are: in memory, or in their file, from which those of a minibatch are read."""


@dataclass(frozen=True, eq=False)
class MappedRows:
    """Rows of a file that can be indexed as an array is: what is read becomes an array.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.sources.mapped import MappedRows
        >>> rows = MappedRows(lambda index: np.stack([index, 10 * index], 1).astype(float), np.array([3, 5, 8]))
        >>> rows.shape, rows[1:].tolist(), rows[np.array([2, 0])].tolist()
        ((3, 2), [[5.0, 50.0], [8.0, 80.0]], [[8.0, 80.0], [3.0, 30.0]])
    """

    read: Callable[[Int64[np.ndarray, " m"]], np.ndarray]
    """Returns some rows of the file, in the types of a `Dataset`."""

    rows: Int64[np.ndarray, " S"]
    """Their numbers in the file."""

    scale: tuple[np.ndarray, np.ndarray] | None = None
    """What they are shifted by, and divided by; None: they stay as they are."""

    @cached_property
    def _first(self) -> np.ndarray:
        return self.read(self.rows[:1])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return (len(self.rows), *self._first.shape[1:])

    @property
    def size(self) -> int:
        """As of an array."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """As of an array."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """As of an array."""
        return self._first.dtype

    def __getitem__(self, some: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(some, int | np.integer):
            return self[np.array([some])][0]
        found = self.read(self.rows[some])
        if self.scale is None:
            return found
        mean, spread = self.scale
        return ((found - mean) / spread).astype(found.dtype)

    def of(self, some: np.ndarray) -> "MappedRows":
        """Returns some of the rows, which are not read."""
        return replace(self, rows=self.rows[some])


def taken(features: np.ndarray | MappedRows, which: np.ndarray) -> np.ndarray | MappedRows:
    """Returns some rows of features, by a mask or their numbers; those that stay in a file are not read."""
    return features[which] if isinstance(features, np.ndarray) else features.of(which)
