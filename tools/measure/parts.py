"""Parts of the package against the limits: scheduling, mixing, merging, local updates.

Notation: n nodes, p parameters, t tracked sources, w rows of a wave, b examples.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from batchednodes import load
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.mixing import merge_, mix_
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import Layout
from batchednodes.algorithms.waves import UpdateWave
from batchednodes.events.timeline import Clocks, Events
from batchednodes.events.waves import Schedule, schedule
from batchednodes.models.feed import Drawn
from batchednodes.numerics import devices
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.memory import BackgroundWorker
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Batched, Executor, Pause, Unobserved, Window, never
from batchednodes.simulation.lookahead import automatic_window
from batchednodes.simulation.planning.plan import plan
from measure.limits import copying, products
from measure.timing import Work, interleaved, rates, ratios, spread
from measure.workloads import Workload, built, settings

PHASES = 8
"""Phases of gossip that a simulated second has, with one update a second: so many are measured one after the other."""


def scheduling(n: int, repeats: int) -> dict[str, Any]:
    """Returns host nanoseconds per event of the timeline, of its waves and of what the device reads, and their size."""
    laws = assembly.timeline([load({"network": {"nodes": n}})])
    span = 1_000_000 / sum(laws.expected(1.0))
    _, clocks = laws.window(laws.begin(), span)
    events, _ = laws.window(clocks, 2 * span)
    made, here = schedule(events, n), torch.device("cpu")
    works = {
        "timeline": lambda: laws.window(clocks, 2 * span),
        "waves": lambda: schedule(events, n),
        "columns": lambda: GossipPhase.of(events, made, n, here),
    }
    found = interleaved(works, repeats, torch.device("cpu"))
    found["together"] = [sum(parts) for parts in zip(*found.values(), strict=True)]
    shown = {f"{name}, ns/event": spread([t / len(events) * 1e9 for t in ts]) for name, ts in found.items()}
    return shown | {"events a wave": spread([len(events) / (made.waves.size - 1)])}


def divided(n: int, repeats: int) -> dict[str, Any]:
    """Returns host nanoseconds per event, of pushes and updates at rate 1, in one thread, and those over two threads.

    Events are divided among threads, and so are the lines that the device reads; the schedule is made by one.
    """
    rates = {"gossip": {"clock": {"rate": 1.0}}, "update": {"clock": {"kind": "exponential", "rate": 1.0}}}
    laws = assembly.timeline([load({"network": {"nodes": n}} | rates)])
    span, here = automatic_window(laws), torch.device("cpu")
    _, clocks = laws.window(laws.begin(), span)
    events, _ = laws.window(clocks, 2 * span)
    made = schedule(events, n)

    def work(threads: int) -> None:
        GossipPhase.of(replace(laws, threads=threads).window(clocks, 2 * span)[0], made, n, here, threads)

    found = interleaved({"one": lambda: work(1), "two": lambda: work(2)}, repeats, here)
    return {
        "events and lines in one thread, ns/event": spread([t / len(events) * 1e9 for t in found["one"]]),
        "two threads over one": ratios(found["one"], found["two"]),
    }


class Watched(Executor):
    """Another executor, with a note of when the main thread runs windows and how long the host thread makes them."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.made: list[float] = []
        self.runs: list[tuple[float, float]] = []

    def fit_(self, state: State, slots: int) -> None:
        """Gives the state rows for some slots of messages, if it has fewer."""
        self.inner.fit_(state, slots)

    def prepare(
        self, events: Events, clocks: Clocks, state: State, host: BackgroundWorker, plan: Schedule | None = None
    ) -> Window:
        """Returns the window, and notes the processor time that the thread has used since it began."""
        window = self.inner.prepare(events, clocks, state, host, plan)
        self.made.append(time.thread_time())
        return window

    def run_(self, state: State, window: Window, done: int = 0, pause: Pause = never) -> int:
        """Runs the window to its end on the device."""
        begun = time.perf_counter()
        steps = self.inner.run_(state, window, done, pause)
        devices.synchronize(state.x.device)
        self.runs.append((begun, time.perf_counter()))
        return steps


def hidden(workload: Workload, n: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns the part of the scheduling that costs no wall time, and how much it slows down the work beside it.

    From the second window on, the main thread waits from the end of a window to the begin of the next; the host thread
    spends processor time to make it. What it does not wait for is hidden. The first window never is.
    """
    span = min(300_000, 100 * n) / sum(assembly.timeline([load({"network": {"nodes": n}})]).expected(1.0))
    with settings(workload, n, str(device), until=6 * span, mark_every=6 * span, window=span) as source:
        config = load(source)
        threads = plan([config], assembly.timeline([config])).threads
        run = built(source)
    before, found = torch.get_num_threads(), {"share": [], "over": [], "slower": []}
    torch.set_num_threads(threads)
    for repeat in range(repeats + 1):
        alone, beside = Watched(run.engine.executor), Watched(run.engine.executor)
        for window in list(_ready(run, span, 6)):
            alone.run_(run.state, window)
        replace(run.engine, executor=beside).run_(run.state, run.engine.begin(), Unobserved())
        waited = sum(b[0] - a[1] for a, b in pairwise(beside.runs))
        made, worked, undisturbed = beside.made[-1] - beside.made[0], _busy(beside.runs), _busy(alone.runs)
        if repeat:
            found["share"].append(1 - waited / made)
            found["over"].append(made / undisturbed)
            found["slower"].append(worked / undisturbed)
    torch.set_num_threads(before)
    return {
        "scheduling hidden, share": spread(found["share"]),
        "scheduling over work": spread(found["over"]),
        "work beside scheduling over work alone": spread(found["slower"]),
    }


def _ready(run: Simulation, span: float, count: int) -> Iterator[Window]:
    clocks = run.engine.timeline.begin()
    with contextlib.closing(BackgroundWorker()) as host:
        for k in range(count):
            window = run.engine.executor.prepare(*run.engine.timeline.window(clocks, (k + 1) * span), run.state, host)
            clocks = window.clocks
            yield window


def _busy(runs: list[tuple[float, float]]) -> float:
    """Returns the time of all windows but the last [s], beside which none is made."""
    return sum(end - begun for begun, end in runs[:-1])


def _phase(n: int, device: torch.device) -> GossipPhase:
    """Returns one phase of pushes of rate log n, with its waves."""
    laws = assembly.timeline([load({"network": {"nodes": n}, "update": {"clock": {"kind": "never"}}})])
    events, _ = laws.window(laws.begin(), 1 / PHASES)
    lines, _ = GossipPhase.of(events, schedule(events, n), n, device)
    return lines.on(device, torch.full((n,), 0.5, device=device))


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


def _modules(run: Simulation, n: int) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    modules = [run.problem.stack.module(run.state.x[i]) for i in range(n)]
    return [(module, torch.optim.SGD(module.parameters(), lr=0.05)) for module in modules]


def _loop(
    run: Simulation, modules: list[tuple[nn.Module, torch.optim.Optimizer]], batches: tuple[Tensor, Tensor]
) -> None:
    for (module, optimizer), features, targets in zip(modules, *batches, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(module(features), targets).backward()
        optimizer.step()


def local(workload: Workload, n: int, device: torch.device, repeats: int, compiled: bool = True) -> dict[str, Any]:
    """Returns rows per second of updates in waves of n / 8 rows, over one vmapped step on all rows and over a loop.

    The waves are updated in each way that `local.compile` knows, on minibatches that were drawn ahead, as the engine's
    host thread does; the synchronous step neither gathers nor scatters, and goes by the same chunks of rows. Without
    `compiled`, torch.compile is left out.
    """
    with settings(workload, n, str(device)) as source:
        source["local"] |= {"compile": "off"}
        run = built(source)
    assert isinstance(run.engine.executor, Batched)
    algorithm, state, problem = run.engine.executor.algorithm, run.state, run.problem
    order, zeros = np.random.default_rng(0).permutation(n), np.zeros(n)
    waves = [UpdateWave(w, np.zeros(w.size, np.int64), zeros[: w.size]) for w in np.array_split(order, 8) if w.size]
    on_device = [
        (
            *2 * (torch.from_numpy(w.nodes).to(device),),
            torch.from_numpy(w.times).to(device),
            Drawn(problem.draw(w.nodes, w.counts)),
        )
        for w in waves
    ]
    features, targets = (a[:, 0] for a in problem.batch(problem.draw(np.arange(n), np.zeros(n, np.int64))))
    step, chunk = vmap(grad_and_value(problem.loss)), algorithm.chunk.rows

    def synchronous() -> None:
        for part in (slice(first, first + chunk) for first in range(0, n, chunk)):
            g, _ = step(state.x[part], features[part], targets[part])
            state.x[part] -= 0.05 * g

    def updates(descent: LocalSGD, record: bool = False) -> Work:
        chosen = replace(algorithm, descent=descent.recorded(chunk) if record else descent)
        return lambda: [chosen.update_(state, w, *parts) for w, parts in zip(waves, on_device, strict=True)]

    few, descent = min(n, 50), algorithm.descent
    shape = problem.stack.p, workload.batch, algorithm.rates
    ways = {
        "vmap": updates(descent),
        "program": updates(descent.traced(*shape, compiled=False), devices.is_cuda(device)),
    }
    if compiled:
        with contextlib.suppress(UntraceableError):  # no compiler, or a device that it does not know
            ways["compiled"] = updates(descent.traced(*shape, compiled=True), devices.is_cuda(device))
    with contextlib.suppress(UntraceableError):
        ways["tape"] = updates(descent.taped(*shape))
    modules, some = _modules(run, few), (features[:few], targets[:few])
    works = ways | {"synchronous": synchronous, "loop": lambda: _loop(run, modules, some)}
    operations, w = 0.0, min(chunk, n)
    if workload.layers:
        works["products"], operations = products(workload.layers, w, workload.batch, device)
    times = interleaved(works, repeats, device)
    auto = "tape" if "tape" in ways else "program"  # what local.compile: auto takes
    found = {"updates in waves, rows/s": rates(n, times[auto])}
    for way in ways:
        found[f"waves ({way}) over one synchronous step"] = ratios(times["synchronous"], times[way])
    found[f"waves ({auto}) over a Python loop"] = ratios(times["loop"], times[auto], n / few)
    if operations:
        found[f"waves ({auto}) over batched products"] = ratios(times["products"], times[auto], n / w)
    return found
