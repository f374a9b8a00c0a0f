"""What the instructions of a tape make of numbers, on a GPU; see opcodes.py.

Notation: o result, a b x operands, c a number.
"""

from typing import no_type_check

from batchednodes.numerics.triton_kernels import constexpr, tl, triton

device_function = (lambda f: f) if triton is None else triton.jit


@device_function
@no_type_check
def mapped(op: constexpr, x, c: constexpr):  # noqa: ANN001, ANN201
    """Returns an operation of one operand."""
    if op == "COPY":
        y = x
    elif op == "FILL":
        y = tl.full(x.shape, c, x.dtype)
    elif op == "SCALE":
        y = c * x
    elif op == "SHIFT":
        y = x + c
    elif op == "RELU":
        y = tl.where(x <= 0, 0.0, x)
    elif op == "SQRT":
        y = tl.sqrt(x)
    elif op == "SQUARE":
        y = x * x
    elif op == "INVERT":
        y = 1 / x
    elif op == "ABS":
        y = tl.abs(x)
    elif op == "EQUALS":
        y = (x == c).to(x.dtype)
    elif op == "EXCEEDS":
        y = (x > c).to(x.dtype)
    elif op == "BELOW":
        y = (x < c).to(x.dtype)
    elif op == "AT_LEAST":
        y = (x >= c).to(x.dtype)
    elif op == "AT_MOST":
        y = (x <= c).to(x.dtype)
    else:
        y = _function(op, x)
    return y


@device_function
@no_type_check
def _function(op: constexpr, x):  # noqa: ANN001, ANN202
    """Returns an elementary function."""
    if op == "EXP":
        y = tl.exp(x)
    elif op == "EXPM1":  # (e^x - 1) x / log e^x makes good what the difference loses
        power = tl.exp(x)
        near = (power > 0.5) & (power < 2) & (power != 1)
        close = (power - 1) * (x / tl.log(tl.where(near, power, 2.0)))
        y = tl.where(power == 1, x, tl.where(near, close, power - 1))
    elif op == "LOG":
        y = tl.log(x)
    elif op == "LOG1P":
        more = 1 + x
        close = tl.log(more) * (x / tl.where(more == 1, 1.0, more - 1))
        y = tl.where(more == 1, x, tl.where(tl.abs(x) < 1, close, tl.log(more)))
    elif op == "ERF":
        y = tl.erf(x)
    elif op == "TANH":
        power = tl.exp(-2 * tl.abs(x))
        y = (1 - power) / (1 + power)
        y = tl.where(x < 0, -y, y)
    elif op == "GELU":
        y = x * _below(x)
    else:
        tl.static_assert(op == "SIGMOID")
        y = 1 / (1 + tl.exp(-x))
    return y


@device_function
@no_type_check
def _below(x):  # noqa: ANN001, ANN202
    """Returns the probability that a standard normal number is below x."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476))


@device_function
@no_type_check
def joined(op: constexpr, a, b, o, c: constexpr):  # noqa: ANN001, ANN201
    """Returns an operation of two operands, or what becomes of a result that one operand changes."""
    if op == "ADD":
        y = a + c * b
    elif op == "MULTIPLY":
        y = a * b
    elif op == "DIVIDE":
        y = a / b
    elif op == "RELU_BACK":
        y = tl.where(b <= 0, 0.0, a)
    elif op == "TANH_BACK":
        y = a * (1 - b * b)
    elif op == "SIGMOID_BACK":
        y = a * (1 - b) * b
    elif op == "GELU_BACK":
        y = a * (_below(b) + b * 0.3989422804014327 * tl.exp(-0.5 * b * b))
    elif op == "MASK":
        y = tl.where(b != 0, c, a)
    elif op == "CHOOSE":
        y = tl.where(b != 0, a, o)
    elif op == "ADD_TO":
        y = o + c * b
    else:
        tl.static_assert(op == "MULTIPLY_TO")
        y = o * b
    return y


@device_function
@no_type_check
def softmax(op: constexpr, x, there):  # noqa: ANN001, ANN201
    """Returns softmax along the second of two dimensions, or its logarithm, of the numbers that are there."""
    top = tl.max(tl.where(there, x, float("-inf")), 1)[:, None]
    power = tl.where(there, tl.exp(x - top), 0.0)
    total = tl.sum(power, 1)[:, None]
    return power / total if op == "SOFTMAX" else x - top - tl.log(total)


@device_function
@no_type_check
def softmax_back(op: constexpr, a, b):  # noqa: ANN001, ANN201
    """Returns the adjoint of that at its result b, applied to a; both are 0 where no numbers are."""
    if op == "SOFTMAX_BACK":
        back = b * (a - tl.sum(a * b, 1)[:, None])
    else:
        tl.static_assert(op == "LOG_SOFTMAX_BACK")
        back = a - tl.exp(b) * tl.sum(a, 1)[:, None]
    return back
