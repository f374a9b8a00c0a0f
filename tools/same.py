"""Compares two runs: models and versions bit for bit, metrics but for rounding.

    python tools/same.py RUN OTHER

Both are folders of runs, finished, interrupted or diverged, of whatever number of ranks. Exit code 0: they are the
same; 1: they are not, and the first differences are printed; 2: they cannot be compared.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.header import newest_first
from batchednodes.results.folder.inside import Inside

ROUNDING = 1e-12
"""How far two numbers of metrics may be apart, relatively: sums over other numbers of ranks round otherwise."""

SHOWN = 10
"""Differences that are printed, at most."""


def differences(one: Path, other: Path) -> list[str]:
    """Returns what differs between two runs."""
    return [*_states(*map(_newest, (one, other))), *_metrics(one, other), *_summaries(one, other)]


def _newest(folder: Path) -> Snapshot:
    """Returns the newest state of a run, finite or not."""
    files = newest_first(Inside(folder))
    if not files:
        raise ValueError(f"{folder} holds no state of a run")
    return checkpoint.load(files[0], torch.device("cpu"))


def _states(one: Snapshot, other: Snapshot) -> Iterator[str]:
    """Yields what differs between two states: what rounds, sums of times, may by some rounding."""
    if one.clocks.time != other.clocks.time:
        yield f"time: {one.clocks.time:g} and {other.clocks.time:g} s"
        return
    tensors = [found.state.tensors() for found in (one, other)]
    tensors = [{name: t[: found.state.nodes] if name in found.state.travelling() else t for name, t in some.items()}
               for found, some in zip((one, other), tensors, strict=True)]  # fmt: skip
    for some, found in zip(tensors, (one, other), strict=True):
        some["versions"] = found.state.versions[: found.layout.numbers].long()
    for name in sorted(tensors[0].keys() | tensors[1].keys()):
        a, b = (some.get(name) for some in tensors)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            yield f"{name}: shapes or types"
        elif name in ("updated", "gained"):
            gap, scale = (
                float(t.abs().max()) if t.numel() else 0.0 for t in (a - b, b)
            )  # that of a node may be near 0
            if not gap <= ROUNDING * scale:
                yield f"{name}: off by {gap:.1e}, where the largest is {scale:.1e}"
        elif not torch.equal(*(t.contiguous().view(torch.uint8) for t in (a, b))):
            gap = float((a.double() - b.double()).abs().max())
            yield f"{name}: {int((a != b).sum())} of {a.numel()} numbers, the largest gap {gap:.1e}"


def _metrics(one: Path, other: Path) -> Iterator[str]:
    """Yields what differs between the rows of two runs."""
    rows = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            for folder in (one, other)]  # fmt: skip
    if len(rows[0]) != len(rows[1]):
        yield f"metrics.jsonl: {len(rows[0])} and {len(rows[1])} rows"
    for k, (a, b) in enumerate(zip(*rows, strict=False)):
        yield from _unlike(f"metrics.jsonl, row {k + 1}", a, b)


def _summaries(one: Path, other: Path) -> Iterator[str]:
    """Yields what differs between the results of two runs that have ended."""
    files = [folder / "summary.json" for folder in (one, other)]
    if all(file.is_file() for file in files):
        a, b = (json.loads(file.read_text()) for file in files)
        for key in ("networks", "isolated", "status"):
            yield from _unlike(f"summary.json, {key}", a[key], b[key])


def _unlike(where: str, a: Any, b: Any) -> Iterator[str]:
    """Yields where two values differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _unlike(f"{where}, {key}", a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for k, pair in enumerate(zip(a, b, strict=True)):
            yield from _unlike(f"{where}, {k}", *pair)
    elif isinstance(a, float) and isinstance(b, float):
        if not (a == b or abs(a - b) <= ROUNDING * max(abs(a), abs(b)) or (a != a and b != b)):
            yield f"{where}: {a!r} and {b!r}"
    elif a != b:
        yield f"{where}: {a!r} and {b!r}"


def main() -> None:
    """Compares two runs and prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    chosen = parser.parse_args()
    try:
        found = differences(chosen.run, chosen.other)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(found[:SHOWN]) or "the same: models and versions bit for bit, metrics to 1e-12")
    if len(found) > SHOWN:
        print(f"... and {len(found) - SHOWN} more")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
