r"""Labels: softmax of columns and the logarithm of its number at a label of each, and the adjoint of that.

Each vector of columns stays in a register from the largest number to the sum.

Notation: o result, a operand, d numbers of a column, m columns, p softmax.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from batchednodes.numerics.simd import INT, Emitter
from batchednodes.numerics.tape.elementary import log
from batchednodes.numerics.tape.elementwise import OPTIONS
from batchednodes.numerics.tape.matmul import BYTES
from batchednodes.numerics.tape.vectors import exp


@intrinsic
@no_type_check
def _columns(_, out, a, apart, count, top, total, left, number):  # noqa: ANN001, ANN202
    """Writes softmax of a vector of columns, the largest number of each and the sum of exp of what is below it.

    Args:
        out: address of the result, whose rows lie `apart` numbers from each other.
        a: address of the columns, likewise.
        count: numbers of a column.
        top: address of the largest ones.
        total: address of the sums.
        left: columns that are there.
        number: any number of the type of all.
    """

    @no_type_check
    def code(context: Any, builder: Any, _: Any, args: Sequence[Any]) -> Any:
        emit = Emitter(context, builder, number, BYTES)
        out, a, apart, count, top, total, left, _ = args
        mask, zero = emit.first(left), INT(0)

        def larger(k: Any, found: list[Any]) -> list[Any]:
            x = emit.load_some(a, builder.mul(k, apart), mask)
            return [builder.select(builder.fcmp_ordered(">", x, found[0]), x, found[0])]  # a NaN shows up below

        def raised(k: Any, found: list[Any]) -> list[Any]:
            place = builder.mul(k, apart)
            power = exp(emit, builder.fsub(emit.load_some(a, place, mask), most))
            emit.store_some(power, out, place, mask)
            return [builder.fadd(found[0], power)]

        def scaled(k: Any, found: list[Any]) -> list[Any]:
            place = builder.mul(k, apart)
            emit.store_some(builder.fmul(emit.load_some(out, place, mask), found[0]), out, place, mask)
            return found

        (most,) = emit.loop(count, [emit.load_some(a, zero, mask)], larger)
        (added,) = emit.loop(count, [emit.equal(0.0)], raised)
        emit.store_some(most, top, zero, mask)
        emit.store_some(added, total, zero, mask)
        emit.loop(count, [builder.fdiv(emit.equal(1.0), added)], scaled)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7, number), code


@njit(**OPTIONS)
@no_type_check
def label(o, a, picked, labels, d, m, spares):  # noqa: ANN001, ANN201
    """Writes softmax along the outer of two dimensions [d, m], and its logarithm at the label of each column.

    That is not a number where there is no such label.

    Args:
        o: address of the result.
        a: operand.
        picked: the logarithms.
        labels: of the columns.
        d: numbers of a column.
        m: columns.
        spares: two lines of numbers to write into.
    """
    size, number = spares.itemsize, spares[0, 0]
    lanes = BYTES // size
    for first in range(0, m, spares.shape[1]):
        n = min(spares.shape[1], m - first)
        top, total, found = spares[0, :n], spares[1, :n], picked[first : first + n]
        for i in range(0, n, lanes):
            at = (first + i) * size
            _columns(o + at, a.ctypes.data + at, m, d, top.ctypes.data + i * size, total.ctypes.data + i * size,
                     min(lanes, n - i), number)  # fmt: skip
        for i in range(n):
            k = labels[np.uintp(first + i)]
            found[np.uintp(i)] = a[np.uintp(k * m + first + i)] - top[np.uintp(i)] if 0 <= k < d else np.nan
        for i in range(n):
            found[np.uintp(i)] -= log(total[np.uintp(i)])


@njit(**OPTIONS)
@no_type_check
def label_back(o, a, step, labels, p, c, d, m, spares):  # noqa: ANN001, ANN201
    """Writes the adjoint of the logarithm of softmax p at labels, applied to c times numbers a, which lie `step` apart.

    It is 0 where there is no such label.
    """
    for first in range(0, m, spares.shape[1]):
        n = min(spares.shape[1], m - first)
        scale = spares[0, :n]
        for i in range(n):
            k = labels[np.uintp(first + i)]
            scale[np.uintp(i)] = c * a[np.uintp((first + i) * step)] if 0 <= k < d else 0
        for k in range(d):
            at = np.uintp(k * m + first)
            for i in range(n):
                o[at + np.uintp(i)] = -(p[at + np.uintp(i)] * scale[np.uintp(i)])
        for i in range(n):
            k = labels[np.uintp(first + i)]
            if 0 <= k < d:
                o[np.uintp(k * m + first + i)] += scale[np.uintp(i)]
