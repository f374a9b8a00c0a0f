"""What the nodes of the graph of a program say of their results, see `fx_program.joint`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from batchednodes.numerics.fx_program import UntraceableError

_ATEN = torch.ops.aten

_SHAPED = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.clone.default)
"""Operations that keep numbers and their order."""


def own_tables_(graph: fx.Graph) -> None:
    """Looks up in the table of each row what vmap looks up in one table of all.

    That table is long, and indices are moved along it; or it is wide, where all rows have the same indices.
    """
    for node in graph.nodes:
        if node.target in (_ATEN.embedding.default, _ATEN.embedding_dense_backward.default):
            node.args = (node.args[0], _unmoved(node.args[1]), *node.args[2:])
            first = _origin(node.args[0])
            wide = first.target is _ATEN.permute.default
            for turned in [user for view in node.users for user in view.users] if wide else []:
                if turned.target is _ATEN.permute.default:
                    turned.target, turned.args = node.target, (first.args[0], *node.args[1:])
    graph.eliminate_dead_code()


def _origin(node: fx.Node) -> fx.Node:
    """Returns the node whose numbers a node gives in the same order."""
    while node.target in _SHAPED and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _unmoved(index: Any) -> Any:
    """Returns indices without what was added for each row, or the same where nothing was."""
    moved = _origin(index.args[1]) if index.target is _ATEN.add.Tensor else index
    return index.args[0] if moved is not index and moved.target is _ATEN.arange.start_step else index


def normalized_again(norm: fx.Node) -> list[fx.Node]:
    """Returns the nodes that compute anew, from the moments that a layer normalization gives, what it gives itself.

    They are (x - mean) root; then x - mean, where it is for these alone.
    """
    items = {node.args[1]: node for node in norm.users}
    mean, root = items.get(1), items.get(2)
    found: list[fx.Node] = []
    for less in [] if mean is None else mean.users:
        if less.target is _ATEN.sub.Tensor and less.args == (norm.args[0], mean):
            scaled = [node for node in less.users if node.target is _ATEN.mul.Tensor and node.args == (less, root)]
            found += scaled if len(scaled) < len(less.users) else [*scaled, less]
    return found


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


def row_dim(node: fx.Node, dim: int) -> int:
    """Returns the number of a dimension of what a node gives among those of a row."""
    d, left = dim % len(own_shape(node)), len(own_shape(node)) - len(row_shape(node))
    if d < left or (d == 0 and shape_of(node) is not None):
        raise UntraceableError("an operation goes along the rows")
    return d - left


def added_turned(node: fx.Node) -> bool | None:
    """Returns whether the transpose of a matrix is what is added to other numbers in place; None: neither is."""
    turned = False
    while len(node.users) == 1:
        source, node = node, next(iter(node.users))
        if node.target in (_ATEN.add_.Tensor, _ATEN.sub_.Tensor) and node.args[1] is source:
            return turned
        if node.target is not _ATEN.transpose.int or len(own_shape(node)) != 3:
            break
        turned = not turned
    return None


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
