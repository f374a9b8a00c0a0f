#!/usr/bin/env python3
"""Measures the executors against each other, and the scheduler, in one process; prints a table and writes JSON.

    python tools/bench.py [--device cpu|cuda] [--nodes 1000] [--repeats 5] [--json FILE]

Absolute times differ from machine to machine: what counts are the ratios, each from interleaved repeats of one run.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchednodes import assembly, load, train
from batchednodes.schedule import schedule

FEATURES, SAMPLES = 57, 20
"""Logistic regression 57 -> 2, with 20 examples a node, batch 32."""


def data(folder: Path, nodes: int) -> Path:
    """Writes a separable problem with two labels, and returns its path."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(nodes * SAMPLES, FEATURES)).astype(np.float32)
    labels = (features @ draw.normal(size=FEATURES) > 0).astype(np.int64)
    path = folder / "logistic.npz"
    np.savez(path, features=features, targets=labels)
    return path


def settings(path: Path, nodes: int, device: str) -> dict[str, Any]:
    """Returns the workload: rate log(n), one update a second."""
    return {
        "network": {"nodes": nodes},
        "device": device,
        "local": {"batch_size": 32, "lr": 0.1},
        "task": {"data": {"kind": "npz", "path": str(path)}},
        "run": {"eval_nodes": min(nodes, 10)},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Returns minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def executors(base: dict[str, Any], repeats: int, track: str) -> dict[str, Any]:
    """Returns events per second of both executors, interleaved, and their ratio pair by pair.

    The serial executor runs a shorter time of the same workload; both rates hold from their first to their last event.
    """
    spans = {"batched": 5.0, "serial": 0.8}
    speed: dict[str, list[float]] = {name: [] for name in spans}
    for repeat in range(repeats + 1):
        for name, until in spans.items():
            options = [f"executor={name}", f"staleness.track={track}", f"run.until={until}", f"run.mark_every={until}"]
            found = train(base, *options).summary["events_per_second"]
            if repeat:  # the first round compiles and warms up
                speed[name].append(found)
    ratios = [b / s for b, s in zip(speed["batched"], speed["serial"], strict=True)]
    return {"events_per_second": {k: spread(v) for k, v in speed.items()}, "batched_over_serial": spread(ratios)}


def scheduler(base: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Returns host nanoseconds per event of the timeline and of the schedule, and the mean wave."""
    config = load(base)
    laws = assembly.timeline([config])
    made, timeline, waves = schedule(laws.window(laws.begin(), 1.0)[0], laws.networks.n), [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        events, _ = laws.window(laws.begin(), 5.0)
        between = time.perf_counter()
        made = schedule(events, laws.networks.n)
        done = time.perf_counter()
        timeline.append((between - begun) / len(events) * 1e9)
        waves.append((done - between) / len(events) * 1e9)
    return {
        "timeline_ns_per_event": spread(timeline),
        "schedule_ns_per_event": spread(waves),
        "mean_wave": made.order.size / (made.waves.size - 1),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = settings(data(Path(folder), chosen.nodes), chosen.nodes, chosen.device)
        tracks = ("all", "64", "none")
        report = {
            "date": date.today().isoformat(),
            "device": torch.cuda.get_device_name()
            if chosen.device.startswith("cuda")
            else platform.processor() or "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "version": version("batchednodes"),
            "nodes": chosen.nodes,
            "workload": f"logistic regression {FEATURES} -> 2, batch 32, gossip rate log(n), one update a second",
            "scheduler": scheduler(base, chosen.repeats),
            "executors": {f"track {t}": executors(base, chosen.repeats, t) for t in tracks},
        }
    text = json.dumps(report, indent=2)
    print(text)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
