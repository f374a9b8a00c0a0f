"""Work queue: the threads of torch at work on one task together, without Python's lock.

A task is a vector of integers [16 (1 + k)] for k threads: 0 counts those that have begun; 1, ..., 15 say what to do;
each of the following lines of 16 begins with the number of pieces that are taken of one thread's part. The first of
these goes on with the address of what numbers the threads, 0 if nothing does; how many have numbered themselves; and
whether a thread also takes pieces of other parts: what it takes moves from the cache of one core to that of another.

Notation: k threads.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
from numba import njit

from batchednodes.numerics import threads
from batchednodes.numerics.intrinsics import call, claim

LINE = 16
"""Integers of a line: 128 B, which the processor fetches together."""


def run(kernel: int, orders: Sequence[int], k: int) -> None:
    """Calls a compiled function of no result in some threads at once, this one and others, without Python's lock.

    Args:
        kernel: address of the function of the task's address.
        orders: at most 15 integers that say what to do.
        k: how many threads; at least 1.
    """
    task = np.zeros(LINE * (1 + k), np.int64)
    task[1 : 1 + len(orders)] = orders
    place, team = task.ctypes.data, threads.team()
    if k == 1:
        _function(kernel)(place)
    elif team is not None:
        begin, number = team
        task[LINE + 1] = ctypes.cast(number, ctypes.c_void_p).value or 0
        begin(kernel, place, k, 0)
        task[LINE + 3] = 1
        _function(kernel)(place)  # what is left if there were fewer threads; mostly nothing
    else:
        task[LINE + 3] = 1
        _run_in_pool(_function(kernel), place, k)


def _run_in_pool(function: Any, place: int, k: int) -> None:
    """Does so in threads of Python's."""
    others = [threads.pool(k, os.getpid()).submit(function, place) for _ in range(k - 1)]
    function(place)
    for other in others:
        if not other.cancel():  # else all was done before it began
            other.result()


@functools.cache
def _function(kernel: int) -> Any:
    """Returns what calls a compiled function, by its address."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)


@njit(nogil=True, cache=True)
@no_type_check
def home(task, parts):  # noqa: ANN001, ANN201
    """Returns the part with which this thread begins, each time the same: the cache next to its core holds it."""
    number = task[LINE + 1]
    return (call(number) if number else claim(task, LINE + 2)) % parts


@njit(nogil=True, cache=True)
@no_type_check
def piece(task, pieces, part, parts):  # noqa: ANN001, ANN201
    """Takes a piece of work, of this part or else perhaps of another; returns its number, or -1 if none is left."""
    for q in range(parts if task[LINE + 3] else 1):
        k = (part + q) % parts
        b = pieces * k // parts + claim(task, (1 + k) * LINE)
        if b < pieces * (k + 1) // parts:
            return b
    return -1
