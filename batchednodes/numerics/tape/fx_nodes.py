"""What the nodes of the graph of a program say of their results, see `fx_program.joint`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from batchednodes.numerics.fx_program import UntraceableError


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Returns the shape that one row has of what a node gives; None: it is the same for all rows.

    Raises:
        UntraceableError: it is not so many rows of one shape.
    """
    small, large = node.meta["shapes"]
    if small == large:
        return None
    times, rest = divmod(large[0], large[0] - small[0]) if len(large) and large[0] != small[0] else (0, 1)
    if rest or small[1:] != large[1:] or times * (large[0] - small[0]) != large[0]:
        raise UntraceableError(f"{node.name} has not a row for each of a wave")
    each = large[0] - small[0]
    return large[1:] if each == 1 else (each, *large[1:])


def row_shape(node: fx.Node) -> tuple[int, ...]:
    """Returns the shape of what a node gives for one row, or for all."""
    shape = shape_of(node)
    return node.meta["shapes"][1] if shape is None else shape


def own_shape(node: Any) -> tuple[int, ...]:
    """Returns the shape of what a node gives for a wave, the dimension of rows included."""
    return node.meta["shapes"][1]


def alpha(node: fx.Node) -> float:
    """Returns the factor of the second operand of a sum."""
    factor: Any = node.kwargs.get("alpha", 1)
    return float(factor)


def constant(node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Tensor | None:
    """Returns what a node gives that depends on nothing; None: it depends on something.

    Args:
        node: of the graph.
        known: what nodes before it give, where that depends on nothing.
    """
    if node.op != "call_function" or "shapes" not in node.meta or any(a not in known for a in node.all_input_nodes):
        return None
    assert callable(node.target)
    result = node.target(*fx.map_arg(node.args, known.__getitem__), **fx.map_arg(node.kwargs, known.__getitem__))
    return result if isinstance(result, Tensor) else None
