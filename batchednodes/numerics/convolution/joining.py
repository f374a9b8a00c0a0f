"""Joining: what a program does in several passes over images, in one where nothing else reads what lies between."""

from typing import Any

import torch
from torch import fx

_ATEN, _OURS = torch.ops.aten, torch.ops.batchednodes

_SHAPED = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)
"""Other shapes of the same numbers."""

_POOL, _POOL_BACK = _ATEN.max_pool2d_with_indices.default, _ATEN.max_pool2d_with_indices_backward.default


def pool_with_relu_(graph: fx.Graph, pool: fx.Node) -> None:
    """Lets one kernel take ReLU and the largest number of windows after it, and one both gradients.

    Nothing is done but for windows of 2 x 2, one beside the other, with one gradient or none.
    """
    source: Any = pool.args[0]
    relu = _origin(source)
    if relu.target is not _ATEN.relu.default or not _is_plain(pool):
        return
    readers = _readers(relu)
    back = [node for node in readers if node.target is _POOL_BACK and _is_of(node, pool)]
    masks = [node for node in readers if node.target is _ATEN.threshold_backward.default and node.args[1] is relu]
    if len(readers) != 1 + len(back) + len(masks) or len(back) != len(masks) or len(back) > 1:
        return
    if any(_origin(mask.args[0]) is not back[0] or mask.args[2] != 0 or _readers(back[0]) != [mask] for mask in masks):
        return
    with graph.inserting_before(pool):
        x = _reshaped(graph, relu.args[0], source)
        made = graph.call_function(_OURS.relu_pool.default, (x,))
    made.meta.update(pool.meta)
    for gradient, mask in zip(back, masks, strict=True):
        with graph.inserting_before(gradient):
            size = list(source.meta["val"].shape[2:])
            new = graph.call_function(_OURS.relu_pool_input.default, (gradient.args[0], gradient.args[-1], size))
        new.meta.update(gradient.meta)
        mask.replace_all_uses_with(mask.all_input_nodes[0])
        graph.erase_node(mask)
        gradient.replace_all_uses_with(new)
        graph.erase_node(gradient)
    pool.replace_all_uses_with(made)
    graph.erase_node(pool)


def _is_plain(pool: fx.Node) -> bool:
    """Returns whether windows are of 2 x 2 pixels, one beside the other, of real images with a first dimension."""
    _, kernel, *rest = pool.args
    stride, padding, dilation, up = (*rest, *([], 0, 1, False)[len(rest) :])
    y = pool.meta["val"][0]
    wanted = (kernel, stride or kernel, padding, dilation)
    plain = all(list(pair(a)) == [b, b] for a, b in zip(wanted, (2, 2, 0, 1), strict=True))
    return plain and not up and y.ndim == 4 and y.dtype in (torch.float32, torch.float64) and y.numel() > 0


def pair(numbers: Any) -> tuple[int, int]:
    """Returns two numbers that are given as one, or as themselves."""
    return (numbers, numbers) if isinstance(numbers, int) else (numbers[0], numbers[-1])


def _reshaped(graph: fx.Graph, source: Any, like: fx.Node) -> Any:
    """Returns what reshapes a source as a node reshapes what it is given, if it does."""
    return graph.call_function(like.target, (source, like.args[1])) if like.target in _SHAPED else source


def _origin(node: Any) -> fx.Node:
    """Returns the node whose numbers a node gives in another shape."""
    while node.target in _SHAPED:
        node = node.args[0]
    return node


def _readers(node: fx.Node) -> list[fx.Node]:
    """Returns the nodes that read what a node gives, in whatever shape."""
    return [reader for user in node.users for reader in (_readers(user) if user.target in _SHAPED else [user])]


def _is_of(back: fx.Node, pool: fx.Node) -> bool:
    """Returns whether a gradient is that of some windows."""
    places = _origin(back.args[-1])
    return places.args == (pool, 1) and _origin(back.args[1]) is _origin(pool.args[0])
