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
    """Looks up in the table of each row what vmap looks up in one long table of all, by indices moved along it."""
    for node in graph.nodes:
        if node.target in (_ATEN.embedding.default, _ATEN.embedding_dense_backward.default):
            node.args = (node.args[0], _unmoved(node.args[1]), *node.args[2:])
    graph.eliminate_dead_code()


def _unmoved(index: Any) -> Any:
    """Returns indices without what was added for each row, or the same where nothing was."""
    moved = index.args[1] if index.target is _ATEN.add.Tensor else None
    while isinstance(moved, fx.Node) and moved.target in _SHAPED:
        moved = moved.args[0]
    return index.args[0] if isinstance(moved, fx.Node) and moved.target is _ATEN.arange.start_step else index


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
