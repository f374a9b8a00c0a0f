r"""LSTM: the recurrence of a layer and its adjoint on the CPU, for one row at a time.

    i, f, o = sigmoid, g = tanh  of  pre_t + bias + W h_{t-1},     c_t = f c_{t-1} + i g,     h_t = o tanh c_t

Products of a step are of all its examples; what goes number by number is one pass over them, in vectors. All that the
adjoint reads lies in one block, see `places`; `size` is how much.

Notation: t steps, b examples, h units; c cells, g gradients.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, register_jitable

from batchednodes.numerics.simd import INT, Emitter
from batchednodes.numerics.tape.ahead import RANGES
from batchednodes.numerics.tape.elementwise import OPTIONS
from batchednodes.numerics.tape.matmul import BYTES, multiply
from batchednodes.numerics.tape.opcodes import Finish
from batchednodes.numerics.tape.vectors import sigmoids, tanh, tanh_and_sigmoid

_LINES, _LINE = 64, 16
"""Lines of a part of a matrix, and numbers of each, those of a line of the cache."""

_STORE = int(Finish.STORE)


@register_jitable
@no_type_check
def places(t, b, h):  # noqa: ANN001, ANN201
    """Returns where the parts of a block begin [numbers].

    Gates [t, b, 4 h], tanh c [t, b, h], cells and outputs [t + 1, b, h] with those before the first step (or, where
    time goes back, after the last), W [4 h, h], its transpose, the bias [4 h], and the end.
    """
    gates = 4 * t * b * h
    tanhs = gates + t * b * h
    cells = tanhs + (t + 1) * b * h
    outputs = cells + (t + 1) * b * h
    weight = outputs + 4 * h * h
    turned = weight + 4 * h * h
    return 0, gates, tanhs, cells, outputs, weight, turned, turned + 4 * h


def size(t: int, b: int, h: int) -> int:
    """Returns how many numbers a block has."""
    return places(t, b, h)[-1]


def _through(emit: Emitter, h: Any, body: Any) -> None:
    """Writes the loop of a body over h numbers: whole vectors, then the numbers that are left."""
    b = emit.builder
    whole = b.sdiv(h, INT(emit.lanes))
    place = b.mul(whole, INT(emit.lanes))
    left = b.sub(h, place)

    def line(k: Any, state: list[Any]) -> list[Any]:
        body(b.mul(k, INT(emit.lanes)), emit.load, emit.store)
        return state

    def rest(_: Any, state: list[Any]) -> list[Any]:
        mask = emit.first(left)
        body(
            place,
            lambda base, at: emit.load_some(base, at, mask),
            lambda v, base, at: emit.store_some(v, base, at, mask),
        )
        return state

    emit.loop(whole, [], line)
    emit.loop(b.zext(b.icmp_signed(">", left, INT(0)), INT), [], rest)


def _four(emit: Emitter, h: Any, j: Any) -> list[Any]:
    """Returns the places of number j of the four gates."""
    return [emit.builder.add(j, emit.builder.mul(h, INT(k))) for k in range(4)]


@intrinsic
@no_type_check
def _cell(_, gates, pre, bias, before, after, tanhs, out, h, number):  # noqa: ANN001, ANN202
    """Makes gates [4 h] of the products that lie there, and cells, their tanh and outputs [h], for one example."""

    @no_type_check
    def code(context, builder, _, args):  # noqa: ANN001, ANN202
        emit = Emitter(context, builder, number, BYTES)
        gates, pre, bias, before, after, tanhs, out, h, _ = args

        def body(j, load, store):  # noqa: ANN001, ANN202
            four = _four(emit, h, j)
            sums = [builder.fadd(builder.fadd(load(pre, p), load(bias, p)), load(gates, p)) for p in four]
            (i, f), (g, o) = sigmoids(emit, *sums[:2]), tanh_and_sigmoid(emit, *sums[2:])
            for place, gate in zip(four, (i, f, g, o), strict=True):
                store(gate, gates, place)
            cell = emit.add_product(builder.fmul(i, g), f, load(before, j))
            high = tanh(emit, cell)
            store(cell, after, j)
            store(high, tanhs, j)
            store(builder.fmul(o, high), out, j)

        _through(emit, h, body)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8, number), code


@intrinsic
@no_type_check
def _cell_back(_, gates, tanhs, before, g, of_out, of_cell, of_pre, of_bias, h, number):  # noqa: ANN001, ANN202
    """Writes the gradients of gates before their functions [4 h], adds them to that of bias; changes those of cells."""

    @no_type_check
    def code(context, builder, _, args):  # noqa: ANN001, ANN202
        emit = Emitter(context, builder, number, BYTES)
        gates, tanhs, before, g, of_out, of_cell, of_pre, of_bias, h, _ = args
        mul, sub, one = builder.fmul, builder.fsub, emit.equal(1.0)

        def body(j, load, store):  # noqa: ANN001, ANN202
            four = _four(emit, h, j)
            i, f, new, o = (load(gates, p) for p in four)
            high, back = load(tanhs, j), builder.fadd(load(of_out, j), load(g, j))
            along = mul(back, o)
            cell = emit.add_product(load(of_cell, j), along, sub(one, mul(high, high)))
            made = (
                mul(mul(mul(cell, new), i), sub(one, i)),
                mul(mul(mul(cell, load(before, j)), f), sub(one, f)),
                mul(mul(cell, i), sub(one, mul(new, new))),
                mul(mul(mul(back, high), o), sub(one, o)),
            )
            for place, gradient in zip(four, made, strict=True):
                store(gradient, of_pre, place)
                store(builder.fadd(load(of_bias, place), gradient), of_bias, place)
            store(mul(cell, f), of_cell, j)

        _through(emit, h, body)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9, number), code


@njit(**OPTIONS)
@no_type_check
def _turn(a, out, m, n):  # noqa: ANN001, ANN202
    """Writes the transpose of a matrix [m, n], a few lines of some numbers at a time: those stay in the first cache."""
    for first in range(0, m, _LINES):
        last = min(m, first + _LINES)
        for left in range(0, n, _LINE):
            for j in range(left, min(n, left + _LINE)):
                for k in range(first, last):
                    out[np.uintp(j * m + k)] = a[np.uintp(k * n + j)]


@njit(**OPTIONS)
@no_type_check
def forward(pre, all_, t, b, h, back):  # noqa: ANN001, ANN201
    """Fills a block that holds W, the bias, and outputs and cells before the first step.

    Args:
        pre: address of what inputs give [t, b, 4 h].
        all_: its numbers.
        back: whether time goes from the last step to the first.
    """
    width, block, size, number = 4 * h, all_.ctypes.data, all_.itemsize, all_[0]
    gates, tanhs, cells, outputs, weight, turned, bias, _ = places(t, b, h)
    nothing = np.zeros(RANGES, np.int64)
    _turn(all_[weight:turned], all_[turned:bias], width, h)
    for s in range(t):
        k = t - 1 - s if back else s
        old, new = (k + 1 if back else k) * b * h, (k if back else k + 1) * b * h
        here = block + (gates + k * b * width) * size
        multiply(here, width, block + (outputs + old) * size, h, 1, block + turned * size, width, b, width, h, size,
                 number, _STORE, 0, 0, nothing)  # fmt: skip
        for e in range(b):
            _cell(here + e * width * size, pre + (k * b + e) * width * size, block + bias * size,
                  block + (cells + old + e * h) * size, block + (cells + new + e * h) * size,
                  block + (tanhs + (k * b + e) * h) * size, block + (outputs + new + e * h) * size, h,
                  number)  # fmt: skip


@njit(**OPTIONS)
@no_type_check
def backward(g, block, made, t, b, h, back):  # noqa: ANN001, ANN201
    """Writes gradients of pre [t, b, 4 h] and of the bias [4 h]; changes those of outputs and cells [b, h] after them.

    These two become, from the gradients of the last ones, those of what was before the first step.

    Args:
        g: address of the gradient of the outputs of all steps [t, b, h].
        block: address of what `forward` has filled.
        made: all that, one after the other.
        back: as there.
    """
    width, out, size, number = 4 * h, made.ctypes.data, made.itemsize, made[0]
    gates, tanhs, cells, _, weight, _, _, _ = places(t, b, h)
    bias, nothing = t * b * width, np.zeros(RANGES, np.int64)
    of_out, of_cell = bias + width, bias + width + b * h
    for k in range(width):
        made[bias + k] = 0
    for s in range(t):
        k = s if back else t - 1 - s
        old, here = (k + 1 if back else k) * b * h, out + k * b * width * size
        for e in range(b):
            at = (k * b + e) * h
            _cell_back(block + (gates + 4 * at) * size, block + (tanhs + at) * size,
                       block + (cells + old + e * h) * size, g + at * size, out + (of_out + e * h) * size,
                       out + (of_cell + e * h) * size, here + e * width * size, out + bias * size, h,
                       number)  # fmt: skip
        multiply(out + of_out * size, h, here, width, 1, block + weight * size, h, b, h, width, size, number, _STORE, 0,
                 0, nothing)  # fmt: skip
