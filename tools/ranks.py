"""Prints the calculated speed-up of runs over ranks, and measures it on this machine.

    python tools/ranks.py                   GPUs: a table, with the rates that are assumed
    python tools/ranks.py --measure FILE    1, 2 and 4 ranks of this machine over gloo, as JSON

What is measured is the time that a simulated second takes in the middle of runs of MLPs. The speed-up on 2 and 4 ranks
is calculated from that of one process and from exchanges alone.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

import batchednodes
from batchednodes.algorithms.cut import Asked, Cut
from batchednodes.numerics.ranks import Pending, Ranks
from batchednodes.numerics.ranks import cores as available
from batchednodes.simulation.planning.speed_up import Load, Machine, seconds, speed_up

GPU = Machine(
    flops=2e13, memory=2.4e12, inside=3.6e11, across=1.25e10, of_machine=8, latency=3e-5, latency_across=6e-5,
    event=7e-8, threads=8,
)  # fmt: skip
"""An H100 as it is assumed: batched products of small matrices in float32 at 20 TFLOP/s; memory at 2.4 TB/s of 3.35;
NVLink at 360 GB/s of 450 a direction; eight of a machine share 100 Gb/s; the latency of NCCL's all-to-all on few bytes;
70 ns of one host thread for an event, on eight threads of each rank."""

NVLINK = Machine(**{**GPU.__dict__, "of_machine": 64})
"""The same where NVLink connects all."""

LOADS = {
    "100,000 MLPs (784-200-10, batch 32)": Load(
        100_000, bytes=4.0 * 159_010, flops=6.0 * 159_010 * 32, touched=24.0 * 159_010, contacts=math.log(100_000),
        fill=132.0,
    ),
    "1,000,000 linear models (57-10, batch 32)": Load(
        1_000_000, bytes=4.0 * 580, flops=6.0 * 580 * 32, touched=24.0 * 580 + 4 * 57 * 32,
        contacts=math.log(1_000_000), fill=1000.0,
    ),
    "1,000 ResNet-20 with GroupNorm (batch 16)": Load(
        1_000, bytes=4.0 * 272_474, flops=6.0 * 41e6 * 16, touched=24.0 * 272_474 + 2e8,
        contacts=math.log(1_000), fill=8.0,
    ),
}  # fmt: skip
"""A local step an update and a gossip capacity of log n; `fill`: rows that keep a device busy."""

COUNTS = (2, 8, 64)


def table() -> str:
    """Returns the calculated speed-up on GPUs, as Markdown."""
    lines = ["| | GPUs | NVLink between all | NVLink in machines of 8, 100 Gb/s between |", "|---|---|---|---|"]
    for name, load in LOADS.items():
        for count in COUNTS:
            lines.append(
                f"| {name} | {count} | {speed_up(load, NVLINK, count):.1f} | {speed_up(load, GPU, count):.1f} |"
            )
    return "\n".join(lines)


NODES, P = 1000, 4810

SETTINGS = [
    "device=cpu", f"network.nodes={NODES}", "task.data.kind=digits", "task.partition={kind: iid}",
    "task.model={kind: mlp, hidden: [64]}", "run.baseline=none", "run.eval_nodes=1",
    "staleness.track=none", "run.checkpoint_every={time: null, minutes: null}", "run.threads=1", "run.loggers=[]",
]  # fmt: skip
"""Of the runs that are measured: MLPs 64-64-10, half an update a node and second."""

STEPS = {2: 20, 40: 3}
"""Local steps of an update, where exchanges count and where work does, and the simulated seconds between marks."""

UPDATES, WAVES = 0.5, 10.4
"""Of a node and simulated second; and waves of them for each update of all nodes, as `batchednodes plan` says."""

MARKS = 8
"""Of which the times of the last but one half count, since ranks compile at the first ones."""


class Clock(batchednodes.Callback):
    """When marks came."""

    def __init__(self) -> None:
        """Begins without any."""
        self.times = list[float]()

    def mark(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes note of one."""
        self.times.append(time.perf_counter())


def _run(steps: int) -> None:
    """Prints the wall time of a simulated second [s], the median between marks; as a rank, or alone."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        batchednodes.train(
            "configs/quickstart.yaml", *SETTINGS, f"local.steps={steps}", f"run.mark_every={STEPS[steps]}",
            f"run.until={MARKS * STEPS[steps]}", out=Path(scratch, "run"), callbacks=[clock],
        )  # fmt: skip
    between = sorted(b - a for a, b in pairwise(clock.times[MARKS // 2 :]))
    if clock.times:
        print(json.dumps(between[len(between) // 2] / STEPS[steps]), flush=True)


def told(count: int, *arguments: str) -> Any:
    """Returns what the first of some ranks prints of this file, called with some arguments."""
    command = [sys.executable, *["-m", "torch.distributed.run", "--standalone"] * (count > 1)]
    command += [f"--nproc-per-node={count}"] * (count > 1) + [__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1],
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _exchange() -> None:
    """Prints latency [s] and rate [B/s] of exchanges, as a rank.

    Rows are taken, worked on and put back as in a run, and ranks agree to go on.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    cut, agreements = Cut(ranks, {"x": P}, P), [Pending(ranks), Pending(ranks)]
    x = torch.zeros(NODES, len(range(P)[cut.columns(P)]))

    def wave(w: int) -> None:
        counts = cut.counts(w)
        asked = [Asked(x, torch.randperm(NODES)[:w], counts, P)]
        whole = cut.take(asked)
        _work()
        cut.put_(asked, whole, torch.zeros(counts[ranks.rank]))
        for each in agreements:
            each.next(0)

    few, many = 4 * ranks.size, 64 * ranks.size
    work, short, long = _mean(_work), _mean(lambda: wave(few)), _mean(lambda: wave(many))
    sent = (1 - 1 / ranks.size) * 4 * P / ranks.size  # bytes in an exchange, for each row of the wave
    rate = 2 * sent * (many - few) / (long - short)
    if ranks.rank == 0:
        print(json.dumps({"latency": (short - work) / 2 - sent * few / rate, "rate": rate}), flush=True)
    for each in agreements:
        each.settle()
    dist.destroy_process_group()


def _work() -> None:
    """Does what takes a few milliseconds, so that ranks come to exchanges one after the other, with full caches."""
    a = torch.ones(128, 128)
    for _ in range(40):
        a = (a @ a).clamp_(max=1.0)


def _mean(do: Callable[[], None]) -> float:
    """Returns the mean time of a call [s], after a few."""
    for _ in range(20):
        do()
    begun = time.perf_counter()
    for _ in range(300):
        do()
    return (time.perf_counter() - begun) / 300


def calculated(alone: float, link: dict[str, float], ranks: int, cores: int) -> float:
    """Returns the speed-up of the measured runs on some ranks, given the time on one and exchanges between them."""
    load = Load(NODES, bytes=4.0 * P, flops=alone / (NODES * UPDATES), touched=0.0, contacts=0.0, updates=UPDATES,
                waves=WAVES)  # fmt: skip
    machine = Machine(1.0, 1e30, link["rate"], link["rate"], ranks, link["latency"], link["latency"], 0.0,
                      cores=cores)  # fmt: skip
    return alone / seconds(load, machine, ranks)


def measure(path: Path) -> None:
    """Writes what is measured, and calculated beside it."""
    cores = available()
    links = {count: told(count, "--exchange") for count in (2, 4)}
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(), "machine": platform.machine(), "cores": cores,
        "torch": torch.__version__, "links": links, "runs": [],
    }  # fmt: skip
    for steps in STEPS:
        alone = told(1, "--steps", str(steps))
        for count, link in links.items():
            found["runs"].append({
                "steps": steps, "ranks": count, "alone": alone,
                "measured": alone / told(count, "--steps", str(steps)),
                "calculated": calculated(alone, link, count, cores),
            })  # fmt: skip
            path.write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def main() -> None:
    """Prints the table, or measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="FILE")
    parser.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.exchange:
        _exchange()
    elif chosen.steps:
        _run(chosen.steps)
    elif chosen.measure:
        measure(chosen.measure)
    else:
        print(table())


if __name__ == "__main__":
    main()
