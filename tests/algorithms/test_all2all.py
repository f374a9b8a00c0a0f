"""Contacts with all neighbours, and All2All: a plain version with one list of models a node makes the same models."""

import heapq

import numpy as np
import pytest
import torch

from batchednodes import load, train
from batchednodes.events.timeline import PUSH, UPDATE
from batchednodes.simulation.build import learning
from batchednodes.simulation.planning import preflight

LR, UNTIL = 0.05, 6.0
TO_ALL = {"kind": "at_update", "order": "after", "peers": "all"}
BASE = {
    "dtype": "float64",
    "network": {"nodes": 7, "topology": {"kind": "star"}},
    "algorithm": {"kind": "all2all"},
    "gossip": {"clock": TO_ALL},
    "task.data": {"kind": "linear_regression", "features": 4, "heterogeneity": 1.0},
    "local": {"lr": LR, "batch_size": "all"},
    "run": {"until": UNTIL},
}


def updates():
    """Returns times and nodes of all updates, by the clocks alone."""
    timeline = preflight.timeline([load(BASE)], 0)
    events, _ = timeline.window(timeline.begin(), UNTIL)
    return [
        (t, i) for t, kind, i in zip(events.time, events.kind, events.actor.tolist(), strict=True) if kind == UPDATE
    ]


def plain(config, x, delay, weight):
    """Returns the models that one node after the other makes, which keeps what has come in a dict."""
    config = load(BASE, [config])
    problem, _ = learning.problem([config], preflight.networks([config]), torch.float64, torch.device("cpu"))
    own = torch.from_numpy(problem.sampler.rows).split(problem.sampler.sizes.tolist())
    neighbours = [[0]] * 7
    neighbours[0] = [1, 2, 3, 4, 5, 6]
    events, came, number = [(t, 0, k, (i,)) for k, (t, i) in enumerate(updates())], [{} for _ in x], 1000
    heapq.heapify(events)
    while events and events[0][0] <= UNTIL:
        t, _, _, what = heapq.heappop(events)
        if len(what) == 3:
            i, j, model = what
            came[j][i] = model
            continue
        (i,) = what
        mean = x[i] + sum(weight(len(neighbours[i]), len(neighbours[j])) * (m - x[i]) for j, m in came[i].items())
        came[i], at = {}, mean.clone().requires_grad_()
        x[i] = mean - LR * torch.autograd.grad(problem.loss(at, *problem.batch(own[i])), at)[0]
        for j in neighbours[i]:
            number += 1
            heapq.heappush(events, (t + delay, 1, number, (i, j, x[i].clone())))
    return torch.stack(x)


@pytest.mark.parametrize("delay", [0.0, 0.7])
@pytest.mark.parametrize(
    ("kind", "weight"),
    [("uniform", lambda mine, _: 1 / (1 + mine)), ("metropolis_hastings", lambda *d: 1 / (1 + max(d)))],
)
def test_a_plain_version_makes_the_same_models(kind, weight, delay):
    more = {
        "network.weights.kind": kind,
        "gossip.delay": {"kind": "constant", "time": delay} if delay else {"kind": "none"},
    }
    start = train(BASE, more, {"run.until": 1e-9}).x
    found = plain(more, [row.clone() for row in torch.as_tensor(start)], delay, weight)
    made = torch.as_tensor(train(BASE, more).x)
    assert (made - start).abs().max() > 0.05
    assert torch.allclose(made, found, rtol=0, atol=1e-13)  # models of size 1, sums in another order


@pytest.mark.parametrize("order", ["before", "after"])
def test_each_update_has_a_contact_with_each_neighbour_beside_it(order):
    clock = {"gossip.clock": TO_ALL | {"order": order}, "algorithm.kind": "gossip_sgd"}
    timeline = preflight.timeline([load(BASE, [clock])], 0)
    events, after = timeline.window(timeline.begin(), UNTIL)
    at = np.flatnonzero(events.kind == UPDATE)
    for k, node in zip(at, events.actor[at], strict=True):
        size = 6 if node == 0 else 1
        beside = slice(k - size, k) if order == "before" else slice(k + 1, k + 1 + size)
        assert events.peer[beside].tolist() == ([1, 2, 3, 4, 5, 6] if node == 0 else [0])
        assert (events.actor[beside] == node).all()
        assert (events.kind[beside] == PUSH).all()
        assert (events.time[beside] == events.time[k]).all()
    assert len(events) == at.size + after.gossips.sum()
    assert timeline.expected(1.0)[1] == pytest.approx(timeline.expected(1.0)[0] * 12 / 7)  # six edges, both ways


def test_networks_whose_nodes_contact_one_or_all_are_as_they_are_alone():
    plainly = {"algorithm.kind": "gossip_sgd", "network.topology.kind": "complete"}
    both = train(BASE, plainly, {"sweep": {"gossip.clock.peers": ["one", "all"]}})
    for k, peers in enumerate(("one", "all")):
        alone = train(BASE, plainly, {"gossip.clock.peers": peers})
        assert torch.equal(torch.as_tensor(both.x)[7 * k : 7 * k + 7], torch.as_tensor(alone.x))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"gossip.clock.order": "before"},
            "gossip.clock must be of kind at_update, with order=after and peers=all",
        ),
        ({"gossip.clock.peers": "one"}, "gossip.clock must be of kind at_update"),
        (
            {"timing.kind": "synchronous", "gossip": {}},
            "timing.kind must be continuous or rounds with algorithm.kind=all2",
        ),
        ({"network.topology.kind": "random_matching"}, "network.topology.kind must be one that does not change"),
        (
            {"network.topology.kind": "random_matching", "algorithm.kind": "gossip_sgd"},
            "network.topology.kind must be one that does not change with gossip.clock.peers=all",
        ),
        (
            {"network.weights.kind": "max_degree", "algorithm.kind": "swift"},
            "network.weights must be left out with gossip.clock.peers=all",
        ),
        ({"network.weights": {"kind": "constant", "value": 0.5}}, "network.weights.value must be at most 1 / d_max"),
        ({"gossip.weight": 0.3}, "gossip.weight must be left out with algorithm.kind=all2all"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        train(BASE, options)
