"""Parameters that stay at their node: batched equals serial, what never changes, what is counted, refusals."""

import numpy as np
import pytest
import torch
from test_algorithms import AT_UPDATE, BASE, MEET, METROPOLIS, ROUNDS, made
from test_exactness import LINEAR, SMALL

from batchednodes import load, resume, train
from batchednodes.algorithms.mixing import mix_
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning import plan

BIAS = 'gossip.personal=["1.bias"]'
APART = 'gossip.personal={"1.bias": [0, 3, 5], "1.weight": [1, 2], "!1.bias": [5]}'
LATE = ("gossip.delay={kind: uniform, low: 0.1, high: 2}", "network.churn={join: 1, start: neighbour}")
RANDOM = "network.topology={kind: erdos_renyi, probability: 0.4}"
WAYS = {
    "pushes": (APART, "gossip.clock.rate=2", "update.applies=delta"),
    "meetings": (APART, *MEET, "run.mixing=sparse", "local.momentum=0.5"),
    "messages": (APART, *LATE, "gossip.exchange=push_pull", "gossip.on_receipt=merge_update"),
    "messages that bring less": (BIAS, *LATE, "run.on_divergence=quarantine"),
    "rounds": (APART, *METROPOLIS),
    "a tracker": (APART, *MEET, "algorithm.kind=gradient_tracking"),
    "a tracker, rounds": (APART, *METROPOLIS, "algorithm.kind=gradient_tracking"),
    "stale gradients": (BIAS, *AT_UPDATE, "algorithm.kind=ad_psgd"),
    "momentum that flows": (BIAS, *MEET, "algorithm.kind=acid"),
    "a server": (BIAS, *ROUNDS, "algorithm={kind: fedavg, fraction: 0.5}", "local.epochs=1"),
    "a server that adapts": (BIAS, *ROUNDS, "algorithm.kind=fedopt"),
}


@pytest.mark.parametrize("way", WAYS)
def test_batched_equals_serial(way):
    options = (*WAYS[way], RANDOM, "task.model.init=independent", "run.until=3")
    batched, plain = made(options), "algorithm" not in str(options) and "rounds" not in way
    options = [one for one in options if not one.startswith("run.mixing")]
    for independent in (True,) if plain else (True, False):
        serial = made(options, "serial", independent)
        assert torch.equal(batched.state.versions, serial.state.versions)
        for name, rows in rows_of(batched).items():
            assert torch.allclose(rows, rows_of(serial)[name], rtol=0, atol=LINEAR * float(rows.abs().max())), name


def rows_of(run):
    """Returns what nodes keep, without what is under way: messages bring nothing of what stays."""
    n = run.state.nodes
    return {"x": run.state.x[:n]} | {name: one[:n] for name, one in run.state.fields.items()}


@pytest.mark.parametrize("way", ["meetings", "rounds", "a server", "messages"])
def test_what_stays_is_never_mixed(way):
    options = [*WAYS[way], "task.model.init=independent", "local.lr=0", "run.until=8"]
    options += [RANDOM, "network.nodes=12"]
    config = load(BASE, [*SMALL, *options])
    events = assembly.timeline([config])
    start = assembly.assemble([config], events, plan.plan([config], events).chunks).state.models.clone()
    end = made(options).state.models
    apart = options[0] == APART
    stays = [([0, 3], 4), ([1, 2], slice(0, 4))] if apart else [(range(12), 4)]
    moved = end != start
    for nodes, columns in stays:
        assert not moved[list(nodes)][:, columns].any()
        moved[list(nodes), columns] = True
    assert moved.float().mean() > 0.8


def test_rounds_keep_the_mean_over_those_who_mix():
    options = [*WAYS["rounds"], "task.model.init=independent", "local.lr=0"]
    options += ["network.topology={kind: k_regular, degree: 6}", "run.until=100"]
    end = made(options).state.models
    mix = [i for i in range(12) if i not in (0, 3)]
    start = made([*options[:-1], "run.until=0.5"]).state.models
    assert torch.allclose(end[mix, 4], start[mix, 4].mean(), rtol=1e-9)


@pytest.mark.parametrize("pairs", [False, True])
def test_kernels_mix_some_columns_as_they_mix_all(pairs):
    draw = np.random.default_rng(0)
    ends = np.stack([draw.choice(9, 2, replace=False) for _ in range(20)])
    lines = torch.from_numpy(np.stack([ends, ends[:, ::-1]], 1).reshape(-1, 2) if pairs else ends)
    size, step = len(lines), 2 if pairs else 1
    weights, times = torch.full((size,), 0.3), torch.zeros(size, dtype=torch.float64)
    waves = np.arange(0, size + 1, step)
    columns = (lines[:, 0].contiguous(), lines[:, 1].contiguous(), lines[:, 1].contiguous())
    phase = GossipPhase(*columns, weights, times, waves, 9, pairs)
    x = torch.from_numpy(draw.normal(size=(9, 70))).float()
    whole, some, mixed = x.clone(), x.clone(), torch.zeros(70, dtype=torch.bool)
    mixed[3:60] = True
    mix_(whole, phase, "auto")
    mix_(some[:, 3:60], phase, "auto")
    assert torch.equal(some, torch.where(mixed, whole, x))


def test_metrics_are_of_what_is_mixed():
    options = [*SMALL, "network.nodes=5", "run.until=3", "task.model.init=independent", "network.topology.kind=ring"]
    run = train({"sweep": {"gossip.personal": [[], ["1.bias"]]}}, *options)
    alone = train({}, *options, BIAS)
    assert torch.equal(run.x[5:], alone.x)  # and a network without such parameters goes on beside
    last = run.metrics.groupby("network").last()
    x = alone.x
    apart = (x - x.mean(0))[:, :4].square().sum(1).mean().sqrt()
    assert last["consensus_distance"][1] == pytest.approx(float(apart), rel=1e-12)
    assert last["bytes_sent"][1] * 5 == last["bytes_sent"][0] * 4
    x[:, :4] = x[:, :4].mean(0)
    losses = alone.evaluate()["loss"]
    assert last["loss_mean_model"][1] == pytest.approx(losses.mean(), rel=1e-12)
    with pytest.raises(ValueError, match=r"mean_model\(\) must be of nodes that mix all"):
        alone.mean_model()
    assert run.mean_model(0).state_dict()["1.bias"].shape == (1,)


def test_a_resumed_run_is_the_run_itself(tmp_path):
    options = [*SMALL, *WAYS["pushes"], "network.nodes=6", "run.window=0.5"]
    whole = train({"run": {"until": 4.0}}, *options)
    train({"run": {"until": 2.0}}, *options, out=tmp_path / "run")
    assert torch.equal(resume(tmp_path / "run", "run.until=4").x, whole.x)


REFUSED = {
    "algorithm.kind=push_sum": "gossip.personal must be left out with algorithm.kind=push_sum, which does more",
    "algorithm={kind: swift}": "gossip.personal must be left out with algorithm.kind=swift",
    "gossip.compress={kind: top_k, share: 0.5, feedback: none}": "must be left out with gossip.compress",
    "gossip.merge={kind: partitioned, parts: 2}": "must be left out with a gossip.merge that brings parts",
    "network.attack={kind: sign_flip, nodes: [1]}": "must be left out with attackers",
    "gossip.on_receipt=update": "must be left out with gossip.on_receipt=update, which trains",
    "gossip.on_receipt=update_merge": "must be left out with gossip.on_receipt=update_merge, which trains",
    'gossip.personal=["head.*"]': r"must name parameters of the model, 1.weight, 1.bias, got 'head.\*'",
    'gossip.personal=["*"]': "must leave something to be mixed",
    'gossip.personal=[""]': "must be patterns of names of parameters, got ''",
    'gossip.personal={"1.bias": [12]}': r"must give '1.bias' the word all, or a list of nodes in 0 .. 11, got \[12\]",
    'gossip.personal={"1.bias": [0.5]}': r"must give '1.bias' the word all, or a list",
    "gossip.personal=1.bias": "gossip.personal must be a list of texts or a mapping, got '1.bias'",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_refusals(setting):
    with pytest.raises(ValueError, match=REFUSED[setting]):
        made((BIAS, setting))


def test_nodes_apart_are_refused_where_rounds_are_more_than_a_mean():
    with pytest.raises(ValueError, match=r"must be the same at all nodes with algorithm\.kind=fedavg"):
        made((APART, *ROUNDS, "algorithm.kind=fedavg"))
