"""Which instruction computes which operation of ATen, where one does."""

from typing import Any

import torch

from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.tape.opcodes import Op

_ATEN = torch.ops.aten

VIEWS = (
    _ATEN.view.default,
    _ATEN._unsafe_view.default,
    _ATEN.reshape.default,
    _ATEN.unsqueeze.default,
    _ATEN.squeeze.dim,
    _ATEN.squeeze.dims,
    _ATEN.alias.default,
)
"""Other shapes of the same numbers in the same order."""

MAPS: dict[Any, Op] = {
    _ATEN.relu.default: Op.RELU,
    _ATEN.exp.default: Op.EXP,
    _ATEN.log.default: Op.LOG,
    _ATEN.expm1.default: Op.EXPM1,
    _ATEN.log1p.default: Op.LOG1P,
    _ATEN.erf.default: Op.ERF,
    _ATEN.tanh.default: Op.TANH,
    _ATEN.gelu.default: Op.GELU,
    _ATEN.sigmoid.default: Op.SIGMOID,
    _ATEN.sqrt.default: Op.SQRT,
    _ATEN.reciprocal.default: Op.INVERT,
    _ATEN.abs.default: Op.ABS,
    _ATEN.clone.default: Op.COPY,
    _ATEN.lift_fresh_copy.default: Op.COPY,
}
"""Operations of one operand."""

ZEROS = (_ATEN.zeros_like.default, _ATEN.new_zeros.default, _ATEN.empty_like.default, _ATEN.new_empty.default)
"""New numbers, of which nobody reads what was there."""

JOINS: dict[Any, Op] = {
    _ATEN.mul.Tensor: Op.MULTIPLY,
    _ATEN.div.Tensor: Op.DIVIDE,
    _ATEN.tanh_backward.default: Op.TANH_BACK,
    _ATEN.sigmoid_backward.default: Op.SIGMOID_BACK,
    _ATEN.gelu_backward.default: Op.GELU_BACK,
}
"""Operations of two operands."""

SOFTMAX: dict[Any, Op] = {
    _ATEN._softmax.default: Op.SOFTMAX,
    _ATEN._log_softmax.default: Op.LOG_SOFTMAX,
    _ATEN._softmax_backward_data.default: Op.SOFTMAX_BACK,
    _ATEN._log_softmax_backward_data.default: Op.LOG_SOFTMAX_BACK,
}
"""Operations along one dimension."""

CHANGES: dict[Any, tuple[Op, float]] = {
    _ATEN.sub_.Tensor: (Op.ADD_TO, -1.0),
    _ATEN.add_.Tensor: (Op.ADD_TO, 1.0),
    _ATEN.mul_.Tensor: (Op.MULTIPLY_TO, 1.0),
}
"""Operations that change their first operand, and their factor."""


def with_number(op: Op, b: float, c: float) -> tuple[Op, float]:
    """Returns the operation of one operand that does the same as one of two whose second is a number.

    Raises:
        UntraceableError: there is none.
    """
    if op == Op.ADD:
        return Op.SHIFT, c * b
    if op in (Op.MULTIPLY, Op.DIVIDE):
        return Op.SCALE, b if op == Op.MULTIPLY else 1 / b
    raise UntraceableError(f"{op.name} has a number as its second operand")
