"""Host threads: Python's own, for compiled code that makes events and schedules beside what torch computes.

Torch's team (see `threads`) belongs to the thread that computes: events are made in others, which would each get a team
of their own. Nothing here needs torch.

Notation: k threads.
"""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from batchednodes.numerics import ranks
from batchednodes.numerics.memory import room

MOST = 8
"""Threads that make the events of one run, at most: more would wait for memory."""

WORTH = 1 << 15
"""Events that are worth a thread: they take a compiled loop 0.2 ms or more, and to wake a thread takes 0.05 ms."""

_THREAD = 16 << 20
"""What a thread takes to begin with, generously [B]: a stack of 8 MiB as a rule, and its first allocations."""


def cores() -> int:
    """Returns how many cores this process may use, those of the machine shared with the other ranks on it; at most 8.

    Example:
        >>> from batchednodes.numerics.host_threads import cores
        >>> 1 <= cores() <= 8
        True
    """
    return max(1, min(MOST, ranks.cores() // ranks.of_machine()[1]))


def divide(work: Callable[[int], object], pieces: int, threads: int) -> None:
    """Calls a function with 0, ..., pieces - 1, each once, in some threads at once, and returns when all are done.

    Each thread takes the next number; the caller's takes part, and does all of it where no other one comes.

    Example:
        >>> from batchednodes.numerics.host_threads import divide
        >>> done = []
        >>> divide(done.append, 5, threads=2)
        >>> sorted(done)
        [0, 1, 2, 3, 4]

    Args:
        work: which releases Python's lock for most of its time, and writes what no other piece writes.
        pieces: how many; none is fine.
        threads: k; at least 1.

    Raises:
        BaseException: what a piece raised first; those that had not begun are left out.
    """
    number, errors = itertools.count(), list[BaseException]()

    def some() -> None:
        try:
            while not errors and (piece := next(number)) < pieces:
                work(piece)
        except BaseException as error:  # the caller raises it
            errors.append(error)

    others = _team(threads - 1, os.getpid()) if min(threads, pieces) > 1 else None
    came = [] if others is None else [others.submit(some) for _ in range(min(threads, pieces) - 1)]
    some()
    for one in came:
        if not one.cancel():  # else all was done before it began
            one.result()
    if errors:
        raise errors[0]


_MADE = threading.Lock()


def _team(threads: int, process: int) -> ThreadPoolExecutor | None:
    """Returns threads beside the caller's that wait for work; None where there is no memory for them.

    Args:
        threads: how many; at least 1.
        process: that they belong to; a fork of it has none of them.
    """
    with _MADE:
        return _started(threads, process)


@functools.cache
def _started(threads: int, process: int) -> ThreadPoolExecutor | None:
    if not room(threads * _THREAD):  # Python waits for ever for a thread that gets no memory to begin with
        return None
    here, made = threading.Barrier(threads + 1), ThreadPoolExecutor(threads, f"batchednodes-events-{process}")
    try:
        for _ in range(threads):  # each waits for the others, so that each is a thread of its own
            made.submit(here.wait)
    except RuntimeError:  # the system gives no more threads
        here.abort()
        return None
    here.wait()
    return made
