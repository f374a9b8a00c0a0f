"""Elementwise operations on lines, numbers that lie without gaps, in compiled code.

Loops count with unsigned indices, which cannot mean places from the end, so that compilers make vectors of them. The
parts of `apply` are inlined, since a call more costs a short line more than its arithmetic.

Notation: o result, a b operands, c a number, n numbers of a line.
"""

from typing import no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from batchednodes.numerics.intrinsics import pointer
from batchednodes.numerics.simd import INT, Emitter, ir
from batchednodes.numerics.tape.elementary import erf, exp, expm1, log, log1p, tanh
from batchednodes.numerics.tape.matmul import BYTES
from batchednodes.numerics.tape.opcodes import Op
from batchednodes.numerics.tape.transpose import transpose

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}
"""How these functions are compiled; a quotient by zero is infinite, as torch has it."""


@njit(inline="always", **OPTIONS)
@no_type_check
def change(op, o, b, c, n):  # noqa: ANN001, ANN201
    """Changes a line in place: o += c b by ADD_TO, else o *= b; see `Op`."""
    if op == Op.ADD_TO:
        for i in range(n):
            o[np.uintp(i)] += c * b[np.uintp(i)]
    else:
        for i in range(n):
            o[np.uintp(i)] *= b[np.uintp(i)]


@njit(inline="always", **OPTIONS)
@no_type_check
def _calculate(op, o, a, c, n):  # noqa: ANN001, ANN202
    """Applies an operation that takes some machine instructions a number to a line."""
    zero, one = type(c)(0), type(c)(1)
    if op == Op.FILL:
        for i in range(n):
            o[np.uintp(i)] = c
    elif op == Op.SCALE:
        for i in range(n):
            o[np.uintp(i)] = c * a[np.uintp(i)]
    elif op == Op.SHIFT:
        for i in range(n):
            o[np.uintp(i)] = a[np.uintp(i)] + c
    elif op == Op.RELU:
        for i in range(n):
            x = a[np.uintp(i)]
            o[np.uintp(i)] = zero if x <= zero else x
    elif op == Op.SQRT:
        for i in range(n):
            o[np.uintp(i)] = np.sqrt(a[np.uintp(i)])
    elif op == Op.SQUARE:
        for i in range(n):
            o[np.uintp(i)] = a[np.uintp(i)] * a[np.uintp(i)]
    elif op == Op.INVERT:
        for i in range(n):
            o[np.uintp(i)] = one / a[np.uintp(i)]
    elif op == Op.ABS:
        for i in range(n):
            o[np.uintp(i)] = abs(a[np.uintp(i)])


@njit(inline="always", **OPTIONS)
@no_type_check
def _transform(op, o, a, one, n):  # noqa: ANN001, ANN202
    """Applies an elementary function to a line."""
    if op == Op.EXP:
        for i in range(n):
            o[np.uintp(i)] = exp(a[np.uintp(i)])
    elif op == Op.EXPM1:
        for i in range(n):
            o[np.uintp(i)] = expm1(a[np.uintp(i)])
    elif op == Op.LOG:
        for i in range(n):
            o[np.uintp(i)] = log(a[np.uintp(i)])
    elif op == Op.LOG1P:
        for i in range(n):
            o[np.uintp(i)] = log1p(a[np.uintp(i)])
    elif op == Op.ERF:
        for i in range(n):
            o[np.uintp(i)] = erf(a[np.uintp(i)])
    elif op == Op.TANH:
        for i in range(n):
            o[np.uintp(i)] = tanh(a[np.uintp(i)])
    elif op == Op.SIGMOID:
        for i in range(n):
            o[np.uintp(i)] = one / (one + exp(-a[np.uintp(i)]))


@njit(inline="always", **OPTIONS)
@no_type_check
def _compare(op, o, a, c, n):  # noqa: ANN001, ANN202
    """Writes one where a comparison with a number holds, and else zero."""
    zero, one = type(c)(0), type(c)(1)
    if op == Op.EQUALS:
        for i in range(n):
            o[np.uintp(i)] = one if a[np.uintp(i)] == c else zero
    elif op == Op.EXCEEDS:
        for i in range(n):
            o[np.uintp(i)] = one if a[np.uintp(i)] > c else zero
    elif op == Op.BELOW:
        for i in range(n):
            o[np.uintp(i)] = one if a[np.uintp(i)] < c else zero
    elif op == Op.AT_LEAST:
        for i in range(n):
            o[np.uintp(i)] = one if a[np.uintp(i)] >= c else zero
    elif op == Op.AT_MOST:
        for i in range(n):
            o[np.uintp(i)] = one if a[np.uintp(i)] <= c else zero


@njit(**OPTIONS)
@no_type_check
def apply(op, o, a, c, n):  # noqa: ANN001, ANN201
    """Writes o = f(a) or f(a, c) for an operation of one operand, see `Op`; o and a may be the same line."""
    if op >= Op.EQUALS:
        _compare(op, o, a, c, n)
    elif Op.EXP <= op <= Op.SIGMOID:
        _transform(op, o, a, type(c)(1), n)
    else:
        _calculate(op, o, a, c, n)


@njit(**OPTIONS)
@no_type_check
def join(op, o, a, b, c, n):  # noqa: ANN001, ANN201
    """Writes o = f(a, b) or f(a, b, c) for an operation of two operands, see `Op`."""
    zero, one = type(c)(0), type(c)(1)
    if op == Op.ADD:
        for i in range(n):
            o[np.uintp(i)] = a[np.uintp(i)] + c * b[np.uintp(i)]
    elif op == Op.MULTIPLY:
        for i in range(n):
            o[np.uintp(i)] = a[np.uintp(i)] * b[np.uintp(i)]
    elif op == Op.DIVIDE:
        for i in range(n):
            o[np.uintp(i)] = a[np.uintp(i)] / b[np.uintp(i)]
    elif op == Op.RELU_BACK:
        for i in range(n):
            g = a[np.uintp(i)]
            o[np.uintp(i)] = zero if b[np.uintp(i)] <= zero else g
    elif op == Op.TANH_BACK:
        for i in range(n):
            y = b[np.uintp(i)]
            o[np.uintp(i)] = a[np.uintp(i)] * (one - y * y)
    elif op == Op.SIGMOID_BACK:
        for i in range(n):
            y = b[np.uintp(i)]
            o[np.uintp(i)] = a[np.uintp(i)] * (one - y) * y
    elif op == Op.MASK:
        for i in range(n):
            x = a[np.uintp(i)]
            o[np.uintp(i)] = c if b[np.uintp(i)] != zero else x
    elif op == Op.CHOOSE:
        for i in range(n):
            x = a[np.uintp(i)]
            o[np.uintp(i)] = x if b[np.uintp(i)] != zero else o[np.uintp(i)]


_SUMS = 16
"""Sums that go side by side: every sixteenth number is a term of each, whatever vectors a machine has."""


@intrinsic
@no_type_check
def add_up(_, line, n, number):  # noqa: ANN001, ANN201
    """Returns the sum of n numbers without gaps that begin at an address: of sixteen sums, halves are added up.

    Args:
        line: address.
        n: how many.
        number: any number of their type.
    """

    @no_type_check
    def code(context, builder, _, args):  # noqa: ANN001, ANN202
        emit = Emitter(context, builder, number, _SUMS * number.bitwidth // 8)
        first, count, *_ = args
        whole = builder.ashr(count, INT(4))
        place = builder.mul(whole, INT(_SUMS))
        left = builder.sub(count, place)
        mask, some = emit.first(left), builder.zext(builder.icmp_signed(">", left, INT(0)), INT)
        zeros = [ir.Constant(emit.vector, None)]
        (total,) = emit.loop(whole, zeros, lambda k, t: [builder.fadd(t[0], emit.load(first, builder.mul(k, INT(16))))])
        (total,) = emit.loop(some, [total], lambda _, t: [builder.fadd(t[0], emit.load_some(first, place, mask))])
        for half in (8, 4, 2, 1):
            low, high = (emit.lanes_of(total, at, half) for at in (0, half))
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return number(types.intp, types.intp, number), code


@njit(**OPTIONS)
@no_type_check
def gather(address, step, next_line, lines, n, out):  # noqa: ANN001, ANN201
    """Copies lines of n numbers, which begin `next_line` numbers from each other and lie `step` apart, to out."""
    x = carray(pointer(address), (lines - 1) * next_line + (n - 1) * step + 1, out.dtype)
    if step == 0:
        for j in range(lines):
            number = x[np.uintp(j * next_line)]
            line = out[j * n : (j + 1) * n]
            for i in range(n):
                line[np.uintp(i)] = number
    elif step == 1:
        for j in range(lines):
            line, source = out[j * n : (j + 1) * n], x[j * next_line : j * next_line + n]
            for i in range(n):
                line[np.uintp(i)] = source[np.uintp(i)]
    elif next_line == 1 and min(n, lines) >= BYTES // out.itemsize:
        transpose(address, step, n, lines, out.ctypes.data, n, out.itemsize, out[0])
    elif n < lines and next_line == 1:
        for i in range(n):
            source = x[i * step : i * step + lines]
            for j in range(lines):
                out[np.uintp(j * n + i)] = source[np.uintp(j)]
    else:
        for j in range(lines):
            line, source = out[j * n : (j + 1) * n], x[j * next_line : j * next_line + (n - 1) * step + 1]
            for i in range(n):
                line[np.uintp(i)] = source[np.uintp(i * step)]
