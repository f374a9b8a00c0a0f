"""The one declaration of a tensor of the state: memory plan, checkpoints, messages, resumption and branching follow.

Notation: p parameters of a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Field:
    """One more tensor of the state, a row for each node or edge.

    Field(width=1, start="one") is a weight that begins at 1, Field(lives="edge") a copy of each neighbour's model.

    Example:
        >>> from batchednodes.algorithms.fields import Field
        >>> Field(width=1, start="one").numbers(p=650), Field().numbers(p=650)  # a weight; one for each parameter
        (1, 650)
        >>> Field(dtype="float64").size(p=650, item=4)  # bytes, beside models of float32
        5200
    """

    width: int | None = None
    """Numbers of a row; at least 1; None: p, one for each parameter."""
    start: Literal["zero", "one", "model"] = "zero"
    """What it is at t = 0; model: the node's model (of width None)."""
    dtype: Literal["float64", "int64"] | None = None
    """Type of its numbers; None: that of the models."""
    travels: bool = False
    """Whether messages bring it: then there are rows for those under way, too."""
    lives: Literal["node", "edge", "inbox"] = "node"
    """Where: node, a row for each; edge, a row for each node and neighbour, which belongs to the node; inbox, a row for
    each node, the sum of what has come under its name since the node's last update. The last two begin at 0."""
    mixed: bool = False
    """Whether it lies beside the model in the rows of x, and is mixed as the model is."""

    seen: bool = True
    """Whether updates see it; else only mixing does, and updates need no copy of it."""

    def __post_init__(self) -> None:
        if self.lives != "node" and (self.start != "zero" or self.travels or self.mixed):
            raise ValueError(f"a field that lives on an {self.lives} must begin at 0, and stay, got {self}")

    def rows(self, n: int, edges: int) -> int:
        """Returns how many rows there are of n nodes with some directed edges."""
        return edges if self.lives == "edge" else n

    def numbers(self, p: int) -> int:
        """Returns the numbers of a row, for models of p parameters."""
        return p if self.width is None else self.width

    def size(self, p: int, item: int) -> int:
        """Returns the bytes of a row, for models of p parameters of some bytes each."""
        return self.numbers(p) * (item if self.dtype is None else 8)

    def mixing(self) -> "Field":
        """Returns the same, mixed as the model is."""
        return replace(self, mixed=True, travels=True)


def columns(declared: Mapping[str, Field], p: int) -> dict[str, slice]:
    """Returns where the mixed fields lie in a row of x, behind the p parameters, in the order of their declaration.

    Example:
        >>> from batchednodes.algorithms.fields import Field, columns
        >>> columns({"w": Field(width=1).mixing(), "kept": Field(), "y": Field().mixing()}, p=10)  # behind the model
        {'w': slice(10, 11, None), 'y': slice(11, 21, None)}
    """
    found, first = dict[str, slice](), p
    for name, one in declared.items():
        if one.mixed:
            found[name] = slice(first, first + one.numbers(p))
            first += one.numbers(p)
    return found
