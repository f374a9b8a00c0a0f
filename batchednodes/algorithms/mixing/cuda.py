r"""Mixing on CUDA: a whole phase block of columns by block of columns, or wave by wave.

Gossip acts on every column of x alike. So one program owns a block of columns and applies all contacts of a phase to
it, wave by wave, some contacts of a wave at a time; programs never wait for each other, and a phase is one launch
however many waves it has. The rows of a block that are still in the cache next to the core are not read again from the
device's memory. All reads of a group come before its writes, and groups keep the order of time within a wave, which
gives the result of the waves (see cpu.py).

Where rows are few numbers, or writes many, that leaves most of a device idle. There a wave is two launches: one puts
means aside, tile by tile, and one writes them.

Notation: n nodes, e writes, p columns, x models, N versions.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics import devices, triton_kernels
from batchednodes.numerics.memory import send
from batchednodes.numerics.rows import tiles, write_
from batchednodes.numerics.triton_kernels import constexpr, jit, tl

GROUP = 64
"""Writes of a wave that a program applies at a time; even, so that a meeting is never split."""

WARPS = 8
"""Warps of a program: a thread has 16 numbers of a group of float32, so that enough reads are under way at once."""

_LINE = 128
"""Bytes of a row that a program owns where models are small, so that there are more programs: a line of the cache."""

_STEP = 2e-6
"""Time of one group in one program, mostly the latency of its reads [s]."""

_WAVE = 2e-5
"""Time that a wave takes beside its traffic: two launches [s]."""

_BANDWIDTH = 2e12
"""Traffic of a wave by itself [B/s]."""

_RESIDENT = 2
"""Programs that one multiprocessor runs at a time: each has about a hundred registers for each of its threads."""

_GAINS = 1024
"""Gains that are added up at a time."""


def takes(x: Tensor) -> bool:
    """Returns whether these kernels can work on a tensor."""
    known = x.dtype in (torch.float32, torch.float64, torch.int16, torch.int32)
    return triton_kernels.takes(x) and x.stride(-1) == 1 and known


def _whole(phase: GossipPhase, x: Tensor, p: int) -> bool:
    """Returns whether a phase is applied at once.

    The choice depends on sizes only, so that two runs of one command compute the same sums in the same order.
    """
    return worth(phase.receivers.numel(), phase.waves.size - 1, p, x.element_size(), devices.cores(x.device))


def worth(writes: int, waves: int, p: int, size: int, cores: int) -> bool:
    """Returns whether a phase takes less time by blocks of columns than wave by wave, by a rough model of both.

    Args:
        writes: of the phase.
        waves: of the phase.
        p: numbers of a row.
        size: bytes of a number [B].
        cores: multiprocessors of the device.
    """
    rounds = max(1.0, p / block(p, size, cores) / (cores * _RESIDENT))
    by_columns = (waves + writes / GROUP) * _STEP * rounds
    by_waves = waves * _WAVE + 5 * writes * p * size / _BANDWIDTH  # two rows read, one written aside and copied
    return by_columns < by_waves


def block(p: int, size: int, cores: int) -> int:
    """Returns how many columns a program owns: two lines of the cache where that makes four programs a multiprocessor.

    Args:
        p: numbers of a row.
        size: bytes of a number [B].
        cores: multiprocessors of the device.
    """
    wide = 2 * _LINE // size
    return wide if p >= 4 * cores * wide else wide // 2


def mix_(x: Float[Tensor, "n p"], phase: GossipPhase) -> None:
    """Applies a phase of gossip to the models in place: x <- W_k ... W_1 x."""
    (_, p), apart, lines = x.shape, x.stride(0), (phase.receivers, phase.senders, phase.weights)
    if _whole(phase, x, p):
        columns, sizes = block(p, x.element_size(), devices.cores(x.device)), (phase.waves.size - 1, phase.nodes)
        with devices.using(x.device):
            waves = _begins(phase, x.device)
            _MIX[(-(-p // columns),)](x, *lines, waves, *sizes, p, apart, GROUP, columns, num_warps=WARPS)
        return
    aside = x.new_empty(_largest(phase), p)
    for a, b in phase.spans():
        programs, *tile = tiles(b - a, p)
        with devices.using(x.device):
            _MEANS[(programs,)](x, aside, *(column[a:b] for column in lines), b - a, phase.nodes, p, apart, *tile)
        write_(x, phase.receivers[a:b], aside[: b - a])


def merge_(
    versions: Int[Tensor, " numbers"], gained: Float64[Tensor, " n"], phase: GossipPhase, layout: Layout
) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    N[j] <- max(N[j], N[i]),    gained[j] <- gained[j] + t sum_c (gain of N[j, c]).
    """
    t, waves, sizes = int(layout.kinds.max()), _begins(phase, versions.device), (phase.waves.size - 1, phase.nodes)
    gains = torch.zeros(phase.receivers.numel(), dtype=torch.int64, device=versions.device)
    lines, rows = (phase.receivers, phase.senders, phase.actors), (layout.place, layout.width)
    with devices.using(versions.device):
        if _whole(phase, versions, t):
            columns = block(t, versions.element_size(), devices.cores(versions.device))
            tile = (GROUP, columns)
            _MERGE[(-(-t // columns),)](versions, *lines, *rows, gains, waves, *sizes, *tile, num_warps=WARPS)
        else:
            aside = versions.new_empty(_largest(phase), t)
            for a, b in phase.spans():
                programs, *tile = tiles(b - a, t)
                some = (versions, aside, *(column[a:b] for column in lines), *rows, gains[a:b], b - a, phase.nodes, t)
                _NEWEST[(programs,)](*some, False, *tile)
                _NEWEST[(programs,)](*some, True, *tile)
        _GAIN[(1,)](gained, gains, phase.times, phase.receivers, waves, *sizes, _GAINS)


def _largest(phase: GossipPhase) -> int:
    """Returns how many writes the largest wave has."""
    return int(np.diff(phase.waves).max(initial=0))


def _begins(phase: GossipPhase, device: torch.device) -> Int64[Tensor, " W1"]:
    """Returns where waves begin, on the device, but for a constant."""
    return send(phase.waves, device) if phase.begins is None else phase.begins


@no_type_check
def _mix(x, receivers, senders, weights, waves, count, n, p, apart, group: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Applies all writes to one block of columns; rows of p numbers lie `apart`."""
    base, columns = tl.load(waves), tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    for k in range(count):
        last = tl.load(waves + k + 1) - base
        for first in range(tl.load(waves + k) - base, last, group):
            e = first + tl.arange(0, group)
            live = e < last
            mask = live[:, None] & (columns < p)[None, :]
            j, i = tl.load(receivers + e, mask=live, other=0), tl.load(senders + e, mask=live, other=0)
            w = tl.load(weights + e, mask=live, other=0.0)
            at = x + j[:, None] * apart + columns[None, :]
            own = tl.load(at, mask=mask, other=0.0)
            other = tl.load(x + i[:, None] * apart + columns[None, :], mask=mask, other=0.0)
            tl.debug_barrier()  # all threads have read
            mean = (1 - w)[:, None] * own + w[:, None] * other
            tl.store(at, tl.where((j >= n)[:, None], other, mean), mask=mask)  # a row from n on takes a copy
            tl.debug_barrier()  # all threads have written


@no_type_check
def _merge(x, receivers, senders, actors, place, width, gains, waves, count, n, group: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Merges all writes into one block of columns of the versions x."""
    base, columns = tl.load(waves), tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    for k in range(count):
        last = tl.load(waves + k + 1) - base
        for first in range(tl.load(waves + k) - base, last, group):
            e = first + tl.arange(0, group)
            live = e < last
            j, i = tl.load(receivers + e, mask=live, other=0), tl.load(senders + e, mask=live, other=0)
            a = tl.load(actors + e, mask=live, other=0)
            mask = columns[None, :] < tl.load(width + a, mask=live, other=0)[:, None]
            at = x + tl.load(place + j, mask=live, other=0)[:, None] + columns[None, :]
            own = tl.load(at, mask=mask, other=0)
            source = x + tl.load(place + i, mask=live, other=0)[:, None] + columns[None, :]
            other = tl.load(source, mask=mask, other=0)
            new = tl.where((j >= n)[:, None], other, tl.maximum(own, other))
            tl.debug_barrier()  # all threads have read
            tl.store(at, new, mask=mask)
            tl.atomic_add(gains + e, tl.sum(new.to(tl.int64) - own.to(tl.int64), 1), mask=live & (j < n))
            tl.debug_barrier()  # all threads have written


@no_type_check
def _means(x, aside, receivers, senders, weights, w, n, p, apart, group: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Puts what a wave makes of rows, which lie `apart`, aside, a tile of it."""
    across = tl.cdiv(p, block)
    e = tl.program_id(0) // across * group + tl.arange(0, group)
    columns = tl.program_id(0) % across * block + tl.arange(0, block)
    live = e < w
    mask = live[:, None] & (columns < p)[None, :]
    j, i = tl.load(receivers + e, mask=live, other=0), tl.load(senders + e, mask=live, other=0)
    weight = tl.load(weights + e, mask=live, other=0.0)
    own = tl.load(x + j[:, None] * apart + columns[None, :], mask=mask, other=0.0)
    other = tl.load(x + i[:, None] * apart + columns[None, :], mask=mask, other=0.0)
    mean = (1 - weight)[:, None] * own + weight[:, None] * other
    tl.store(
        aside + e.to(tl.int64)[:, None] * p + columns[None, :], tl.where((j >= n)[:, None], other, mean), mask=mask
    )


@no_type_check
def _newest(  # noqa: ANN202
    x, aside, receivers, senders, actors, place, width, gains, w, n, t,  # noqa: ANN001
    writes: constexpr, group: constexpr, block: constexpr,
):  # fmt: skip
    """Puts what a wave makes of the versions x aside, a tile of it, and takes note of gains; or writes it."""
    across = tl.cdiv(t, block)
    e = tl.program_id(0) // across * group + tl.arange(0, group)
    columns = tl.program_id(0) % across * block + tl.arange(0, block)
    live = e < w
    j, i = tl.load(receivers + e, mask=live, other=0), tl.load(senders + e, mask=live, other=0)
    a = tl.load(actors + e, mask=live, other=0)
    mask = columns[None, :] < tl.load(width + a, mask=live, other=0)[:, None]
    at = x + tl.load(place + j, mask=live, other=0)[:, None] + columns[None, :]
    there = aside + e.to(tl.int64)[:, None] * t + columns[None, :]
    if writes:
        tl.store(at, tl.load(there, mask=mask, other=0), mask=mask)
    else:
        own = tl.load(at, mask=mask, other=0)
        other = tl.load(x + tl.load(place + i, mask=live, other=0)[:, None] + columns[None, :], mask=mask, other=0)
        new = tl.where((j >= n)[:, None], other, tl.maximum(own, other))
        tl.store(there, new, mask=mask)
        tl.atomic_add(gains + e, tl.sum(new.to(tl.int64) - own.to(tl.int64), 1), mask=live & (j < n))


@no_type_check
def _gain(gained, gains, times, receivers, waves, count, n, group: constexpr):  # noqa: ANN001, ANN202
    """Adds what writes gained to their receivers, which are different ones within a wave, in the order of time."""
    base = tl.load(waves)
    for k in range(count):
        last = tl.load(waves + k + 1) - base
        for first in range(tl.load(waves + k) - base, last, group):
            e = first + tl.arange(0, group)
            live = e < last
            j = tl.load(receivers + e, mask=live, other=0)
            live = live & (j < n)  # a copy gains nothing
            gain = tl.load(gains + e, mask=live, other=0).to(tl.float64) * tl.load(times + e, mask=live, other=0.0)
            tl.store(gained + j, tl.load(gained + j, mask=live, other=0.0) + gain, mask=live)
        tl.debug_barrier()  # all threads have written


_SLICES = ("receivers", "senders", "actors", "weights", "times", "waves")
_MIX, _MERGE, _GAIN = (jit(kernel, ("count",), _SLICES) for kernel in (_mix, _merge, _gain))
_MEANS, _NEWEST = (jit(kernel, ("w",), (*_SLICES, "gains")) for kernel in (_means, _newest))
