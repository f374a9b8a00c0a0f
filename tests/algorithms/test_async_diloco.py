"""Asynchronous DiLoCo: a plain server and its workers, written from the paper, make the same models."""

import heapq

import pytest
import torch
from test_algorithms import made, same
from test_global_rounds import BASE, LR, STEPS, Clients

from batchednodes import load, train
from batchednodes.simulation.planning import preflight

AFTER = ("gossip.clock={kind: at_update, order: after}", "gossip.exchange=meet", "network.topology={kind: star}")
PERIODS = [1.0, 0.83, 1.37, 0.41, 2.9, 0.77, 1.19]  # of which no two end at one instant here
BASE = {name: part for name, part in BASE.items() if name != "timing"}


def asynchronous(x, clients, until, every, c, step=0.7, beta=0.9):
    """Returns the server's model, and those from which workers have begun, after some time."""
    m, buffer, t = torch.zeros_like(x), torch.zeros_like(x), 0
    begun = [x.clone() for _ in range(clients.n)]
    inner = [torch.nn.Parameter(x.clone()) for _ in range(clients.n)]
    adam = [torch.optim.AdamW([one], lr=LR, weight_decay=0.0) for one in inner]
    ends = [(period, i, 1) for i, period in enumerate(PERIODS)]
    heapq.heapify(ends)
    while ends[0][0] <= until:
        _, i, k = heapq.heappop(ends)
        inner[i].data.copy_(begun[i])
        for _ in range(STEPS):
            inner[i].grad = clients.g(i, inner[i].data)
            adam[i].step()
        g = begun[i] - inner[i].data
        buffer, t = buffer + g, t + 1
        if t % every == 0:
            m, buffer = beta * m + buffer / every, torch.zeros_like(x)
            x = x - step * ((1 - c * every + c) * beta * m + g / every)
        else:
            x = x - step * (c * beta * m + g / every)
        begun[i] = x.clone()
        heapq.heappush(ends, ((k + 1) * PERIODS[i], i, k + 1))
    return torch.stack([x, *begun[1:]])


@pytest.mark.parametrize(
    ("settings", "every", "c"), [("every: 1", 1, 0.0), ("", 7, 0.0), ("every: 3, spread: 0.6", 3, 0.2)]
)
def test_models_are_those_of_a_plain_server(settings, every, c):
    algorithm = f"algorithm={{kind: async_diloco, {settings}}}"
    clock = f"update.clock={{kind: deterministic, period: {PERIODS}}}"
    run = train(BASE, *AFTER, algorithm, clock, "local.optimizer.kind=adamw", "run.until=8")
    clients = Clients(1.0)
    start = train(BASE, *AFTER, algorithm, clock, "run.until=0.1").x[0]
    assert torch.allclose(run.x, asynchronous(start, clients, 8.0, every, c), rtol=1e-10, atol=1e-12)


def test_where_nothing_is_stale_it_is_diloco():
    clock = "update.clock={kind: deterministic, period: 1}"
    run = train(BASE, *AFTER, "algorithm.kind=async_diloco", clock, "run.until=1")
    other = train(BASE, "timing.kind=synchronous", "algorithm.kind=diloco", "run.until=1")
    assert torch.allclose(run.x[0], other.x[0], rtol=1e-12, atol=1e-14)
    assert int(run.metrics["gossips"].iloc[-1]) == 6  # the worker at the server sends nothing


@pytest.mark.parametrize("more", ["algorithm.every=2", "gossip.loss={kind: independent, probability: 0.3}"])
def test_batched_equals_serial(more):
    options = (
        "algorithm={kind: async_diloco, spread: 0.5}",
        *AFTER,
        "local.optimizer.kind=adam",
        "local.steps=2",
        more,
    )
    batched = made(options)
    for independent in (True, False):
        same(batched, made(options, "serial", independent=independent))


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        (
            "gossip.clock.order=before",
            r"gossip\.clock must be \{kind: at_update, order: after\} with .*async_diloco",
        ),
        ("gossip.exchange=push", r"gossip\.exchange must be meet with .*async_diloco"),
        ("gossip.weight=0.3", r"gossip\.weight must be left out"),
        ("timing.kind=synchronous", r"timing\.kind must be continuous"),
        ("algorithm.spread=2", r"algorithm\.spread must be in \[0, 1\]"),
        (
            "network.topology.kind=ring",
            r"topology must be a star with node 0, the server, in its middle, .* 7 edges of 7",
        ),
        ("network.topology={kind: edges, i: [1, 1, 1, 1, 1, 1], j: [0, 2, 3, 4, 5, 6]}", "must be a star with node 0"),
    ],
)
def test_what_it_cannot_follow_is_refused(setting, rule):
    with pytest.raises(ValueError, match=rule):
        preflight.timeline([load(BASE, ["algorithm.kind=async_diloco", *AFTER, setting])], 1)
