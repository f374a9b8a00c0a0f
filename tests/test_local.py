"""Local SGD on many rows at once against torch.optim.SGD on each."""

import itertools

import pytest
import torch
from torch import nn

from batchednodes.local import Descent, Local, Rates

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
    rates = Rates(lr, m, wd, nesterov)
    new, v = x.clone(), torch.zeros_like(x) if momentum else None
    losses = Descent.of(loss, views, rates, features, targets).run_(new, v, examples, rates)
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


@pytest.mark.parametrize(("key", "value"), [("steps", 0), ("batch_size", -1), ("chunk", 0)])
def test_counts_are_positive(key, value):
    with pytest.raises(ValueError, match=f"{key} must be at least 1, got {value}"):
        Local(**{key: value})
