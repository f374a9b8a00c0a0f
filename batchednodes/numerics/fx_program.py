r"""Program: a function of the rows of a wave, traced once into a list of tensor operations for any number of rows.

A call of `torch.func.vmap` finds the batched operation for each of the model's again and again, in Python, which costs
a small model more than its arithmetic. A program holds what vmap found. It is traced for two numbers of rows: an
integer of the list that differs between the two is a multiple of the rows and a constant, all others are constants.

Notation: w rows of a wave.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from batchednodes.numerics.convolution.rewriting import rewrite_

Function = Callable[..., Tensor]
"""Maps tensors, the first of which has a row for each of a wave, to a tensor; it may write into its arguments."""

Arguments = Callable[[int], Sequence[Tensor]]
"""Gives arguments with some number of rows."""

_NARROW = 16
"""Columns of a product below which its transpose, with longer rows, is faster on a CPU: 2 to 10 times at 1 to 10."""

_ATEN = torch.ops.aten

_SHAPED = (_ATEN.expand.default, _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)
"""Operations that do nothing where they keep the shape."""

_SOFTMAX = (
    _ATEN._softmax.default,
    _ATEN._softmax_backward_data.default,
    _ATEN._log_softmax.default,
    _ATEN._log_softmax_backward_data.default,
)
"""Operations along one dimension, which is named after their tensors."""

_INDEXED = (_ATEN.gather.default, _ATEN.scatter_add.default)
"""Operations along one dimension, which is named after their first tensor."""

_SCALED = (_ATEN.mul.Scalar, _ATEN.mul.Tensor, _ATEN.div.Scalar, _ATEN.div.Tensor)
"""Operations that do nothing with the number 1."""


_FACTORED = (_ATEN.mul.Scalar, _ATEN.div.Scalar)
"""Products by a constant."""

_REPEATED = (_ATEN.expand.default,)
"""What gives numbers several times; the more often, the earlier a constant factor belongs."""


class UntraceableError(Exception):
    """What a function does depends on its number of rows, or on values."""


_ROWS = 9
"""Rows of the larger trace."""


def trace(function: Function, arguments: Arguments, compiled: bool = False, large: bool = False) -> Function:
    """Returns the program of a function: the same values but for rounding, with any number of rows.

    Args:
        function: what is traced; runs a few times.
        arguments: gives new arguments; what the function writes into them is lost.
        compiled: whether `torch.compile` compiles the program.
        large: whether rows have much to compute, see `joint` and `compare`.

    Raises:
        UntraceableError: no program gives what the function gives, or it cannot be compiled here.
    """
    with untraceable():
        plain = joint(function, arguments, large=large)
        _turn_narrow_(plain.graph)
        _shorten_(plain.graph)
        rewrite_(plain.graph, compiled)
        plain.recompile()
        program = _compiled(plain) if compiled else plain
        compare(function, program, arguments, large)
    return program


@contextmanager
def untraceable() -> Iterator[None]:
    """Raises UntraceableError for whatever is raised: tracing and compiling refuse in many ways what runs without."""
    try:
        yield
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(str(error)) from error


def joint(
    function: Function, arguments: Arguments, apart: Mapping[Any, Any] | None = None, large: bool = False
) -> fx.GraphModule:
    """Returns the operations of a function for any number of rows, without those that do nothing.

    Each node of a tensor says in its `meta["shapes"]` what shapes it has with two numbers of rows.

    Args:
        function: what is traced.
        arguments: gives new arguments.
        apart: what takes an operation apart into simpler ones, by the operation.
        large: whether shapes are followed without the numbers, where nothing depends on these: it takes a second to
            load what does so, which numbers of large models take longer than.
    """
    follow = _by_shapes if large else make_fx
    small, larger = (follow(function, decomposition_table=apart)(*arguments(w)) for w in (_ROWS - 1, _ROWS))
    _Joint(small, larger).join_()
    _drop_idle_(larger.graph)
    return larger


def _by_shapes(function: Function, decomposition_table: Mapping[Any, Any] | None) -> Callable[..., fx.GraphModule]:
    """Returns what traces a function likewise on tensors without numbers, or on real ones if it looks at these."""
    traced = make_fx(function, decomposition_table=decomposition_table)

    def follow(*tensors: Tensor) -> fx.GraphModule:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            with mode:
                made = traced(*[mode.from_tensor(t) for t in tensors])
        except UntraceableError:
            raise
        except Exception:  # whatever refuses to go on without numbers
            return traced(*tensors)
        held = [getattr(made, str(node.target)) for node in made.graph.nodes if node.op == "get_attr"]
        return traced(*tensors) if any(isinstance(one, FakeTensor) for one in held) else made

    return follow


def compare(function: Function, program: Function, arguments: Arguments, large: bool = False) -> None:
    """Raises UntraceableError unless a program gives what its function gives, with numbers of rows not traced.

    Args:
        function: what was traced.
        program: its program, or tape.
        arguments: gives new arguments.
        large: whether rows have so much to compute that few are compared.
    """
    with torch.no_grad():
        for w in (3,) if large else (2 * _ROWS, 3):
            _compare(function, program, arguments, w)


def _compiled(program: fx.GraphModule) -> Function:
    """Returns a program compiled for two rows or more; torch.compile would compile it for one row anew."""
    compiled = torch.compile(program, dynamic=True)
    return lambda first, *more: (program if first.shape[0] == 1 else compiled)(first, *more)


def _compare(function: Function, program: Function, arguments: Arguments, w: int) -> None:
    """Raises UntraceableError unless a program gives what its function gives, with a number of rows not traced."""
    wanted, got = arguments(w), arguments(w)
    for a, b in zip((function(*wanted), *wanted), (program(*got), *got), strict=True):
        if a is b:  # what all share and none changes: the data, whose comparison takes four times their memory
            continue
        # Sums in another order differ by some units in the last place of their largest term.
        close = 1e3 * torch.finfo(a.dtype).eps if a.is_floating_point() else 0
        if not torch.allclose(a, b, close, close, equal_nan=True):
            raise UntraceableError(f"its program gives other values with {w} rows")


@dataclass
class _Joint:
    """Two traces of one function, with _ROWS - 1 and with _ROWS rows, of which the second becomes the program."""

    small: fx.GraphModule
    large: fx.GraphModule
    made: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Node of the second trace for each of the first."""
    sizes: dict[tuple[int, int], fx.Node] = field(default_factory=dict)
    """Node that computes slope w + rest, by (slope, rest)."""

    def join_(self) -> None:
        """Makes the second trace hold for any number of rows."""
        nodes = list(self.small.graph.nodes), list(self.large.graph.nodes)
        if len(nodes[0]) != len(nodes[1]):
            raise UntraceableError("its operations depend on the number of rows")
        inputs = [node for node in nodes[1] if node.op == "placeholder"]
        with self.large.graph.inserting_after(inputs[-1]):
            self.sizes[1, 0] = self.large.graph.call_function(_ATEN.sym_size.int, (inputs[0], 0))
        for a, b in zip(*nodes, strict=True):
            self.made[a] = b
            b.meta["shapes"] = _shape(a), _shape(b)
            if a.op != b.op or not (self._equal_constants(a, b) if a.op == "get_attr" else a.target == b.target):
                raise UntraceableError("its operations depend on the number of rows")
            b.args, b.kwargs = self._joined(a.args, b.args), self._joined(dict(a.kwargs), dict(b.kwargs))

    def _equal_constants(self, a: fx.Node, b: fx.Node) -> bool:
        first, second = getattr(self.small, str(a.target)), getattr(self.large, str(b.target))
        return isinstance(first, Tensor) and first.shape == second.shape and torch.equal(first, second)

    def _joined(self, a: Any, b: Any) -> Any:
        """Returns an argument of both traces for any number of rows."""
        if isinstance(a, fx.Node):
            same = self.made.get(a) is b
        elif isinstance(a, dict):
            return {key: self._joined(a[key], value) for key, value in b.items()}
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
            return type(b)(self._joined(x, y) for x, y in zip(a, b, strict=True))
        elif type(a) is int and type(b) is int and a != b:
            return self._size(b - a, b - (b - a) * _ROWS)
        else:
            same = type(a) is type(b) and a == b
        if not same:
            raise UntraceableError("its operations depend on the number of rows")
        return b

    def _size(self, slope: int, rest: int) -> fx.Node:
        """Returns the node that computes slope w + rest."""
        if (slope, rest) not in self.sizes:
            graph, base = self.large.graph, self.sizes[1, 0] if rest == 0 else self._size(slope, 0)
            with graph.inserting_after(base):
                made = (operator.mul, (base, slope)) if rest == 0 else (operator.add, (base, rest))
                self.sizes[slope, rest] = graph.call_function(*made)
        return self.sizes[slope, rest]


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    """Returns the shape of the tensor that a node of a trace gives."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _drop_idle_(graph: fx.Graph) -> None:
    """Drops the operations that do nothing: each costs microseconds, and a product by 1 a pass over its tensor."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        kept = "shapes" in source.meta and node.meta.get("shapes") == source.meta["shapes"] is not None
        scaled = node.target in _SCALED and node.args[1] == 1
        turned = node.target is _ATEN.permute.default and list(node.args[1]) == sorted(node.args[1])
        if (kept and (node.target in _SHAPED or scaled)) or turned or node.target is _ATEN.detach.default:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _turn_narrow_(graph: fx.Graph) -> None:
    """Computes what has few columns, and more rows, as the transpose of what has few rows and more columns.

    A product is A B = (B' A')'; what goes along rows of few numbers goes along the columns of their transpose.
    """
    for node in list(graph.nodes):
        shapes = [arg.meta["shapes"][1] for arg in node.args if isinstance(arg, fx.Node) and "shapes" in arg.meta]
        if node.target is _ATEN.bmm.default:
            if _narrow(shapes[0][1], shapes[1][2]):
                _turn_(graph, node, (node.args[1], node.args[0]), ())
        elif node.target is _ATEN.new_zeros.default:
            if _is_narrow(node.meta["shapes"][1]):
                w, rows, columns = node.args[1]
                _turn_(graph, node, (), (node.args[0], [w, columns, rows]))
        elif shapes and _is_narrow(shapes[0]):
            _turn_along_(graph, node, node.args[: len(shapes)])
    for node in graph.nodes:
        if node.target is _ATEN.view.default:  # which the transpose of a turned one has not
            node.target = _ATEN.reshape.default


def _turn_along_(graph: fx.Graph, node: fx.Node, tensors: Sequence[Any]) -> None:
    """Turns an operation that goes along the rows of narrow tensors, or adds them up; leaves any other one."""
    last = (2, -1)
    if node.target in _SOFTMAX and node.args[len(tensors)] in last:
        _turn_(graph, node, tensors, (1, *node.args[len(tensors) + 1 :]))
    elif node.target in _INDEXED and node.args[1] in last:
        _turn_(graph, node, (node.args[0], *node.args[2:]), (), 1)
    elif node.target is _ATEN.sum.dim_IntList and node.args[1:] == ([1], True):
        _turn_(graph, node, tensors, ([2], True))


def _is_narrow(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) == 3 and _narrow(*shape[1:])


def _narrow(rows: int, columns: int) -> bool:
    return columns < _NARROW and columns < rows


def _turn_(graph: fx.Graph, node: fx.Node, tensors: Sequence[Any], rest: Sequence[Any], *second: Any) -> None:
    """Puts the transpose of an operation on transposed tensors in place of a node; `second`: comes after the first."""
    with graph.inserting_before(node):
        turned = [graph.call_function(_ATEN.transpose.int, (t, 1, 2)) for t in tensors]
        assert callable(node.target)
        result = graph.call_function(node.target, (*turned[:1], *second, *turned[1:], *rest), dict(node.kwargs))
        back = graph.call_function(_ATEN.transpose.int, (result, 1, 2))
    back.meta["shapes"] = node.meta["shapes"]
    node.replace_all_uses_with(back)
    graph.erase_node(node)


def _shorten_(graph: fx.Graph) -> None:
    """Takes detours out: transposes of transposes, products by ones, constant factors of what is repeated."""
    for node in list(graph.nodes):
        if node.target is _ATEN.transpose.int and _turns_back(node, node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
        elif node.target is _ATEN.mul.Tensor and _ones(node.args[0]) and _alike(node, node.args[1]):
            node.replace_all_uses_with(node.args[1])
        elif node.target in _FACTORED and _is(node.args[0], _REPEATED) and not isinstance(node.args[1], fx.Node):
            _scale_first_(graph, node, node.args[0])
    graph.eliminate_dead_code()


def _is(node: Any, targets: Sequence[Any]) -> bool:
    return isinstance(node, fx.Node) and node.target in targets


def _turns_back(node: fx.Node, source: Any) -> bool:
    return _is(source, (_ATEN.transpose.int,)) and set(source.args[1:]) == set(node.args[1:])


def _ones(node: Any) -> bool:
    return _is(node, (_ATEN.ones_like.default,))


def _alike(node: fx.Node, other: Any) -> bool:
    """Returns whether what two nodes give has one shape and type."""
    if not isinstance(other, fx.Node) or not isinstance(other.meta.get("val"), Tensor):
        return False
    a, b = node.meta["val"], other.meta["val"]
    return a.shape == b.shape and a.dtype == b.dtype


def _scale_first_(graph: fx.Graph, node: fx.Node, repeated: fx.Node) -> None:
    """Scales what is repeated before it is: c expand(x) = expand(c x)."""
    assert callable(node.target)
    assert callable(repeated.target)
    with graph.inserting_before(node):
        scaled = graph.call_function(node.target, (repeated.args[0], *node.args[1:]))
        made = graph.call_function(repeated.target, (scaled, *repeated.args[1:]))
    made.meta.update(node.meta)
    node.replace_all_uses_with(made)
