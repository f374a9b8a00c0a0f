r"""Translation from the graph of a program, whose nodes are operations of ATen, to the instructions of a tape.

The dimension of rows, the first one of a wave's tensors, is left out of their shapes.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.tape import fx_nodes, layers, pieces, recurrent
from batchednodes.numerics.tape.assembler import Writer
from batchednodes.numerics.tape.aten_names import CHANGES, JOINS, MAPS, SOFTMAX, VIEWS, ZEROS, with_number
from batchednodes.numerics.tape.fx_nodes import alpha, normalized_again, own_shape, row_dim, row_shape, shape_of
from batchednodes.numerics.tape.matmul import BYTES
from batchednodes.numerics.tape.opcodes import Op
from batchednodes.numerics.tape.strides import StridedView, favoured, joining

_ATEN, _OURS = torch.ops.aten, torch.ops.batchednodes

_Number = int | float
"""What a graph holds for a number."""


@dataclass
class Translator:
    """The instructions for what the nodes of a graph compute, one after the other."""

    dtype: torch.dtype
    """Of all real numbers."""
    writer: Writer = field(default_factory=Writer)
    found: dict[fx.Node, Any] = field(default_factory=dict)
    """Where the result of a node lies; a list of places, or of other results, where it has several."""
    ones: set[StridedView] = field(default_factory=set)
    """Places of ones, with which gradients begin; a product by them is left out."""
    given: set[int] = field(default_factory=set)
    """Bases of blocks that hold what comes from outside, which lies in no order that products have chosen."""
    normal: dict[fx.Node, StridedView] = field(default_factory=dict)
    """What layer normalization gives before weights, by its node."""
    rows: dict[int, tuple[StridedView, StridedView]] = field(default_factory=dict)
    """Rows that were added to a block of zeros, and their indices, by the block's base."""

    def translate(self, node: fx.Node) -> None:
        """Adds the instructions of a node.

        Raises:
            UntraceableError: no instruction computes it.
        """
        handler = self._handler(node)
        if handler is None:
            raise UntraceableError(f"there is no instruction for {node.target}")
        self.found[node] = handler(node, *node.args)

    def _handler(self, node: fx.Node) -> Callable[..., Any] | None:
        target = node.target
        if target in MAPS:
            return lambda node, a: self._mapped(MAPS[target], 0.0, node, a)
        if target in JOINS:
            return lambda node, a, b: self._joined(JOINS[target], node, a, b)
        if target in SOFTMAX:
            return lambda node, *args: self._softened(SOFTMAX[target], node, args)
        if target in CHANGES:
            return lambda node, a, b: self._changed(node, *CHANGES[target], a, b)
        if target in VIEWS:
            return lambda node, a, *_: self._viewed(node, a)
        return _HANDLERS.get(target, lambda _: None)(self)

    def _place(self, value: Any) -> StridedView:
        place = self.found.get(value) if isinstance(value, fx.Node) else None
        if not isinstance(place, StridedView):
            raise UntraceableError(f"{value} has no place on a tape")
        return place

    def _result(self, node: fx.Node, operands: Sequence[StridedView]) -> StridedView:
        """Returns a new block for what a node gives."""
        shape = row_shape(node)
        if node.meta["val"].dtype not in (self.dtype, torch.bool):
            raise UntraceableError(f"{node.name} has numbers of another type")
        made_first = sorted(operands, key=lambda place: place.base >= 0 or place.base in self.given)
        return self.writer.new(shape, favoured(made_first, shape))

    def _mapped(self, op: Op, number: float, node: fx.Node, a: Any) -> StridedView:
        """Adds an operation of one operand."""
        if op == Op.FILL:
            return self.writer.add(op, self._result(node, ()), number=number)
        place = self._place(a).expanded(row_shape(node))
        out = self._result(node, (place,))
        if op == Op.COPY and place.base >= 0:
            self.given.add(out.base)
        return self.writer.add(op, out, place, number=number)

    def _joined(self, op: Op, node: fx.Node, a: Any, b: Any, number: float = 0.0) -> StridedView:
        """Adds an operation of two operands, which broadcast; the second may be a number."""
        if not isinstance(b, fx.Node):
            return self._mapped(*with_number(op, float(b), number), node, a)
        if op == Op.MULTIPLY and self._place(a) in self.ones and row_shape(b) == row_shape(node):
            return self._place(b)
        first, second = (self._place(value).expanded(row_shape(node)) for value in (a, b))
        return self.writer.add(op, self._result(node, (first, second)), first, second, number)

    def _sum(self, sign: float) -> Callable[..., StridedView]:
        return lambda node, a, b: self._joined(Op.ADD, node, a, b, sign * alpha(node))

    def _by(self, op: Op, change: Callable[[float], float] = float) -> Callable[..., StridedView]:
        """Returns what adds an operation of an operand and a number."""
        return lambda node, a, number, *_: self._mapped(op, change(number), node, a)

    def _filled(self, number: float) -> Callable[..., StridedView]:
        return lambda node, *_: self._mapped(Op.FILL, number, node, None)

    def _refilled(self, _: fx.Node, a: Any, number: _Number) -> StridedView:
        self.rows.pop(self._place(a).base, None)
        return self.writer.add(Op.FILL, self._place(a), number=float(number))

    def _rewritten(self, node: fx.Node, a: Any, b: Any, *_: Any) -> StridedView:
        place = self._place(a)
        if place.base < 0:  # what a block held is read no more
            return self._mapped(Op.COPY, 0.0, node, b)
        return self.writer.add(Op.COPY, place, self._place(b).expanded(place.shape))

    def _lessened(self, node: fx.Node, a: Any, number: _Number, *_: Any) -> StridedView:
        """Adds a number less an operand."""
        negative = self._mapped(Op.SCALE, -1.0, node, a)
        return self.writer.add(Op.SHIFT, self._result(node, (negative,)), negative, number=float(number))

    def _ones(self, node: fx.Node, *_: Any) -> StridedView:
        place = self._mapped(Op.FILL, 1.0, node, None)
        self.ones.add(place)
        return place

    def _changed(self, node: fx.Node, op: Op, number: float, a: Any, b: Any) -> StridedView:
        """Changes an argument, or a result."""
        place, source = self._place(a), self._place(b)
        self.ones.discard(place)
        self.rows.pop(place.base, None)
        if op == Op.ADD_TO and source.base in self.rows:  # only rows that are there change
            return layers.add_rows(self.writer, place, *self.rows[source.base], number * alpha(node))
        return self.writer.add(op, place, None, self._place(b).expanded(place.shape), number * alpha(node))

    def _viewed(self, node: fx.Node, a: Any) -> StridedView:
        place, shape = self._place(a), row_shape(node)
        found = place.reshaped(shape) or self.writer.copy(place, joining(place, shape)).reshaped(shape)
        assert found is not None
        return found

    def _transposed(self, node: fx.Node, a: Any, first: int, second: int) -> StridedView:
        place = self._place(a)
        order = list(range(len(place.shape)))
        i, j = self._dim(node, first), self._dim(node, second)
        order[i], order[j] = j, i
        return place.permuted(order)

    def _permuted(self, node: fx.Node, a: Any, dims: Sequence[int]) -> StridedView:
        if dims[0] != 0:
            raise UntraceableError("rows change places with another dimension")
        return self._place(a).permuted([self._dim(node, d) for d in dims[1:]])

    def _dim(self, node: fx.Node, dim: int) -> int:
        """Returns the number of a dimension of a node's first operand among those of a row."""
        source: Any = node.args[0]
        d, shared = dim % max(1, len(own_shape(source))), shape_of(source) is None
        if d == 0 and not shared:
            raise UntraceableError("an operation goes along the rows")
        return d - len(own_shape(source)) + len(self._place(source).shape)

    def _expanded(self, node: fx.Node, a: Any, _: Any) -> StridedView:
        return self._place(a).expanded(row_shape(node))

    def _split(self, node: fx.Node, a: Any, sizes: Sequence[int], dim: int = 0) -> list[StridedView]:
        place, d = self._place(a), self._dim(node, dim)
        firsts = [sum(sizes[:k]) for k in range(len(sizes))]
        return [place.part(d, first, size) for first, size in zip(firsts, sizes, strict=True)]

    def _item(self, _: fx.Node, source: fx.Node, k: int) -> Any:
        return self.found[source][k]

    def _selected(self, node: fx.Node, a: Any, dim: int, k: int) -> StridedView:
        place, d = self._place(a), self._dim(node, dim)
        return place.part(d, k % place.shape[d], 1).without([d])

    def _taken_apart(self, node: fx.Node, a: Any, size: int, dim: int = 0) -> list[StridedView]:
        return pieces.parts(self._place(a), self._dim(node, dim), size)

    def _unbound(self, node: fx.Node, a: Any, dim: int = 0) -> list[StridedView]:
        d = self._dim(node, dim)
        return [place.without([d]) for place in pieces.parts(self._place(a), d, 1)]

    def _put_together(self, join: Callable[..., StridedView]) -> Callable[..., StridedView]:
        def add(node: fx.Node, places: Sequence[Any], dim: int = 0) -> StridedView:
            return join(self.writer, [self._place(place) for place in places], row_dim(node, dim))

        return add

    def _selected_back(self, node: fx.Node, g: Any, _: Any, dim: int, k: int) -> StridedView:
        shape, d = row_shape(node), row_dim(node, dim)
        return pieces.placed(self.writer, self._place(g), shape, d, k % shape[d])

    def _sliced(
        self, node: fx.Node, a: Any, dim: int = 0, first: int = 0, last: int = -1, step: int = 1
    ) -> StridedView:
        place, d = self._place(a), self._dim(node, dim)
        if step != 1:
            raise UntraceableError("a slice leaves numbers out")
        return place.part(d, first % place.shape[d], row_shape(node)[d])

    def _product(self, node: fx.Node, a: Any, b: Any) -> StridedView:
        first, second = self._place(a), self._place(b)
        return self.writer.product(first, second, BYTES // self.dtype.itemsize, fx_nodes.added_turned(node))

    def _dims(self, node: fx.Node, dims: Sequence[int] | None) -> list[int]:
        """Returns the numbers of some dimensions of a node's first operand among those of a row; None: all."""
        return [self._dim(node, d) for d in dims or range(1, len(own_shape(node.args[0])))]

    def _totalled(self, node: fx.Node, a: Any, dims: Sequence[int] | None = None, keep: bool = False) -> StridedView:
        """Adds a sum along some dimensions."""
        along = self._dims(node, dims)
        out = self.writer.total(self._place(a), along)
        return out if keep else out.without(along)

    def _mean(self, node: fx.Node, a: Any, dims: Sequence[int] | None = None, keep: bool = False) -> StridedView:
        along, place = self._dims(node, dims), self._place(a)
        out = self.writer.share(self.writer.total(place, along), place)
        return out if keep else out.without(along)

    def _softened(self, op: Op, node: fx.Node, args: Sequence[Any]) -> StridedView:
        places = [self._place(value) for value in args if isinstance(value, fx.Node)]
        return layers.along(self.writer, op, places, self._dim(node, args[len(places)]))

    def _normalized(self, node: fx.Node, a: Any, shape: Sequence[int], w: Any, b: Any, eps: float) -> list[Any]:
        out = self.normal[node] = layers.normalized(self.writer, self._place(a), len(shape), eps)
        self.found |= dict.fromkeys(normalized_again(node), out)
        return [self._combined(Op.ADD, self._combined(Op.MULTIPLY, out, w), b), None, None]

    def _normalized_back(
        self, _: fx.Node, g: Any, a: Any, shape: Sequence[int], mean: Any, root: Any, w: Any, *more: Any
    ) -> list[Any]:
        forward = self.normal.get(mean.args[0])
        if forward is None or mean.args[0].args[0] is not a:
            raise UntraceableError("a layer normalization has no forward pass")
        back = self._combined(Op.MULTIPLY, self._place(g), w)
        return [layers.normalized_back(self.writer, back, forward, len(shape)), None, None]

    def _combined(self, op: Op, place: StridedView, other: Any) -> StridedView:
        """Adds an operation of a place and what a node gives, repeated as need be; None: nothing."""
        if other is None:
            return place
        new = self.writer.new(place.shape, favoured((place,), place.shape))
        return self.writer.add(op, new, place, self._place(other).expanded(place.shape), 1.0)

    def _rows_back(self, node: fx.Node, g: Any, index: Any, _: Any, padding: int, scaled: bool) -> StridedView:
        """Adds the gradient of a table of which rows were looked up."""
        if padding != -1 or scaled:
            raise UntraceableError("a table pads, or scales its gradient by counts")
        back = self._place(g), self._place(index)
        table = self.writer.add(Op.FILL, self.writer.new(row_shape(node)))
        self.rows[table.base] = back
        return layers.add_rows(self.writer, table, *back, 1.0)

    def _picked(self, node: fx.Node, a: Any, dim: int, index: Any) -> StridedView:
        place, where, d = self._place(a), self._place(index), self._dim(node, dim)
        source, more = place.looked_up(where.shape, d)
        return self.writer.add(Op.PICK, self._result(node, ()), source, where, more=more)

    def _spread(self, node: fx.Node, a: Any, dim: int, index: Any, values: Any) -> StridedView:
        place, where, d = self._place(a), self._place(index), self._dim(node, dim)
        out = self._result(node, ())
        self.writer.add(Op.COPY, out, place)
        source = replace(self._place(values), shape=where.shape)  # the first entries along each dimension
        to, more = out.looked_up(where.shape, d)
        self.writer.add(Op.SPREAD, to, source, where, more=more)
        return out

    def _argmax(self, node: fx.Node, a: Any, dim: int | None = None, keep: bool = False) -> StridedView:
        if dim is None or keep:
            raise UntraceableError("the largest of all numbers is asked for, or its dimension is kept")
        return layers.argmax(self.writer, self._place(a), self._dim(node, dim), row_shape(node))

    def _rows(self, node: fx.Node, a: Any, dim: int, index: Any, own: bool = False) -> StridedView:
        if dim != 0 or (shape_of(a) is not None and not own):
            raise UntraceableError("entries of a row are looked up")
        integer = not node.meta["val"].is_floating_point()
        return layers.rows(self.writer, self._place(a), self._place(index), row_shape(node), integer)

    def _equal(self, node: fx.Node, a: Any, b: Any) -> StridedView:
        """Adds a comparison of two integers."""
        if any(arg.meta["val"].is_floating_point() for arg in (a, b)):
            raise UntraceableError("real numbers are compared")
        first, second = (self._place(value).expanded(row_shape(node)) for value in (a, b))
        return self.writer.add(Op.SAME, self._result(node, ()), first, second)

    def _masked(self, node: fx.Node, a: Any, mask: Any, number: _Number) -> StridedView:
        return self._joined(Op.MASK, node, a, mask, float(number))

    def _relu_back(self, node: fx.Node, g: Any, y: Any, threshold: _Number) -> StridedView:
        if threshold != 0:
            raise UntraceableError("a threshold is not 0")
        return self._joined(Op.RELU_BACK, node, g, y)

    def _power(self, node: fx.Node, a: Any, exponent: _Number) -> StridedView:
        if exponent == 1:
            return self._place(a)
        if exponent not in (2, 3):
            raise UntraceableError("a power is neither the second nor the third")
        square = self._mapped(Op.SQUARE, 0.0, node, a)
        return square if exponent == 2 else self._combined(Op.MULTIPLY, square, a)

    def _inverse_root(self, node: fx.Node, a: Any) -> StridedView:
        root = self._mapped(Op.SQRT, 0.0, node, a)
        return self.writer.add(Op.INVERT, self._result(node, (root,)), root)

    def _chosen(self, node: fx.Node, mask: Any, a: Any, b: Any) -> StridedView:
        """Adds a where a mask is on and b elsewhere: a copy of b, of which some is replaced."""
        if a is b:
            return self._place(a)
        out = self._mapped(Op.COPY, 0.0, node, b)
        first, second = (self._place(value).expanded(out.shape) for value in (a, mask))
        return self.writer.add(Op.CHOOSE, out, first, second)

    def _moments(self, node: fx.Node, a: Any, dims: Sequence[int]) -> list[StridedView]:
        """Adds variance and mean along some dimensions, which stay as ones."""
        if node.kwargs.get("correction") != 0 or not node.kwargs.get("keepdim"):
            raise UntraceableError("a variance is corrected, or its dimensions are left out")
        place, mean = self._place(a), self._mean(node, a, dims, keep=True)
        new = self.writer.new(place.shape, favoured((place,), place.shape))
        apart = self.writer.add(Op.ADD, new, place, mean.expanded(place.shape), -1.0)
        squares = self.writer.add(Op.SQUARE, replace(new, base=self.writer.new(place.shape).base), apart)
        return [self.writer.share(self.writer.total(squares, self._dims(node, dims)), squares), mean]

    def _recurrent(self, add: Callable[..., list[StridedView]]) -> Callable[..., list[StridedView]]:
        return lambda _, *given: add(self.writer, *map(self._place, given[:-1]), given[-1])

    def _converted(self, node: fx.Node, a: Any) -> StridedView:
        if node.meta["val"].dtype != self.dtype:
            raise UntraceableError("numbers become those of another type")
        return self._place(a)


_HANDLERS: dict[Any, Callable[[Translator], Callable[..., Any]]] = {
    _ATEN.add.Tensor: lambda t: t._sum(1.0),
    _ATEN.sub.Tensor: lambda t: t._sum(-1.0),
    _ATEN.mul.Scalar: lambda t: t._by(Op.SCALE),
    _ATEN.div.Scalar: lambda t: t._by(Op.SCALE, lambda c: 1 / c),
    **dict.fromkeys((_ATEN.add.Scalar, _ATEN.add_.Scalar), lambda t: t._by(Op.SHIFT)),  # none reads the old values
    _ATEN.sub.Scalar: lambda t: t._by(Op.SHIFT, operator.neg),
    _ATEN.eq.Scalar: lambda t: t._by(Op.EQUALS),
    _ATEN.gt.Scalar: lambda t: t._by(Op.EXCEEDS),
    _ATEN.lt.Scalar: lambda t: t._by(Op.BELOW),
    _ATEN.ge.Scalar: lambda t: t._by(Op.AT_LEAST),
    _ATEN.le.Scalar: lambda t: t._by(Op.AT_MOST),
    _ATEN.where.self: lambda t: t._chosen,
    _ATEN.rsqrt.default: lambda t: t._inverse_root,
    _ATEN.var_mean.correction: lambda t: t._moments,
    **dict.fromkeys(ZEROS, lambda t: t._filled(0.0)),
    _ATEN.fill_.Scalar: lambda t: t._refilled,
    _ATEN.copy_.default: lambda t: t._rewritten,
    _ATEN.rsub.Scalar: lambda t: t._lessened,
    _ATEN.neg.default: lambda t: lambda node, a: t._mapped(Op.SCALE, -1.0, node, a),
    **dict.fromkeys((_ATEN.ones_like.default, _ATEN.new_ones.default), lambda t: t._ones),
    _ATEN.transpose.int: lambda t: t._transposed,
    _ATEN.permute.default: lambda t: t._permuted,
    _ATEN.expand.default: lambda t: t._expanded,
    _ATEN.split_with_sizes.default: lambda t: t._split,
    operator.getitem: lambda t: t._item,
    _ATEN.split.Tensor: lambda t: t._taken_apart,
    _ATEN.unsafe_split.Tensor: lambda t: t._taken_apart,
    _ATEN.unbind.int: lambda t: t._unbound,
    _ATEN.cat.default: lambda t: t._put_together(pieces.joined),
    _ATEN.stack.default: lambda t: t._put_together(pieces.stacked),
    _ATEN.select_backward.default: lambda t: t._selected_back,
    _ATEN.sigmoid_.default: lambda t: lambda node, a: t._mapped(Op.SIGMOID, 0.0, node, a),  # none reads the old values
    _ATEN.tanh_.default: lambda t: lambda node, a: t._mapped(Op.TANH, 0.0, node, a),
    _ATEN.t.default: lambda t: lambda node, a: t._transposed(node, a, -2, -1),
    _ATEN.transpose_.default: lambda t: t._transposed,
    _ATEN.select.int: lambda t: t._selected,
    _ATEN.slice.Tensor: lambda t: t._sliced,
    **dict.fromkeys((_ATEN.bmm.default, _ATEN.mm.default), lambda t: t._product),
    _ATEN.sum.dim_IntList: lambda t: t._totalled,
    _ATEN.mean.dim: lambda t: t._mean,
    _ATEN.argmax.default: lambda t: t._argmax,
    _ATEN.gather.default: lambda t: t._picked,
    _ATEN.scatter_add.default: lambda t: t._spread,
    _ATEN.index_select.default: lambda t: t._rows,
    _ATEN.eq.Tensor: lambda t: t._equal,
    _ATEN.masked_fill.Scalar: lambda t: t._masked,
    _ATEN.threshold_backward.default: lambda t: t._relu_back,
    _ATEN.pow.Tensor_Scalar: lambda t: t._power,
    _ATEN.native_layer_norm.default: lambda t: t._normalized,
    _ATEN.native_layer_norm_backward.default: lambda t: t._normalized_back,
    _ATEN.embedding.default: lambda t: lambda n, a, k, *_: t._rows(n, a, 0, k, True),
    _ATEN.embedding_dense_backward.default: lambda t: t._rows_back,
    _ATEN._to_copy.default: lambda t: t._converted,
    _OURS.lstm.default: lambda t: t._recurrent(recurrent.forward),
    _OURS.lstm_gradient.default: lambda t: t._recurrent(recurrent.backward),
}
"""What adds the instructions of an operation, given the arguments of its node."""
