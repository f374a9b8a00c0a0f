"""Measurement: how long a run would take, from a few of its waves and one of its marks."""

import math
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.versions import widen_
from batchednodes.algorithms.waves import UpdateWave
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import UPDATE, Clocks, Timeline
from batchednodes.models.problem import Problem
from batchednodes.numerics import devices
from batchednodes.numerics.convolution.conv2d import Conv2d
from batchednodes.numerics.memory import BackgroundWorker
from batchednodes.numerics.torch_modes import own
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Batched, Window, slots
from batchednodes.simulation.planning.plan import Plan
from batchednodes.simulation.planning.preflight import Preflight
from batchednodes.simulation.setup import threads

_FEW, _MANY = 2_000, 200_000
"""The fewest and the most events that are measured, where the run has as many."""


@dataclass(frozen=True)
class WallTime:
    """How long the parts of a run would take on this machine [s]."""

    start: float
    """Building it, with its data and models, and compiling what it needs; without the imports of Python."""
    updates: float
    mixing: float
    marks: float
    isolated: float
    """The same nodes without gossip, if they are run too: their updates and marks."""
    ways: dict[str, str]
    """How minibatch steps are made, why not faster, and how each convolution is computed, in words."""

    @property
    def total(self) -> float:
        """The whole run [s]."""
        return self.start + self.updates + self.mixing + self.marks + self.isolated

    @property
    def marks_dominate(self) -> bool:
        """Whether marks take more than all else that grows with the length of the run."""
        return self.marks > self.updates + self.mixing


@own()
def measure(prepared: Preflight, made: Plan, events: Timeline) -> WallTime:
    """Returns how long a run would take, from two of its windows, the first of which compiles what both need.

    Args:
        prepared: the networks of the run.
        made: its plan, which fits.
        events: its timeline.

    Raises:
        ValueError: data, model or algorithm cannot be used.
    """
    config, begun = prepared.configs[0], time.perf_counter()
    span = _span(events, config.run.until)
    with threads(made.threads), closing(BackgroundWorker()) as host:
        run = assembly.assemble(prepared.configs, events, made.chunks, None, prepared.take())
        run.evaluator.observe(run.state, run.engine.begin().clocks)
        start = time.perf_counter() - begun
        first, slow = _timed(run, run.engine.begin().clocks, span, host)
        window, took = _timed(run, first.clocks, 2 * span, host)
        marked = time.perf_counter()
        run.evaluator.observe(run.state, window.clocks)
        devices.synchronize(run.state.x.device)
        mark = time.perf_counter() - marked
    updating = _updating(window)
    seconds = [float(took[updating].sum()), float(took[~updating].sum())]
    many = int((window.events.kind == UPDATE).sum())
    counts = many, len(window.events) - many
    whole = made.updates, made.gossips
    rounds = config.run.until / span if isinstance(events, Barriers) else None
    scale = [rounds or w / max(1, c) for w, c in zip(whole, counts, strict=True)]
    updates, mixing = (s * k for s, k in zip(seconds, scale, strict=True))
    marks = mark * config.run.marks
    alone = updates + marks if config.run.baseline == "isolated" else 0.0
    return WallTime(start + max(0.0, float(slow.sum() - took.sum())), updates, mixing, marks, alone, _ways(run))


def _ways(run: assembly.Simulation) -> dict[str, str]:
    """Returns how minibatch steps are made, why not faster, and how each convolution is computed, in words."""
    executor = run.engine.executor
    if not isinstance(executor, Batched):
        return {"minibatch steps": "one event at a time, as executor=serial asks"}
    rowwise = executor.algorithm.rowwise
    made = executor.algorithm.descent if type(rowwise.algorithm).descends else rowwise.gradient.steps
    found = {"minibatch steps": LocalSGD.way if made is None else made.way}
    found |= {"why not faster": "; ".join(made.refused)} if made is not None and made.refused else {}
    return found | _convolutions(run.problem)


def _convolutions(problem: Problem) -> dict[str, str]:
    """Returns how each convolution that nodes train is computed, by a minibatch of the first node."""
    layers = {name: part for name, part in problem.stack.skeleton.named_modules() if isinstance(part, Conv2d)}
    trained, found = [name for name in layers if f"{name}.weight" in problem.stack.shapes], dict[str, str]()

    def note(name: str, layer: Conv2d, given: tuple[Tensor, ...], made: Tensor) -> None:
        found[f"convolution {name}"] = layer.way(given[0], made)

    hooks = [layers[name].register_forward_hook(partial(note, name)) for name in trained]
    examples = torch.zeros(problem.sampler.shape[1] if hooks else 0, dtype=torch.int64, device=problem.features.device)
    if hooks:
        with torch.no_grad():
            problem.loss(problem.stack.start(examples.device), *problem.batch(examples))
    for hook in hooks:
        hook.remove()
    return found


def _span(events: Timeline, until: float) -> float:
    """Returns a simulated time with a few events of each node, but not many [s]; half of the run at most."""
    updates, gossips = events.expected(1.0)
    rate, n = updates + gossips, events.networks.n
    some = max(_FEW / rate, 3 * n / updates if updates else 0.0) if rate else math.inf
    return min(until / 2, some, _MANY / rate if rate else math.inf)


def _timed(
    run: assembly.Simulation, clocks: Clocks, end: float, host: BackgroundWorker
) -> tuple[Window, Float64[np.ndarray, " steps"]]:
    """Runs a window up to a simulated time [s]; returns it, and the wall time of each of its steps [s]."""
    device, ticks, engine = run.state.x.device, list[float](), run.engine

    def tick() -> bool:
        devices.synchronize(device)
        ticks.append(time.perf_counter())
        return False

    window = engine.executor.prepare(*engine.timeline.window(clocks, end), run.state, host)
    widen_(run.state.versions, int(window.clocks.updates.max()))
    engine.executor.fit_(run.state, slots(window.clocks))
    tick()
    engine.executor.run_(run.state, window, 0, tick)
    tick()
    return window, np.diff(ticks)[: window.steps]


def _updating(window: Window) -> Bool[np.ndarray, " steps"]:
    """Returns which steps of a window are updates."""
    if not window.phases:  # events run one by one
        return window.events.kind == UPDATE
    return np.array([isinstance(phase, UpdateWave) for phase in window.phases])
