"""Whole runs: batched against one event at a time and against a Python loop over modules; memory; growth with n.

Notation: n nodes, p parameters.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from batchednodes import load, train
from batchednodes.events.timeline import UPDATE, Events
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from measure.timing import gathered, ratios, seconds, spread
from measure.workloads import Workload, built, settings


class Loop:
    """The same events with one module and one optimizer a node, as simulators of one object a node run them."""

    def __init__(self, run: Simulation) -> None:
        n = run.state.x.shape[0]
        self.problem, self.modules = run.problem, [run.problem.stack.module(run.state.x[i]) for i in range(n)]
        self.optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in self.modules]

    def run(self, events: Events, first: int, last: int) -> None:
        """Runs some events in time order."""
        columns = (events.kind, events.actor, events.peer, events.count)
        for kind, i, j, count in islice(zip(*(c.tolist() for c in columns), strict=True), first, last):
            if kind == UPDATE:
                self._update(i, count)
            else:
                self._push(self.modules[i], self.modules[j])

    def _update(self, i: int, count: int) -> None:
        index = self.problem.draw(np.array([i]), np.array([count]))[0, 0]
        features, targets = self.problem.batch(index)
        self.optimizers[i].zero_grad()
        F.cross_entropy(self.modules[i](features), targets).backward()
        self.optimizers[i].step()

    @staticmethod
    def _push(sender: nn.Module, receiver: nn.Module) -> None:
        with torch.no_grad():
            for own, other in zip(receiver.parameters(), sender.parameters(), strict=True):
                own.mul_(0.5).add_(other, alpha=0.5)


def against(workload: Workload, n: int, rate: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns events per second of whole runs, from their first to their last event, over those of other ways."""
    with settings(workload, n, str(device), rate) as source:
        loop = Loop(built(source))
        laws = built(source).engine.timeline
        per_second = sum(laws.expected(1.0))
        events, _ = laws.window(laws.begin(), max(1.0, 2000 * (repeats + 2) / per_second))
        size = min(1500, len(events) // (repeats + 1))
        firsts = iter(range(0, len(events), size))
        works = {
            "batched": lambda: events_a_second(source, max(3.0, 1_000_000 / per_second) if workload.layers else 6.0),
            "loop": lambda: size / seconds(lambda: loop.run(events, (first := next(firsts)), first + size), device),
            "serial": lambda: events_a_second(source, max(0.05, 1500 / per_second), "executor=serial"),
        }
        speed = gathered(works, repeats)
    return {
        "events/s": spread(speed["batched"]),
        "updates/s": spread([n / per_second * events for events in speed["batched"]]),
        "over a Python loop": ratios(speed["batched"], speed["loop"]),
        "over the serial executor": ratios(speed["batched"], speed["serial"]),
    }


def events_a_second(source: dict[str, Any], until: float, *options: str) -> float:
    """Returns events per second of a run."""
    return train(source, f"run.until={until}", f"run.mark_every={until}", *options).summary["events_per_second"]


_PEAK = """
import json, sys
from batchednodes import train
result = train(json.loads(sys.argv[1]))
print(result.summary["peak_memory_bytes"], result.x.shape[1] * result.x.element_size())
"""


def memory(workload: Workload, n: int, device: torch.device) -> dict[str, Any]:
    """Returns bytes for each node beyond its parameters, from the peaks of two runs in processes of their own."""
    peaks, own = {}, 0
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for size in (n // 10, n):
        with settings(workload, size, str(device), until=2.0, mark_every=2.0) as source:
            command = [sys.executable, "-c", _PEAK, json.dumps(source)]
            said = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths}
            )
            peaks[size], own = (int(word) for word in said.stdout.split())
    return {"bytes a node beyond its parameters": spread([(peaks[n] - peaks[n // 10]) / (n - n // 10) - own])}


def growth(workload: Workload, sizes: list[int], device: torch.device) -> dict[str, Any]:
    """Returns events per second of runs of each size."""
    found = {}
    for n in sizes:
        with settings(workload, n, str(device), eval_nodes=1) as source:
            per_second = sum(assembly.timeline([load(source)]).expected(1.0))
            speed = gathered({"batched": lambda: events_a_second(source, 2_000_000 / per_second)}, 2)["batched"]  # noqa: B023
            found[f"n = {n:,}, events/s"] = spread(speed)
            found[f"n = {n:,}, wall seconds a simulated second"] = spread([per_second / s for s in speed])
    return found


def checkpoints(workload: Workload, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns what checkpoints cost a run that writes one a minute, from runs with one and with none."""
    with settings(workload, n, str(device), baseline="none") as source, tempfile.TemporaryDirectory() as folder:
        source |= {"staleness": {"track": "all"}}
        until = 1_000_000 / sum(assembly.timeline([load(source)]).expected(1.0))
        options = [f"run.until={until}", f"run.mark_every={until}", f"run.window={until / 20}"]
        count = itertools.count()

        def wall(every: float | None) -> float:
            chosen = json.dumps({"time": every, "minutes": None})
            out = Path(folder, str(next(count)))
            seconds = train(source, *options, f"run.checkpoint_every={chosen}", out=out).summary["wall_seconds"]
            size.append((out / "final.safetensors").stat().st_size)
            shutil.rmtree(out)
            return seconds

        size: list[int] = []
        times = gathered({"none": lambda: wall(None), "one": lambda: wall(0.6 * until)}, repeats)
    each = [one - none for one, none in zip(times["one"], times["none"], strict=True)]
    return {
        "share of a run, at one a minute": spread([cost / 60 for cost in each]),
        "seconds each": spread(each),
        "bytes each": spread([float(size[-1])]),
    }


def million(repeats: int) -> dict[str, Any]:
    """Returns seconds and peak bytes of the command `train configs/million.yaml`, each in a process of its own."""
    config = Path(__file__).parents[2] / "configs" / "million.yaml"
    times, peaks = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            out, begun = Path(folder) / "run", time.perf_counter()
            command = [sys.executable, "-m", "batchednodes", "train", str(config), "--out", str(out), "device=cpu"]
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
            peaks.append(json.loads((out / "summary.json").read_text())["peak_memory_bytes"])
    return {"whole command, s": spread(times), "peak, bytes": spread(peaks)}
