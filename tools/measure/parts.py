"""Parts of the package against the limits: scheduling, mixing, merging, local updates.

Letters: n nodes, p parameters, t tracked sources, w rows of a wave, b examples.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from batchednodes import assembly, load
from batchednodes.algorithms.gossip_sgd import UpdateWave
from batchednodes.assembly import Run
from batchednodes.engine import Batched, Window
from batchednodes.gossip import Mixing, writes
from batchednodes.local import Descent
from batchednodes.mixing import merge_, mix_
from batchednodes.schedule import schedule
from batchednodes.versions import Layout
from measure.limits import copying, products
from measure.timing import Work, interleaved, rates, ratios, spread
from measure.workloads import Workload, built, settings

PHASES = 8
"""Phases of gossip that a simulated second has, with one update a second: so many are measured one after the other."""


def scheduling(n: int, repeats: int) -> dict[str, Any]:
    """Returns host nanoseconds per event of the timeline and of its waves, and their size."""
    laws = assembly.timeline([load({"network": {"nodes": n}})])
    span = 500_000 / sum(laws.expected(1.0))
    events, _ = laws.window(laws.begin(), span)
    works = {
        "timeline": lambda: laws.window(laws.begin(), span),
        "waves": lambda: schedule(events, n),
    }
    times = interleaved(works, repeats, torch.device("cpu"))
    made = schedule(events, n)
    return {
        "timeline, ns/event": spread([t / len(events) * 1e9 for t in times["timeline"]]),
        "waves, ns/event": spread([t / len(events) * 1e9 for t in times["waves"]]),
        "events a wave": spread([len(events) / (made.waves.size - 1)]),
    }


def hidden(workload: Workload, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns the part of the scheduling that costs no time, since the host does it while the device works.

    With E the time of ready windows, S that of making them and T that of both together, it is (E + S - T) / S.
    """
    laws = assembly.timeline([load({"network": {"nodes": n}})])
    span = min(100_000, 50 * n) / sum(laws.expected(1.0))
    with settings(workload, n, str(device), until=8 * span, mark_every=8 * span, window=span) as source:
        run = built(source)
    engine, state = run.engine, run.state

    def make() -> Iterator[Window]:
        clocks = engine.timeline.begin()
        for k in range(8):
            window = engine.executor.prepare(*engine.timeline.window(clocks, (k + 1) * span), state)
            clocks = window.clocks
            yield window

    ready = list(make())
    works = {
        "run": lambda: [engine.executor.run_(state, window) for window in ready],
        "make": lambda: list(make()),
        "both": lambda: engine.run_(state, engine.timeline.begin(), lambda _: True, lambda _: None),
    }
    times = interleaved(works, repeats, device)
    shares = [(e + s - b) / s for e, s, b in zip(times["run"], times["make"], times["both"], strict=True)]
    return {"scheduling hidden, share": spread(shares), "scheduling over work": ratios(times["make"], times["run"])}


def _phase(n: int, device: torch.device) -> Mixing:
    """Returns one phase of pushes of rate log n, with its waves."""
    laws = assembly.timeline([load({"network": {"nodes": n}, "update": {"clock": {"kind": "never"}}})])
    events, _ = laws.window(laws.begin(), 1 / PHASES)
    plan = schedule(events, n)
    said = writes(events, plan, 0, plan.waves.size - 1)
    j, i, times = (torch.from_numpy(a).to(device) for a in (said.receivers, said.senders, said.times))
    return Mixing(j, i, torch.full((j.numel(),), 0.5, device=device), times, said.waves, said.cuts)


def mixing(n: int, p: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns the bandwidth of mixing over that of a copy; a push reads two rows and writes one."""
    phase, x = _phase(n, device), torch.randn(n, p, device=device)
    copy, moved = copying(device)
    works = {
        "copy": copy,
        "mix": lambda: [mix_(x, phase, "auto") for _ in range(PHASES)],
        "sparse": lambda: [mix_(x, phase, "sparse") for _ in range(PHASES)],
    }
    times = interleaved(works, repeats, device)
    traffic = 3.0 * p * x.element_size() * phase.receivers.numel() * PHASES
    return {
        "mixing, bytes/s": rates(traffic, times["mix"]),
        "mixing over copy": ratios(times["copy"], times["mix"], traffic / moved),
        "sparse products over copy": ratios(times["copy"], times["sparse"], traffic / moved),
    }


def merging(n: int, t: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns the bandwidth of merging versions over that of a copy, counted as for mixing."""
    phase, layout = _phase(n, device), Layout.of([n], [t], device)
    copy, moved = copying(device)
    found = {}
    for dtype in (torch.int16, torch.int32):
        versions, moment = layout.zeros(dtype), torch.zeros(n, dtype=torch.float64, device=device)
        merge = partial(merge_, versions, moment, phase, layout, "auto")
        works = {"copy": copy, "merge": lambda: [merge() for _ in range(PHASES)]}  # noqa: B023
        times = interleaved(works, repeats, device)
        traffic = 3.0 * t * versions.element_size() * phase.receivers.numel() * PHASES
        found[f"merging {str(dtype)[6:]} over copy"] = ratios(times["copy"], times["merge"], traffic / moved)
    return found


def _modules(run: Run, n: int) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    modules = [run.problem.stack.module(run.state.x[i]) for i in range(n)]
    return [(module, torch.optim.SGD(module.parameters(), lr=0.05)) for module in modules]


def _loop(run: Run, modules: list[tuple[nn.Module, torch.optim.Optimizer]], batches: tuple[Tensor, Tensor]) -> None:
    for (module, optimizer), features, targets in zip(modules, *batches, strict=True):
        optimizer.zero_grad()
        run.problem.criterion(module(features), targets).backward()
        optimizer.step()


def local(workload: Workload, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns rows per second of updates in waves of n / 8 rows, over one vmapped step on all rows and over a loop.

    The waves are updated in each way that `local.compile` knows; the synchronous step neither gathers nor scatters, and
    goes by the same chunks of rows.
    """
    with settings(workload, n, str(device)) as source:
        run = built(source)
    assert isinstance(run.engine.executor, Batched)
    algorithm, state, problem = run.engine.executor.algorithm, run.state, run.problem
    order, zeros = np.random.default_rng(0).permutation(n), np.zeros(n)
    waves = [UpdateWave(w, np.zeros(w.size, np.int64), zeros[: w.size]) for w in np.array_split(order, 8) if w.size]
    on_device = [(torch.from_numpy(w.nodes).to(device), torch.from_numpy(w.times).to(device)) for w in waves]
    features, targets = (a[:, 0] for a in problem.batch(problem.draw(np.arange(n), np.zeros(n, np.int64))))
    step, chunk = vmap(grad_and_value(problem.loss)), algorithm.chunk

    def synchronous() -> None:
        for part in (slice(first, first + chunk) for first in range(0, n, chunk)):
            g, _ = step(state.x[part], features[part], targets[part])
            state.x[part] -= 0.05 * g

    def updates(descent: Descent) -> Work:
        chosen = replace(algorithm, descent=descent)
        return lambda: [chosen.update_(state, w, *both) for w, both in zip(waves, on_device, strict=True)]

    few, descent = min(n, 50), algorithm.descent
    traced = partial(descent.traced, problem.stack.p, workload.batch, algorithm.rates)
    modules, some = _modules(run, few), (features[:few], targets[:few])
    works = {
        "vmap": updates(descent),
        "program": updates(traced(compiled=False)),
        "compiled": updates(traced(compiled=True)),
        "synchronous": synchronous,
        "loop": lambda: _loop(run, modules, some),
    }
    operations, w = 0.0, min(chunk, n)
    if workload.layers:
        works["products"], operations = products(workload.layers, w, workload.batch, device)
    times = interleaved(works, repeats, device)
    found = {"updates in waves, rows/s": rates(n, times["program"])}
    for way in ("vmap", "program", "compiled"):
        found[f"waves ({way}) over one synchronous step"] = ratios(times["synchronous"], times[way])
    found["waves (program) over a Python loop"] = ratios(times["loop"], times["program"], n / few)
    if operations:
        found["waves (program) over batched products"] = ratios(times["products"], times["program"], n / w)
    return found
