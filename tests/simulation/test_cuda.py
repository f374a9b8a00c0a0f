"""Runs on CUDA: the serial executor's models, and a host that waits for nothing but what a mark shows.

The devices are pretended where there are none; then whatever the host waits for is known, line by line.
"""

import itertools

import numpy as np
import pytest
import torch
from test_algorithms import WAYS
from test_compression import WAYS_OF, way
from test_exactness import LINEAR, SMALL, same
from test_robust import WAYS as ROBUST

from batchednodes import resume, train
from batchednodes.numerics import cuda_graphs
from batchednodes.results.checkpoints import checkpoint
from batchednodes.simulation import engine, observer, prefetch
from batchednodes.simulation.planning import memory_plan

BASE = {"run": {"until": 1.5}, "network": {"nodes": 7}, "gossip": {"clock": {"rate": 2.0}}, "local": {"lr": 0.05}}
DELAY = "gossip.delay={kind: exponential, mean: 0.5}"
CHURN = "network.churn={join: {kind: uniform, low: 0, high: 2}, start: neighbour}"
OPTIONS = {
    "push": (),
    "meet, sparse": ("run.mixing=sparse", "gossip.exchange=meet", "local.momentum=0.5", "local.nesterov=true"),
    "pull, delta": ("gossip.exchange=pull", "update.applies=delta", "local.momentum=0.9", "network.topology.kind=ring"),
    "mlp, clipped": ("task.model={kind: mlp, hidden: [5]}", "local.clip=0.1", "local.steps=2"),
    "proximal": ("local.proximal=0.1", "local.steps=2", "local.weight_decay=0.1"),
    "epochs": ("local.epochs=1", "task.partition.kind=quantity_skew"),
    "schedule": ("local.schedule={kind: cosine, by: updates, until: 5}",),
    "adam": ("local.optimizer.kind=adam", "local.steps=2"),
    "steps by a law": ("local.steps={kind: geometric, mean: 2, most: 4}",),
    "replacement": ("local.sampling=replacement", "run.on_divergence=quarantine"),
    "augmented": (
        "task.augment=[{kind: crop, padding: 1, shape: [2, 2]}, {kind: flip, shape: [2, 2]}, {kind: mixup}]",
        "local.steps=2",
    ),
    "freshest": ("gossip.scheme.kind=freshest",),
    "fixed_duration": ("gossip.scheme={kind: fixed_duration, duration: 0.3}", "staleness.track=4"),
    "age_aware": ("gossip.scheme={kind: age_aware, wait: 0.5}", "staleness.track=none"),
    "at_update": ("gossip.clock={kind: at_update}",),
    "two widths": ("sweep={staleness.track: [2, 4]}",),
    "two widths, sparse": ("sweep={staleness.track: [2, 4]}", "run.mixing=sparse"),
    "messages, sparse": (DELAY, "run.mixing=sparse", "sweep={staleness.track: [none, 4]}"),
    "messages that are lost": (DELAY, "gossip.loss={kind: independent, probability: 0.3}"),
    "messages, accounts": (DELAY, "gossip.flow={kind: simple, capacity: 3}"),
    "messages that replace": (DELAY, "gossip.on_receipt=update", "local.momentum=0.5"),
    "update_merge": (DELAY, "gossip.on_receipt=update_merge", "local.optimizer.kind=adam"),
    "churn, delta": (DELAY, "update.applies=delta", CHURN),
    "sampled": (DELAY, "gossip.merge={kind: sampled, share: 0.3}"),
    "partitioned": (DELAY, "gossip.merge={kind: partitioned, parts: 3}", "gossip.on_receipt=merge_update"),
    "age_weighted": (DELAY, "gossip.merge={kind: age_weighted}"),
    "staleness_weighted": (DELAY, "gossip.merge={kind: staleness_weighted}"),
    "limited": (DELAY, "gossip.merge={kind: limited}"),
    "own tests": (DELAY, "task.own_tests=0.3", "run.node_metrics=true"),
}


@pytest.fixture
def placed(machine, monkeypatch):
    """Lets what is noted of pretended devices say whether the host is within a window, at a mark, or elsewhere."""

    def within(owner, name, place):
        plain = getattr(owner, name)

        def call(*arguments, **named):
            before, machine.place = machine.place, place
            try:
                return plain(*arguments, **named)
            finally:
                machine.place = before

        monkeypatch.setattr(owner, name, call)

    if machine is not None:
        within(engine.Batched, "run_", "window")
        within(cuda_graphs.CudaGraphs, "_graph", "recording")  # once for each number of rows
        within(observer.RunObserver, "observe", "mark")
    return machine


def nothing_waits(machine, marks):
    """Checks that no line waited for a device, or sent memory that is not pinned, within windows; once at each mark."""
    if machine is not None:
        assert [key[1:] for key in machine.waits if key[0] == "window"] == []
        assert [key[1:] for key in machine.pageable if key[0] in ("window", "mark")] == []
        assert machine.launches
        assert sum(count for key, count in machine.waits.items() if key[0] == "mark") == marks


@pytest.mark.cuda
@pytest.mark.parametrize("name", OPTIONS)
def test_runs_on_cuda_are_those_of_the_serial_executor_and_nothing_waits(name, placed, monkeypatch):
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)  # as in a long run: of CUDA graphs
    run = train(BASE, *SMALL, *OPTIONS[name], "device=cuda")
    nothing_waits(placed, run.metrics["time"].nunique())
    serial = [option for option in OPTIONS[name] if not option.startswith("run.mixing")]
    same(run, train(BASE, *SMALL, *serial, "executor=serial", "device=cpu"), 1e-9 if "mlp" in name else LINEAR)


@pytest.mark.cuda
def test_features_that_stay_in_files_are_read_for_cuda_and_nothing_waits(placed, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)  # as in a long run: of CUDA graphs
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.savez(tmp_path / "data.npz", features=x, targets=x[:, :1])
    data = {"kind": "npz", "path": str(tmp_path / "data.npz"), "memory": "mapped"}
    base = {**BASE, "task": {"data": data, "augment": [{"kind": "mixup"}]}, "dtype": "float64"}
    run = train(base, "device=cuda")
    nothing_waits(placed, run.metrics["time"].nunique())
    same(run, train(base, "executor=serial", "device=cpu"))


COMPRESSED = {
    "choco, meetings": "top_k",
    "choco, losses": "random_k",
    "choco, rounds": "sign",
    "deep_squeeze, rounds": "qsgd",
    "dcd, rounds": "low_rank",
    "none, pushes": "float8",
    "none, delays": "float16",
}
LIKE_ANOTHER = ("clipped", "sign_flip, rounds", "sign_flip, pulls", "noise, tracking, rounds", "own, rounds")
METHODS = {name: WAYS[name] for name in WAYS if "steps by a law" not in name}
METHODS |= {f"robust: {name}": ROBUST[name] for name in ROBUST if name not in LIKE_ANOTHER}
METHODS |= {
    f"compressed: {name}": (*WAYS_OF[name][1], way(WAYS_OF[name][0], kind)) for name, kind in COMPRESSED.items()
}


@pytest.mark.cuda
@pytest.mark.parametrize("name", METHODS)
def test_algorithms_on_cuda_are_those_on_the_cpu_and_nothing_waits(name, placed):
    base = {"run": {"until": 1.5}, "network": {"nodes": 6}, "local": {"lr": 0.05}}
    some = ("weights", "feedback")
    graph = ("network.topology.kind=ring",) if any(word in option for option in METHODS[name] for word in some) else ()
    run = train(base, *SMALL, *graph, *METHODS[name], "device=cuda")
    nothing_waits(placed, run.metrics["time"].nunique())
    same(run, train(base, *SMALL, *graph, *METHODS[name], "device=cpu"))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["acid", "swift, delays", "inbox, delays", "push_sum", "compressed: choco, meetings"])
def test_nodes_are_cut_off_on_cuda_as_on_the_cpu_and_nothing_waits(name, placed):
    lr, decay = [0.05, 0.05, 1e200, 0.05, 0.05, 0.05], [0, 0, 1e200, 0, 0, 0]  # one node's first step is too large
    options = (*SMALL, "network.nodes=6", "network.topology.kind=ring", "run.until=3", "run.on_divergence=quarantine")
    options = (*options, *METHODS[name], f"local.lr={lr}", f"local.weight_decay={decay}")
    run, here = (train({}, *options, f"device={device}") for device in ("cuda", "cpu"))
    nothing_waits(placed, run.metrics["time"].nunique())
    assert run.summary["diverged"] == here.summary["diverged"]
    assert run.summary["diverged"]["count"] == 1
    assert torch.allclose(run.x.cpu(), here.x, rtol=0, atol=LINEAR, equal_nan=True)


@pytest.mark.cuda
def test_noise_of_gradients_on_cuda_is_that_on_the_cpu_and_nothing_waits(placed):
    options = ("task.data={kind: quadratics, noise: 0.1}", "network.nodes=6", "run.until=2", "dtype=float64")
    run = train({}, *options, "local.lr=0.01", "device=cuda")
    nothing_waits(placed, run.metrics["time"].nunique())
    same(run, train({}, *options, "local.lr=0.01", "device=cpu"))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_runs_on_cuda_are_bit_identical(dtype):
    options = ["network.nodes=12", "device=cuda", "gossip.weight=0.4", f"dtype={dtype}"]
    first, second = (train(BASE, *SMALL, *options) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.versions, second.versions)
    assert first.metrics.equals(second.metrics)


@pytest.mark.cuda
def test_the_serial_executor_runs_on_cuda():
    same(*(train(BASE, *SMALL, "executor=serial", f"device={device}") for device in ("cpu", "cuda")))


@pytest.mark.cuda
def test_a_run_on_cuda_that_halts_goes_on_bit_for_bit(placed, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "PART", 150)  # minibatches of few waves are drawn ahead, those of larger ones later
    options = (*SMALL, "device=cuda", "run.checkpoint_every={time: 0.3}")
    whole, calls, plain, copied = train(BASE, *options), itertools.count(), checkpoint.save, list[bool]()

    def save(path, snapshot, batch=None):
        copied.append(bool(snapshot.state.x.isfinite().all()))  # what has not come yet is NaN
        plain(path, snapshot, batch)

    monkeypatch.setattr(checkpoint, "save", save)
    train(BASE, *options, out=tmp_path / "run", stop=lambda: next(calls) >= 12)
    run = resume(tmp_path / "run")
    assert run.summary["status"] == "finished"
    nothing_waits(placed, whole.metrics["time"].nunique() + run.metrics["time"].nunique())
    moved = resume(tmp_path / "run")
    assert torch.equal(moved.x, whole.x)
    assert torch.equal(moved.versions, whole.versions)
    assert copied
    assert all(copied)
