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
def softmax(plain, o, a, d, m, spares):  # noqa: ANN001, ANN201
    """Writes softmax (plain) or its logarithm along the outer of two dimensions [d, m]."""
    for first in range(0, m, spares.shape[1]):
        n = min(spares.shape[1], m - first)
        top, total = spares[0, :n], spares[1, :n]
        for i in range(n):
            top[np.uintp(i)] = a[np.uintp(first + i)]
            total[np.uintp(i)] = 0
        for k in range(1, d):
            at = np.uintp(k * m + first)
            for i in range(n):
                x, y = a[at + np.uintp(i)], top[np.uintp(i)]
                top[np.uintp(i)] = x if x > y else y  # a NaN shows up below
        for k in range(d):
            at = np.uintp(k * m + first)
            if plain:
                for i in range(n):
                    power = exp(a[at + np.uintp(i)] - top[np.uintp(i)])
                    total[np.uintp(i)] += power
                    o[at + np.uintp(i)] = power
            else:
                for i in range(n):
                    less = a[at + np.uintp(i)] - top[np.uintp(i)]
                    total[np.uintp(i)] += exp(less)
                    o[at + np.uintp(i)] = less
        for i in range(n):
            total[np.uintp(i)] = 1 / total[np.uintp(i)] if plain else -log(total[np.uintp(i)])
        for k in range(d):
            at = np.uintp(k * m + first)
            if plain:
                for i in range(n):
                    o[at + np.uintp(i)] *= total[np.uintp(i)]
            else:
                for i in range(n):
                    o[at + np.uintp(i)] += total[np.uintp(i)]


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
            at = np.uintp(k * m + first)
            for i in range(n):
                g, y = a[at + np.uintp(i)], b[at + np.uintp(i)]
                total[np.uintp(i)] += g * y if plain else g
        for k in range(d):
            at = np.uintp(k * m + first)
            if plain:
                for i in range(n):
                    g, y = a[at + np.uintp(i)], b[at + np.uintp(i)]
                    o[at + np.uintp(i)] = y * (g - total[np.uintp(i)])
            else:
                for i in range(n):
                    g, y = a[at + np.uintp(i)], b[at + np.uintp(i)]
                    o[at + np.uintp(i)] = g - exp(y) * total[np.uintp(i)]


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
