"""Runs for long, and reports whether anything grows: memory, time of a wave, time of a mark, files.

    python tools/soak.py [--minutes 5] [--json FILE]

Small waves, many marks and many checkpoints, so that what one of them leaves behind adds up: tens of thousands of waves
and thousands of marks in five minutes. Growth is that of a straight line through the second half of the run, with its
standard error. Machines change their speed as they run, so time is counted in units of a fixed piece of work, which is
done again and again in between.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from batchednodes import train
from batchednodes.config import Config
from batchednodes.simulation.engine import Progress

SETTINGS: dict[str, Any] = {
    "network": {"nodes": 64},
    "task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [32]}},
    "run": {"until": 1e5, "mark_every": 1.0, "eval_nodes": 4, "threads": 1, "checkpoint_every": {"minutes": 0.02}},
}

GROWTH = 0.05
"""The most that memory and times may grow from the middle to the end of a run, as a part of what they are there; two
standard errors more are noise."""

_GROWN = "grown from the middle to the end, with standard error"

OFTEN = 10
"""Marks between two pieces of the fixed work."""


class Soak:
    """Watches a run, and halts it after some time."""

    def __init__(self, seconds: float, folder: Path) -> None:
        self.folder, self.until = folder, time.monotonic() + seconds
        self.seen: list[tuple[float, ...]] = []
        self.paces: list[float] = []
        self.working = 0.0

    def __call__(self) -> bool:
        """Returns whether the time is over."""
        return time.monotonic() > self.until

    def watch(self, config: Config, progress: Progress, row: dict[str, Any]) -> None:
        """Notes processor time of this thread without the fixed work, memory, waves and sizes of files at each mark."""
        if not self.paces or progress.marks % OFTEN == 0:
            self.paces.append(pace())
            self.working += self.paces[-1]
        files = [self.folder / "metrics.jsonl", *self.folder.glob("events.out.tfevents.*")]
        sizes = [path.stat().st_size if path.exists() else 0 for path in files]
        spent = time.thread_time() - self.working
        self.seen.append((spent, resident(), progress.waves, sizes[0], sum(sizes[1:]), progress.marks, self.paces[-1]))


def pace() -> float:
    """Returns the processor time of a fixed piece of work, in Python and in NumPy, as a wave is [s]."""
    begun, matrix = time.thread_time(), np.full((60, 60), 0.5)
    sum(len(str(number)) for number in range(1000))
    for _ in range(10):
        matrix = matrix @ matrix / 60
    return time.thread_time() - begun


def resident() -> int:
    """Returns the memory of this process [B]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(values: np.ndarray) -> list[float]:
    """Returns the growth over the second half by a straight line, and its standard error; parts of its first value."""
    half = values[values.size // 2 :]
    found = scipy.stats.linregress(np.arange(half.size), half)
    return [float(part * (half.size - 1) / found.intercept) for part in (found.slope, found.stderr)]


def report(soak: Soak) -> dict[str, Any]:
    """Returns what grew."""
    seen = np.array(soak.seen[10:])
    hundred = seen[: len(seen) // 100 * 100].reshape(100, -1, seen.shape[1])  # a hundred parts of the run
    spent = np.diff(np.concatenate([hundred[:1, 0, :3], hundred[:, -1, :3]]), axis=0)
    paces = np.median(hundred[:, :, 6], axis=1)
    grown = {
        "memory": slope(hundred[:, -1, 1]),
        "time of a wave, marks included, in units of the fixed work": slope(spent[:, 0] / spent[:, 2] / paces),
        "metrics.jsonl, bytes a mark": slope(np.diff(hundred[:, -1, 3]) / np.diff(hundred[:, -1, 5])),
        "TensorBoard, bytes a mark": slope(np.diff(hundred[:, -1, 4]) / np.diff(hundred[:, -1, 5])),
    }
    return {
        "processor seconds": float(seen[-1, 0]),
        "waves": int(seen[-1, 2]),
        "marks": int(seen[-1, 5]),
        "memory at the end, bytes": int(seen[-1, 1]),
        _GROWN: grown,
        "fixed work, the same": slope(paces),
        "allowed": GROWTH,
    }


def main() -> None:
    """Runs the soak test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        soak = Soak(60 * chosen.minutes, Path(scratch, "run"))
        train(SETTINGS, out=soak.folder, watch=soak.watch, stop=soak)
    found = report(soak)
    print(json.dumps(found, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(any(grown - 2 * error > GROWTH for grown, error in found[_GROWN].values()))


if __name__ == "__main__":
    main()
