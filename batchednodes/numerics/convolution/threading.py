"""Threads for convolutions: kernels that release Python's lock, each on a part of the rows."""

from collections.abc import Callable
from typing import Any

import torch

from batchednodes.numerics import threads

_WORTH = 1 << 22
"""Multiply-adds above which a second thread pays for its start: a fifth of a millisecond of one core."""


def each_part(rows: int, work: int, kernel: Callable[..., None], *arguments: Any) -> None:
    """Runs a kernel on all rows, in one thread or in as many as torch uses.

    Args:
        rows: how many there are.
        work: multiply-adds of all of them.
        kernel: of the arguments, first and last; works on rows first to last.
    """
    k = min(rows, torch.get_num_threads()) if work > _WORTH else 1
    if k == 1:
        kernel(*arguments, 0, rows)
        return
    ends = [rows * part // k for part in range(k + 1)]
    threads.run(lambda part: kernel(*arguments, ends[part], ends[part + 1]), k)


def each_row(rows: int, work: Callable[[int, int], None]) -> None:
    """Does some work on rows first to last, in as many threads as torch uses, by operations of torch.

    These compute in one thread each, so that their sums do not depend on how many there are.
    """
    k = max(1, min(rows, torch.get_num_threads()))
    ends = [rows * part // k for part in range(k + 1)]
    threads.apart(lambda part: work(ends[part], ends[part + 1]), k)
