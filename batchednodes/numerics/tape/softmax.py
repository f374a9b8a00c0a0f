"""Softmax of columns, its logarithm, the adjoints of both, and which number is the largest, in compiled code.

Notation: o result, a b operands, d numbers of a column, m columns.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.numerics.tape.elementary import exp, log
from batchednodes.numerics.tape.elementwise import OPTIONS


@njit(**OPTIONS)
@no_type_check
def _less(o, a, top, total, plain):  # noqa: ANN001, ANN202
    """Writes numbers less the largest of their column, or the exp of that, and adds that to the columns' totals."""
    if plain:
        for i in range(top.size):
            power = exp(a[np.uintp(i)] - top[np.uintp(i)])
            total[np.uintp(i)] += power
            o[np.uintp(i)] = power
    else:
        for i in range(top.size):
            less = a[np.uintp(i)] - top[np.uintp(i)]
            total[np.uintp(i)] += exp(less)
            o[np.uintp(i)] = less


@njit(**OPTIONS)
@no_type_check
def softmax(plain, o, a, d, m, spares):  # noqa: ANN001, ANN201
    """Writes softmax (plain) or its logarithm along the outer of two dimensions [d, m]."""
    for first in range(0, m, spares.shape[1]):
        n = min(spares.shape[1], m - first)
        top, total = spares[0, :n], spares[1, :n]
        for i in range(n):
            top[np.uintp(i)] = a[np.uintp(first + i)]
            total[np.uintp(i)] = 0
        for k in range(1, d):
            line = a[k * m + first : k * m + first + n]
            for i in range(n):
                x, y = line[np.uintp(i)], top[np.uintp(i)]
                top[np.uintp(i)] = x if x > y else y  # a NaN shows up below
        for k in range(d):
            _less(o[k * m + first : k * m + first + n], a[k * m + first : k * m + first + n], top, total, plain)
        for i in range(n):
            total[np.uintp(i)] = 1 / total[np.uintp(i)] if plain else -log(total[np.uintp(i)])
        for k in range(d):
            line = o[k * m + first : k * m + first + n]
            if plain:
                for i in range(n):
                    line[np.uintp(i)] *= total[np.uintp(i)]
            else:
                for i in range(n):
                    line[np.uintp(i)] += total[np.uintp(i)]


@njit(**OPTIONS)
@no_type_check
def softmax_back(plain, o, a, b, d, m, spares):  # noqa: ANN001, ANN201
    """Writes the adjoint of softmax, or of its logarithm, at its result b, applied to a."""
    for first in range(0, m, spares.shape[1]):
        n = min(spares.shape[1], m - first)
        total = spares[0, :n]
        for i in range(n):
            total[np.uintp(i)] = 0
        for k in range(d):
            g, y = a[k * m + first : k * m + first + n], b[k * m + first : k * m + first + n]
            for i in range(n):
                total[np.uintp(i)] += g[np.uintp(i)] * y[np.uintp(i)] if plain else g[np.uintp(i)]
        for k in range(d):
            g, y = a[k * m + first : k * m + first + n], b[k * m + first : k * m + first + n]
            line = o[k * m + first : k * m + first + n]
            if plain:
                for i in range(n):
                    line[np.uintp(i)] = y[np.uintp(i)] * (g[np.uintp(i)] - total[np.uintp(i)])
            else:
                for i in range(n):
                    line[np.uintp(i)] = g[np.uintp(i)] - exp(y[np.uintp(i)]) * total[np.uintp(i)]


@njit(**OPTIONS)
@no_type_check
def argmax(o, a, d, m, spares):  # noqa: ANN001, ANN201
    """Writes which number of each column is the largest, the first of equal ones; a NaN counts as larger than all."""
    for first in range(0, m, spares.shape[1]):
        n = min(spares.shape[1], m - first)
        top, out = spares[0, :n], o[first : first + n]
        for i in range(n):
            top[np.uintp(i)] = a[np.uintp(first + i)]
            out[np.uintp(i)] = 0
        for k in range(1, d):
            line = a[k * m + first : k * m + first + n]
            for i in range(n):
                x, y = line[np.uintp(i)], top[np.uintp(i)]
                if x > y or (x != x and y == y):
                    top[np.uintp(i)] = x
                    out[np.uintp(i)] = k
