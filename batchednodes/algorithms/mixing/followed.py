r"""Versions of a whole window, on the CPU, after its models: some columns of a table at a time, in bytes.

No event depends on versions, so that those of all lines of a window, updates and contacts, may follow at its end: the
numbers of a few columns, above the least that a byte holds beside the largest, fit into the cache next to a core, and
each line is then one vector of each of its two rows, where a phase alone would read and write the whole table.

    N[j] <- max(N[j], N[i])   at a contact,      N[k, own] <- N[k, own] + 1   at an update

Notation: n nodes, e lines, t columns of a network, N versions.
"""

import functools
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from numba import cfunc, njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from batchednodes.algorithms.mixing import cpu
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics import work_queue
from batchednodes.numerics.intrinsics import claim, pointer
from batchednodes.numerics.simd import INT, ir
from batchednodes.numerics.work_queue import LINE, home, piece

_COLUMNS = 64
"""Columns of a block, and bytes of the vectors that hold a row of it."""

_BLOCKS = 8
"""Blocks that are read and written together, since memory gives more than a cache line of a row at once."""

_MOST = 255
"""Largest number of a byte."""

_SMALL = 1 << 20
"""Versions that are read and written in no time, however few lines there are."""

_NUMBERS = {torch.int16: np.int16, torch.int32: np.int32}
"""Types of versions that these kernels are compiled for."""


def follows(versions: Int[Tensor, " numbers"], lines: GossipPhase) -> bool:
    """Returns whether versions follow faster at the end of some lines, when each is read and written once."""
    many = lines.receivers.numel() >= 2 * lines.nodes or versions.numel() <= _SMALL
    return many and versions.dtype in _NUMBERS and cpu.takes(versions) and lines.sent is None


def follow_(
    versions: Int[Tensor, " numbers"],
    gained: Float64[Tensor, " n"],
    updated: Float64[Tensor, " n"],
    lines: GossipPhase,
    layout: Layout,
    own: Int64[Tensor, " n"],
) -> None:
    """Makes the versions, and the moments of gains and updates, what they are after some lines, in place.

    Args:
        versions: of all networks.
        gained: see `State`.
        updated: see `State`.
        lines: in their order; an update is one that reads the row that it changes.
        layout: where the rows of each network lie.
        own: place of each node's count of its own updates among the versions; -1: not tracked.
    """
    updates = (lines.receivers == lines.senders).nonzero().flatten()
    made, e = lines.receivers[updates], lines.receivers.numel()
    most = int(torch.bincount(made, minlength=1).max())  # of one node
    order, ends = cpu.by_network(layout, lines.receivers.numpy())
    firsts = (np.cumsum(layout.sizes) - layout.sizes)[layout.network]
    column = (own - layout.place[: own.numel()]).numpy()
    rows, others = np.empty((2, e), np.int32)
    _local(lines.receivers.numpy(), lines.senders.numpy(), order, firsts, column, rows, others)
    least = (versions[own[own >= 0]].long() + min(most - _MOST, 1)).int().numpy()
    blocks = _blocks(layout)
    threads = min(torch.get_num_threads(), len(blocks)) if versions.numel() > _SMALL else 1
    gains, size = torch.zeros(threads, e, dtype=torch.int64), _BLOCKS * _COLUMNS * int(layout.sizes.max())
    memory = np.empty(threads * size, np.uint8)
    places = [a.data_ptr() for a in (versions, gains)]
    places += [a.ctypes.data for a in (rows, others, ends, blocks, least, memory)]
    sizes = (versions.numel(), e, ends.size, least.size, len(blocks), threads, size)
    work_queue.run(_kernel(_NUMBERS[versions.dtype]).address, (*places, *sizes), threads)
    total = gains[0] if threads == 1 else gains.sum(0)
    total = torch.empty_like(total).index_copy_(0, torch.from_numpy(order), total)
    gained.index_add_(0, lines.receivers, total * lines.times)
    updated.index_add_(0, made, torch.where(own[made] >= 0, lines.times[updates], 0.0))


@functools.lru_cache(maxsize=4)
def _blocks(layout: Layout) -> Int64[np.ndarray, "blocks 7"]:
    """Returns network, its first number, rows, columns, and the columns before it, and the columns of some blocks."""
    before, wide = np.cumsum(layout.widths) - layout.widths, _BLOCKS * _COLUMNS
    found = [
        (g, layout.first[g], n, t, before[g], begin, min(t, begin + wide))
        for g, (n, t) in enumerate(zip(layout.sizes.tolist(), layout.widths.tolist(), strict=True))
        for begin in range(0, t, wide)
    ]
    return np.array(found, np.int64)


@functools.cache
def _kernel(number: type) -> Any:
    """Returns the compiled function that follows versions of a type, for `work_queue.run`."""

    @cfunc(types.void(types.voidptr), cache=True)
    @no_type_check
    def kernel(data):  # noqa: ANN001, ANN202
        head = carray(data, LINE, np.int64)
        numbers, e, networks, tracked, count, parts, size = head[9:16]
        versions, gains = carray(pointer(head[1]), numbers, number), carray(pointer(head[2]), (parts, e), np.int64)
        rows, others = carray(pointer(head[3]), e, np.int32), carray(pointer(head[4]), e, np.int32)
        ends, blocks = carray(pointer(head[5]), networks, np.int64), carray(pointer(head[6]), (count, 7), np.int64)
        bottoms, task = carray(pointer(head[7]), tracked, np.int32), carray(data, LINE * (1 + parts), np.int64)
        part, mine = home(task, parts), claim(task, 0)
        b = piece(task, count, part, parts)
        while b >= 0:
            g, first, n, t, before, begin, end = blocks[b]
            a, z = ends[g], ends[g + 1]
            table, least = versions[first : first + n * t].reshape((n, t))[:, begin:end], bottoms[before + begin :]
            counts = carray(pointer(head[8] + mine * size), (_BLOCKS, n, _COLUMNS), np.uint8)
            if _gather(table, least, counts):
                for k in range(0, end - begin, _COLUMNS):
                    _follow(counts[k // _COLUMNS], begin + k, rows[a:z], others[a:z], gains[mine, a:z])
                _scatter(table, least, counts)
            else:
                _follow_wide(table, begin, rows[a:z], others[a:z], gains[mine, a:z])
            b = piece(task, count, part, parts)

    return kernel


@njit(nogil=True, cache=True)
@no_type_check
def _local(receivers, senders, order, firsts, column, rows, others):  # noqa: ANN001, ANN202
    """Writes the rows of each line among those of its network, and of an update the complement of its column."""
    for q in range(order.size):
        j, i = receivers[order[q]], senders[order[q]]
        rows[q] = others[q] = j - firsts[j]
        if i != j:
            others[q] = i - firsts[j]
        elif column[j] >= 0:
            others[q] = ~column[j]


@intrinsic
@no_type_check
def _raise(_, j, i):  # noqa: ANN001, ANN202
    """Raises a block's bytes from an address j on to the maximum with those from i on; returns what they gain."""

    @no_type_check
    def code(_, builder, __, args):  # noqa: ANN001, ANN202
        vector = ir.VectorType(ir.IntType(8), _COLUMNS)
        at_j, at_i = (builder.inttoptr(address, vector.as_pointer()) for address in args)
        old, other = builder.load(at_j, align=1), builder.load(at_i, align=1)
        new = builder.select(builder.icmp_unsigned(">", old, other), old, other)
        builder.store(new, at_j, align=1)
        more = builder.zext(builder.sub(new, old), ir.VectorType(ir.IntType(32), _COLUMNS))
        name = f"llvm.vector.reduce.add.v{_COLUMNS}i32"
        kind = ir.FunctionType(ir.IntType(32), [more.type])
        total = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.zext(builder.call(total, [more]), INT)

    return types.int64(types.int64, types.int64), code


@njit(nogil=True, cache=True)
@no_type_check
def _gather(table, least, counts):  # noqa: ANN001, ANN202
    """Writes numbers less the least that a byte holds of their column, block by block; returns whether all fit."""
    (n, size), lowest = table.shape, np.int32(0)
    for r in range(n):
        for k in range(0, size, _COLUMNS):
            row, bottom, line = table[r, k : k + _COLUMNS], least[k : k + _COLUMNS], counts[k // _COLUMNS, r]
            for c in range(row.size):
                more = np.int32(np.int32(row[np.uintp(c)]) - bottom[np.uintp(c)])
                line[np.uintp(c)] = more
                lowest = min(lowest, more)
            for c in range(row.size, _COLUMNS):
                line[c] = 0
    return lowest >= 0


@njit(nogil=True, cache=True)
@no_type_check
def _scatter(table, least, counts):  # noqa: ANN001, ANN202
    """Writes them back."""
    n, size = table.shape
    for r in range(n):
        for k in range(0, size, _COLUMNS):
            row, bottom, line = table[r, k : k + _COLUMNS], least[k : k + _COLUMNS], counts[k // _COLUMNS, r]
            for c in range(row.size):
                row[np.uintp(c)] = bottom[np.uintp(c)] + line[np.uintp(c)]


@njit(nogil=True, cache=True)
@no_type_check
def _follow(counts, begin, rows, others, gains):  # noqa: ANN001, ANN202
    """Follows the lines of a network in the bytes of a block, which begins at some column."""
    base = counts.ctypes.data
    for e in range(rows.size):
        j, i = np.int64(rows[e]), np.int64(others[e])
        if i >= 0:
            gains[e] += _raise(base + j * _COLUMNS, base + i * _COLUMNS)
        elif begin <= ~i < begin + _COLUMNS:
            counts[j, ~i - begin] += np.uint8(1)


@njit(nogil=True, cache=True)
@no_type_check
def _follow_wide(table, begin, rows, others, gains):  # noqa: ANN001, ANN202
    """Follows them where they lie; arguments: see `_follow`."""
    size = table.shape[1]
    for e in range(rows.size):
        j, i = rows[e], others[e]
        if i >= 0:
            for c in range(size):
                more = max(table[i, c] - table[j, c], 0)
                table[j, c] += more
                gains[e] += more
        elif begin <= ~i < begin + size:
            table[j, ~i - begin] += 1
