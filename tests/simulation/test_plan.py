"""The plan against what happens."""

import numpy as np
import pytest
import torch

from batchednodes import load, train
from batchednodes.numerics.memory import gib
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import free, plan


def made(*overrides: str):
    config = load({"network": {"nodes": 200}, "run": {"until": 8}}, overrides)
    return plan([config], assembly.timeline([config]))


def test_expected_events_and_waves_are_those_that_come():
    options = ["network.nodes=200", "run.until=8", "task.data.samples_per_node=2", "task.data.test_samples=5"]
    expected, result = made(), train({}, *options)
    row, events = result.metrics.iloc[-1], expected.updates + expected.gossips
    assert abs(row["gossips"] - expected.gossips) < 4 * np.sqrt(expected.gossips)  # Poisson, 4 standard deviations
    # Renewals lag by the first gap: about n (1 - variance / mean^2) / 2 = 75 of 1,600 updates, plus their noise.
    assert abs(row["updates"] - expected.updates) < 150
    assert result.summary["mean_wave"] == pytest.approx(events / expected.waves, rel=0.2)  # marks cut some waves


def test_memory_by_part():
    sizes = made("local.momentum=0.9", "update.applies=delta", "dtype=float64", "staleness.track=50").memory
    row = 200 * 11 * 8
    assert sizes["models"] == sizes["momentum"] == sizes["models read (delta)"] == row
    assert sizes["versions"] == 200 * 50 * 2
    assert made("staleness.track=50", "run.until=40000").memory["versions"] == 200 * 50 * 4  # counts near 40,000
    assert made().memory["models"] == row // 2
    assert made().memory["momentum"] == made().memory["models read (delta)"] == 0
    assert made("staleness.track=none").memory["versions"] == 0


def test_ages_that_divide_steps_have_memory_of_their_own():
    sizes = made("gossip.merge={kind: partitioned, parts: 5, divide_step: true}").memory
    assert sizes["ages"] == 200 * 5 * 8
    undivided = made("gossip.merge={kind: partitioned, parts: 5, divide_step: false}")
    assert undivided.memory["ages"] == made().memory["ages"] == 0
    assert sizes["models under way"] - undivided.memory["models under way"] == undivided.slots * 5 * 8


def test_windows_made_ahead_are_counted_and_are_fewer_where_memory_does_not_hold_them(monkeypatch):
    long, found = ["run.until=1000", "staleness.track=none"], {}
    for count in (1, 2, 8):
        monkeypatch.setattr("batchednodes.simulation.planning.plan.cores", lambda count=count: count)
        found[count] = made(*long)
    windows = {count: plan.memory["timeline and schedule (host)"] for count, plan in found.items()}
    assert [found[count].ahead for count in (1, 2, 8)] == [1, 2, 3]
    assert windows[2] == pytest.approx(windows[1] * 3 / 2)
    assert windows[8] == pytest.approx(windows[1] * 4 / 2)
    assert made(*long, "run.threads=1").host_threads == made(*long, "run.threads=1").ahead == 1
    assert made("staleness.track=none").ahead == 1  # a window of 10,000 events
    monkeypatch.setattr("batchednodes.simulation.planning.plan.free", lambda _: windows[8])  # all else needs some, too
    assert made(*long).ahead == 1


def test_isolated_nodes_have_memory_beside_the_run_that_they_are_compared_with():
    alone, both = made("local.momentum=0.9").memory, made("local.momentum=0.9", "run.baseline=isolated").memory
    assert both.pop("isolated nodes") == alone["models"] + alone["momentum"] + alone["data"] > 0
    assert both == alone


def test_networks_of_a_batch_take_their_own_versions():
    configs = [load({"network": {"nodes": n}}, ["run.until=8"]) for n in (10, 200)]
    assert plan(configs, assembly.timeline(configs)).memory["versions"] == (10 * 10 + 200 * 200) * 2


def test_chunks_follow_the_workspace_and_the_setting():
    assert made("local.chunk=7").chunks.update == 7
    assert made().chunks.update == 200
    wide = made("task.model={kind: mlp, hidden: [3000]}", "task.data.kind=digits", "network.nodes=100")
    assert 1 <= wide.chunks.update < 100
    assert 1 <= wide.chunks.evaluate < 100


def test_whole_epochs_take_the_memory_of_their_minibatches():
    regression = "task.data={kind: linear_regression, samples_per_node: 30, features: 10}"
    row = made(regression, "local.epochs=1", "local.batch_size=30").chunks.update_row
    assert row == made(regression, "local.steps=1", "local.batch_size=30").chunks.update_row
    assert row == made(regression, "local.epochs=1", "local.batch_size=1000").chunks.update_row  # all that it owns
    assert made(regression, "local.epochs=7", "local.batch_size=30").chunks.update_row == row + 6 * 30 * 8
    assert not made("local.epochs=1000000000").fits


def test_fewer_rows_descend_at_once_where_a_node_owns_many_examples():
    options = ["network.nodes=200", "local.epochs=1", "task.data={kind: linear_regression, samples_per_node: 30}"]
    options += ["task.partition={kind: quantity_skew, alpha: 0.01}", "run.until=1"]
    config = load({}, options)
    events = assembly.timeline([config])
    planned = plan([config], events)
    run = assembly.assemble([config], events, planned.chunks)
    sampler = run.problem.sampler
    most = sampler.sizes.max()
    assert most > 20 * 30
    assert run.chunks.update == run.planned.update < planned.chunks.update == 200
    assert 8 * np.prod(sampler.shape) < run.chunks.update_row
    assert 8 * run.chunks.update * np.prod(sampler.shape) < planned.memory["local updates"]
    again = assembly.assemble([config], events, run.chunks, run.state)  # as a checkpoint does
    assert again.chunks == run.chunks
    given = load({}, [*options, "local.chunk=150"])
    assert assembly.assemble([given], events, plan([given], events).chunks).chunks.update == 150


def test_what_does_not_fit_is_refused_with_the_numbers():
    large = made("task.model={kind: mlp, hidden: [100000, 100000]}")
    assert not large.fits
    with pytest.raises(
        ValueError,
        match=r"the run must fit in memory, got \d+\.\d\d GiB needed with \d+\.\d\d GiB free on cpu \(largest: ",
    ):
        large.refuse_unless_fits()
    made().refuse_unless_fits()


def test_free_memory_is_plausible():
    assert 2**26 < free(torch.device("cpu")) < 2**44
    assert gib(2**30) == "1.00 GiB"
    assert gib(2**20) == "1.0 MiB"


def test_a_plan_of_silence():
    still = made("gossip.clock.kind=never", "update.clock.kind=never")
    assert (still.updates, still.gossips, still.waves) == (0, 0, 0)
    assert still.fits


def test_threads_and_chunks_follow_the_work_of_convolutions(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr("batchednodes.simulation.planning.memory_plan._WORTH", 1 << 40)  # the other reason for threads
    model = "task.model={kind: python, target: 'example_models:small_cnn', args: {channels: %d}}"
    small, large = (made(model % channels, "task.data.kind=digits", "network.nodes=400") for channels in (1, 100))
    linear = made("task.data.kind=digits", "network.nodes=400")
    assert (linear.threads, small.threads, large.threads) == (1, 1, 7)
    assert large.memory["local updates"] > 128 << 20 > 64 << 20 >= linear.memory["local updates"]
