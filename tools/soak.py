"""Runs for long, and reports whether anything grows: memory, time of a wave, time of a mark, files.

    python tools/soak.py [--minutes 5] [--json FILE]

Small waves, many marks and many checkpoints, so that what one of them leaves behind adds up: tens of thousands of waves
and thousands of marks in five minutes. Growth is that of a straight line through the second half of the run.
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

from batchednodes import train
from batchednodes.config import Config
from batchednodes.engine import Progress

SETTINGS: dict[str, Any] = {
    "network": {"nodes": 64},
    "task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [32]}},
    "run": {"until": 1e5, "mark_every": 1.0, "eval_nodes": 4, "threads": 1, "checkpoint_every": {"minutes": 0.02}},
}

GROWTH = 0.05
"""The most that memory and times may grow from the middle to the end of a run, as a part of what they are there."""


class Soak:
    """Watches a run, and halts it after some time."""

    def __init__(self, seconds: float, folder: Path) -> None:
        self.folder, self.until = folder, time.monotonic() + seconds
        self.seen: list[tuple[float, ...]] = []

    def __call__(self) -> bool:
        """Returns whether the time is over."""
        return time.monotonic() > self.until

    def watch(self, config: Config, progress: Progress, row: dict[str, Any]) -> None:
        """Notes processor time of this thread, memory, waves and sizes of files at each mark."""
        files = [self.folder / "metrics.jsonl", *self.folder.glob("events.out.tfevents.*")]
        sizes = [path.stat().st_size if path.exists() else 0 for path in files]
        self.seen.append((time.thread_time(), resident(), progress.waves, sizes[0], sum(sizes[1:]), progress.marks))


def resident() -> int:
    """Returns the memory of this process [B]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(values: np.ndarray) -> float:
    """Returns the growth over the second half by a straight line, as a part of its first value."""
    half = values[values.size // 2 :]
    line = np.polynomial.Polynomial.fit(np.arange(half.size), half, 1)
    return float((line(half.size - 1) - line(0)) / line(0))


def report(soak: Soak) -> dict[str, Any]:
    """Returns what grew."""
    seen = np.array(soak.seen[10:])
    hundred = seen[: len(seen) // 100 * 100].reshape(100, -1, seen.shape[1])  # a hundred parts of the run
    spent = np.diff(np.concatenate([hundred[:1, 0, :3], hundred[:, -1, :3]]), axis=0)
    grown = {
        "memory": slope(hundred[:, -1, 1]),
        "time of a wave, marks included": slope(spent[:, 0] / spent[:, 2]),
        "metrics.jsonl, bytes a mark": slope(np.diff(hundred[:, -1, 3]) / np.diff(hundred[:, -1, 5])),
        "TensorBoard, bytes a mark": slope(np.diff(hundred[:, -1, 4]) / np.diff(hundred[:, -1, 5])),
    }
    return {
        "processor seconds": float(seen[-1, 0]),
        "waves": int(seen[-1, 2]),
        "marks": int(seen[-1, 5]),
        "memory at the end, bytes": int(seen[-1, 1]),
        "grown from the middle to the end": grown,
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
    sys.exit(any(value > GROWTH for value in found["grown from the middle to the end"].values()))


if __name__ == "__main__":
    main()
