r"""Elementary functions of one number, which compilers turn into vector instructions where a loop calls them.

With x = k log 2 + r and |r| <= log(2) / 2, exp x = 2^k e^r, and e^r - 1 is the sum of r^i / i! as far as the type
needs. All err by less than two units in the last place.

With x = 2^k z and z between 1 / sqrt 2 and sqrt 2, log x = k log 2 + 2 artanh q for q = (z - 1) / (z + 1), where
artanh q is the sum of q^i / i over odd i.

erf x is 2 / sqrt pi times the sum of (-1)^i x^(2i + 1) / (i! (2i + 1)) up to 1, and beyond it
1 - e^(-x^2) P(t) / (1 + 2x) for t = (x - 3) / (x + 3), where the polynomial P is a Chebyshev fit of
e^(x^2) (1 - erf x) (1 + 2x) to 3 10^-16.

A standard normal number lies beyond x >= 0 with probability e^(-x^2 / 2) t Q(t) for t = 1 / (1 + 0.35 x), where the
polynomial Q is a Chebyshev fit, for numbers of float32, to 4 10^-8; those of float64 take (1 - erf(x / sqrt 2)) / 2.

Notation: x a number, k a whole number, r what is left, z a mantissa, q a quotient.
"""

import math
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

LOG2E = math.log2(math.e)
"""log2 e."""

HIGH_32, LOW_32 = 0.693359375, math.log(2) - 0.693359375
HIGH_64 = 0.6931471803691238
LOW_64 = 1.9082149292705877e-10
"""log 2 in two parts, the first with so few digits that its product by k is exact."""


@intrinsic
@no_type_check
def _bits(typing, x):  # noqa: ANN001, ANN202
    """Returns the bits of a real number, as an integer of as many."""
    kind = types.int32 if x == types.float32 else types.int64
    return kind(x), lambda _, builder, signature, args: builder.bitcast(args[0], ir.IntType(kind.bitwidth))


@intrinsic
@no_type_check
def _real(typing, bits):  # noqa: ANN001, ANN202
    """Returns the real number of some bits."""
    short = bits == types.int32
    kind = types.float32 if short else types.float64
    return kind(bits), lambda _, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType() if short else ir.DoubleType()
    )


@no_type_check
def _power(k):  # noqa: ANN001, ANN202
    """Returns 2^k for whole numbers k from -1,021, or of float32 -125, to 1,023, or 127."""
    return type(k)(2.0**k)


@overload(_power, inline="always")
@no_type_check
def _power_of(k):  # noqa: ANN001, ANN202
    """Returns how to compile it: the exponent's bits."""
    if k == types.float32:
        return lambda k: _real(np.int32((np.int32(k) + np.int32(127)) << np.int32(23)))
    return lambda k: _real(np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)))


@no_type_check
def _split(x):  # noqa: ANN001, ANN202
    """Returns k, r and e^r - 1, for x whose exp is neither 0 nor infinite."""
    k = round(x * LOG2E)
    r = x - k * math.log(2)
    return k, r, math.expm1(r)


@overload(_split, inline="always")
@no_type_check
def _split_of(x):  # noqa: ANN001, ANN202
    """Returns how to compile it."""
    if x == types.float32:
        one, log2e, high, low = np.float32(1), np.float32(LOG2E), np.float32(HIGH_32), np.float32(LOW_32)
        c2, c3, c4, c5, c6, c7 = (np.float32(1 / math.factorial(i)) for i in range(2, 8))

        @no_type_check
        def short(x):  # noqa: ANN001, ANN202
            k = np.floor(x * log2e + np.float32(0.5))
            r = (x - k * high) - k * low
            return k, r, r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7))))))

        return short
    d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13 = (1 / math.factorial(i) for i in range(2, 14))

    @no_type_check
    def long(x):  # noqa: ANN001, ANN202
        k = np.floor(x * LOG2E + 0.5)
        r = (x - k * HIGH_64) - k * LOW_64
        tail = d8 + r * (d9 + r * (d10 + r * (d11 + r * (d12 + r * d13))))
        return k, r, r + r * r * (d2 + r * (d3 + r * (d4 + r * (d5 + r * (d6 + r * (d7 + r * tail))))))

    return long


@no_type_check
def _bounds(x):  # noqa: ANN001, ANN202
    """Returns the numbers between which exp x is a normal number."""
    return (-87.0, 88.0) if type(x) is np.float32 else (-708.0, 709.0)


@overload(_bounds, inline="always")
@no_type_check
def _bounds_of(x):  # noqa: ANN001, ANN202
    """Returns how to compile it."""
    if x == types.float32:
        return lambda x: (np.float32(-87), np.float32(88))
    return lambda x: (-708.0, 709.0)


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
@no_type_check
def exp(x):  # noqa: ANN001, ANN201
    """Returns e^x; 0 below the smallest normal number, infinity above the largest."""
    lowest, highest = _bounds(x)
    inside = min(max(x, lowest), highest)
    k, _, rest = _split(inside)
    value = _power(k) * (type(x)(1) + rest)  # a sum of products by it would meet numbers below normal, which are slow
    value = value if x >= lowest else type(x)(0)
    value = value if x <= highest else type(x)(np.inf)
    return value if x == x else x


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
@no_type_check
def expm1(x):  # noqa: ANN001, ANN201
    """Returns e^x - 1, of which small numbers keep their digits."""
    _, highest = _bounds(x)
    inside = min(max(x, type(x)(-40)), highest)  # below, e^x is less than half a unit in the last place of 1
    k, _, rest = _split(inside)
    power = _power(k)
    value = power * rest + (power - type(x)(1))
    value = value if x <= highest else type(x)(np.inf)
    return value if x == x else x


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
@no_type_check
def tanh(x):  # noqa: ANN001, ANN201
    """Returns the hyperbolic tangent, by e^(2|x|) - 1, so that small numbers keep their digits."""
    grown = expm1(min(type(x)(2) * abs(x), type(x)(40)))
    value = grown / (grown + type(x)(2))
    value = -value if x < 0 else value
    return value if x == x else x


@no_type_check
def _mantissa(x):  # noqa: ANN001, ANN202
    """Returns k and z of a positive normal number."""
    z, k = math.frexp(x)
    return (k - 1, 2 * z) if 2 * z < math.sqrt(2) else (k, z)


@overload(_mantissa, inline="always")
@no_type_check
def _mantissa_of(x):  # noqa: ANN001, ANN202
    """Returns how to compile it: by the bits of x over those of 1 / sqrt 2."""
    if x == types.float32:
        low, ones = np.int32(0x3F3504F3), np.int32(0x007FFFFF)

        @no_type_check
        def short(x):  # noqa: ANN001, ANN202
            bits = np.int32(_bits(x) - low)
            return np.float32(bits >> np.int32(23)), _real(np.int32((bits & ones) + low))

        return short
    lowest, fraction = np.int64(0x3FE6A09E667F3BCD), np.int64(0x000FFFFFFFFFFFFF)

    @no_type_check
    def long(x):  # noqa: ANN001, ANN202
        bits = np.int64(_bits(x) - lowest)
        return np.float64(bits >> np.int64(52)), _real(np.int64((bits & fraction) + lowest))

    return long


@no_type_check
def _artanh(q):  # noqa: ANN001, ANN202
    """Returns 2 artanh q for |q| below 0.172."""
    return 2 * math.atanh(q)


@overload(_artanh, inline="always")
@no_type_check
def _artanh_of(q):  # noqa: ANN001, ANN202
    """Returns how to compile it."""
    if q == types.float32:
        two = np.float32(2)
        c3, c5, c7, c9 = (np.float32(2 / i) for i in (3, 5, 7, 9))

        @no_type_check
        def short(q):  # noqa: ANN001, ANN202
            t = q * q
            return q * two + q * t * (c3 + t * (c5 + t * (c7 + t * c9)))

        return short
    d3, d5, d7, d9, d11, d13, d15, d17, d19, d21 = (2 / i for i in range(3, 22, 2))

    @no_type_check
    def long(q):  # noqa: ANN001, ANN202
        t = q * q
        tail = d13 + t * (d15 + t * (d17 + t * (d19 + t * d21)))
        return q * 2.0 + q * t * (d3 + t * (d5 + t * (d7 + t * (d9 + t * (d11 + t * tail)))))

    return long


@no_type_check
def _ln2(x):  # noqa: ANN001, ANN202
    """Returns log 2 in two parts, of the type of x."""
    return (HIGH_32, LOW_32) if type(x) is np.float32 else (HIGH_64, LOW_64)


@overload(_ln2, inline="always")
@no_type_check
def _ln2_of(x):  # noqa: ANN001, ANN202
    """Returns how to compile it."""
    if x == types.float32:
        return lambda x: (np.float32(HIGH_32), np.float32(LOW_32))
    return lambda x: (HIGH_64, LOW_64)


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
@no_type_check
def log(x):  # noqa: ANN001, ANN201
    """Returns log x; that of 0, and of what lies below the smallest normal number, is minus infinity."""
    k, z = _mantissa(x)
    one = type(x)(1)
    high, low = _ln2(x)
    value = k * high + (k * low + _artanh((z - one) / (z + one)))
    value = value if x >= _tiny(x) else type(x)(-np.inf)
    value = value if x < type(x)(np.inf) else x
    return value if x >= 0 else type(x)(np.nan)


@no_type_check
def _tiny(x):  # noqa: ANN001, ANN202
    """Returns the smallest normal number of the type of x."""
    return np.finfo(type(x)).tiny


@overload(_tiny, inline="always")
@no_type_check
def _tiny_of(x):  # noqa: ANN001, ANN202
    """Returns how to compile it."""
    tiny = np.finfo(np.float32 if x == types.float32 else np.float64).tiny
    return lambda x: tiny


_SERIES = tuple(2 / math.sqrt(math.pi) * (-1) ** i / (math.factorial(i) * (2 * i + 1)) for i in range(18))
"""Coefficients of erf x / x in x^2."""

_TAIL = (
    1.2530080582697296,
    -0.13562110612457967,
    -0.047562294353482276,
    0.12964515870234797,
    -0.11927366341265315,
    0.06830802737125054,
    -0.023770515011026644,
    0.0025293910226446632,
    0.0018886918706457901,
    -0.0007798201083026113,
    -0.00010517100932143708,
    0.0001249968409301158,
    4.972130113458835e-06,
    -1.9648248452945574e-05,
    -6.253083473940661e-07,
    2.577942768306845e-06,
)
"""Coefficients of P in t; fitted between 0.95 and 6.1, beyond which erf rounds to 1."""


def _polynomial(coefficients: tuple[float, ...]) -> Any:
    """Returns the compiled sum of coefficients times powers of a number, of its type; loops would be no vectors."""
    first = coefficients[0]
    if len(coefficients) == 1:
        return njit(inline="always")(lambda t: type(t)(first))
    rest = _polynomial(coefficients[1:])
    return njit(inline="always")(lambda t: type(t)(first) + t * rest(t))


_series, _tail = _polynomial(_SERIES), _polynomial(_TAIL)


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
@no_type_check
def erf(x):  # noqa: ANN001, ANN201
    """Returns erf x = 2 / sqrt pi times the integral of e^(-t^2) from 0 to x."""
    one, two, three = type(x)(1), type(x)(2), type(x)(3)
    size = min(abs(x), type(x)(6))
    inner = size * _series(size * size)
    outer = one - exp(-size * size) * _tail((size - three) / (size + three)) / (one + two * size)
    value = inner if size < one else outer
    value = -value if x < 0 else value
    return value if x == x else x


@njit(nogil=True, cache=True, inline="always", error_model="numpy")
@no_type_check
def log1p(x):  # noqa: ANN001, ANN201
    """Returns log(1 + x), of which small numbers keep their digits: what rounding took from 1 + x is given back."""
    one = type(x)(1)
    sum_ = one + x
    lost = (x - (sum_ - one)) / sum_
    return log(sum_) + (lost if 0 < sum_ < type(x)(np.inf) else type(x)(0))


_BEYOND = (
    0.139622248,
    0.139845129,
    0.119970676,
    0.104894906,
    -0.0214959931,
    0.15659268,
    -0.253253839,
    0.142688611,
    -0.0288644292,
)
"""Coefficients of Q in t; fitted between 0 and 13.2, beyond which the probability rounds to 0."""

_beyond = _polynomial(_BEYOND)
_NORM = 1 / math.sqrt(2 * math.pi)


@no_type_check
def gaussian(x):  # noqa: ANN001, ANN201
    """Returns the probability that a standard normal number lies below x, and its density there."""
    return (1 + math.erf(x * math.sqrt(0.5))) / 2, _NORM * math.exp(-x * x / 2)


@overload(gaussian, inline="always")
@no_type_check
def _gaussian_of(x):  # noqa: ANN001, ANN202
    """Returns how to compile it."""
    if x == types.float32:
        half, norm, slope, one, most = (np.float32(c) for c in (0.5, _NORM, 0.35, 1, 14))

        @no_type_check
        def short(x):  # noqa: ANN001, ANN202
            size = min(abs(x), most)
            power = exp(-half * size * size)
            t = one / (one + slope * size)
            beyond = power * t * _beyond(t)
            below = beyond if x < 0 else one - beyond
            return below if x == x else x, norm * power

        return short
    root = math.sqrt(0.5)

    @no_type_check
    def long(x):  # noqa: ANN001, ANN202
        return 0.5 * (1.0 + erf(x * root)), _NORM * exp(-0.5 * x * x)

    return long
