"""The logarithm: right to 0.53 units in the last place, and to the last bit the same everywhere."""

import hashlib
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from numba import njit

from batchednodes.numerics import logarithm
from batchednodes.numerics.logarithm import log

EDGES = np.arange(128, 257) / 256
"""Where the intervals of the table begin and end."""


@njit
def logs(x, out):
    for k in range(x.size):
        out[k] = log(x[k])


def found(x: np.ndarray) -> np.ndarray:
    """Returns what a loop gives."""
    out = np.empty_like(x)
    logs(x, out)
    return out


def numbers(size: int) -> np.ndarray:
    """Returns numbers of (0, 1): even, next to 0, next to 1 by every size of step, and around what the table cuts."""
    draw = np.random.default_rng(1).random((4, size))
    steps = np.arange(1, size + 1) * 2.0**-53
    edges = np.concatenate([EDGES * 2.0**-k for k in range(53)])
    edges = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    near = [1 - 2.0 ** -(1 + 52 * draw[1]), 1 - steps, 1 - draw[2] / 64]
    x = np.concatenate([draw[0] + 2.0**-54, 2.0 ** (-53 * draw[3]), *near, edges])
    return x[(x >= 2.0**-53) & (x < 1)]


def exact(b: Fraction) -> Fraction:
    """Returns log b of 1 <= b <= 2 to 2^-100, by the series 2 (t + t^3 / 3 + ...) of t = (b - 1) / (b + 1)."""
    t = (b - 1) / (b + 1)
    return 2 * sum((t**k / k for k in range(1, 66, 2)), Fraction(0))  # t <= 1/3, and 3^-67 < 2^-106


def test_logarithms_are_right_to_little_more_than_half_a_unit():
    x = numbers(24_000)
    y = found(x)
    with localcontext(prec=34):  # 16 digits more than a real number has
        errors = [
            float((Decimal(b) - Decimal(a).ln()) / Decimal(math.ulp(b)))
            for a, b in zip(x.tolist(), y.tolist(), strict=True)
        ]
    assert x.size > 130_000
    assert np.abs(errors).max() < 0.53  # as the module derives


def test_inverses_leave_distances_that_are_exact_or_small():
    b = logarithm._INVERSE
    assert (b * 256 == np.round(b * 256)).all()
    r = np.abs(np.stack([EDGES[:-1] * b - 1, EDGES[1:] * b - 1])).max(0)
    assert r.max() < 1.2 * 2.0**-8
    assert (r[EDGES[1:] > math.exp(-0.24)] <= 2.0**-8).all()
    assert (r < -logarithm._LOG)[:-1].all()
    assert b[-1] == 1.0


def test_parts_of_the_table_make_logarithms_of_twice_the_places():
    values, highs = [*logarithm._INVERSE, 2.0], [*-logarithm._LOG, logarithm._LN2]
    for b, high, low in zip(values, highs, [*-logarithm._REST, logarithm._LN2_REST], strict=True):
        assert (high * 2**46).is_integer()
        assert abs(low) <= 2.0**-47
        assert abs(Fraction(high) + Fraction(low) - exact(Fraction(b))) <= Fraction(2) ** -100  # rounding, 2^-101


def test_a_loop_gives_what_single_calls_give():
    x = numbers(1000)
    assert found(x).tolist() == [log(y) for y in x]


def test_logarithms_are_the_same_on_every_machine():
    x = (np.arange(100_000) * 2 + 1) / 200_000
    assert hashlib.sha256(found(x).tobytes()).hexdigest()[:16] == "cd39bf33962f2747"


def test_logarithms_of_numbers_below_one_are_negative_and_never_fall_next_to_one():
    x = 1 - np.arange(1, 100_001)[::-1] * 2.0**-53
    y = found(x)
    assert y[-1] == -(2.0**-53)
    assert (np.diff(y) >= 0).all()


@pytest.mark.parametrize("x", [0.1, 0.7, 0.95])
def test_logarithms_are_those_of_the_c_library_but_for_rounding(x):
    assert abs(log(x) - math.log(x)) <= math.ulp(math.log(x))
