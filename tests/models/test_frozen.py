"""Frozen parts of a model: a trunk that features go through once, and what is none."""

import pytest
import torch
from torch import Tensor, nn

from batchednodes import train
from batchednodes.models.frozen import trunk
from batchednodes.models.stacked import Stack


def frozen(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts).requires_grad_(False)


class Around(nn.Module):
    """Gives its features to its head, too."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = frozen(nn.Linear(6, 6)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x) + torch.stack([x, x]).sum(0))


class Asking(Around):
    """Lets the shape of its features decide."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x)) * (x.shape[1] == 6)


class Twice(Around):
    """Calls its trunk twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(self.trunk(x)))


class Whole(nn.Module):
    """Centres its minibatch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) * self.scale


def found(module: nn.Module, features: Tensor | None = None):
    torch.manual_seed(0)
    return trunk(
        Stack.of(module, torch.float32, torch.device("cpu")), torch.randn(4, 6) if features is None else features
    )


@pytest.mark.parametrize(
    ("module", "shape", "parts"),
    [
        (nn.Sequential(frozen(nn.Linear(6, 3), nn.ReLU()), nn.Linear(3, 2)), (3,), 1),
        (nn.Sequential(nn.Linear(6, 3).requires_grad_(False), nn.ReLU(), nn.Linear(3, 2)), (3,), 2),
        (nn.Sequential(frozen(nn.Linear(6, 3)), frozen(nn.Linear(3, 50)), nn.Linear(50, 2)), (3,), 1),
    ],
    ids=["nested", "flat", "grows"],
)
def test_a_trunk_is_what_features_go_through_first(module, shape, parts):
    t = found(module)
    assert t is not None
    assert (t.shape, len(t.training)) == (shape, parts)
    x, row = torch.randn(3, 6), torch.randn(t.head.p)
    stack = Stack.of(module, torch.float32, torch.device("cpu"))
    assert torch.allclose(t.head.call(row, t.of(x)), stack.call(row, x))


@pytest.mark.parametrize(
    "module",
    [
        Around(), Asking(), Twice(), nn.Sequential(nn.Flatten(), nn.Linear(6, 2)),
        nn.Sequential(frozen(nn.Linear(6, 7)), nn.Linear(7, 2)),
        nn.Sequential(frozen(nn.Linear(6, 6), nn.Dropout(0.5)), nn.Linear(6, 2)),
        nn.Sequential(Whole().requires_grad_(False), nn.Linear(6, 2)),
    ],
    ids=["around", "asks", "twice", "nothing frozen", "larger", "draws", "whole minibatch"],
)  # fmt: skip
def test_what_is_no_trunk_stays_in_the_model(module):
    assert found(module) is None


class Behind(nn.Sequential):
    """Does the same, such that its trunk takes no features."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(1 * x)


def body(kind: str) -> nn.Module:
    parts = frozen(nn.Linear(64, 8), nn.Tanh()), nn.Linear(8, 10)
    return Behind(*parts) if kind == "behind" else nn.Sequential(*parts)


def test_runs_with_a_trunk_give_what_the_whole_model_gives():
    settings = {
        "network.nodes": 3, "run.until": 2, "task.data.kind": "digits", "dtype": "float64", "local.momentum": 0.5,
        "task.model": {"kind": "python", "target": f"{__name__}:body", "args": {"kind": "before"}},
    }  # fmt: skip
    run, serial = train(settings), train(settings, "executor=serial")
    whole = train(settings, "task.model.args.kind=behind")
    assert torch.allclose(run.x, serial.x, rtol=1e-12)
    assert torch.allclose(run.x, whole.x, rtol=1e-12)  # rounding of products
    assert run.metrics["loss_mean"].tolist() == pytest.approx(whole.metrics["loss_mean"].tolist(), rel=1e-12)
    x = torch.randn(5, 64, dtype=torch.float64)
    assert torch.allclose(run.model(0).double()(x), whole.model(0).double()(x))
