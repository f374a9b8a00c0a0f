"""Optimizers, schedules and clipping: PyTorch's own arithmetic on every node, under waves, and one event at a time."""

import numpy as np
import pytest
import torch
from test_exactness import LINEAR, SMALL, same

from batchednodes import load, train
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning import plan

BASE = {"run": {"until": 6.0}, "gossip": {"clock": {"rate": 2.0}}, "network": {"nodes": 12}}
OWN = "{kind: python, target: 'own_kinds:SignMomentum', args: {beta: 0.8}}"
WAYS = {
    "adam": ("local.optimizer.kind=adam", "local.lr=0.01"),
    "adam, weight decay, steps": (
        "local.optimizer={kind: adam, beta1: 0.8}",
        "local.weight_decay=0.1",
        "local.steps=3",
        "local.lr=0.01",
    ),
    "adamw, node by node": (
        "local.optimizer={kind: adamw, beta2: {kind: uniform, low: 0.9, high: 0.99}}",
        "local.weight_decay=0.1",
        "local.lr=0.01",
    ),
    "adam, epochs of different lengths": (
        "local.optimizer.kind=adam",
        "local.epochs=1",
        "task.partition={kind: quantity_skew, alpha: 0.5}",
        "local.lr=0.01",
    ),
    "adam on messages": (
        "local.optimizer.kind=adam",
        "local.lr=0.01",
        "gossip.on_receipt=update_merge",
        "gossip.delay={kind: constant, time: 0.3}",
    ),
    "adam, delta": ("local.optimizer.kind=adam", "local.lr=0.01", "update.applies=delta"),
    "adam of push_sum": ("local.optimizer.kind=adam", "local.lr=0.01", "algorithm.kind=push_sum"),
    "one's own": (f"local.optimizer={OWN}", "local.lr=0.01"),
    "clip": ("local.clip=0.3", "local.momentum=0.5", "local.weight_decay=0.1"),
    "clip of some": ("local.clip={kind: choice, values: [0.1, 1.0]}", "local.optimizer.kind=adam", "local.lr=0.01"),
    "step": ("local.schedule={kind: step, every: 2, gamma: 0.5}", "local.momentum=0.5"),
    "cosine in time": ("local.schedule={kind: cosine, until: 4, low: 0.1, by: time, warmup: 1}", "local.steps=2"),
    "inverse square root": (
        "local.schedule={kind: inverse_sqrt, scale: 3, warmup: 2}",
        "local.optimizer.kind=adam",
        "local.lr=0.01",
    ),
    "milestones": ("local.schedule={kind: milestones, falls: [2, 5], gamma: 0.5}", "local.momentum=0.5"),
    "inverse": ("local.schedule={kind: inverse, scale: 3}",),
    "warm-up alone": ("local.schedule={kind: constant, warmup: 3}",),
    "schedule of gradient tracking": (
        "local.schedule={kind: step, every: 2, gamma: 0.5}",
        "local.clip=0.5",
        "algorithm.kind=gradient_tracking",
        "gossip.exchange=meet",
    ),
    "one's own schedule": ("local.schedule={kind: python, target: 'own_kinds:Sawtooth', args: {teeth: 3}}",),
}


def run(*options):
    return train(BASE, *SMALL, *options)


@pytest.mark.parametrize("way", WAYS)
def test_batched_equals_serial(way):
    batched = run(*WAYS[way])
    same(batched, run(*WAYS[way], "executor=serial"), 1e-11 if "adam" in str(WAYS[way]) else LINEAR)


@pytest.mark.parametrize("way", ["adam", "adamw, node by node", "clip", "one's own", "inverse square root"])
def test_programs_equal_single_operations(way, monkeypatch):
    monkeypatch.setattr("batchednodes.simulation.planning.memory_plan._PROGRAMS", 0)
    assert torch.allclose(run(*WAYS[way]).x, run(*WAYS[way], "local.compile=off").x, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("kind", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_moments_are_those_of_pytorch_on_every_node(kind, theirs):
    """Over 200 updates of each node under waves, against torch.optim alone."""
    options = [f"local.optimizer.kind={kind}", "local.lr=0.01", "local.weight_decay=0.05", "gossip.clock.kind=never"]
    options += ["update.clock={kind: exponential, rate: 1}", "run.until=260", "run.mark_every=260", "network.nodes=6"]
    config = load(BASE, [*SMALL, *options])
    ended = train(config)
    made = assembly.assemble([config], events := assembly.timeline([config]), plan.plan([config], events).chunks)
    problem, counts = made.problem, events.window(events.begin(), 260.0)[1].updates
    assert counts.min() > 200
    for i, x in enumerate(made.state.models.clone()):
        row = torch.nn.Parameter(x)
        optimizer = theirs([row], lr=0.01, weight_decay=0.05)
        for k in range(counts[i]):
            for examples in problem.draw(np.array([i]), np.array([k]))[0]:
                optimizer.zero_grad()
                problem.loss(row, *problem.batch(examples)).backward()
                optimizer.step()
        assert torch.allclose(ended.x[i], row.detach(), rtol=1e-12, atol=1e-12)


def test_networks_differ_in_the_settings_of_an_optimizer():
    swept = run("local.optimizer.kind=adam", {"sweep": {"local.optimizer.beta1": [0.5, 0.9], "local.lr": [0.01]}})
    alone = run("local.optimizer={kind: adam, beta1: 0.5}", "local.lr=0.01")
    assert torch.allclose(swept.x[:12], alone.x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["local.optimizer.kind=adam", "local.momentum=0.5"],
            "local.momentum must be left out unless local.optimizer.kind=sgd",
        ),
        (["local.optimizer={kind: adam, beta1: 1}"], "local.optimizer.beta1 must be"),
        (["local.clip=0"], "local.clip must be positive"),
        (["local.schedule={kind: cosine, until: -1}"], "local.schedule.until must be positive"),
        (
            ["local.schedule={kind: milestones, falls: [3, 2]}"],
            "local.schedule.falls must be positive and finite .* above",
        ),
        (
            ["algorithm.kind=gradient_tracking", "gossip.exchange=meet", "local.optimizer.kind=adam"],
            "local.optimizer must",
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        load(BASE, options)
