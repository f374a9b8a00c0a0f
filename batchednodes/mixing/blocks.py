r"""Mixing a whole phase block of columns by block of columns, on the CPU.

Gossip acts on every column of x alike. So all contacts of a phase are applied, in order, to a few columns that stay in
the cache of a core, then to the next few; memory is read and written once for each phase. In the order of waves, and
of time within a wave, one write at a time gives the result of the waves, since no event lands in a wave before an older
one that reads what it writes.

Letters: n nodes, e writes, p columns, x models, N versions.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numba import njit
from torch import Tensor

from batchednodes.gossip import Mixing
from batchednodes.versions import Layout

T = TypeVar("T")

_CACHE = 16 << 20
"""Bytes of x that one core works on at a time: a part of the cache that cores share. Blocks that fit in the cache next
to a core are slower, since their short rows cost more steps and fill no stream of reads."""

_NARROWEST = 512
"""Columns below which a block is not worth its steps; if that many are far beyond the cache, all are taken at once."""

_TYPES = (torch.float32, torch.float64, torch.int16, torch.int32)
"""Types of numbers that these kernels are compiled for."""

_ALL = 1 << 40
"""More columns than there are."""

_NARROW = 1 << 16
"""Columns of int16 whose sum of gains fits in int32: 2^16 (2^15 - 1) < 2^31."""

_WORTH = 1 << 22
"""Numbers written by a phase above which a second thread pays."""


def takes(x: Tensor) -> bool:
    """Returns whether these kernels can work on a tensor."""
    return x.device.type == "cpu" and x.is_contiguous() and x.dtype in _TYPES


def mix_(x: Float[Tensor, "n p"], phase: Mixing) -> None:
    """Applies a phase of gossip to the models in place: x <- W_k ... W_1 x."""
    keep, take = (1 - phase.weights).numpy(), phase.weights.numpy()
    rows, others = phase.receivers.numpy(), phase.senders.numpy()
    values, width = x.numpy(), _width(x.shape[0], x.element_size())
    _each_part(rows.size * x.shape[1], lambda k, of: _mix(values, rows, others, keep, take, phase.pairs, width, k, of))


def merge_(versions: Int[Tensor, " numbers"], gained: Float64[Tensor, " n"], phase: Mixing, layout: Layout) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    N[j] <- max(N[j], N[i]),    gained[j] <- gained[j] + t sum_c (gain of N[j, c]).
    """
    rows, others, values = phase.receivers.numpy(), phase.senders.numpy(), versions.numpy()
    where = (layout.place.numpy(), layout.network, layout.widths)
    widths = np.array([min(_width(n, values.itemsize), _NARROW) for n in layout.sizes.tolist()])
    numbers = rows.size * versions.numel() // gained.numel()  # if all networks gossip alike
    gains = _each_part(numbers, lambda k, of: _merge(values, *where, rows, others, widths, k, of))
    gained.index_add_(0, phase.receivers, torch.from_numpy(sum(gains)) * phase.times)


def _width(n: int, size: int) -> int:
    """Returns how many columns are worked on at a time.

    Args:
        n: rows.
        size: bytes of a number [B].
    """
    fit = _CACHE // (n * size) // 16 * 16
    if fit >= _NARROWEST:
        return fit
    return _NARROWEST if n * size * _NARROWEST <= 4 * _CACHE else _ALL


def _each_part(numbers: int, kernel: Callable[[int, int], T]) -> list[T]:
    """Returns what a kernel gives for all columns, in one thread or in as many as torch uses, without Python's lock.

    Args:
        numbers: how many are written.
        kernel: works on part k of some number of parts of the columns.
    """
    threads = torch.get_num_threads() if numbers > _WORTH else 1
    if threads == 1:
        return [kernel(0, 1)]
    with ThreadPoolExecutor(threads) as pool:
        return [part.result() for part in [pool.submit(kernel, k, threads) for k in range(threads)]]


@njit(nogil=True, cache=True)
@no_type_check
def _share(columns, part, parts):  # noqa: ANN001, ANN202
    """Returns the first column of a part and of the next, in multiples of 16: few cache lines belong to two."""
    step = (columns + 16 * parts - 1) // (16 * parts) * 16
    first = min(columns, part * step)
    return first, min(columns, first + step)


@njit(nogil=True, cache=True)
@no_type_check
def _mix(x, rows, others, keep, take, pairs, width, part, parts):  # noqa: ANN001, ANN202
    """Applies all writes to a part of the columns; pairs: writes 2k and 2k + 1 are one meeting."""
    first, last = _share(x.shape[1], part, parts)
    for begin in range(first, last, width):
        end = min(last, begin + width)
        if pairs:
            for e in range(0, rows.size, 2):
                i, j, a, b = rows[e], rows[e + 1], keep[e], take[e]
                x_i, x_j = x[i, begin:end], x[j, begin:end]  # rows of their own: the loop is then vectorised
                for c in range(x_i.size):
                    at_i, at_j = x_i[c], x_j[c]
                    x_i[c] = a * at_i + b * at_j
                    x_j[c] = a * at_j + b * at_i
        else:
            for e in range(rows.size):
                x_j, x_i, a, b = x[rows[e], begin:end], x[others[e], begin:end], keep[e], take[e]
                for c in range(x_j.size):
                    x_j[c] = a * x_j[c] + b * x_i[c]


@njit(nogil=True, cache=True)
@no_type_check
def _merge(versions, place, network, widths, rows, others, blocks, part, parts):  # noqa: ANN001, ANN202
    """Merges all writes, network by network, into a part of the columns; returns the sum of what each write gained.

    A meeting's two writes give the same in any order.
    """
    gains = np.zeros(rows.size, np.int64)
    order, ends = _by_network(network, rows, widths.size)
    for g in range(widths.size):
        first, last = _share(widths[g], part, parts)
        width = blocks[g]
        for begin in range(first, last if ends[g] < ends[g + 1] else first, width):
            end = min(last, begin + width)
            for k in range(ends[g], ends[g + 1]):
                e = order[k]
                j, i = place[rows[e]], place[others[e]]
                own, other = versions[j + begin : j + end], versions[i + begin : i + end]
                gains[e] += _take_short(own, other) if versions.itemsize == 2 else _take(own, other)
    return gains


@njit(nogil=True, cache=True)
@no_type_check
def _by_network(network, rows, count):  # noqa: ANN001, ANN202
    """Returns the order of writes by network, stably, and where each network's begin in it; the last entry ends it."""
    ends = np.zeros(count + 1, np.int64)
    for e in range(rows.size):
        ends[network[rows[e]] + 1] += 1
    for g in range(count):
        ends[g + 1] += ends[g]
    order, place = np.empty(rows.size, np.int64), ends[:count].copy()
    for e in range(rows.size):
        g = network[rows[e]]
        order[place[g]] = e
        place[g] += 1
    return order, ends


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _take(own, other):  # noqa: ANN001, ANN202
    """Raises `own` to the elementwise maximum of both, in place; returns the sum of what it gained."""
    gain = 0
    for c in range(own.size):
        more = max(other[c] - own[c], 0)
        own[c] += more
        gain += more
    return gain


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _take_short(own, other):  # noqa: ANN001, ANN202
    """Does the same for int16, with sums in int32, so that a vector holds more of them."""
    gain = np.int32(0)
    for c in range(own.size):
        old, new = own[c], max(own[c], other[c])
        own[c] = new
        gain = np.int32(gain + np.int32(np.int32(new) - np.int32(old)))
    return np.int64(gain)
