"""Rounds that end in a global mean: plain servers and clients, written from the papers, make the same models.

Plain versions keep one model at a server, and know of the package only the data of each node, their loss, and who takes
part. Minibatches are all examples of a node, so gradients are exact.
"""

import json

import numpy as np
import pytest
import torch
from test_references import REFERENCES, holds

from batchednodes import load, train
from batchednodes.events.timeline import ROUND, UPDATE
from batchednodes.simulation.build import learning
from batchednodes.simulation.planning import preflight
from batchednodes.topology import GlobalMean

ROUNDS, LR, STEPS = 8, 0.05, 3
BASE = {
    "dtype": "float64",
    "network": {"nodes": 7, "topology": {"kind": "ring"}},
    "timing": {"kind": "synchronous"},
    "task": {
        "data": {"kind": "linear_regression", "features": 4, "heterogeneity": 1.0},
        "partition": {"kind": "quantity_lognormal"},
    },
    "local": {"lr": LR, "steps": STEPS, "batch_size": "all"},
    "run": {"until": ROUNDS},
}

ONE_STEP = ("{kind: all_reduce}", "{kind: fedavg}", "{kind: fedprox}", "{kind: scaffold}",
            "{kind: fedopt, server: sgd, step: 1, beta1: 0}", "{kind: diloco, step: 1, momentum: 0}")  # fmt: skip
"""With one step from a common model, and no momentum, all of them are gradient descent on the mean loss."""


@pytest.mark.parametrize("algorithm", ONE_STEP)
def test_with_one_step_all_are_the_published_gradient_descent(algorithm):
    values = json.loads((REFERENCES / "relaysgd.json").read_text())["values"]
    holds(values["allreduce/zeta2=1/lr=0.1"], "1", 50, 1, f"algorithm={algorithm}", "network.topology.kind=star")


class Clients:
    """The data of all nodes, and who takes part in each round."""

    def __init__(self, fraction: float) -> None:
        config = load(BASE)
        self.problem, _ = learning.problem([config], preflight.networks([config]), torch.float64, torch.device("cpu"))
        self.sizes, rows = self.problem.sampler.sizes, torch.from_numpy(self.problem.sampler.rows)
        self.own, self.n = rows.split(self.sizes.tolist()), len(self.sizes)
        self.law = GlobalMean(self.n, config.seed, fraction)

    def part(self, k):
        some = self.law.part(k)
        return list(range(self.n)) if some is None else some.tolist()

    def g(self, i, x):
        at = x.clone().requires_grad_()
        return torch.autograd.grad(self.problem.loss(at, *self.problem.batch(self.own[i])), at)[0]

    def descended(self, i, x):
        for _ in range(STEPS):
            x = x - LR * self.g(i, x)
        return x


def fedavg(x, clients, weighted):
    for k in range(ROUNDS):
        some = clients.part(k)
        m = torch.tensor([clients.sizes[i] if weighted else 1.0 for i in some], dtype=x.dtype)
        x = (m / m.sum()) @ torch.stack([clients.descended(i, x) for i in some])
    return x


def fedprox(x, clients, mu):
    for k in range(ROUNDS):
        new = []
        for i in clients.part(k):
            y = x
            for _ in range(STEPS):
                y = y - LR * (clients.g(i, y) + mu * (y - x))
            new.append(y)
        x = torch.stack(new).mean(0)
    return x


def scaffold(x, clients, step):
    c, own = torch.zeros_like(x), [torch.zeros_like(x) for _ in range(clients.n)]
    for k in range(ROUNDS):
        dy, dc = [], []
        for i in clients.part(k):
            y = x
            for _ in range(STEPS):
                y = y - LR * (clients.g(i, y) - own[i] + c)
            new = own[i] - c + (x - y) / (STEPS * LR)  # the paper's option II
            dy.append(y - x)
            dc.append(new - own[i])
            own[i] = new
        x, c = x + step * torch.stack(dy).mean(0), c + len(dc) / clients.n * torch.stack(dc).mean(0)
    assert torch.allclose(c, torch.stack(own).mean(0), rtol=0, atol=1e-12)
    return x


def fedopt(x, clients, server, step, b1=0.9, b2=0.99, tau=1e-3):
    m, v = torch.zeros_like(x), torch.full_like(x, tau**2)
    for k in range(ROUNDS):
        d = torch.stack([clients.descended(i, x) - x for i in clients.part(k)]).mean(0)
        if server == "sgd":
            m = b1 * m + d
            x = x + step * m
            continue
        m = b1 * m + (1 - b1) * d
        if server == "adagrad":
            v = v + d**2
        elif server == "yogi":
            v = v - (1 - b2) * d**2 * torch.sign(v - d**2)
        else:
            v = b2 * v + (1 - b2) * d**2
        x = x + step * m / (v.sqrt() + tau)
    return x


def diloco(x, clients):
    outer = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.SGD([outer], lr=0.7, momentum=0.9, nesterov=True)
    inner = [torch.nn.Parameter(x.clone()) for _ in range(clients.n)]
    adam = [torch.optim.AdamW([one], lr=LR, weight_decay=0.0) for one in inner]
    for _ in range(ROUNDS):
        for i, one in enumerate(inner):
            one.data.copy_(outer.data)
            for _ in range(STEPS):
                one.grad = clients.g(i, one.data)
                adam[i].step()
        outer.grad = outer.data - torch.stack([one.data for one in inner]).mean(0)
        optimizer.step()
    return outer.data


SERVERS = {
    "{kind: fedavg, fraction: 0.4}": (0.4, lambda x, c: fedavg(x, c, weighted=True)),
    "{kind: fedavg, weighted: false}": (1, lambda x, c: fedavg(x, c, weighted=False)),
    "{kind: fedprox, mu: 0.7, fraction: 0.6}": (0.6, lambda x, c: fedprox(x, c, 0.7)),
    "{kind: scaffold}": (1, lambda x, c: scaffold(x, c, 1)),
    "{kind: scaffold, fraction: 0.4, step: 0.8}": (0.4, lambda x, c: scaffold(x, c, 0.8)),
    "{kind: fedopt, server: adam}": (1, lambda x, c: fedopt(x, c, "adam", 0.1)),
    "{kind: fedopt, server: yogi, fraction: 0.5, step: 0.05}": (0.5, lambda x, c: fedopt(x, c, "yogi", 0.05)),
    "{kind: fedopt, server: adagrad, tau: 0.1}": (1, lambda x, c: fedopt(x, c, "adagrad", 0.1, tau=0.1)),
    "{kind: fedopt, server: sgd, fraction: 0.5, step: 0.9}": (0.5, lambda x, c: fedopt(x, c, "sgd", 0.9)),
    "{kind: diloco}": (1, diloco),
}


@pytest.mark.parametrize("algorithm", SERVERS)
def test_models_are_those_of_a_server_and_its_clients(algorithm):
    fraction, plain = SERVERS[algorithm]
    optimizer = ["local.optimizer.kind=adamw"] if "diloco" in algorithm else []
    start = train(BASE, "run.until=1e-9").x[0]
    expected = plain(start, Clients(fraction))
    found = train(BASE, f"algorithm={algorithm}", *optimizer).x
    assert (expected - start).norm() > 0.1
    # some hundreds of rounded operations; steps of adaptive servers divide by small numbers
    assert torch.allclose(found, expected.expand_as(found), rtol=0, atol=1e-11)


def test_momentum_buffers_at_nodes_are_those_of_the_mean_gradient():
    options = ["local.momentum=0.9", "local.steps=1", "task.partition=null"]
    nodes = train(BASE, *options, "algorithm.kind=all_reduce").x
    config = load(BASE, options)
    problem, _ = learning.problem([config], preflight.networks([config]), torch.float64, torch.device("cpu"))
    x = torch.nn.Parameter(train(BASE, *options, "run.until=1e-9").x[0].clone())
    optimizer = torch.optim.SGD([x], lr=LR, momentum=0.9)
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        problem.loss(x, problem.features, problem.targets).backward()  # of equally many examples at all nodes
        optimizer.step()
    assert torch.allclose(nodes, x.detach().expand_as(nodes), rtol=0, atol=1e-13)


@pytest.mark.parametrize("executor", ["batched", "serial"])
def test_counts_and_versions_are_those_of_the_nodes_that_take_part(executor):
    run = train(BASE, "algorithm={kind: fedavg, fraction: 0.4}", f"executor={executor}")
    law, taken = GlobalMean(7, 0, 0.4), np.zeros(7, np.int64)
    for k in range(ROUNDS):
        some = law.part(k)
        assert some is not None
        assert some.size == 3  # 0.4 of 7, rounded
        taken[some] += 1
    last = run.metrics.iloc[-1]
    assert (last["updates"], last["gossips"]) == (3 * ROUNDS, 3 * ROUNDS)
    assert run.versions.tolist() == [taken.tolist()] * 7  # all hold the mean of those who hold all
    assert last["staleness_mean"] == 0
    assert taken.min() < taken.max()


def test_updates_are_numbered_by_node_however_time_is_cut_into_windows():
    config = load(BASE, ["algorithm={kind: fedavg, fraction: 0.4}", "timing.period=0.7"])
    laws = preflight.timeline([config], 0)
    whole, end = laws.window(laws.begin(), 8.0)
    parts, clocks = [], laws.begin()
    for until in (0.3, 0.7, 0.7000001, 2.8, 5.0, 8.0):
        part, clocks = laws.window(clocks, until)
        parts.append(part)
    for name in ("time", "kind", "actor", "count"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)), name
    for name in ("next_update", "updates", "gossips"):
        assert np.array_equal(getattr(clocks, name), getattr(end, name)), name
    assert (whole.kind == ROUND).sum() == 11
    for i in range(7):
        numbers = whole.count[(whole.kind == UPDATE) & (whole.actor == i)]
        assert numbers.tolist() == list(range(end.updates[i]))


def test_who_takes_part_is_uniform_and_drawn_anew():
    law, rounds = GlobalMean(20, 3, 0.25), 4000
    parts = np.array([law.part(k) for k in range(rounds)])
    assert (np.diff(parts, axis=1) > 0).all()
    together = np.zeros((20, 20))
    for a in range(5):
        for b in range(5):
            np.add.at(together, (parts[:, a], parts[:, b]), 1)
    alone, pairs = together.diagonal(), together[np.triu_indices(20, 1)]
    for counts, p in ((alone, 5 / 20), (pairs, 5 * 4 / (20 * 19))):  # 210 counts beyond 5 sigma: false alarm 1e-4
        assert np.abs(counts - rounds * p).max() < 5 * np.sqrt(rounds * p * (1 - p))
    assert (np.array([GlobalMean(20, 4, 0.25).part(k) for k in range(9)]) != parts[:9]).any()


def test_networks_of_a_batch_draw_as_they_do_alone():
    options = ["algorithm={kind: scaffold, fraction: 0.4}", "task.partition=null"]
    both = train(BASE, *options, "sweep={network.nodes: [5, 9], seed: [0, 3]}", "run.window=2.5")
    for g, (n, seed) in enumerate((n, seed) for n in (5, 9) for seed in (0, 3)):
        alone = train(BASE, *options, f"network.nodes={n}", f"seed={seed}")
        own = both.metrics[both.metrics["network"] == g].iloc[-1]
        for key in ("updates", "gossips", "loss_mean", "staleness_mean"):
            assert own[key] == pytest.approx(alone.metrics.iloc[-1][key], rel=1e-12), key


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["timing.kind=continuous"], "timing.kind must be synchronous with algorithm.kind=fedavg"),
        (["network.weights.kind=metropolis_hastings"], "network.weights must be left out with algorithm.kind=fedavg"),
        (["gossip.exchange=pull"], "gossip.exchange must be push with algorithm.kind=fedavg"),
        (["algorithm.fraction=0"], "algorithm.fraction must be"),
        (["algorithm.fraction=1.5"], "algorithm.fraction must be"),
        (["algorithm={kind: fedprox, mu: -1}"], "algorithm.mu must be"),
        (["algorithm={kind: fedprox}", "local.momentum=0.9"], "local.momentum must be left out"),
        (["algorithm={kind: scaffold, step: 0}"], "algorithm.step must be"),
        (["algorithm={kind: fedopt, beta1: 1}"], "algorithm.beta1 must be"),
        (["algorithm={kind: fedopt, server: sgd, beta2: 0.5}"], "algorithm.beta2 and tau must be left out"),
        (["algorithm={kind: fedopt, server: adagrad, beta2: 0.5}"], "algorithm.beta2 must be left out"),
        (["algorithm={kind: fedopt, server: lion}"], "algorithm.server must be one of"),
        (["algorithm={kind: diloco, momentum: 1}"], "algorithm.momentum must be"),
    ],
)
def test_settings_without_sense_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        load(BASE, ["algorithm.kind=fedavg", *options])
