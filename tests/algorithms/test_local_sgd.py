"""Local SGD on many rows at once against torch.optim.SGD on each."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.config import Local
from batchednodes.models.losses import Loss

ROWS, STEPS, BATCH, P = 5, 4, 3, 6


def views(rows):
    return {"weight": rows[..., :-1], "bias": rows[..., -1]}


def loss(parameters, features, targets):
    return (torch.tanh(features @ parameters["weight"]) + parameters["bias"] - targets).square().mean()


@pytest.mark.parametrize(("momentum", "nesterov", "decay"), list(itertools.product([False, True], repeat=3)))
def test_each_row_takes_the_steps_of_torch_optim(momentum, nesterov, decay):
    if nesterov and not momentum:
        pytest.skip("Nesterov needs momentum")
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, P, generator=draw, dtype=torch.float64)
    features = torch.randn(20, P - 1, generator=draw, dtype=torch.float64)
    targets = torch.randn(20, generator=draw, dtype=torch.float64)
    examples = torch.randint(0, 20, (ROWS, STEPS, BATCH), generator=draw)
    lr = torch.linspace(0.05, 0.3, ROWS, dtype=torch.float64)
    m = torch.linspace(0.1, 0.9, ROWS, dtype=torch.float64) if momentum else None
    wd = torch.linspace(0, 0.2, ROWS, dtype=torch.float64) if decay else None
    rates = Hyperparameters(lr, m, wd, nesterov)
    new, v = x.clone(), torch.zeros_like(x) if momentum else None
    losses = LocalSGD.of(loss, views, rates, features, targets).run_(new, v, examples, rates)
    for i in range(ROWS):
        row = nn.Parameter(x[i].clone())
        options = {"momentum": float(m[i]) if momentum else 0, "weight_decay": float(wd[i]) if decay else 0}
        optimizer = torch.optim.SGD([row], lr=float(lr[i]), nesterov=nesterov, **options)
        seen = []
        for s in range(STEPS):
            optimizer.zero_grad()
            value = loss(views(row), features[examples[i, s]], targets[examples[i, s]])
            seen.append(float(value.detach()))
            value.backward()
            optimizer.step()
        assert torch.allclose(new[i], row.detach(), rtol=1e-13, atol=1e-14)  # batched products may sum in another order
        assert float(losses[i]) == pytest.approx(sum(seen) / STEPS, rel=1e-13)
        if momentum:
            assert v is not None
            assert torch.allclose(v[i], optimizer.state[row]["momentum_buffer"], rtol=1e-13, atol=1e-14)


OWN = [[3, 3, 2, 3, 1, 3], [1, 2], [3], [3, 3, 3, 3], [2, 1, 3]]
"""Examples of each minibatch of each row."""


@pytest.mark.parametrize("uneven", ["skip", "mask"])
@pytest.mark.parametrize(("momentum", "nesterov", "decay"), list(itertools.product([False, True], repeat=3)))
def test_each_row_takes_its_own_steps_on_its_own_minibatches(momentum, nesterov, decay, uneven):
    if nesterov and not momentum:
        pytest.skip("Nesterov needs momentum")
    draw = torch.Generator().manual_seed(1)
    x, before = (torch.randn(ROWS, P, generator=draw, dtype=torch.float64) for _ in range(2))
    features = torch.randn(20, P - 1, generator=draw, dtype=torch.float64)
    targets = torch.randn(20, 1, generator=draw, dtype=torch.float64)
    features[0], targets[0] = torch.inf, torch.nan  # whatever the missing places read must not matter
    examples = torch.full((ROWS, max(map(len, OWN)), BATCH), -1)
    for i, sizes in enumerate(OWN):
        for s, b in enumerate(sizes):
            examples[i, s, :b] = torch.randint(1, 20, (b,), generator=draw)
    lr = torch.linspace(0.05, 0.3, ROWS, dtype=torch.float64)
    m = torch.linspace(0.1, 0.9, ROWS, dtype=torch.float64) if momentum else None
    wd = torch.linspace(0, 0.2, ROWS, dtype=torch.float64) if decay else None
    rates, losses = (
        Hyperparameters(lr, m, wd, nesterov),
        Loss(F.mse_loss, lambda outputs, y: (outputs - y).square().mean(-1)),
    )

    def outputs(parameters, features):
        return torch.tanh(features @ parameters["weight"][:, None]) + parameters["bias"]

    def objective(parameters, features, targets, weights):
        return losses.weighted(outputs(parameters, features), targets, weights)

    descent = LocalSGD.of(objective, views, rates, features, targets, padded=True, uneven=uneven)
    new, v = x.clone(), before.clone() if momentum else None
    got = descent.run_(new, v, examples, rates)
    for i, sizes in enumerate(OWN):
        row = nn.Parameter(x[i].clone())
        options = {"momentum": float(m[i]) if momentum else 0, "weight_decay": float(wd[i]) if decay else 0}
        optimizer = torch.optim.SGD([row], lr=float(lr[i]), nesterov=nesterov, **options)
        if momentum:
            optimizer.state[row]["momentum_buffer"] = before[i].clone()
        seen = []
        for s, b in enumerate(sizes):
            optimizer.zero_grad()
            some = examples[i, s, :b]
            value = losses.mean(outputs(views(row), features[some]), targets[some])
            seen.append(float(value.detach()))
            value.backward()
            optimizer.step()
        assert torch.allclose(new[i], row.detach(), rtol=1e-13, atol=1e-14)  # weighted sums round otherwise
        assert float(got[i]) == pytest.approx(sum(seen) / len(sizes), rel=1e-13)
        if v is not None:
            assert torch.allclose(v[i], optimizer.state[row]["momentum_buffer"], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("uneven", ["skip", "mask"])
def test_rows_keep_models_and_buffers_bit_for_bit_in_steps_that_they_do_not_have(uneven):
    x, v = (torch.randn(2, P, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    ones = torch.ones(2)
    rates = Hyperparameters(0.1 * ones, 0.9 * ones, 0.3 * ones, nesterov=True)
    descent = LocalSGD.of(weigh, views, rates, torch.full((4, P - 1), 1e30), torch.ones(4), padded=True, uneven=uneven)
    new, buffers = x.clone(), v.clone()
    descent.run_(new, buffers, torch.tensor([[[-1, -1]] * 2, [[0, 1]] * 2]), rates)
    assert torch.equal(new[0], x[0])
    assert torch.equal(buffers[0], v[0])
    assert not torch.equal(new[1], x[1])


def test_steps_that_are_not_there_read_nothing_where_all_minibatches_are_full():
    x = torch.randn(3, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features, targets = torch.ones(4, P - 1, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
    rates = Hyperparameters(torch.full((3,), 0.1, dtype=torch.float64))
    examples = torch.tensor([[[0, 1], [2, 3]], [[0, 1], [-1, -1]], [[2, 1], [3, 0]]])
    made = []
    for uneven in ("skip", "mask"):
        descent = LocalSGD.of(mean, views, rates, features, targets, uneven=uneven)
        new = x.clone()
        made.append((new, descent.run_(new, None, examples, rates)))
    for one, two in zip(*made, strict=True):
        assert torch.allclose(one, two, rtol=1e-13, atol=1e-14)


def mean(parameters, features, targets):
    return (features @ parameters["weight"] + parameters["bias"] - targets).square().mean()


def weigh(parameters, features, targets, weights):
    outputs = features @ parameters["weight"] + parameters["bias"]
    return Loss(F.mse_loss, lambda outputs, y: (outputs - y).square()).weighted(outputs, targets, weights)


@pytest.mark.parametrize(("key", "value"), [("epochs", 0), ("steps", 0), ("batch_size", -1), ("chunk", 0)])
def test_counts_are_positive(key, value):
    with pytest.raises(ValueError, match=f"{key} must be at least 1, got {value}"):
        Local(**{key: value})


def test_epochs_stand_in_place_of_steps_and_deal_each_example_once():
    with pytest.raises(ValueError, match=r"steps must be left out where epochs are given, got steps 3 and epochs 1"):
        Local(epochs=1, steps=3)
    with pytest.raises(ValueError, match=r"sampling must be shuffle where epochs are given.*, got 'replacement'"):
        Local(epochs=1, sampling="replacement")


@pytest.mark.parametrize(
    ("options", "examples", "shape"),
    [
        ({"steps": 3, "batch_size": 4}, 100, (3, 4)),
        ({"epochs": 2, "batch_size": 4}, 9, (6, 4)),
        ({"epochs": 2, "batch_size": 40}, 9, (2, 9)),
    ],
)
def test_minibatches_of_an_update(options, examples, shape):
    assert Local(**options).shape(examples) == shape
