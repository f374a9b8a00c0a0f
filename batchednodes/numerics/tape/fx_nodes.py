"""What the nodes of the graph of a program say of their results, see `fx_program.joint`."""

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


def constant(node: fx.Node) -> Tensor | None:
    """Returns what a node gives that depends on nothing; None: it depends on something."""
    if node.op != "call_function" or node.all_input_nodes or "shapes" not in node.meta:
        return None
    assert callable(node.target)
    result = node.target(*node.args, **node.kwargs)
    return result if isinstance(result, Tensor) else None
