r"""Summary: what a run says of itself at its end, beside its last rows of metrics."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchednodes.numerics import devices
from batchednodes.results import theory


def average(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Returns the exact time average of staleness over the second half of a run, with its 95% half-width.

    The first half is left out as a warm-up. The half-width comes from ten batch means; it is None where a batch is
    shorter than twice the time that nodes lag behind, staleness over update rate, or holds no whole mark.

    Args:
        rows: of one network, over that half.
    """
    found: dict[str, float | None] = dict.fromkeys(("staleness_average", "staleness_average_half_width"))
    if len(rows) > 1 and rows[0]["staleness_integral"] is not None:
        mean = found["staleness_average"] = time_mean(rows[-1], rows[0])
        rate = rows[-1]["updates"] / rows[-1]["n"] / rows[-1]["time"]
        lag = mean / rate if mean and rate else 0.0
        if len(rows) > 20 and (rows[-1]["time"] - rows[0]["time"]) / 10 >= 2 * lag:
            means = np.array([r["staleness_mean"] for r in rows[1:]])
            found["staleness_average_half_width"] = theory.batch_means(means, 10, 0.95)[1]
    return found


def time_mean(now: dict[str, Any], before: dict[str, Any] | None) -> float | None:
    """Returns the exact mean of staleness over the time between two marks; at the first mark, that of the instant."""
    if before is None or now["staleness_integral"] is None:
        return now["staleness_now"]
    return (now["staleness_integral"] - before["staleness_integral"]) / (now["time"] - before["time"])


def peak_memory(device: torch.device) -> int:
    """Returns the most memory that this process has taken, of a device or, on the CPU, in all [B]."""
    if devices.is_cuda(device):
        return devices.peak(device)
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there begins with the memory of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
