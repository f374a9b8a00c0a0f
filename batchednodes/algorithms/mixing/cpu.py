r"""Mixing a whole phase block of columns by block of columns, on the CPU.

Gossip acts on every column of x alike. So all contacts of a phase are applied, in order, to a few columns that stay in
the cache of a core, then to the next few; memory is read and written once for each phase. In the order of waves, and
of time within a wave, one write at a time gives the result of the waves, since no event lands in a wave before an older
one that reads what it writes.

Rows come in no order that the processor could foresee, so those of the writes to come are asked for ahead of time.
Each thread works on the same part of the columns in every phase, which stay in the cache next to its core.

Notation: n nodes, e writes, p columns, x models, N versions.
"""

import functools
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from numba import cfunc, njit, types
from numba.extending import overload
from numba.np.numpy_support import carray
from torch import Tensor

from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics import work_queue
from batchednodes.numerics.intrinsics import claim, fetch, pointer
from batchednodes.numerics.work_queue import LINE, home, piece

_CACHE = 16 << 20
"""Bytes of x that one core works on at a time: a part of the cache that cores share."""

_NARROWEST, _WIDEST = 2 << 10, 8 << 10
"""Bytes of a row in a block [B]: shorter ones are not worth their steps and fill no stream of reads, longer ones gain
nothing."""

_AHEAD = 16 << 10
"""Bytes of rows that are asked for ahead [B]: half of the cache next to a core."""

_TYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bfloat16: np.uint16,
    torch.int16: np.int16,
    torch.int32: np.int32,
}
"""Types of numbers that these kernels are compiled for; NumPy does not know bfloat16, whose bits are taken."""

_PIECE = 1 << 10
"""Bytes of a row that are asked for at once, before as many of an earlier row are computed [B]."""

_WORTH, _WORTH_MERGED = 1 << 19, 1 << 22
"""Numbers of models, and of versions, written by a phase above which a second thread pays: rows of versions are short,
and the cache lines that lie across the border of two threads' columns go to and fro."""


def takes(x: Tensor) -> bool:
    """Returns whether these kernels can work on a tensor."""
    return x.device.type == "cpu" and x.stride(-1) == 1 and x.dtype in _TYPES


def mix_(x: Float[Tensor, "n p"], phase: GossipPhase) -> None:
    """Applies a phase of gossip to the models, or some columns of them, in place: x <- W_k ... W_1 x."""
    (n, p), writes = x.shape, phase.receivers.numel()
    weights, senders = phase.weights.to(x.dtype), marked(phase)
    assert all(a.is_contiguous() for a in (phase.receivers, senders, weights))
    threads = _threads(writes * p, _WORTH)
    width = _width(n, p, x.element_size(), threads)
    places = [a.data_ptr() for a in (x, phase.receivers, senders, weights)]
    work_queue.run(
        _mixes(_TYPES[x.dtype]).address, (*places, n, p, writes, phase.pairs, width, threads, x.stride(0)), threads
    )


def merge_(
    versions: Int[Tensor, " numbers"], gained: Float64[Tensor, " n"], phase: GossipPhase, layout: Layout
) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    N[j] <- max(N[j], N[i]),    gained[j] <- gained[j] + t sum_c (gain of N[j, c]).
    """
    writes = phase.receivers.numel()
    threads = _threads(writes * versions.numel() // gained.numel(), _WORTH_MERGED)  # if all gossip alike
    blocks, (order, ends) = _blocks(layout, versions.element_size(), threads), by_network(layout, phase.actors.numpy())
    senders = marked(phase)
    assert all(a.is_contiguous() for a in (phase.receivers, senders, layout.place))
    gains = torch.zeros(threads + 1, writes, dtype=torch.int64)  # one for what is left
    places = [a.data_ptr() for a in (versions, layout.place, phase.receivers, senders, gains)]
    places += [a.ctypes.data for a in (order, ends, blocks)]
    sizes = (versions.numel(), layout.place.numel(), writes, ends.size, len(blocks), threads, 1)
    work_queue.run(_merges(_TYPES[versions.dtype]).address, (*places, *sizes), threads)
    total = gains[0] if threads == 1 else gains.sum(0)
    gained.index_add_(0, phase.receivers.clamp(max=gained.numel() - 1), total * phase.times)  # a copy gains nothing


def marked(phase: GossipPhase) -> Tensor:
    """Returns the rows that writes read, that of a copy as its complement, which is negative."""
    if phase.sent is None:
        return phase.senders
    return torch.where(phase.copies(), ~phase.senders, phase.senders)


@functools.lru_cache(maxsize=4)
def _blocks(layout: Layout, size: int, threads: int) -> Int64[np.ndarray, "blocks 3"]:
    """Returns network, first column and the one after the last of each block of versions of some bytes."""
    shapes = zip(layout.sizes.tolist(), layout.widths.tolist(), strict=True)
    return _cut(layout.widths, np.array([_width(n, t, size, threads) for n, t in shapes]))


def by_network(layout: Layout, rows: Int64[np.ndarray, " e"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order of writes by network, stably, and where each network's begin in it; the last entry ends it."""
    if layout.sizes.size == 1:
        return np.arange(rows.size), np.array([0, rows.size])
    return _sorted(layout.network, rows, layout.sizes.size)


@functools.cache
def _width(n: int, p: int, size: int, threads: int) -> int:
    """Returns how many columns are worked on at a time: a multiple of 16, so that few cache lines belong to two blocks.

    Args:
        n: rows.
        p: columns.
        size: bytes of a number [B].
        threads: that work at once.
    """
    fit = _CACHE // max(1, n)  # bytes
    if 4 * fit < _NARROWEST:
        fit = _WIDEST  # far beyond the cache: nothing stays in it
    widest = max(_NARROWEST, min(_WIDEST, fit)) // size
    blocks = -(-p // widest)
    even = -(-blocks // threads) * threads if p * size >= _NARROWEST else 1
    return max(1, -(-p // (16 * even))) * 16


def _threads(numbers: int, worth: int) -> int:
    """Returns how many threads pay for a phase that writes some numbers: as many as torch uses, or one."""
    return torch.get_num_threads() if numbers > worth else 1


@functools.cache
def _mixes(number: type) -> Any:
    """Returns the compiled function that mixes numbers of a type, for `work_queue.run`."""

    @cfunc(types.void(types.voidptr), cache=True)
    @no_type_check
    def mixes(data):  # noqa: ANN001, ANN202
        head = carray(data, LINE, np.int64)
        n, p, e, pairs, width, parts, apart = head[5:12]
        x, weights = carray(pointer(head[1]), n * apart, number), carray(pointer(head[4]), e, number)
        rows, others = carray(pointer(head[2]), e, np.int64), carray(pointer(head[3]), e, np.int64)
        task = carray(data, LINE * (1 + parts), np.int64)
        _mix(x, p, apart, rows, others, weights, pairs != 0, width, task, parts)

    return mixes


@functools.cache
def _merges(number: type) -> Any:
    """Returns the compiled function that merges versions of a type, for `work_queue.run`."""

    @cfunc(types.void(types.voidptr), cache=True)
    @no_type_check
    def merges(data):  # noqa: ANN001, ANN202
        head = carray(data, LINE, np.int64)
        numbers, n, e, networks, count, parts = head[9:15]
        versions, place = carray(pointer(head[1]), numbers, number), carray(pointer(head[2]), n, np.int64)
        rows, others = carray(pointer(head[3]), e, np.int64), carray(pointer(head[4]), e, np.int64)
        gains = carray(pointer(head[5]), (parts + 1, e), np.int64)
        order, ends = carray(pointer(head[6]), e, np.int64), carray(pointer(head[7]), networks, np.int64)
        blocks, task = carray(pointer(head[8]), (count, 3), np.int64), carray(data, LINE * (1 + parts), np.int64)
        _merge(versions, place, rows, others, order, ends, blocks, np.int16(head[15]), gains, task, parts)

    return merges


@no_type_check
def _shares(w):  # noqa: ANN001, ANN202
    """Returns 1 - w and w, to multiply with."""
    return 1 - w, w


@overload(_shares)
@no_type_check
def _shares_of(w):  # noqa: ANN001, ANN202
    """Returns how to compile it; numbers of bfloat16 come as their bits."""
    if w == types.uint16:
        return lambda w: (_long(_short(np.float32(1) - _long(w))), _long(w))
    return lambda w: (type(w)(1) - w, w)


@no_type_check
def _mean(a, own, b, other):  # noqa: ANN001, ANN202
    """Returns a * own + b * other, each operation rounded to their type."""
    return a * own + b * other


@overload(_mean)
@no_type_check
def _mean_of(a, own, b, other):  # noqa: ANN001, ANN202
    """Returns how to compile it, likewise."""
    if own == types.uint16:
        return lambda a, own, b, other: _short(_long(_short(a * _long(own))) + _long(_short(b * _long(other))))
    return lambda a, own, b, other: a * own + b * other


@njit(nogil=True, cache=True)
@no_type_check
def _long(bits):  # noqa: ANN001, ANN202
    """Returns the float32 equal to a bfloat16."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(nogil=True, cache=True)
@no_type_check
def _short(number):  # noqa: ANN001, ANN202
    """Returns the bits of the bfloat16 next to a float32; of two, the even one."""
    bits = np.float32(number).view(np.uint32)
    rounded = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(rounded if number == number else 0x7FC0)


@njit(nogil=True, cache=True)
@no_type_check
def _cut(columns, widths):  # noqa: ANN001, ANN202
    """Returns network, first column and the one after the last of each block, if networks are cut into some widths."""
    count = 0
    for g in range(columns.size):
        count += (columns[g] + widths[g] - 1) // widths[g]
    blocks, b = np.empty((count, 3), np.int64), 0
    for g in range(columns.size):
        for begin in range(0, columns[g], widths[g]):
            blocks[b] = g, begin, min(columns[g], begin + widths[g])
            b += 1
    return blocks


@njit(nogil=True, cache=True)
@no_type_check
def _steps(width, size):  # noqa: ANN001, ANN202
    """Returns how many writes ahead rows are asked for, if they have some numbers of some bytes."""
    return min(16, max(1, _AHEAD // (2 * width * size)))


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _ask(x, first, last):  # noqa: ANN001, ANN202
    """Asks for numbers of x."""
    while first < last:
        fetch(x, first)
        first += 64 // x.itemsize


@njit(nogil=True, cache=True)
@no_type_check
def _mix(x, p, apart, rows, others, weights, pairs, width, task, parts):  # noqa: ANN001, ANN202
    """Applies all writes to blocks of columns until none is left; pairs: writes 2k and 2k + 1 are one meeting.

    Rows of p numbers lie `apart`.
    """
    step, count, part = 2 if pairs else 1, (p + width - 1) // width, home(task, parts)
    block = piece(task, count, part, parts)
    while block >= 0:
        begin, end = block * width, min(p, (block + 1) * width)
        ahead, most = step * _steps(end - begin, x.itemsize), _PIECE // x.itemsize
        for e in range(0, rows.size, step):
            soon, (a, b) = min(e + ahead, rows.size - 1), _shares(weights[e])
            for first in range(begin, end, most):
                size = min(end - first, most)
                for row in (rows[soon], others[soon]):
                    _ask(x, row * apart + first, row * apart + first + size)
                j, i = rows[e] * apart + first, others[e] * apart + first
                if others[e] < 0:
                    _copy(x, j, ~others[e] * apart + first, size)
                else:
                    _apply(x, j, i, size, a, b, pairs)
        block = piece(task, count, part, parts)


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _copy(x, j, i, size):  # noqa: ANN001, ANN202
    """Writes numbers from i on to those from j on."""
    for c in range(size):
        x[np.uintp(j + c)] = x[np.uintp(i + c)]


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _apply(x, j, i, size, a, b, pairs):  # noqa: ANN001, ANN202
    """Applies one write, or one meeting, to numbers from j and from i on.

    With indices of no sign numba asks not whether they count from the end, and makes vectors of the loops.
    """
    if pairs:
        for c in range(size):
            at_j, at_i = x[np.uintp(j + c)], x[np.uintp(i + c)]
            x[np.uintp(j + c)] = _mean(a, at_j, b, at_i)
            x[np.uintp(i + c)] = _mean(a, at_i, b, at_j)
    else:
        for c in range(size):
            x[np.uintp(j + c)] = _mean(a, x[np.uintp(j + c)], b, x[np.uintp(i + c)])


@njit(nogil=True, cache=True)
@no_type_check
def _merge(versions, place, rows, others, order, ends, blocks, one, gains, task, parts):  # noqa: ANN001, ANN202
    """Merges all writes into blocks of columns until none is left; adds up what each write gained.

    A meeting's two writes give the same in any order.
    """
    part, own = home(task, parts), claim(task, 0)
    b = piece(task, len(blocks), part, parts)
    while b >= 0:
        g, begin, end = blocks[b]
        ahead, most = _steps(end - begin, versions.itemsize), _PIECE // versions.itemsize
        for k in range(ends[g], ends[g + 1]):
            e, soon = order[k], order[min(k + ahead, ends[g + 1] - 1)]
            for first in range(begin, end, most):
                size = min(end - first, most)
                for row in (rows[soon], max(others[soon], ~others[soon])):
                    _ask(versions, place[row] + first, place[row] + first + size)
                copies = others[e] < 0
                j, i = place[rows[e]] + first, place[~others[e] if copies else others[e]] + first
                if copies:
                    _copy(versions, j, i, size)
                elif versions.itemsize == 2:
                    gains[own, e] += _take_short(versions, j, i, size, one)
                else:
                    gains[own, e] += _take(versions, j, i, size)
        b = piece(task, len(blocks), part, parts)


@njit(nogil=True, cache=True)
@no_type_check
def _sorted(network, rows, count):  # noqa: ANN001, ANN202
    """Returns the same for several networks."""
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
def _take(versions, j, i, size):  # noqa: ANN001, ANN202
    """Raises numbers from j on to the elementwise maximum with those from i on; returns the sum of what they gained."""
    gain = 0
    for c in range(size):
        own = versions[np.uintp(j + c)]
        more = max(versions[np.uintp(i + c)] - own, 0)
        versions[np.uintp(j + c)] = own + more
        gain += more
    return gain


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _take_short(versions, j, i, size, one):  # noqa: ANN001, ANN202
    """Does the same for int16, with sums in int32, so that a vector holds more of them; a piece's sum fits.

    A product by a one that the compiler does not know makes it multiply and add pairs, in one instruction.
    """
    gain = np.int32(0)
    for c in range(size):
        old = versions[np.uintp(j + c)]
        new = max(old, versions[np.uintp(i + c)])
        versions[np.uintp(j + c)] = new
        gain = np.int32(gain + np.int32(np.int32(np.int16(new - old)) * np.int32(one)))
    return np.int64(gain)
