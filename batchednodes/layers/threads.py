"""Threads: kernels that release Python's lock, each on a part of the rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_WORTH = 1 << 22
"""Multiply-adds above which a second thread pays for its start: a fifth of a millisecond of one core."""


def each_part(rows: int, work: int, kernel: Callable[..., None], *arguments: Any) -> None:
    """Runs a kernel on all rows, in one thread or in as many as torch uses.

    Args:
        rows: how many there are.
        work: multiply-adds of all of them.
        kernel: of the arguments, first and last; works on rows first to last.
    """
    threads = min(rows, torch.get_num_threads()) if work > _WORTH else 1
    ends = [rows * k // threads for k in range(threads + 1)]
    if threads == 1:
        kernel(*arguments, 0, rows)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(kernel, *arguments, ends[k], ends[k + 1]) for k in range(1, threads)]
        kernel(*arguments, 0, ends[1])
        for other in others:
            other.result()
