r"""Ahead: the numbers of the next row are asked for while a row is worked on, some before each tile of a product.

All at once would keep the core waiting: it has room for a few cache lines under way.

The list of what is asked for is integers: how many lines each time; how many ranges there are; the range at hand; then
of each range the address from which on it is not asked for yet, and that after its last byte.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.numerics.intrinsics import fetch_near

_LINE = 64
"""Bytes of a cache line [B]."""

RANGES = 3
"""Where the ranges begin."""


@njit(nogil=True, cache=True)
@no_type_check
def ask(ahead):  # noqa: ANN001, ANN201
    """Asks for some lines."""
    lines = ahead[0]
    while lines > 0 and ahead[2] < ahead[1]:
        at = RANGES + 2 * ahead[2]
        first = ahead[at]
        last = min(ahead[at + 1], first + lines * _LINE)
        for address in range(first, last, _LINE):
            fetch_near(address)
        lines -= (last - first + _LINE - 1) // _LINE
        ahead[at] = last
        if last == ahead[at + 1]:
            ahead[2] += 1


@njit(nogil=True, cache=True)
@no_type_check
def begin(ahead):  # noqa: ANN001, ANN201
    """Forgets what was to be asked for."""
    ahead[1] = ahead[2] = 0


@njit(nogil=True, cache=True)
@no_type_check
def want(ahead, address, size, most):  # noqa: ANN001, ANN201
    """Adds some bytes to what is asked for, as far as they and what is there are not more than some bytes."""
    k = ahead[1]
    for q in range(k):
        most -= ahead[RANGES + 2 * q + 1] - ahead[RANGES + 2 * q]
    ahead[RANGES + 2 * k] = address
    ahead[RANGES + 2 * k + 1] = address + max(np.int64(0), min(size, most))
    ahead[1] = k + 1


@njit(nogil=True, cache=True)
@no_type_check
def share(ahead, times):  # noqa: ANN001, ANN201
    """Says that all is asked for in so many times."""
    lines = 0
    for q in range(ahead[1]):
        lines += (ahead[RANGES + 2 * q + 1] - ahead[RANGES + 2 * q] + _LINE - 1) // _LINE
    ahead[0] = -(-lines // max(1, times))
