"""The stack: rows and modules hold the same parameters, and what rows cannot hold is refused by name."""

import example_models
import numpy as np
import pytest
import torch
from torch import nn

from batchednodes.data import Sampler
from batchednodes.models import problem as tasks
from batchednodes.models.losses import choose
from batchednodes.models.stacked import Stack
from batchednodes.models.trial import Trial, check_apart

CPU = torch.device("cpu")


def stacked(module: nn.Module) -> Stack:
    return Stack.of(module, torch.float64, CPU)


def tried(module: nn.Module, features, targets, classes=None):
    """Returns how vmap carries a module, as a trial on some examples finds."""
    one = np.zeros(1, np.uint64)
    sampler = Sampler(one, np.zeros(1, np.int64), np.arange(2), np.array([0, 2]), 2, 1, "shuffle")
    tests = (tasks.Tests(np.zeros(1, np.int64), features.unsqueeze(0), targets.unsqueeze(0)),)
    problem = tasks.Problem(stacked(module), choose("auto", classes), classes, features, targets, tests, sampler)
    return Trial(problem, features[:2], targets[:2]).ways()


@pytest.mark.parametrize(
    "make", [example_models.Tied, example_models.small_cnn, lambda: nn.LSTM(4, 3)], ids=["tied", "cnn", "lstm"]
)
def test_rows_and_modules_hold_the_same_parameters(make):
    module = make().double()
    stack = stacked(module)
    row = stack.row(module)
    assert row.numel() == stack.p == sum(w.numel() for w in module.parameters() if w.requires_grad)
    again = stack.module(row)
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in module.named_parameters()]
    for name, w in module.named_parameters():
        assert torch.equal(again.get_parameter(name), w)
    assert stack.row(again).equal(row)


def test_a_call_computes_what_the_module_computes():
    module = example_models.Tied().double()
    stack, features = (
        stacked(module),
        torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.equal(stack.call(stack.row(module), features), module(features))
    other = stack.row(module) * 2
    assert torch.equal(stack.call(other, features), stack.module(other)(features))


def test_the_gradient_of_a_tied_weight_is_the_sum_of_its_uses():
    module = example_models.Tied().double()
    stack, features = (
        stacked(module),
        torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    row = stack.row(module).requires_grad_()
    stack.call(row, features).sum().backward()
    module(features).sum().backward()
    expected = torch.cat([w.grad.flatten() for w in module.parameters() if w.requires_grad])
    assert torch.allclose(row.grad, expected, rtol=1e-13, atol=1e-15)  # the two uses may be added in another order


def test_parameters_live_in_rows_only():
    stack = stacked(example_models.Tied())
    assert all(w.is_meta for w in stack.skeleton.parameters() if w.requires_grad)
    assert stack.skeleton.first.weight is stack.skeleton.second.weight
    row = torch.zeros(stack.p, dtype=torch.float64)
    for view in stack.views(row).values():
        view.fill_(3.0)  # views, not copies
    assert (row == 3).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (example_models.empty, "task.model must have trainable parameters, got Flatten with none"),
        (lambda: nn.Linear(3, 0), "task.model must have trainable parameters, got Linear with none"),
        (lambda: nn.utils.weight_norm(nn.Linear(3, 2)), "must be a module that copy.deepcopy copies, .*at 'the top'"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of PyTorch: of what is old, and of a layer without outputs
def test_modules_that_rows_cannot_hold_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        stacked(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            example_models.Counter,
            r"task.model must not change its state, got a forward that writes buffers \['calls'\]",
        ),
        (example_models.Branching, "task.model must run under torch.func.vmap, got: .*data-dependent control flow"),
        (example_models.Noisy, "task.model must draw nothing but dropout in forward, got randn_like"),
        (lambda: nn.Linear(4, 2), r"task.model must put out a tensor of shape \[2, 1\] for 2 examples, got \[2, 2\]"),
        (lambda: nn.LSTM(4, 1), r"task.model must put out a tensor of shape \[2, 1\] for 2 examples, got tuple"),
        (
            lambda: nn.Linear(7, 1),
            r"task.model must take features of shape \[2, 4\], got: .*shapes cannot be multiplied",
        ),
    ],
)
def test_computations_that_vmap_cannot_carry_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        tried(make(), torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_models_that_mix_examples_are_refused_where_minibatches_differ_in_size(dtype):
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    apart = nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 1))
    check_apart(Stack.of(apart, dtype, CPU), features)
    statistics = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1))
    rule = r"task.model must compute each example by itself with local.epochs, .*; use local.steps, or GroupNorm"
    for module in (statistics, example_models.Centred()):
        with pytest.raises(ValueError, match=rule):
            check_apart(Stack.of(module, dtype, CPU), features)
    with pytest.raises(
        ValueError, match=r"task.model must take minibatches of any size with local.epochs, got: Expected"
    ):
        check_apart(Stack.of(statistics, dtype, CPU), features[:2])


def test_models_that_mix_examples_in_training_only_are_refused_where_they_draw_too():
    class Mixed(nn.Linear):
        def forward(self, x):
            y = super().forward(nn.functional.dropout(x, 0.2, self.training))
            return y - y.mean(0) if self.training else y

    stack = stacked(Mixed(4, 1))
    with pytest.raises(ValueError, match=r"task.model must compute each example by itself with local.epochs"):
        check_apart(stack, torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def test_a_module_that_freezes_parts_where_training_begins_has_them_frozen():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    module = Frozen(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    features = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tried(module, features, torch.zeros(3, 1, dtype=torch.float64))


def test_activations_count_what_leaf_modules_put_out():
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert stacked(module).activations((2, 3), torch.float64, CPU) == 6 + 5 + 5 + 2
    with pytest.raises(ValueError, match=r"task.model must take features of shape \[b, 7\], got: "):
        stacked(module).activations((7,), torch.float64, CPU)


def test_work_of_convolutions_counts_each_place_of_the_output():
    module = nn.Sequential(nn.Conv2d(4, 6, (3, 2), groups=2), nn.ReLU(), nn.Conv2d(6, 1, 1), nn.Flatten())
    assert stacked(module).convolved((4, 5, 5), torch.float64, CPU) == 6 * 3 * 4 * (2 * 6) + 3 * 4 * 6
    assert stacked(nn.Linear(3, 2)).convolved((3,), torch.float64, CPU) == 0


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            lambda m, x: m[0](x.view(-1, 2, 4)).flatten(0, 1),
            r"take test features of shape \[5, 4\], got: shape .* is invalid",
        ),
        (
            lambda m, x: torch.ones(len(x), 1).double(),
            "put out what its parameters decide, got outputs that no parameter",
        ),
        (
            lambda m, x: m.append(nn.Linear(4, 1).double())[-1](x),
            "make all that it holds when it is made, got a forward",
        ),
    ],
)
def test_forwards_that_do_for_a_minibatch_only_or_make_what_they_learn_are_refused(forward, message):
    class Own(nn.ModuleList):
        def forward(self, x):
            return forward(self, x)

    features, targets = torch.ones(5, 4, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        tried(Own([nn.Linear(4, 1)]), features, targets)


def test_outputs_must_cover_the_labels():
    features, labels = torch.ones(2, 4, dtype=torch.float64), torch.tensor([0, 1])
    tried(nn.Linear(4, 3), features, labels, 3)
    rule = r"must put out a tensor of shape \[2, at least 4\] for 2 examples, got \[2, 3\]"
    with pytest.raises(ValueError, match=rule):
        tried(nn.Linear(4, 3), features, labels, 4)
