"""Threads: kernels that release Python's lock, each on a part of the rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_WORTH = 1 << 21
"""Multiply-adds, or numbers read and written, above which a second thread pays for its start."""


def each_part(rows: int, work: int, kernel: Callable[[int, int], None]) -> None:
    """Runs a kernel on all rows, in one thread or in as many as torch uses.

    Args:
        rows: how many there are.
        work: operations of all of them.
        kernel: works on rows first to last.
    """
    threads = min(rows, torch.get_num_threads()) if work > _WORTH else 1
    if threads == 1:
        kernel(0, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        ends = [rows * k // threads for k in range(threads + 1)]
        for part in [pool.submit(kernel, *pair) for pair in zip(ends, ends[1:], strict=False)]:
            part.result()
