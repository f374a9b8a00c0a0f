"""Memory: what to do where the system gives none. Work goes on with fewer rows at once, or ends in words."""

import functools
import gc
import mmap
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from batchednodes.numerics import devices
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.start import WORDS

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")

T = TypeVar("T")

_THREAD = 32 << 20
"""What a thread takes to begin with, generously: a stack of 8 MiB as a rule, and what its first work allocates [B]."""


def gib(size: int) -> str:
    """Returns a number of bytes in words.

    Example:
        >>> from batchednodes.numerics.memory import gib
        >>> gib(3 * 2**30), gib(5_000_000)
        ('3.00 GiB', '4.8 MiB')
    """
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def exhausted(error: BaseException) -> bool:
    """Returns whether an error says that memory could not be allocated, on the host or on the device."""
    if isinstance(error, RuntimeError):
        return WORDS.search(str(error)) is not None or (
            "torch" in sys.modules and isinstance(error, torch.OutOfMemoryError)
        )
    return isinstance(error, MemoryError)


def reason(error: BaseException) -> str:
    """Returns what such an error says, in one line."""
    words = re.sub(r"^\[enforce.*?\] [^.]*\. ", "", str(error).strip())
    return (words.splitlines() or ["memory could not be allocated"])[0][:200]


def room(size: int) -> bool:
    """Returns whether the system gives so much memory at once [B]; it is given back."""
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def sendable(shape: tuple[int, ...], dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    """Returns new memory of the host, pinned where it goes to a device of another kind."""
    if devices.is_cuda(device):
        return devices.pinned(shape, dtype)
    return torch.from_numpy(np.empty(shape, str(dtype)[6:]))  # NumPy asks for huge pages


def send(array: "np.ndarray | torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Returns numbers of the host on a device, by pinned memory: the host goes on before they are there.

    Those that are there stay as they are.
    """
    found = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if found.device.type == device.type:
        return found
    return sendable(tuple(found.shape), found.dtype, device).copy_(found).to(device, non_blocking=True)


def arriving(tensors: "Sequence[torch.Tensor]") -> "list[torch.Tensor]":
    """Returns tensors of one device in memory of the host, as float64 or int64; they come in one copy.

    They are there once the host has waited for the device; those of the CPU are there at once.
    """
    wide = [t.double() if t.is_floating_point() else t.long() for t in tensors]
    if not (wide and devices.is_cuda(wide[0].device)):
        return wide
    flat = torch.cat([t.flatten().view(torch.int64) for t in wide])
    parts = sendable((flat.numel(),), torch.int64, flat.device).copy_(flat, non_blocking=True)
    whole = zip(parts.split([t.numel() for t in wide]), wide, strict=True)
    return [part.view(t.dtype).view(t.shape) for part, t in whole]


class BackgroundWorker:
    """One thread beside the caller's, from when there is memory for it.

    Python waits for ever for a thread that gets a stack but then no memory to begin with, so that there must be room
    for both before one is started.
    """

    def __init__(self, begin: Callable[[], None] | None = None) -> None:
        """Starts nothing yet; begin: called in the thread first."""
        self.begin = begin
        self.pool: ThreadPoolExecutor | None = None

    def has_thread(self) -> bool:
        """Returns whether there is a thread; one is started if that can be."""
        if self.pool is None and room(_THREAD):
            pool = ThreadPoolExecutor(1, initializer=self.begin)
            try:
                pool.submit(int).result()
            except RuntimeError as error:
                if not exhausted(error):
                    raise
            else:
                self.pool = pool
        return self.pool is not None

    def submit(self, work: Callable[..., T], *arguments: object) -> Callable[[], T]:
        """Returns what waits for a result and gives it; without a thread, the work is done by whoever asks for it."""
        if self.pool is None and not self.has_thread():
            return functools.partial(work, *arguments)
        assert self.pool is not None
        return self.pool.submit(work, *arguments).result

    def close(self, leave: bool = False, wait: bool = True) -> None:
        """Waits for what is being done, and ends the thread.

        Args:
            leave: whether what has not begun is left out.
            wait: else the thread ends by itself, once what is being done is.
        """
        if self.pool is not None:
            self.pool.shutdown(wait, cancel_futures=leave)


@dataclass(frozen=True)
class Chunks:
    """How many rows are handled at once."""

    update: int
    """Rows of one vmap call of local SGD; at least 1."""
    evaluate: int
    """Models scored at once; at least 1."""
    together: int = 1
    """Models of several networks scored at once; 1: networks are scored one by one."""
    traced: bool = False
    """Whether minibatch steps go by a tape or program traced from vmap, where `local.compile` leaves it open."""
    update_row: int | None = None
    """Temporaries of a row of local SGD, as far as they are known [B]."""
    evaluate_row: int | None = None
    """Temporaries of a model that is scored, likewise [B]."""
    scored: bool = False
    """Whether models are scored in a compiled loop, one after the other, where theirs can be."""
    block: int | None = None
    """Test examples of a forward pass, at most; None: all."""


class Chunk:
    """How many rows are worked on at once, at most; fewer from when memory did not hold their temporaries.

    The only thing but the `State` that changes during a run; it changes rounding only. A checkpoint that is to continue
    bit for bit keeps it, see `assembly.Simulation.chunks`.
    """

    def __init__(self, rows: int, work: str = "the work", need: int | None = None, remedy: str = "") -> None:
        """Begins with some rows.

        Args:
            rows: at least 1.
            work: what is done to them, in words that begin with the setting or part of the run.
            need: temporaries of one row, as far as a plan knows [B].
            remedy: settings that would help.
        """
        self.rows, self.planned, self.work, self.need, self.remedy = rows, rows, work, need, remedy

    def run_(self, total: int, work: Callable[[slice], T], write: Callable[[slice, T], None]) -> None:
        """Works on all of some rows, a part after the other, and writes what each part gave.

        No row is left over alone, since products of one matrix alone round otherwise than those of several.

        Args:
            total: number of rows.
            work: changes nothing that lasts, since it is called again, for fewer rows, where memory ended.
            write: allocates little.
        """
        first = 0
        while first < total:
            left = total - first
            most = left - 2 if self.rows > 2 and left == self.rows + 1 else left
            part, result = self.attempt(most, lambda size, first=first: _part(work, first, size))
            write(part, result)
            first = part.stop
            del result  # else it would live beside the next one

    def attempt(self, most: int, work: Callable[[int], T]) -> T:
        """Returns what some work gives on as many rows as memory holds.

        Args:
            most: rows that there are; at least 1.
            work: maps a number of rows to a result; changes nothing that lasts.

        Raises:
            ValueError: memory does not hold the temporaries of one row.
        """
        while True:
            size = min(self.rows, most)
            try:
                return work(size)
            except (MemoryError, RuntimeError) as error:
                if not exhausted(error):
                    raise
                why = reason(error)
            gc.collect()  # what the error held is free only now
            devices.release()
            self._halve_(size, why)

    def _halve_(self, size: int, why: str) -> None:
        if size == 1:
            plan = "" if self.need is None else f", which takes {gib(self.need)} by the plan"
            raise ValueError(f"{self.work} must fit in memory, got none for one row{plan} ({why}); {self.remedy}")
        self.rows = size // 2
        warnings.warn(
            f"{self.work} did not fit in memory with {size} rows at once ({why}); the run goes on with {self.rows}",
            stacklevel=4,
        )


def _part(work: Callable[[slice], T], first: int, size: int) -> tuple[slice, T]:
    part = slice(first, first + size)
    return part, work(part)
