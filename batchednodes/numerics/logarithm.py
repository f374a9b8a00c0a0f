r"""Logarithm: of numbers in (0, 1), the same on every machine, and by vector instructions where a loop calls it.

That of the C library depends on the machine, and takes one number after the other. This one reads a table, as Tang's:

    x = 2^k z with 1/2 <= z < 1,    log x = k log 2 - log b + log(1 + r),    r = b z - 1,

where b is near 1 / z, one for each of 128 intervals of z. As x < 1, neither k log 2 nor -log b is positive: nothing
cancels, and where x approaches 1, b = 1 and both are 0.

What it errs by, in units in the last place of the result y:
  * z has 53 places after the point and b has 8, so that r is exact where |r| < 2^-8; elsewhere |r| < 1.2 2^-8 and
    |y| > 0.24, where the rounding of r is at most 2^-6 units, and what follows the series is nothing.
  * The high parts of log 2 and log b are multiples of 2^-46, so that their sum w is exact; |w| > |r| unless w = 0,
    so that what rounding takes from w + r is found exactly (Dekker), and added with the low parts.
  * The series ends with r^7. What follows is under 1.01 |r|^8 / 8: 2^-6 units next to 1, where |y| is about |r|.
  * What is added to w + r, -r^2 / 2 for the most part, is under 1.01 2^-9 of y: three roundings, 2^-9 units each.
  * The last sum is rounded: 1/2 unit. In all less than 0.53.

Notation: x a number, k its exponent, z its mantissa, i an interval, b an inverse, r a distance, w a first sum.

Reference:
    P. T. P. Tang, "Table-driven implementation of the logarithm function in IEEE floating-point arithmetic", ACM
    Transactions on Mathematical Software 16(4), 1990.
"""

from decimal import Context, Decimal
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import float64, njit, uint64
from numba.extending import intrinsic

_EXACT = Context(prec=50)
"""Decimal arithmetic of 50 digits, whose logarithms are rounded correctly: the same on every machine."""


def _parts(b: float) -> tuple[float, float]:
    """Returns log b as a multiple of 2^-46 and the rest."""
    value = _EXACT.ln(Decimal(b))
    high = round(_EXACT.multiply(value, Decimal(2**46))) / 2**46
    return high, float(_EXACT.subtract(value, Decimal(high)))


_INVERSE = np.array([round(2**17 / (257 + 2 * i)) / 2**8 for i in range(127)] + [1.0])
"""b, for each interval [128 + i, 129 + i) / 256 of z: the inverse of its middle, to 8 places; of the last, 1."""

_LOG, _REST = -np.array([_parts(b) for b in _INVERSE.tolist()]).T.copy()
"""-log b in two parts."""

_LN2, _LN2_REST = _parts(2.0)

_PLACES, _INTERVALS = np.uint64(52), np.uint64(45)
"""Places of the fraction in the bits of a real number, and of it without the number of the interval."""

_FRACTION, _HALF = np.uint64((1 << 52) - 1), np.uint64(0x3FE << 52)
"""The bits of the fraction, and those of 1/2."""

_WHOLE, _BIAS = np.uint64(0x433 << 52), 2.0**52 + 0x3FE
"""Bits of 2^52, which turn a small number into a real one; that plus the exponent of 1/2 in its bits."""


@intrinsic
@no_type_check
def _sum(typing: Any, a, b, c):  # noqa: ANN001, ANN202  (numba infers the types)
    """Returns a b + c, rounded once."""
    return float64(float64, float64, float64), lambda _, builder, signature, args: builder.fma(*args)


@intrinsic
@no_type_check
def bits(typing: Any, x):  # noqa: ANN001, ANN201
    """Returns the bits of a real number."""
    return uint64(float64), lambda _, builder, signature, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
@no_type_check
def real(typing: Any, x):  # noqa: ANN001, ANN201
    """Returns the real number of some bits."""
    return float64(uint64), lambda _, builder, signature, args: builder.bitcast(args[0], ir.DoubleType())


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def log(x):  # noqa: ANN001, ANN201
    """Returns log x for 2^-53 <= x < 1."""
    word = bits(x)
    k = real((word >> _PLACES) | _WHOLE) - _BIAS
    z = real((word & _FRACTION) | _HALF)
    i = (word >> _INTERVALS) & uint64(127)
    w, r = _sum(k, _LN2, _LOG[i]), _sum(z, _INVERSE[i], -1.0)
    high, r2 = w + r, r * r
    low = _sum(r2, -1 / 2, _sum(k, _LN2_REST, w - high + r + _REST[i]))
    series = _sum(r2, _sum(r2, 1 / 7, _sum(r, -1 / 6, 1 / 5)), _sum(r, -1 / 4, 1 / 3))
    return _sum(r * r2, series, low) + high
