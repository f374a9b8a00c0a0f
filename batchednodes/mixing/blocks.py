r"""Mixing a whole phase block of columns by block of columns, on the CPU.

Gossip acts on every column of x alike. So all contacts of a phase are applied, in order, to a few columns that stay in
the cache of a core, then to the next few; memory is read and written once for each phase. In the order of waves, and
of time within a wave, one write at a time gives the result of the waves, since no event lands in a wave before an older
one that reads what it writes.

Letters: n nodes, e writes, p columns, x models, N versions.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numba import njit
from torch import Tensor

from batchednodes.gossip import Mixing

T = TypeVar("T")

_CACHE = 1 << 20
"""Bytes of x that one core works on at a time: about its second-level cache."""

_WORTH = 1 << 22
"""Numbers written by a phase above which a second thread pays."""


def takes(x: Tensor) -> bool:
    """Returns whether these kernels can work on a tensor."""
    return x.device.type == "cpu" and x.is_contiguous() and x.dtype in (torch.float32, torch.float64, torch.int32)


def mix_(x: Float[Tensor, "n p"], phase: Mixing) -> None:
    """Applies a phase of gossip to the models in place: x <- W_k ... W_1 x."""
    keep, take = (1 - phase.weights).numpy(), phase.weights.numpy()
    rows, others = phase.receivers.numpy(), phase.senders.numpy()
    values = x.numpy()
    _each_part(x, rows.size, lambda a, b, w: _mix(values, rows, others, keep, take, phase.pairs, a, b, w))


def merge_(versions: Int[Tensor, "n t"], moment: Float64[Tensor, " n"], phase: Mixing) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    N[j] <- max(N[j], N[i]),    moment[j] <- moment[j] - t sum_c (gain of N[j, c]).
    """
    rows, others, values = phase.receivers.numpy(), phase.senders.numpy(), versions.numpy()
    gains = _each_part(versions, rows.size, lambda a, b, w: _merge(values, rows, others, a, b, w))
    moment.index_add_(0, phase.receivers, torch.from_numpy(sum(gains)) * phase.times, alpha=-1)


def _each_part(x: Tensor, writes: int, kernel: Callable[[int, int, int], T]) -> list[T]:
    """Returns what a kernel gives for all columns, in one thread or in as many as torch uses, without Python's lock."""
    n, p = x.shape
    width = max(16, _CACHE // (n * x.element_size()) // 16 * 16)
    threads = torch.get_num_threads() if writes * p > _WORTH else 1
    if threads == 1:
        return [kernel(0, p, width)]
    with ThreadPoolExecutor(threads) as pool:
        return [part.result() for part in [pool.submit(kernel, a, b, width) for a, b in _parts(p, threads)]]


def _parts(p: int, threads: int) -> Iterator[tuple[int, int]]:
    """Yields the columns of each thread, in multiples of 16, so that no cache line belongs to two."""
    step = -(-p // (16 * threads)) * 16
    for first in range(0, p, step):
        yield first, min(p, first + step)


@njit(nogil=True, cache=True)
@no_type_check
def _mix(x, rows, others, keep, take, pairs, first, last, width):  # noqa: ANN001, ANN202
    """Applies all writes to the columns first, ..., last - 1; pairs: writes 2k and 2k + 1 are one meeting."""
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
def _merge(versions, rows, others, first, last, width):  # noqa: ANN001, ANN202
    """Merges all writes into the columns first, ..., last - 1, and returns the sum of what each write gained.

    A meeting's two writes give the same in any order.
    """
    gains = np.zeros(rows.size, np.int64)
    for begin in range(first, last, width):
        end = min(last, begin + width)
        for e in range(rows.size):
            own, other = versions[rows[e], begin:end], versions[others[e], begin:end]
            gain = 0
            for c in range(own.size):
                more = max(other[c] - own[c], 0)
                own[c] += more
                gain += more
            gains[e] += gain
    return gains
