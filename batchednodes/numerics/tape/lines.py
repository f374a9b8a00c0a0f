"""Operations along lines, the innermost dimension, in compiled code: softmax, normalization, GELU, and their adjoints.

Sums of a line go in an order that fills vectors; a product and a sum are rounded once where the machine can.

Notation: o result, a b operands, d numbers of a line, m lines.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit

from batchednodes.numerics.tape.elementary import exp, gaussian, log
from batchednodes.numerics.tape.elementwise import OPTIONS

_PRODUCTS: dict[str, Any] = OPTIONS | {"fastmath": {"contract"}}
_SUMS: dict[str, Any] = OPTIONS | {"fastmath": {"contract", "nsz", "reassoc"}}

_TOGETHER = 1024
"""Numbers of the lines that exp is taken of at once, at least."""


@njit(**_SUMS)
@no_type_check
def _largest(line):  # noqa: ANN001, ANN202
    """Returns the largest number of a line; a NaN shows up in what is made of it."""
    top = line[0]
    for i in range(line.size):
        x = line[np.uintp(i)]
        top = x if x > top else top
    return top


@njit(**_SUMS)
@no_type_check
def _added(line):  # noqa: ANN001, ANN202
    """Returns the sum of a line."""
    total = line[0] - line[0]
    for i in range(line.size):
        total += line[np.uintp(i)]
    return total


@njit(**_SUMS)
@no_type_check
def _dotted(a, b):  # noqa: ANN001, ANN202
    """Returns the sum of the products of two lines."""
    total = a[0] - a[0]
    for i in range(a.size):
        total += a[np.uintp(i)] * b[np.uintp(i)]
    return total


@njit(**OPTIONS)
@no_type_check
def _lower(o, a):  # noqa: ANN001, ANN202
    """Writes a line less its largest number."""
    top = _largest(a)
    for i in range(o.size):
        o[np.uintp(i)] = a[np.uintp(i)] - top


@njit(**OPTIONS)
@no_type_check
def _raise(o):  # noqa: ANN001, ANN202
    """Replaces numbers by their exp."""
    for i in range(o.size):
        o[np.uintp(i)] = exp(o[np.uintp(i)])


@njit(**OPTIONS)
@no_type_check
def softmax_lines(plain, o, a, d, m):  # noqa: ANN001, ANN201
    """Writes softmax (plain) or its logarithm along the inner of two dimensions [m, d]; some lines at a time."""
    together = max(1, _TOGETHER // d)
    for first in range(0, m, together):
        last = min(m, first + together)
        for j in range(first, last):
            _lower(o[j * d : (j + 1) * d], a[j * d : (j + 1) * d])
        _raise(o[first * d : last * d])
        for j in range(first, last):
            out = o[j * d : (j + 1) * d]
            total = _added(out)
            if plain:
                scale = 1 / total
                for i in range(d):
                    out[np.uintp(i)] *= scale
            else:
                line = a[j * d : (j + 1) * d]
                less = _largest(line) + log(total)
                for i in range(d):
                    out[np.uintp(i)] = line[np.uintp(i)] - less


@njit(**OPTIONS)
@no_type_check
def softmax_lines_back(plain, o, a, b, d, m):  # noqa: ANN001, ANN201
    """Writes the adjoint of softmax, or of its logarithm, at its result b, applied to a."""
    for j in range(m):
        out, g, y = o[j * d : (j + 1) * d], a[j * d : (j + 1) * d], b[j * d : (j + 1) * d]
        if plain:
            total = _dotted(g, y)
            for i in range(d):
                out[np.uintp(i)] = y[np.uintp(i)] * (g[np.uintp(i)] - total)
        else:
            total = _added(g)
            for i in range(d):
                out[np.uintp(i)] = g[np.uintp(i)] - exp(y[np.uintp(i)]) * total


@njit(**_PRODUCTS)
@no_type_check
def normalize(o, a, scales, eps, d, m):  # noqa: ANN001, ANN201
    """Writes lines less their mean, over the root of their variance and eps, and one over those roots to scales."""
    for j in range(m):
        out, line = o[j * d : (j + 1) * d], a[j * d : (j + 1) * d]
        mean = _added(line) / type(eps)(d)
        for i in range(d):
            out[np.uintp(i)] = line[np.uintp(i)] - mean
        scale = 1 / np.sqrt(_dotted(out, out) / type(eps)(d) + eps)
        scales[j] = scale
        for i in range(d):
            out[np.uintp(i)] *= scale


@njit(**_PRODUCTS)
@no_type_check
def normalize_back(o, a, b, scales, d, m):  # noqa: ANN001, ANN201
    """Writes the adjoint of that, at its result b, applied to a."""
    for j in range(m):
        out, g, y = o[j * d : (j + 1) * d], a[j * d : (j + 1) * d], b[j * d : (j + 1) * d]
        scale = scales[j]
        mean, along = _added(g) / type(scale)(d), _dotted(g, y) / type(scale)(d)
        for i in range(d):
            out[np.uintp(i)] = scale * (g[np.uintp(i)] - mean - along * y[np.uintp(i)])


@njit(**_PRODUCTS)
@no_type_check
def gelu(o, a):  # noqa: ANN001, ANN201
    """Writes a F(a), where F is the distribution function of a standard normal number."""
    for i in range(o.size):
        x = a[np.uintp(i)]
        below, _ = gaussian(x)
        o[np.uintp(i)] = x * below


@njit(**_PRODUCTS)
@no_type_check
def gelu_back(o, a, b):  # noqa: ANN001, ANN201
    """Writes the adjoint of that at b, applied to a."""
    for i in range(o.size):
        x = b[np.uintp(i)]
        below, density = gaussian(x)
        o[np.uintp(i)] = a[np.uintp(i)] * (below + x * density)
