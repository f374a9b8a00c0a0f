"""Rewriting of programs with images: by kernels of our own, in one layout, in fewer passes over them.

A program says what vmap found, operation by operation. Here normalisation takes along the ReLU after it, and sums and
ReLU write where nothing else reads. Where PyTorch's kernels compute all convolutions, the channels of a pixel lie
side by side from the first layer to the last, as these kernels have them, and pooling goes by kernels of our own.
"""

import math
from typing import Any

import torch
from torch import fx

from batchednodes.numerics.convolution import conv2d, group_norm, joining, library, pooling

_ATEN, _OURS = torch.ops.aten, torch.ops.batchednodes

_LAID = (
    _OURS.convolve.default,
    _OURS.convolution_input.default,
    _OURS.convolution_weight.default,
    _OURS.group_norm.default,
    _OURS.group_norm_gradient.default,
)
"""Operations that lay out their images as they are told."""

_FRESH = (
    _OURS.convolve.default,
    _OURS.convolution_input.default,
    _OURS.group_norm.default,
    _ATEN.add.Tensor,
    _ATEN.add_.Tensor,
)
"""Operations whose result is a tensor of its own."""

_CALLED = {
    _OURS.convolve.default: conv2d.outputs,
    _OURS.convolution_input.default: conv2d.input_gradient,
    _OURS.convolution_weight.default: conv2d.weight_gradient,
    _OURS.group_norm.default: group_norm.normalised,
    _OURS.group_norm_gradient.default: group_norm.gradients,
    _OURS.max_pool.default: pooling.largest,
    _OURS.max_pool_input.default: pooling.largest_gradient,
    _OURS.relu_pool.default: pooling.halved,
    _OURS.relu_pool_input.default: pooling.halved_gradient,
}
"""What computes operations of our own: called without PyTorch's dispatcher, which takes 50 microseconds."""

_IN_PLACE = {_ATEN.relu.default: _ATEN.relu_.default, _ATEN.add.Tensor: _ATEN.add_.Tensor}
"""What writes into its first operand, for what does not."""


def rewrite_(graph: fx.Graph, compiled: bool = False) -> None:
    """Rewrites a program of which each node of a tensor says in `meta["val"]` what it is; values change by rounding.

    Nothing is done where there is no convolution on the CPU.

    Args:
        graph: of the program.
        compiled: whether `torch.compile` compiles it, which must see operations.
    """
    convolutions = [node for node in graph.nodes if node.target is _OURS.convolve.default]
    if not convolutions or convolutions[0].meta["val"].device.type != "cpu":
        return
    last = all(_is_by_library(node) for node in convolutions)
    for node in list(graph.nodes):
        if node.target in _LAID:
            node.kwargs = {**node.kwargs, "last": last}
        elif last and node.target is _ATEN.max_pool2d_with_indices.default:
            _pool_(graph, node)
        elif node.target is _ATEN.max_pool2d_with_indices.default:
            joining.pool_with_relu_(graph, node)
        elif last and node.target is _ATEN.max_pool2d_with_indices_backward.default:
            _pool_input_(graph, node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.target is _ATEN.relu.default and _is_read_by_one(node.args[0], _OURS.group_norm.default):
            _join_relu_(graph, node, node.args[0])
    for node in graph.nodes:
        if node.target in _IN_PLACE and _is_free(node):
            node.target = _IN_PLACE[node.target]
    for node in [] if compiled else graph.nodes:
        node.target = _CALLED.get(node.target, node.target)
    graph.eliminate_dead_code()


def _is_by_library(node: fx.Node) -> bool:
    """Returns whether the library computes a convolution."""
    y, x, weight = node.meta["val"], _value(node.args[0]), _value(node.args[1])
    return library.takes(y, math.prod(y.shape[1:]) * math.prod(weight.shape[2:]), y.shape[2], x.shape[2])


def _value(node: Any) -> torch.Tensor:
    return node.meta["val"]


def _pool_(graph: fx.Graph, node: fx.Node) -> None:
    """Puts a kernel of our own in place of a largest number of windows."""
    x, kernel, *rest = node.args
    stride, padding, dilation = (*rest[:3], *([], 0, 1)[len(rest[:3]) :])
    windows = [*joining.pair(kernel), *joining.pair(stride or kernel), *joining.pair(padding), *joining.pair(dilation)]
    y = node.meta["val"][0]
    if y.dtype in (torch.float32, torch.float64) and y.ndim == 4:
        _replace_(graph, node, _OURS.max_pool.default, (x, list(y.shape[2:]), windows))


def _pool_input_(graph: fx.Graph, node: fx.Node) -> None:
    """Puts a kernel of our own in place of its gradient."""
    g, out = node.args[0], node.meta["val"]
    if out.dtype in (torch.float32, torch.float64) and out.ndim == 4:
        _replace_(graph, node, _OURS.max_pool_input.default, (g, node.args[-1], list(out.shape[2:])))


def _replace_(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    with graph.inserting_before(node):
        made = graph.call_function(target, args)
    made.meta.update(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _is_read_by_one(node: Any, *targets: Any) -> bool:
    """Returns whether a node is one of some operations, and read by one node only."""
    return isinstance(node, fx.Node) and node.target in targets and len(node.users) == 1


def _join_relu_(graph: fx.Graph, relu: fx.Node, norm: fx.Node) -> None:
    """Lets a normalisation take a ReLU along, and its gradient that of ReLU, if all of that reads nothing else."""
    back = [node for node in relu.users if node.target is _ATEN.threshold_backward.default]
    if not all(node.args[1] is relu and node.args[2] == 0 and _is_by(node, norm) for node in back):
        return
    for node in back:
        (gradient,) = node.users
        gradient.replace_input_with(node, node.all_input_nodes[0])
        gradient.kwargs = {**gradient.kwargs, "relu": True}
        graph.erase_node(node)
    norm.kwargs = {**norm.kwargs, "relu": True}
    relu.replace_all_uses_with(norm)
    graph.erase_node(relu)


def _is_by(node: fx.Node, norm: fx.Node) -> bool:
    """Returns whether what a node gives goes to the gradient of a normalisation only, as that of its result."""
    readers = list(node.users)
    alike = len(readers) == 1 and readers[0].target is _OURS.group_norm_gradient.default
    return alike and readers[0].args[0] is node and readers[0].args[1:] == norm.args


def _is_free(node: fx.Node) -> bool:
    """Returns whether an operation may write into its first operand, which is like the result and read by it alone."""
    first = node.args[0]
    if not isinstance(first, fx.Node) or first.target not in _FRESH or len(first.users) > 1 or node.kwargs:
        return False
    a, b = first.meta["val"], node.meta["val"]
    return a.shape == b.shape and a.dtype == b.dtype
