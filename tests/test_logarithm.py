"""The logarithm: right to half a unit in the last place, and to the last bit the same everywhere."""

import hashlib
import math

import mpmath
import numpy as np
import pytest
from numba import njit

from batchednodes.logarithm import log


@njit
def logs(x, out):
    for k in range(x.size):
        out[k] = log(x[k])


def numbers(size: int) -> np.ndarray:
    """Returns numbers of (0, 1): even, next to 0, next to 1, and where the formula changes."""
    draw = np.random.default_rng(1).random((3, size))
    near = 1 - 2.0 ** -(1 + 52 * draw[2])
    edges = [0.9375, np.nextafter(0.9375, 0), 0.6875, np.nextafter(0.6875, 0), 0.5, 2.0**-53, 1 - 2.0**-53]
    return np.concatenate([draw[0] + 2.0**-54, 2.0 ** (-53 * draw[1]), near[near < 1], edges])


def test_logarithms_are_right_to_half_a_unit():
    x = numbers(2000)
    found = np.empty_like(x)
    logs(x, found)
    with mpmath.workprec(200):
        errors = [
            float((mpmath.mpf(y) - mpmath.log(mpmath.mpf(z))) / math.ulp(y)) for y, z in zip(found, x, strict=True)
        ]
    assert np.abs(errors).max() < 0.52  # as its authors state


def test_a_loop_gives_what_single_calls_give():
    x = numbers(1000)
    together = np.empty_like(x)
    logs(x, together)
    assert together.tolist() == [log(y) for y in x]


def test_logarithms_are_the_same_on_every_machine():
    x = (np.arange(100_000) * 2 + 1) / 200_000
    found = np.empty_like(x)
    logs(x, found)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "83bb05956e490de4"


@pytest.mark.parametrize("x", [0.1, 0.7, 0.95])
def test_logarithms_are_those_of_the_c_library_but_for_rounding(x):
    assert abs(log(x) - math.log(x)) <= math.ulp(math.log(x))
