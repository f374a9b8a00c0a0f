"""Losses of models on a node's own data, and PENS: a plain version makes the same models, and nodes find their like."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)

from batchednodes import load, train
from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.context import EXAMPLES, OwnLoss, uniforms
from batchednodes.simulation.build import learning
from batchednodes.simulation.planning import preflight
from batchednodes.simulation.planning.plan import plan

LR, ROUNDS, FIRST, SAMPLED, KEPT = 0.05, 7, 4, 4, 2
BASE = {
    "dtype": "float64",
    "network": {"nodes": 9, "topology": {"kind": "star"}},
    "timing": {"kind": "synchronous"},
    "algorithm": {"kind": "pens", "sampled": SAMPLED, "kept": KEPT, "rounds": FIRST},
    "task": {
        "data": {"kind": "linear_regression", "features": 4, "heterogeneity": 1.0},
        "partition": {"kind": "quantity_lognormal"},
    },
    "local": {"lr": LR, "batch_size": "all"},
    "run": {"until": ROUNDS},
}


@dataclass(frozen=True)
class Asking(Algorithm):
    """Asks its first neighbour, though it keeps nothing of any."""

    timing: ClassVar[tuple[str, ...]] = ("rounds",)

    def asks(self, r, k):
        return torch.zeros_like(r["x"][:, :1], dtype=torch.int64)


GRAPHS = {"complete": [[j for j in range(9) if j != i] for i in range(9)], "star": [[*range(1, 9)], *[[0]] * 8]}


def problem(*more):
    config = load(BASE, more)
    return learning.problem([config], preflight.networks([config]), torch.float64, torch.device("cpu"))[0]


def plain(x, graph, found):
    """Returns the models that one node after the other makes, and how often each kept each."""
    own = torch.from_numpy(found.sampler.rows).split(found.sampler.sizes.tolist())

    def loss(i, at):
        return found.loss(at, *found.batch(own[i]))

    asked, kept = np.zeros((2, 9, 9))
    for k in range(ROUNDS):
        for i in range(9):
            at = x[i].clone().requires_grad_()
            x[i] = x[i] - LR * torch.autograd.grad(loss(i, at), at)[0]
        old, address = [row.clone() for row in x], torch.tensor([k + 1.0], dtype=torch.float64).view(torch.int64)
        for i, around in enumerate(graph):
            u = uniforms(torch.tensor([0]), torch.tensor([i]), address, 1, len(around))[0].tolist()
            drawn = [j for _, j in sorted(zip(u, around, strict=True))]
            s = min(SAMPLED, len(around))
            if k < FIRST:
                best = sorted(drawn[:s], key=lambda j, i=i, old=old: float(loss(i, old[j])))[:KEPT]
                asked[i, drawn[:s]] += 1
                kept[i, best] += 1
            else:
                best = [j for j in drawn if kept[i, j] > asked[i, j] * min(KEPT, s) / s] or drawn
                best = best[:1]
            x[i] = torch.stack([old[i], *(old[j] for j in best)]).mean(0)
    return torch.stack(x), kept


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_plain_version_makes_the_same_models(graph):
    of = {"network.topology.kind": graph}
    start = train(BASE, of, {"run.until": 1e-9}).x
    found, kept = plain([row.clone() for row in torch.as_tensor(start)], GRAPHS[graph], problem())
    made = torch.as_tensor(train(BASE, of).x)
    assert (made - start).abs().max() > 0.05
    assert torch.allclose(made, found, rtol=0, atol=1e-13)  # models of size 1, sums in another order
    if graph == "complete":
        assert (kept.sum(1) == FIRST * KEPT).all()


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("digits", "{kind: linear}"),
        ("digits", "{kind: mlp, hidden: [8]}"),
        ("digits", "{kind: python, target: 'example_models:Dropped', args: {width: 64, outputs: 10}}"),
        ("linear_regression", "{kind: python, target: 'example_models:Distances'}"),
    ],
)
def test_a_loss_on_a_nodes_own_data_is_that_of_one_model_alone(data, model, size, monkeypatch):
    found = problem({"task.data": {"kind": data}}, f"task.model={model}")
    monkeypatch.setitem(EXAMPLES, "cpu", size)
    own, x = (
        OwnLoss(found),
        torch.randn(12, found.stack.p, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    )
    nodes = torch.tensor([3, 0, 8, 8, 1, 2, 4, 5, 6, 7, 0, 3])
    losses = own.of(x, nodes)
    assert torch.equal(losses, torch.cat([own.of(x[k : k + 1], nodes[k : k + 1]) for k in range(12)]))
    rows = torch.from_numpy(found.sampler.rows).split(found.sampler.sizes.tolist())
    for row, i, loss in zip(x, nodes.tolist(), losses, strict=True):
        features, targets = found.batch(rows[i])
        module = found.stack.module(row).eval()
        alone = (F.mse_loss if found.classes is None else F.cross_entropy)(module(features), targets)
        assert torch.allclose(loss, alone, rtol=1e-12, atol=0)
    assert own.of(x[:0], nodes[:0]).shape == (0,)


def test_nodes_find_those_with_data_like_theirs(tmp_path):
    group = np.arange(12) % 2
    b = np.where(group[:, None], 1.0, -1.0) + 0.1 * np.random.default_rng(0).standard_normal((12, 5))
    np.savez(tmp_path / "two.npz", A=np.tile(np.eye(5), (12, 1, 1)), B=b)
    task = {
        "dtype": "float64",
        "network.nodes": 12,
        "task.data": {"kind": "quadratics", "path": str(tmp_path / "two.npz")},
    }
    rounds = {"timing.kind": "synchronous", "local.lr": 0.1, "run.until": 60}
    found, mean = (
        torch.as_tensor(train(task, rounds, {"algorithm": algorithm}).x)
        for algorithm in ({"kind": "pens", "sampled": 5, "kept": 1, "rounds": 20}, {"kind": "d_psgd"})
    )
    away = (found - torch.from_numpy(b)).abs().max()
    assert away < 0.5  # that of the other group is 2 away, the mean of all 1
    assert (mean - torch.from_numpy(b)).abs().max() > 0.9


def test_versions_are_of_those_who_were_asked():
    for until, others in ((1, SAMPLED), (FIRST, None)):
        run = train(BASE, {"network.topology.kind": "complete", "run.until": until})
        heard = (np.asarray(run.versions) > 0).sum(1)
        assert (heard == 1 + others).all() if others else (heard > 1 + SAMPLED).all()
    at_end = train(BASE, {"network.topology.kind": "complete", "run.until": FIRST + 1, "run.mark_every": 1}).metrics
    assert at_end["gossips"].diff().iloc[-1] == 9  # one model for each node
    assert at_end["gossips"].diff().iloc[-2] == 9 * SAMPLED


def test_the_plan_knows_of_models_that_are_asked_for():
    config = load(BASE)
    found = plan([config], preflight.timeline([config], 0)).memory
    assert found["models asked for"] > 9 * 8 * (25 + 8)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"algorithm.kept": 5}, "algorithm.kept must be"),
        ({"algorithm.sampled": 0}, "algorithm.sampled must be"),
        ({"algorithm.rounds": 0}, "algorithm.rounds must be"),
        ({"timing.kind": "continuous"}, "timing.kind must be synchronous with algorithm.kind=pens"),
        ({"network.topology.kind": "random_matching"}, "network.topology.kind must be one that does not change"),
        ({"network.weights.kind": "max_degree"}, "network.weights must be left out with algorithm.kind=pens"),
        (
            {"network.attack": {"kind": "sign_flip", "nodes": 2}},
            "network.attack must be left out with algorithm.kind=pens",
        ),
        ({"algorithm": {"kind": "python", "target": "test_pens:Asking"}}, "algorithm.kind must keep a field on edges"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        train(BASE, options)
