"""The opponents of the benchmark: what they compute is what the package computes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    from measure import models, networks, parts, whole, workloads

    yield parts, whole, workloads, models, networks
    for name in [name for name in sys.modules if name.partition(".")[0] == "measure"]:
        del sys.modules[name]


def test_the_loop_over_modules_gives_the_models_of_a_run(measure):
    from batchednodes import train

    _, whole, workloads, *_ = measure
    with workloads.settings(workloads.LOGREG, 12, "cpu", until=2.0, mark_every=2.0) as source:
        run = workloads.built(source)
        loop = whole.Loop(run)
        events, _ = run.engine.timeline.window(run.engine.timeline.begin(), 2.0)
        loop.run(events, 0, len(events))
        rows = torch.stack([run.problem.stack.row(module) for module in loop.modules])
        wanted = train(source).x
    assert torch.allclose(rows, wanted, rtol=1e-4, atol=1e-6)  # some hundred sums of float32


def test_parts_of_the_benchmark_run_on_small_cases(measure):
    parts, _, workloads, *_ = measure
    device = torch.device("cpu")
    assert parts.scheduling(20, 1)["events a wave"]["median"] > 0
    assert parts.mixing(20, 40, device, 1)["mixing over copy"]["median"] > 0
    assert parts.merging(20, 20, device, 1)["merging int16 over copy"]["median"] > 0
    for workload in (workloads.LOGREG, workloads.MLP):
        assert parts.local(workload, 20, device, 1, compiled=False)["updates in waves, rows/s"]["median"] > 0


def test_every_algorithm_has_a_way_in_which_it_is_measured(measure):
    from measure import zoo

    from batchednodes.config.kinds import KINDS

    assert zoo.ways().keys() == KINDS["algorithm"].keys()
    assert zoo.rounds(20, torch.device("cpu"), 1)["synchronous D-PSGD over a step by hand"]["median"] > 0


@pytest.mark.parametrize("name", ["frozen_mlp", "lora", "transformer"])
def test_the_loop_over_networks_makes_the_updates_of_a_wave(measure, name):
    _, _, workloads, models, networks = measure
    network = replace(networks.NETWORKS[name], rows=2, batch=4)
    with models.settings(network, "off") as source:
        run, data = workloads.built(source), models.given(source)
    index = run.problem.sampler.draw(np.arange(2), np.zeros(2, np.int64))
    before, loop = run.state.x.clone(), models.Loop(run, torch.from_numpy(index), *data)
    loop.work()
    models.updates(run, index)()
    rows = torch.stack([run.problem.stack.row(module) for module in loop.modules])
    assert not torch.equal(rows, before)
    assert torch.allclose(rows, run.state.x, rtol=1e-4, atol=1e-6)  # some hundred sums of float32


def test_the_start_of_commands_is_measured_beside_an_import(measure, monkeypatch):
    from measure import start

    monkeypatch.setattr(start, "ALONE", "import json")  # PyTorch takes seconds
    assert {"--help", "list", "plan", "train"} == {*start.COMMANDS}
    assert start.start(1, ("--help",))["--help over import json"]["median"] > 0


def test_evaluation_is_measured_by_model(measure):
    from measure import costs

    assert costs.evaluation(1)["evaluation, us a model"]["median"] > 0


def test_the_cost_of_an_event_is_that_of_runs_of_as_many(measure):
    from measure import costs

    found = costs.events(40, torch.device("cpu"), 1, few=20, count=200)
    assert {*found} == {"cost an event over n = 20, n = 40", "events/s, n = 40"}
    assert all(one["median"] > 0 for one in found.values())


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of Intel's GPUs, where PyTorch has no support of them
def test_products_of_attention_count_alike_in_one_kernel_and_in_several(measure):
    _, _, workloads, models, networks = measure
    counted = []
    for name in ("transformer", "transformer_sdpa"):
        with models.settings(replace(networks.NETWORKS[name], rows=1, batch=2), "off") as source:
            run, data = workloads.built(source), models.given(source)
        index = torch.from_numpy(run.problem.sampler.draw(np.arange(1), np.zeros(1, np.int64)))
        counted.append(models.operations(models.Loop(run, index, *data).work))
    assert counted[0] == counted[1]


def test_rounds_are_measured_beside_those_of_gossipy_where_it_is_installed(measure, monkeypatch, capsys):
    from measure import gossipy_rounds

    from batchednodes import train

    _, _, workloads, *_ = measure
    monkeypatch.setattr(gossipy_rounds, "is_here", lambda: False)
    assert gossipy_rounds.rounds(workloads.LOGREG, 5, 1) == {}
    assert "gossipy cannot be imported: skipped" in capsys.readouterr().err
    with workloads.settings(workloads.LOGREG, 5, "cpu") as source:
        summary = train(source | gossipy_rounds.ours(3)).summary
    assert summary["networks"][0]["updates"] == 5 + 15  # one at the start, then each node sends once a round
