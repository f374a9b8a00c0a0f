"""Losses and models against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from batchednodes import load, train
from batchednodes.models import MLP, Linear
from batchednodes.models.losses import choose


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=draw, dtype=torch.float64), torch.randint(0, 4, (7,), generator=draw)


@pytest.mark.parametrize(("name", "classes"), [("cross_entropy", 4), ("mse", 4), ("mse", None), ("auto", None)])
def test_a_weighted_loss_is_the_mean_over_the_examples_that_count(name, classes):
    outputs, labels = labelled()
    targets = labels if classes else outputs.flip(0) + 1
    loss, weights = choose(name, classes), torch.tensor([0.2, 0.0, 0.2, 0.2, 0.0, 0.2, 0.2], dtype=torch.float64)
    outputs[1] = torch.inf  # does not count
    outputs.requires_grad_()
    some = weights > 0
    found, expected = loss.weighted(outputs, targets, weights), loss.mean(outputs[some], targets[some])
    assert found.item() == pytest.approx(expected.item(), rel=1e-14)  # sums in another order
    (g,), (h,) = torch.autograd.grad(found, outputs), torch.autograd.grad(expected, outputs)
    assert torch.allclose(g[some], h[some], rtol=1e-14, atol=1e-16)
    assert loss.each(outputs[some], targets[some]).mean().item() == pytest.approx(expected.item(), rel=1e-14)


def test_outputs_of_a_linear_model_may_pass_through_a_sigmoid():
    module = Linear(output="sigmoid").module((3, 2), 5).to_empty(device="cpu")
    with torch.no_grad():
        for w in module.parameters():
            nn.init.normal_(w, generator=torch.Generator().manual_seed(w.numel()))
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1))
    weight, bias = module.parameters()
    assert torch.equal(module(x), torch.sigmoid(F.linear(x.flatten(1), weight, bias)))
    assert [type(part) for part in Linear().module((3, 2), 5)] == [nn.Flatten, nn.Linear]


def test_gossipys_logistic_regression_trains_and_is_what_pytorch_trains():
    options = ["network.nodes=1", "task.data={kind: digits}", "task.model.output=sigmoid", "local.epochs=2"]
    options += ["local.batch_size=100000", "local.lr=0.5", "local.weight_decay=0.01", "dtype=float64"]
    options += ["run={until: 1, mark_every: 1}", "update.clock={kind: deterministic, period: 1}"]
    start, end = train({}, *options, "run.until=0.5"), train({}, *options)
    data = load({}, options).task.data.load(1, 0)
    x, y = torch.from_numpy(data.features).double(), torch.from_numpy(data.targets)
    model = start.model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(torch.sigmoid(model[1](x)), y).backward()
        optimizer.step()
    for w, v in zip(end.model(0).parameters(), model.parameters(), strict=True):
        assert torch.allclose(w, v, rtol=1e-12, atol=1e-14)  # 1,437 examples, in another order
    assert not torch.equal(end.x, start.x)


@pytest.mark.parametrize(
    "model",
    [Linear(), Linear(bias=False), Linear(output="sigmoid"), MLP(()), MLP((5,)), MLP((5, 1, 7), "gelu")],
    ids=repr,
)
@pytest.mark.parametrize(("shape", "outputs"), [((4,), 1), ((3, 2, 5), 6)])
def test_parameters_are_counted_without_the_module(model, shape, outputs):
    assert model.count(shape, outputs) == sum(w.numel() for w in model.module(shape, outputs).parameters())
