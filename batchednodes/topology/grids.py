r"""Grids of two or three dimensions, which wrap around or do not.

Notation: n nodes, sides lengths of the grid, whose product is n.
"""

import math
from dataclasses import dataclass

import numpy as np

from batchednodes.numerics.values import shown
from batchednodes.topology.base import Topology, at_least
from batchednodes.topology.graph import Graph


@dataclass(frozen=True)
class Grid(Topology):
    """A grid of two or three dimensions with borders: four or six neighbours, fewer at the border.

    Example:
        >>> from batchednodes.topology import Grid
        >>> Grid(sides=[2, 4]).graph(8, 0).degrees.tolist()
        [2, 3, 3, 2, 2, 3, 3, 2]
    """

    sides: list[int] | None = None
    """Length of each side [nodes]; two or three numbers, at least 1, with product n; null: as equal as can be."""
    dimensions: int = 2
    """Dimensions where `sides` is null; 2 or 3."""

    def __post_init__(self) -> None:
        _check(self.sides, self.dimensions)

    def contacts(self, n: int) -> float:
        return 2.0 * n * len(self.sides or range(self.dimensions))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the grid, numbered row by row."""
        return _grid(self.sides or _equal(n, self.dimensions), n, wraps=False)


@dataclass(frozen=True)
class Torus(Topology):
    """A grid of two or three dimensions that wraps around: four or six neighbours, fewer where a side is below 3.

    Example:
        >>> from batchednodes.topology import Torus
        >>> graph = Torus().graph(25, 0)  # five rows of five
        >>> graph.indices[:4].tolist()  # node 0 has neighbours beyond both borders
        [1, 4, 5, 20]
    """

    rows: int | None = None
    """Number of rows of a grid of two dimensions [nodes]; at least 1, a divisor of n; null: see `sides`."""
    sides: list[int] | None = None
    """Length of each side [nodes]; two or three numbers, at least 1, with product n; null: as equal as can be."""
    dimensions: int = 2
    """Dimensions where `sides` is null; 2 or 3."""

    def __post_init__(self) -> None:
        _check(self.sides, self.dimensions)
        if self.rows is not None:
            at_least("rows", self.rows, 1)
            if self.sides is not None or self.dimensions != 2:
                raise ValueError(f"rows must be left out with sides or dimensions=3, got {shown(self.rows)}")

    def contacts(self, n: int) -> float:
        return 2.0 * n * len(self.sides or range(self.dimensions))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the grid, numbered row by row."""
        if self.rows is None:
            return _grid(self.sides or _equal(n, self.dimensions), n, wraps=True)
        if n % self.rows:
            raise ValueError(
                f"rows must divide the number of nodes, got rows={self.rows} with {n} nodes; "
                f"leave rows out or use {n // self.rows * self.rows or self.rows} nodes"
            )
        return _grid([self.rows, n // self.rows], n, wraps=True)


def _check(sides: list[int] | None, dimensions: int) -> None:
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {shown(dimensions)}")
    if sides is None:
        return
    if len(sides) not in (2, 3):
        raise ValueError(f"sides must be two or three numbers of nodes, got {len(sides)}")
    for side in sides:
        at_least("sides", side, 1)
    if dimensions == 3 != len(sides):
        raise ValueError(f"dimensions must be left out with sides, got {dimensions} with {len(sides)} sides")


def _equal(n: int, dimensions: int) -> list[int]:
    """Returns the most equal sides, the shortest first.

    Raises:
        ValueError: one of them would be a single node, which is no grid of so many dimensions.
    """
    divisors = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    divisors = sorted({*divisors, *(n // d for d in divisors)})
    rows = max(d for d in divisors if d * d <= n)
    if dimensions == 2:
        if rows == 1 and n > 2:
            raise ValueError(
                f"rows must divide the number of nodes, and {n} is prime; "
                f"use {n - 1} or {n + 1} nodes, or topology kind=ring (the same as rows=1)"
            )
        return [rows, n // rows]
    triples = [[a, b, n // (a * b)] for a in divisors if a**3 <= n for b in divisors if a * b * b <= n]
    best = min((t for t in triples if math.prod(t) == n), key=lambda t: (sum(t), t))
    if best[0] == 1 and n > 2:
        cube = max(2, round(n ** (1 / 3))) ** 3
        raise ValueError(
            f"dimensions=3 needs a number of nodes that is a product of three sides above 1, got {n} nodes; "
            f"use {cube} nodes, dimensions=2, or sides"
        )
    return best


def _grid(sides: list[int], n: int, wraps: bool) -> Graph:
    if math.prod(sides) != n:
        raise ValueError(f"sides must have the number of nodes as their product, got {shown(sides)} with {n} nodes")
    place, begins, ends = np.arange(n).reshape(sides), [], []
    for axis, side in enumerate(sides):
        kept = slice(None) if wraps else slice(side - 1)
        begins.append(np.moveaxis(place, axis, 0)[kept].ravel())
        ends.append(np.moveaxis(np.roll(place, -1, axis), axis, 0)[kept].ravel())
    return Graph.of(n, np.concatenate(begins), np.concatenate(ends))
