"""What a plan says of data, of marks and of the time that a run would take."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

import batchednodes
from batchednodes.config import sweep
from batchednodes.data import Dataset
from batchednodes.simulation import measure
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.loaded import facts, odd_columns
from batchednodes.simulation.planning.plan import plan
from batchednodes.simulation.planning.preflight import prepare

TINY = {"network": {"nodes": 6}, "task": {"data": {"kind": "digits"}}, "run": {"until": 40, "mark_every": 10}}


def measured(*options, **chunks):
    prepared = prepare(sweep.points(batchednodes.load(TINY, options)))
    events = assembly.timeline(prepared.configs)
    made = plan(prepared.configs, events, prepared.sizes)
    return measure.measure(prepared, replace(made, chunks=replace(made.chunks, **chunks)), events)


@pytest.mark.parametrize("options", [(), ("executor=serial",), ("timing.kind=synchronous",)])
def test_each_part_of_a_run_takes_time(options):
    found = measured(*options)
    assert min(found.start, found.updates, found.mixing, found.marks) > 0
    assert found.isolated == 0
    assert found.total == pytest.approx(found.start + found.updates + found.mixing + found.marks)


def ways(*options, **chunks):
    return measured("run.until=4", *options, **chunks).ways


def test_how_minibatch_steps_are_made_is_told_and_why_not_faster():
    assert ways(traced=True) == ways(traced=True, update_row=1 << 30) == {"minibatch steps": "tape"}
    few = ways()
    assert few["minibatch steps"].startswith("torch.func.vmap")
    assert few["why not faster"] == "tracing would take longer than the run saves by it"
    assert ways("local.compile=off")["why not faster"] == "local.compile is off"
    assert ways("executor=serial") == {"minibatch steps": "one event at a time, as executor=serial asks"}


class Net(nn.Sequential):
    """Convolutions of three kinds, of which one is frozen."""

    def __init__(self):
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 32, 1), nn.Conv2d(32, 32, 3, padding=1)
        super().__init__(nn.Unflatten(1, (1, 8, 8)), *layers, nn.Conv2d(32, 2, 3), nn.Flatten(), nn.Linear(72, 10))
        self[4].requires_grad_(False)


def test_how_convolutions_are_computed_is_told_and_why_there_is_no_tape():
    path = f"{__name__}:Net"
    model = ("task.model={kind: python, target: '" + path + "'}", "local.batch_size=2", "network.nodes=2")
    found = ways(*model, "run.eval_nodes=1", traced=True)
    assert found["minibatch steps"] == "program"
    assert found["why not faster"].startswith("no tape: ")
    assert {name: found[f"convolution {name}"] for name in ("1", "2", "3")} == {
        "1": "kernels of our own",
        "2": "kernels of our own",
        "3": "PyTorch's kernels, row by row",
    }
    assert "convolution 4" not in found
    assert ways(*model, "dtype=float64", traced=False)["convolution 3"] == "kernels of our own"


def test_isolated_nodes_and_marks_that_dominate_are_told():
    found = measured("run.mark_every=0.002", "run.baseline=isolated")  # 20,000 marks of about 600 events
    assert found.marks_dominate
    assert found.isolated == pytest.approx(found.updates + found.marks)


def table(targets, classes, **columns):
    """Returns a table of twenty rows, the last five of them tests, with some columns of noise replaced."""
    features = np.random.default_rng(0).normal(size=(20, 4))
    for place, values in columns.items():
        features[:, int(place[1:])] = values
    return Dataset(features[:15], targets[:15], features[15:], targets[15:], classes)


def test_columns_that_say_too_much_are_found_and_others_are_not():
    rng = np.random.default_rng(1)
    order, real, labels = rng.permutation(20), rng.normal(size=(20, 1)), np.arange(20) % 3
    index, second = "looks like an index of the rows", "looks like a second target: it says what is to be learned"
    assert list(odd_columns(table(real, None))) == list(odd_columns(table(labels, 3))) == []
    assert list(odd_columns(table(real, None, c1=(order - 9.5) / 5.8))) == [(1, index)]  # standardized, too
    assert list(odd_columns(table(real, None, c2=5 - 2 * real[:, 0]))) == [(2, second)]
    assert list(odd_columns(table(labels, 3, c3=np.array([7.0, -1.0, 2.0])[labels]))) == [(3, second)]
    assert list(odd_columns(table(labels, 3, c3=order % 3, c0=np.ones(20)))) == []


def test_labels_without_a_row_and_the_kind_of_task_are_said():
    data = table(np.array([0, 1] * 7 + [0] + [0] * 5), 3)
    shards = batchednodes.data.IID().split(data, 5, 0)
    found = facts(data.sizes, (data, shards))
    assert found["training rows"] == "15, 3 to 3 a node"
    assert found["task"] == "classification, 3 labels"
    assert (found["labels without a training row"], found["labels without a test row"]) == ("1: 2", "2: 1, 2")
    assert facts(table(np.ones((20, 1)), None).sizes, None)["task"] == "regression, 1 real target"
