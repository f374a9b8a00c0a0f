"""Started by torchrun: marks of runs whose states are cut by hand, beside those of the whole states, as JSON lines."""

import functools
import json
from dataclasses import replace

import numpy as np
import torch

from batchednodes import config
from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.over_ranks import sources
from batchednodes.algorithms.state import State
from batchednodes.config import sweep
from batchednodes.numerics.world import World
from batchednodes.results.metrics.models import columns_of
from batchednodes.results.metrics.staleness import Tracking
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Unobserved
from batchednodes.simulation.planning.plan import plan
from batchednodes.simulation.planning.preflight import prepare

BASE = {
    "device": "cpu",
    "network": {"nodes": 20},
    "run": {"until": 3.0, "mark_every": 1.0},
    "staleness": {"track": "all"},
}
DIGITS = {"task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [16]}}, "local": {"lr": 0.2}}
CASES = {
    "linear": [],
    "mlp": DIGITS,
    "classes": DIGITS | {"run.metrics": ["default", "classes"], "run.eval_nodes": 7, "run.node_metrics": True},
    "one scored": DIGITS | {"run.eval_nodes": 1, "staleness.track": 1},
    "sweep": {"sweep": {"network.nodes": [6, 9]}, "replicas": 2},
    "push_sum": DIGITS | {"algorithm": {"kind": "push_sum"}, "dtype": "float64"},
    "flows": DIGITS | {"algorithm": {"kind": "acid"}, "gossip.exchange": "meet"},
    "own tests": DIGITS | {"task.own_tests": 0.25},
    "personal": DIGITS | {"gossip.personal": ["3.*"]},
    "quarantine": DIGITS
    | {
        "run.on_divergence": "quarantine",
        "local.lr": {"kind": "choice", "values": [0.2, 1e38], "probabilities": [0.8, 0.2]},
    },
    "messages": {"gossip.delay": {"kind": "exponential", "mean": 0.3}},
    "quadratics": {"task": {"data": {"kind": "quadratics"}, "model": {"kind": "linear"}}},
}


def made(name: str) -> Simulation:
    """Returns a run that has come to its end."""
    points = sweep.points(config.load(BASE, [CASES[name]] if CASES[name] else []))
    prepared = prepare(points)
    configs = prepared.configs
    events = assembly.timeline(configs)
    run = assembly.assemble(configs, events, plan(configs, events, prepared.sizes).chunks, None, prepared.take())
    return run


def cut_state(run: Simulation, cut: Cut, tracking: Tracking) -> State:
    """Returns what this rank holds of a state: its columns, and the versions of its sources."""
    state, first, whole = run.state, cut.ranks.rank == 0, run.evaluator.tracking
    part = lambda t: t[:, cut.columns(t.shape[1])].clone()  # noqa: E731
    versions = tracking.layout.zeros(state.versions.dtype)
    for g, width in enumerate(whole.sources.widths.tolist()):
        columns = whole.layout.block(state.versions, g)[:, cut.columns(width)]
        tracking.layout.block(versions, g).copy_(columns)
    sums = (t if first else torch.zeros_like(t) for t in (state.updated, state.gained))
    fields = {name: part(t) for name, t in state.fields.items()}
    return State(part(state.x), versions, *sums, state.diverged_at, fields, {}, state.travels, state.on_edges)


def compare(name: str, world: World) -> dict[str, object]:
    """Returns where rows and values of nodes differ most, relatively, from those of one process."""
    run = made(name)
    progress = run.engine.run_(run.state, run.engine.begin(), Unobserved())
    state, whole = run.state, run.evaluator
    widths = {"x": state.x.shape[1], **{key: t.shape[1] for key, t in state.fields.items()}}
    cut = Cut(world.all, widths, run.problem.stack.p)
    tracking = whole.tracking.over(cut, *sources(cut, whole.tracking.layout, whole.tracking.own))
    models = functools.partial(columns_of, run.engine.executor.algorithm.rowwise, cut, whole.chunk)
    held = replace(whole, tracking=tracking, cut=cut, models=models)
    one, many = whole.observe(state, progress.clocks), held.observe(cut_state(run, cut, tracking), progress.clocks)
    worst = {"": 0.0}
    assert one.diverged == many.diverged, (one.diverged, many.diverged)
    for a, b in zip(one.networks, many.networks, strict=True):
        for key, value in a.row.items():
            if isinstance(value, float) and value != b.row[key] and not (np.isnan(value) and np.isnan(b.row[key])):
                worst[key] = max(worst.get(key, 0.0), abs(value - b.row[key]) / max(1e-12, abs(value)))
            elif not isinstance(value, float):
                assert value == b.row[key], (key, value, b.row[key])
        for key, values in a.over_nodes.items():
            gap = np.abs(values - b.over_nodes[key])[np.isfinite(values)]
            worst[f"nodes.{key}"] = float((gap / np.maximum(1e-12, np.abs(values[np.isfinite(values)]))).max(initial=0))
        if a.nodes is not None:
            assert a.nodes.tobytes() == b.nodes.tobytes() or np.allclose(a.nodes["loss"], b.nodes["loss"], rtol=1e-12)
    key = max(worst, key=lambda k: worst[k])
    return {"case": name, "ranks": world.all.size, "worst": worst[key], "key": key}


if __name__ == "__main__":
    torch.set_num_threads(1)
    world = World(False)
    for name in CASES:
        found = compare(name, world)
        if world.all.rank == 0:
            print(json.dumps(found), flush=True)
    world.close()
