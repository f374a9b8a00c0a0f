"""Threads: those that torch computes with, for kernels of our own, so that both never want more cores than there are.

Torch's threads wait for a while after each operation with their core kept busy: threads of Python's would have to share
that core with them, and take longer to wake than a small kernel to run.

Notation: k threads.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_Begin = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A function of one address and no result, as C knows it."""


def run(function: Callable[[int], object], threads: int) -> None:
    """Calls a function with 0, ..., k - 1, each in a thread of its own, as far as there are as many.

    Example:
        >>> from batchednodes.numerics.threads import run
        >>> done = []
        >>> run(done.append, 3)
        >>> sorted(done)
        [0, 1, 2]

    Args:
        function: which should release Python's lock for most of its time.
        threads: k; at least 1.
    """
    found = team()
    if threads == 1:
        function(0)
    elif found is None:
        others = [pool(threads, os.getpid()).submit(function, k) for k in range(1, threads)]
        function(0)
        for other in others:
            other.result()
    else:
        begin, number = found
        left, errors = set(range(threads)), []
        begin(_Begin(functools.partial(_work, function, number, left, errors)), None, threads, 0)
        if errors:
            raise errors[0]


def apart(function: Callable[[int], None], threads: int) -> None:
    """Calls a function with 0, ..., k - 1, each in a thread of its own in which operations of torch use no other.

    They must not be called in torch's own threads: kernels of oneDNN wait there for threads that never come.

    Args:
        function: which should release Python's lock for most of its time.
        threads: k; at least 1, at most as many as torch computes with.
    """
    if torch.get_num_threads() == 1 or team() is None:
        for k in range(threads):
            function(k)
    else:
        for done in [_alone(threads, os.getpid()).submit(function, k) for k in range(threads)]:
            done.result()


def each(function: Callable[[int], object]) -> None:
    """Calls a function once in each thread that torch computes with here, with its number; the caller's is 0."""
    found, errors = team(), list[BaseException]()
    if found is None or torch.get_num_threads() == 1:
        function(0)
    else:
        begin, number = found
        begin(_Begin(functools.partial(_call, function, number, errors)), None, torch.get_num_threads(), 0)
        if errors:
            raise errors[0]


def _call(function: Callable[[int], object], number: Any, errors: list[BaseException], _: object) -> None:
    try:
        function(number())
    except BaseException as error:  # C has no use for it
        errors.append(error)


def _work(
    function: Callable[[int], object], number: Any, left: set[int], errors: list[BaseException], _: object
) -> None:
    """Calls the function with the number of this thread, then with those that no thread has come for."""
    k = number()
    try:
        while left:
            k = k if k in left else min(left)
            left.discard(k)
            function(k)
    except BaseException as error:  # C has no use for it
        errors.append(error)


@functools.cache
def team() -> tuple[Any, Any] | None:
    """Returns what calls a function in the threads of torch's OpenMP, and what numbers them there from 0 on.

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
    return begin, number


@functools.cache
def pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Returns threads beside the caller's that wait for work: to start them takes as long as a small kernel.

    Args:
        threads: how many work at once, the caller's included.
        process: that they belong to; a fork of it has none of them.
    """
    return ThreadPoolExecutor(threads - 1, f"batchednodes-{process}")


@functools.cache
def _alone(threads: int, process: int) -> ThreadPoolExecutor:
    """Returns threads that wait for work, each with no other one of OpenMP's; arguments: see `pool`."""

    def begin() -> None:
        torch.get_num_threads()  # torch sets the number once, at the first question
        ctypes.CDLL(torch._C.__file__).omp_set_num_threads(1)

    return ThreadPoolExecutor(threads, f"batchednodes-alone-{process}", begin)
