"""Interleaved repeats, and ratios between measurements of one run.

Notation: r repeats.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from batchednodes.numerics import devices

Work = Callable[[], Any]


def seconds(work: Work, device: torch.device) -> float:
    """Returns the time that some work takes until the device has done it [s]."""
    devices.synchronize(device)
    begun = time.perf_counter()
    work()
    devices.synchronize(device)
    return time.perf_counter() - begun


def gathered(works: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Returns r results of each work, one of each after the other, after one round that warms up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            result = work()
            if repeat:
                found[name].append(result)
    return found


def interleaved(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Returns r times of each work [s], one of each after the other, after one round that warms up."""
    return gathered({name: partial(seconds, work, device) for name, work in works.items()}, repeats)


def spread(values: list[float]) -> dict[str, float]:
    """Returns minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def rates(amount: float, times: list[float]) -> dict[str, float]:
    """Returns the spread of an amount per second."""
    return spread([amount / t for t in times])


def ratios(a: list[float], b: list[float], scale: float = 1.0) -> dict[str, float]:
    """Returns the spread of scale * a / b, pair by pair."""
    return spread([scale * x / y for x, y in zip(a, b, strict=True)])
