"""Threads that share a task: those that torch computes with, so that both never want more cores than there are.

They stand ready after torch's own work, while a thread of Python's takes as long to wake as a small phase. A task is a
vector of integers [16 (1 + k)] for k threads: 0 counts those that have begun; 1, ..., 15 say what to do; each of the
following lines of 16 begins with the number of pieces that are taken of one thread's part. The first of these goes on
with the address of what numbers the threads, 0 if nothing does, and how many have numbered themselves.

Letters: k threads.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numpy as np
import torch
from numba import njit

from batchednodes.mixing.processor import call, claim

LINE = 16
"""Integers of a line: 128 B, which the processor fetches together."""


def run(kernel: int, orders: Sequence[int], threads: int) -> None:
    """Calls a compiled function of no result in some threads at once, this one and others, without Python's lock.

    Args:
        kernel: address of the function of the task's address.
        orders: at most 15 integers that say what to do.
        threads: how many; at least 1.
    """
    task = np.zeros(LINE * (1 + threads), np.int64)
    task[1 : 1 + len(orders)] = orders
    place, team = task.ctypes.data, _team()
    if threads == 1:
        _function(kernel)(place)
    elif team is not None:
        begin, task[LINE + 1] = team
        begin(kernel, place, threads, 0)
    else:
        _run_in_pool(_function(kernel), place, threads)


def _run_in_pool(function: Any, place: int, threads: int) -> None:
    """Does so in threads of Python's."""
    others = [_pool(threads, os.getpid()).submit(function, place) for _ in range(threads - 1)]
    function(place)
    for other in others:
        if not other.cancel():  # else all was done before it began
            other.result()


@functools.cache
def _function(kernel: int) -> Any:
    """Returns what calls a compiled function, by its address."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)


@functools.cache
def _team() -> tuple[Any, int] | None:
    """Returns what calls a function in the threads of torch's OpenMP, and the address of what numbers them.

    None where torch has none that says how. GOMP_parallel(function, its argument, threads, flags) is what GCC calls at
    the head of a parallel region; LLVM's and Intel's libraries know it too. It is looked for among what torch itself is
    linked to.
    """
    try:
        library = ctypes.CDLL(torch._C.__file__)
        begin, number = library.GOMP_parallel, library.omp_get_thread_num
    except (OSError, AttributeError):
        return None
    begin.argtypes, begin.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    address = ctypes.cast(number, ctypes.c_void_p).value
    return None if address is None else (begin, address)


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Returns threads beside the caller's that wait for work: to start them takes as long as a phase.

    Args:
        threads: how many work at once, the caller's included.
        process: that they belong to; a fork of it has none of them.
    """
    return ThreadPoolExecutor(threads - 1, f"mixing-{process}")


@njit(nogil=True, cache=True)
@no_type_check
def home(task, parts):  # noqa: ANN001, ANN201
    """Returns the part with which this thread begins, each time the same: the cache next to its core holds it."""
    number = task[LINE + 1]
    return (call(number) if number else claim(task, LINE + 2)) % parts


@njit(nogil=True, cache=True)
@no_type_check
def piece(task, pieces, part, parts):  # noqa: ANN001, ANN201
    """Takes a piece of work, of this part of them or else of another; returns its number, or -1 if none is left."""
    for q in range(parts):
        k = (part + q) % parts
        b = pieces * k // parts + claim(task, (1 + k) * LINE)
        if b < pieces * (k + 1) // parts:
            return b
    return -1
