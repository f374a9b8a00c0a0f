r"""Mixing a whole phase block of columns by block of columns, on CUDA.

Gossip acts on every column of x alike. So one program owns a block of columns and applies all contacts of a phase to
it, wave by wave, some contacts of a wave at a time; programs never wait for each other, and a phase is one launch
however many waves it has. The rows of a block that are still in the cache next to the core are not read again from the
device's memory. All reads of a group come before its writes, and groups keep the order of time within a wave, which
gives the result of the waves (see cpu.py).

Notation: n nodes, e writes, p columns, x models, N versions.
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from batchednodes.algorithms.mixing.cpu import marked
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics import devices
from batchednodes.numerics.memory import send

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch for CPUs comes without it
    triton = tl = None

constexpr: Any = None if tl is None else tl.constexpr
"""Marks what a kernel is compiled for; Triton's interpreter knows it by this name."""

GROUP = 16
"""Writes of a wave that a program applies at a time; even, so that a meeting is never split."""

BLOCK = 64
"""Columns that a program owns: 256 bytes of float32, a few memory transactions for each row."""

_STEP = 2e-6
"""Time of one group in one program, mostly the latency of its reads [s]."""

_WAVE = 40e-6
"""Time that a wave takes by a sparse product beside its traffic: several launches [s]."""

_BANDWIDTH = 2e12
"""Traffic of a sparse product [B/s]."""

_RESIDENT = 8
"""Programs that one multiprocessor runs at a time."""


def takes(x: Tensor, p: int, phase: GossipPhase) -> bool:
    """Returns whether these kernels can work on a tensor with rows of p numbers, and are faster than sparse products.

    The choice depends on sizes only, so that two runs of one command compute the same sums in the same order.
    """
    known = x.dtype in (torch.float32, torch.float64, torch.int16, torch.int32)
    if triton is None or not devices.is_cuda(x.device) or not x.is_contiguous() or not known:
        return False
    cores = devices.cores(x.device)
    return worth(phase.receivers.numel(), phase.waves.size - 1, p, x.element_size(), cores)


def worth(writes: int, waves: int, p: int, size: int, cores: int) -> bool:
    """Returns whether a phase takes less time by blocks of columns than wave by wave, by a rough model of both.

    Args:
        writes: of the phase.
        waves: of the phase.
        p: numbers of a row.
        size: bytes of a number [B].
        cores: multiprocessors of the device.
    """
    rounds = max(1.0, p / BLOCK / (cores * _RESIDENT))
    by_columns = (waves + writes / GROUP) * _STEP * rounds
    by_waves = waves * _WAVE + 5 * writes * p * size / _BANDWIDTH  # two rows read, one written aside and copied
    return by_columns < by_waves


def mix_(x: Float[Tensor, "n p"], phase: GossipPhase) -> None:
    """Applies a phase of gossip to the models in place: x <- W_k ... W_1 x."""
    keep, take = 1 - phase.weights, phase.weights
    waves, p = _waves(phase, x.device), x.shape[1]
    grid = (-(-p // BLOCK),)
    with devices.using(x.device):
        _MIX[grid](x, phase.receivers, marked(phase), keep, take, waves, phase.waves.size - 1, p, GROUP, BLOCK)


def merge_(
    versions: Int[Tensor, " numbers"], gained: Float64[Tensor, " n"], phase: GossipPhase, layout: Layout
) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    N[j] <- max(N[j], N[i]),    gained[j] <- gained[j] + t sum_c (gain of N[j, c]).
    """
    waves = _waves(phase, versions.device)
    gains = torch.zeros(phase.receivers.numel(), dtype=torch.int64, device=versions.device)
    own, other = layout.place[phase.receivers], layout.place[phase.senders]
    if phase.sent is not None:
        other = torch.where(phase.copies(), ~other, other)  # as in `marked`
    widths, grid = layout.width[phase.actors], (-(-int(layout.kinds.max()) // BLOCK),)
    with devices.using(versions.device):
        _MERGE[grid](versions, own, other, widths, gains, waves, phase.waves.size - 1, GROUP, BLOCK)
    receivers = phase.receivers.clamp(max=gained.numel() - 1)  # a copy gains nothing
    gained.index_put_((receivers,), gains * phase.times, accumulate=True)  # sorted: in one order always


def _waves(phase: GossipPhase, device: torch.device) -> Int64[Tensor, " W1"]:
    return send(phase.waves, device) if phase.begins is None else phase.begins


@no_type_check
def _mix(x, rows, others, keep, take, waves, count, p, group: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Applies all writes to one block of columns."""
    columns = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    for k in range(count):
        last = tl.load(waves + k + 1)
        for first in range(tl.load(waves + k), last, group):
            e = first + tl.arange(0, group)
            live = e < last
            mask = live[:, None] & (columns < p)[None, :]
            j, i = tl.load(rows + e, mask=live, other=0), tl.load(others + e, mask=live, other=0)
            a, b = tl.load(keep + e, mask=live, other=0.0), tl.load(take + e, mask=live, other=0.0)
            copies = i < 0
            i = tl.where(copies, -1 - i, i)
            at = x + j[:, None] * p + columns[None, :]
            own = tl.load(at, mask=mask, other=0.0)
            other = tl.load(x + i[:, None] * p + columns[None, :], mask=mask, other=0.0)
            tl.debug_barrier()  # all threads have read
            tl.store(at, tl.where(copies[:, None], other, a[:, None] * own + b[:, None] * other), mask=mask)
            tl.debug_barrier()  # all threads have written


@no_type_check
def _merge(versions, rows, others, widths, gains, waves, count, group: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Merges all writes into one block of columns; rows and others are places of first numbers."""
    columns = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    for k in range(count):
        last = tl.load(waves + k + 1)
        for first in range(tl.load(waves + k), last, group):
            e = first + tl.arange(0, group)
            live = e < last
            mask = columns[None, :] < tl.load(widths + e, mask=live, other=0)[:, None]
            j, i = tl.load(rows + e, mask=live, other=0), tl.load(others + e, mask=live, other=0)
            copies = i < 0
            i = tl.where(copies, -1 - i, i)
            at = versions + j[:, None] + columns[None, :]
            own = tl.load(at, mask=mask, other=0)
            other = tl.load(versions + i[:, None] + columns[None, :], mask=mask, other=0)
            new = tl.where(copies[:, None], other, tl.maximum(own, other))
            tl.debug_barrier()  # all threads have read
            tl.store(at, new, mask=mask)
            tl.atomic_add(gains + e, tl.sum(new.to(tl.int64) - own.to(tl.int64), 1), mask=live & ~copies)
            tl.debug_barrier()  # all threads have written


def _jit(kernel: Any, *slices: str) -> Any:
    """Returns a kernel that is compiled once for each dtype, wherever in a window's columns a phase begins."""
    if triton is None:
        return None
    return triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=slices)(kernel)


_MIX = _jit(_mix, "rows", "others", "keep", "take", "waves")
_MERGE = _jit(_merge, "rows", "others", "widths", "gains", "waves")
