"""The laws of DESIGN.md section 5: batched equals serial.

Marks, chunks, windows, batch-mates and restarts change nothing.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from observers import Watching

from batchednodes import Config, Result, load, train
from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics.memory import Chunks
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.header import RunJournal
from batchednodes.results.folder.inside import Inside
from batchednodes.simulation.build import assembly, local, start
from batchednodes.simulation.engine import Batched, Progress, Unobserved
from batchednodes.simulation.planning import memory_plan, plan

LINEAR = 1e-12  # relative, float64: the same sums in another order, a few hundred of them
SMALL = [
    "task.data.features=4",
    "task.data.samples_per_node=6",
    "task.data.test_samples=20",
    "local.batch_size=4",
    "dtype=float64",
]
MLP = ["task.data={kind: digits}", "task.model={kind: mlp, hidden: [8]}", "local.batch_size=8", "dtype=float64"]


def run(*overrides: str, base: tuple[str, ...] | list[str] = SMALL) -> Result:
    return train({"run": {"until": 6.0}, "gossip": {"clock": {"rate": 2.0}}}, *base, *overrides)


def same(a: Result, b: Result, tolerance: float = LINEAR) -> None:
    assert all(torch.equal(u.cpu(), v.cpu()) for u, v in zip(a.tables, b.tables, strict=True))
    error = (a.x - b.x.to(a.x.device)).abs().max() / b.x.abs().max()
    assert float(error) <= tolerance


@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
@pytest.mark.parametrize("applies", ["at_completion", "delta"])
@pytest.mark.parametrize("momentum", ["0", "0.9"])
@pytest.mark.parametrize("topology", ["complete", "ring"])
def test_batched_equals_serial(exchange, applies, momentum, topology):
    options = [
        f"gossip.exchange={exchange}",
        f"update.applies={applies}",
        f"local.momentum={momentum}",
        "network.nodes=12",
    ]
    options += [f"network.topology.kind={topology}", "local.lr=0.05"]
    same(run(*options), run(*options, "executor=serial"))


@pytest.mark.parametrize(
    "options",
    [
        ["network.nodes=1"],
        ["network.nodes=1", "gossip.exchange=meet", "network.topology.kind=ring"],
        ["network.nodes=2"],
        ["network.nodes=12", "run.mixing=sparse", "gossip.weight=0.2"],
        ["network.nodes=12", "run.mixing=sparse", "gossip.exchange=meet", "update.applies=delta"],
        ["network.nodes=2", "network.topology.kind=ring", "gossip.exchange=meet"],
        ["network.nodes=3", "network.topology.kind=star", "gossip.weight=0.3"],
        ["network.nodes=9", "network.topology.kind=torus", "gossip.weight={kind: uniform, low: 0, high: 1}"],
        ["network.nodes=8", "network.topology.kind=hypercube", "gossip.exchange=pull"],
        ["network.nodes=10", "network.topology.kind=exponential", "update.clock={kind: deterministic, period: 0.5}"],
        ["network.nodes=12", "network.topology.kind=k_regular", "update.clock={kind: exponential, rate: 3}"],
        ["network.nodes=12", "network.topology.kind=barabasi_albert", "update.clock.rate={kind: lognormal}"],
        ["network.nodes=12", "network.topology.kind=watts_strogatz", "gossip.clock.kind=never"],
        ["network.nodes=12", "update.clock.kind=never"],
        ["network.nodes=12", "local.steps=3", "local.nesterov=true", "local.momentum=0.5", "local.weight_decay=0.1"],
        ["network.nodes=12", "local.sampling=replacement", "local.lr={kind: choice, values: [0.01, 0.1]}"],
        ["network.nodes=12", "local.momentum={kind: choice, values: [0, 0.9]}", "task.model.init=independent"],
        ["network.nodes=12", "staleness.track=4", "task.data.heterogeneity=1"],
        ["network.nodes=12", "gossip.scheme.kind=freshest", "gossip.clock.rate=n"],
        ["network.nodes=12", "gossip.scheme.kind=freshest", "gossip.exchange=meet", "network.topology.kind=ring"],
        ["network.nodes=12", "gossip.scheme={kind: fixed_duration, duration: 0.3}", "update.applies=delta"],
        ["network.nodes=12", "gossip.scheme={kind: age_aware, wait: 0.5}", "gossip.exchange=meet"],
        ["network.nodes=12", "staleness.track=none", "task.data.kind=nonlinear_regression"],
    ],
    ids=" ".join,
)
def test_batched_equals_serial_in_corners(options):
    serial = [option for option in options if not option.startswith("run.mixing")]  # the serial executor has no kernels
    same(run(*options), run(*serial, "executor=serial"))


EPOCHS = ["network.nodes=12", "local.epochs=2", "local.batch_size=4", "local.lr=0.05", "run.until=4", "dtype=float64"]
SKEWED = ["task.data={kind: linear_regression, samples_per_node: 7, features: 4}", "task.partition.kind=quantity_skew"]
LABELS = ["task.data.kind=digits", "local.batch_size=50", "task.model.output=sigmoid"]  # 119 or 120 for each node


@pytest.mark.parametrize(
    "options",
    [
        SKEWED,
        [*SKEWED, "local.momentum=0.5", "local.nesterov=true", "local.weight_decay=0.1", "update.applies=delta"],
        [*SKEWED, "local.momentum={kind: choice, values: [0, 0.9]}", "local.batch_size=1000"],
        [*LABELS, "local.weight_decay=0.1"],
        [*LABELS, "local.momentum=0.5", "local.epochs=1", "task.loss=mse"],
        ["task.data.samples_per_node=6", "task.data.features=4", "local.epochs=3"],  # alike, and 4 + 2
        ["task.data.samples_per_node=8", "task.data.features=4"],
        ["task.data.samples_per_node=3", "task.data.features=4", "local.momentum=0.9"],
    ],
    ids=" ".join,
)
def test_whole_epochs_equal_serial(options, monkeypatch):
    options = [*EPOCHS, *options]
    serial = run(*options, "executor=serial", base=[])
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)
    for compiled in ("off", "auto"):
        same(run(*options, f"local.compile={compiled}", "local.chunk=5", base=[]), serial)
    # Steps that rows do not have, as they are on a device that nobody waits for.
    monkeypatch.setattr(local, "_uneven", lambda sampler, where: "mask" if sampler.uneven else "none")
    same(run(*options, base=[]), serial)


def test_whole_epochs_are_tapes_in_long_runs():
    config = load({}, [*EPOCHS, *SKEWED, "run.until=400"])
    law = assembly.timeline([config])
    made = assembly.assemble([config], law, plan.plan([config], law).chunks).engine.executor
    assert isinstance(made, Batched)
    assert made.algorithm.descent.tape is not None


@pytest.mark.filterwarnings("ignore:network.topology is not connected")
def test_isolated_nodes_train_and_gossip_with_nobody():
    options = ["network.nodes=20", "network.topology={kind: erdos_renyi, probability: 0.06}", "seed=2"]
    result = run(*options)
    same(result, run(*options, "executor=serial"))
    alone = run(*options, "gossip.clock.kind=never")
    lonely = (result.versions > 0).sum(1) == 1
    assert 0 < lonely.sum() < 20
    same_rows = (result.x - alone.x).abs().amax(1) <= LINEAR
    assert torch.equal(lonely, lonely & same_rows)


@pytest.mark.parametrize("applies", ["at_completion", "delta"])
def test_batched_equals_serial_for_an_mlp(applies):
    # Training an MLP amplifies rounding, by ReLU's kinks and the product of layers: 1e-9 relative.
    options = ["network.nodes=10", f"update.applies={applies}", "task.partition.kind=dirichlet"]
    same(run(*options, base=MLP), run(*options, "executor=serial", base=MLP), 1e-9)


def test_batched_equals_serial_for_a_users_convolutions():
    options = ["network.nodes=5", "task.model={kind: python, target: 'example_models:small_cnn', args: {channels: 2}}"]
    options += ["task.data={kind: digits}", "local.batch_size=4", "dtype=float64", "run.until=3"]
    same(run(*options, base=[]), run(*options, "executor=serial", base=[]), 1e-9)


@pytest.mark.parametrize(
    "options",
    [
        ["network.nodes=12"],
        ["network.nodes=12", "local.steps=3", "local.nesterov=true", "local.momentum=0.5", "local.weight_decay=0.1"],
        ["network.nodes=12", "local.lr={kind: choice, values: [0.01, 0.1]}", "update.applies=delta"],
        ["network.nodes=12", "local.momentum=0.5", "run.on_divergence=quarantine", "run.threads=2"],
        ["network.nodes=12", "task.loss=mse"],
        ["network.nodes=12", "task.model={kind: mlp, hidden: [5], activation: tanh}"],
        ["network.nodes=12", "task.model={kind: mlp, hidden: [5], activation: gelu}"],
    ],
    ids=" ".join,
)
def test_tapes_and_programs_equal_serial(options, monkeypatch):
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)
    tolerance = 1e-9 if "mlp" in options[-1] else LINEAR  # as for MLPs above
    same(run(*options), run(*options, "executor=serial"), tolerance)


@pytest.mark.slow
def test_a_long_run_is_a_tape_and_the_same_to_rounding():
    options = [*SMALL, "network.nodes=8", "run.until=400", "run.mark_every=400"]
    configs = [load({}, [*options, change]) for change in ("local.compile=auto", "run.until=20", "local.compile=off")]
    laws = [(c, assembly.timeline([c])) for c in configs]
    executors = [assembly.assemble([c], law, plan.plan([c], law).chunks).engine.executor for c, law in laws]
    tapes = [isinstance(e, Batched) and e.algorithm.descent.tape is not None for e in executors]
    assert tapes == [True, False, False]
    same(train(configs[0]), train(configs[2]))


@pytest.mark.parametrize(
    "change",
    [
        "run.mark_every=0.37",
        "run.mark_every=100",
        "local.chunk=1",
        "local.chunk=5",
        "run.window=0.11",
        "run.eval_nodes=3",
        "run.mixing=sparse",
        "run.threads=2",
    ],
)
def test_nothing_but_the_settings_of_the_trajectory_changes_it(change):
    options = ["network.nodes=30", "local.momentum=0.5"]
    same(run(*options), run(*options, change))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_two_runs_are_bit_identical(dtype):
    options = ["network.nodes=30", "gossip.weight=0.4"]
    first, second = run(*options, f"dtype={dtype}"), run(*options, f"dtype={dtype}")
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.versions, second.versions)
    assert first.metrics.equals(second.metrics)


def finish(configs: list[Config], restart: Path | None = None) -> tuple[State, Layout]:
    """Runs networks in one batch; `restart` names a file through which the run passes halfway."""
    events = assembly.timeline(configs)
    batch = assembly.assemble(configs, events, Chunks(update=64, evaluate=64))
    state, progress, layout = batch.state, batch.engine.begin(), batch.evaluator.tracking.layout
    if restart is not None:
        progress = batch.engine.run_(state, progress, Watching(lambda progress: progress.clocks.time < 3))
        journal = RunJournal({"run": {"until": 1.0}}, chunks={"update": 64, "evaluate": 64}, devices=("cpu",))
        file = Inside(restart.parent) / restart.name
        checkpoint.save(file, Snapshot(state, progress.clocks, layout, journal))
        again = checkpoint.load(file, torch.device("cpu"))
        state, progress = again.state, replace(progress, clocks=again.clocks)
    batch.engine.run_(state, progress, Unobserved())
    return state, layout


def networks() -> list[Config]:
    base = {"run": {"until": 6.0}, "dtype": "float64", "local": {"momentum": 0.5, "batch_size": 4}}
    sizes = [
        {"seed": 1, "network": {"nodes": 9}},
        {"seed": 2, "network": {"nodes": 5, "topology": {"kind": "ring"}}, "gossip": {"clock": {"rate": 3}}},
        {"seed": 1, "network": {"nodes": 9}, "local": {"momentum": 0.5, "batch_size": 4, "lr": 0.02}},
    ]
    return [load(base | size) for size in sizes]


def test_networks_in_one_batch_have_the_trajectories_they_have_alone():
    configs = networks()
    (together, layout), first = finish(configs), 0
    for g, config in enumerate(configs):
        (alone, own), last = finish([config]), first + config.network.nodes
        assert torch.equal(layout.block(together.versions, g), own.block(alone.versions, 0))
        error = (together.x[first:last] - alone.x).abs().max() / alone.x.abs().max()
        assert float(error) <= LINEAR
        first = last


def test_a_run_that_passes_through_a_file_is_bit_identical(tmp_path):
    config = load(
        {"run": {"until": 6.0}, "network": {"nodes": 15}, "local": {"momentum": 0.5}, "update": {"applies": "delta"}}
    )
    (straight, _), (restarted, _) = finish([config]), finish([config], restart=tmp_path / "half.safetensors")
    assert straight.tensors().keys() == restarted.tensors().keys() >= {"x", "v", "read", "versions"}
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, restarted.tensors()[name]), name


@pytest.mark.parametrize("mixing", ["auto", "sparse"])
@pytest.mark.parametrize(
    ("dtype", "last"), [(torch.int8, torch.int16), (torch.int32, torch.int32), (torch.int64, torch.int64)]
)
def test_the_type_of_counts_changes_nothing_even_where_they_outgrow_it(dtype, last, mixing, monkeypatch):
    options = ["network.nodes=5", "update.clock={kind: exponential, rate: 40}", f"run.mixing={mixing}"]
    wide = run(*options)
    monkeypatch.setattr(start, "dtype_for", lambda _: dtype)  # int8 holds 127 updates; about 240 come
    narrow = run(*options)
    assert wide.versions.max() > 127
    assert (wide.versions.dtype, narrow.versions.dtype) == (torch.int16, last)
    assert torch.equal(narrow.versions.short(), wide.versions)
    assert torch.equal(narrow.x, wide.x)
    assert narrow.metrics.equals(wide.metrics)


@pytest.mark.parametrize(
    "minibatches",
    [
        ["local.steps=2"],
        ["local.steps=2", "local.sampling=replacement"],
        ["local.epochs=1", "task.partition.kind=quantity_skew"],
    ],
    ids=" ".join,
)
def test_minibatches_that_are_drawn_ahead_are_those_drawn_wave_by_wave(minibatches, monkeypatch):
    options = ["network.nodes=30", "run.window=1", "local.chunk=7", *minibatches]
    ahead = run(*options)
    for updates in (30, 3, 0):  # a window has about 30: a few parts, then waves larger than a part, then no part
        monkeypatch.setattr("batchednodes.simulation.prefetch.PART", 8 * 2 * 4 * updates)
        assert torch.equal(run(*options).x, ahead.x)


def test_versions_never_fall_and_staleness_is_not_negative():
    events = assembly.timeline(networks())
    batch = assembly.assemble(networks(), events, Chunks(update=64, evaluate=64))
    before = batch.state.versions.clone()

    def watch(progress: Progress) -> bool:
        nonlocal before
        now = batch.state.versions
        assert (now >= before).all()
        for g, config in enumerate(networks()):
            part, table = events.networks.slice(g), batch.evaluator.tracking.layout.block(now, g)
            assert table.shape == (config.network.nodes, config.network.nodes)
            assert (table.diagonal() == torch.from_numpy(progress.clocks.updates[part])).all()
            assert (table <= table.diagonal()).all()
        before = now.clone()
        return True

    batch.engine.run_(batch.state, batch.engine.begin(), Watching(watch))
    assert before.sum() > 0


def test_meetings_keep_the_average_model():
    options = ["network.nodes=16", "gossip.exchange=meet", "update.clock.kind=never", "task.model.init=independent"]
    options += ["gossip.weight={kind: uniform, low: 0, high: 1}"]
    result, start = run(*options), run(*options, "gossip.clock.kind=never")
    assert torch.allclose(result.x.mean(0), start.x.mean(0), rtol=0, atol=1e-15)
    assert result.metrics["consensus_distance"].is_monotonic_decreasing
    assert np.isclose(result.metrics["consensus_distance"].iloc[0], start.metrics["consensus_distance"].iloc[0])
