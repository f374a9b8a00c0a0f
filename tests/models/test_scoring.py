"""Scores of models in one compiled loop, against vmap."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from batchednodes import load
from batchednodes.data import Sampler
from batchednodes.models import problem as tasks
from batchednodes.models.losses import LossName, choose
from batchednodes.models.stacked import Stack
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import plan

T, F, K = 40, 6, 5
SAMPLER = Sampler(np.zeros(1, np.uint64), np.zeros(1, np.int64), np.arange(3), np.array([0, 3]), 2, 1, "shuffle")


def networks(
    loss: LossName = "auto", labels: tuple[int, ...] | None = (), dtype: torch.dtype = torch.float64, count: int = 2
) -> tasks.Problem:
    """Returns a problem of a small network on test sets, with labels of a shape or real targets."""
    module = nn.Sequential(nn.Linear(F, 9), nn.ReLU(), nn.Linear(9, K))
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(count, T, *(labels or ()), F, generator=draw).to(dtype)
    if labels is None:
        targets = torch.randn(count, T, K, generator=draw).to(dtype)
    else:
        targets = torch.randint(0, K, (count, T, *labels), generator=draw)
    classes = None if labels is None else K
    tests = (tasks.Tests(np.arange(count), features, targets),)
    stack = Stack.of(module, dtype, torch.device("cpu"))
    return tasks.Problem(stack, choose(loss, classes), classes, features[0], targets[0], tests, SAMPLER)


def models(problem: tasks.Problem, k: int) -> torch.Tensor:
    """Returns different models for each network."""
    shape = len(problem.tests[0].networks), k, problem.stack.p
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        problem.stack.dtype
    )


@pytest.mark.parametrize(
    ("loss", "labels", "count"),
    [("auto", (), 1), ("auto", (), 2), ("mse", (), 2), ("auto", None, 2), ("auto", (3,), 2)],
    ids=["one-network", "labels", "one-hot", "real-targets", "sequences"],
)
def test_scores_are_those_of_vmap(loss: LossName, labels: tuple[int, ...] | None, count: int) -> None:
    plain = networks(loss, labels, count=count)
    looped, x = plain.with_scorers(), models(plain, 4)
    assert looped.tests[0].scorer is not None
    found, wanted = looped.scores(x, looped.tests[0]), plain.scores(x, plain.tests[0])
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=0.0)  # sums of t losses in another order
    torch.testing.assert_close(found[1], wanted[1], rtol=0.0, atol=0.0, equal_nan=True)
    some = looped.tests[0].of(slice(count - 1, count))
    assert torch.equal(looped.scores(x[-1:, 1:2], some)[0], found[0][-1:, 1:2])  # whatever it is scored with


def test_ties_and_numbers_that_are_none_are_counted_as_pytorch_counts_them() -> None:
    plain = networks(dtype=torch.float32, count=1)
    x = models(plain, 3)
    x[0, 0] = 0.0  # all outputs are equal: the first is the largest
    x[0, 1, -1] = torch.nan  # one output is NaN, which is larger than all
    looped = plain.with_scorers()
    found, wanted = looped.scores(x, looped.tests[0]), plain.scores(x, plain.tests[0])
    assert torch.equal(found[1], wanted[1])
    assert found[0].isnan().tolist() == wanted[0].isnan().tolist() == [[False, True, False]]


def test_models_that_no_loop_carries_are_scored_as_before() -> None:
    plain = networks()
    for one in (networks(dtype=torch.bfloat16), replace(plain, stack=replace(plain.stack, ways=_anchored(plain)))):
        assert one.with_scorers().tests[0].scorer is None


def _anchored(problem: tasks.Problem) -> object:
    return replace(problem.stack.ways, anchored=True)


@pytest.mark.parametrize(
    ("settings", "looped"),
    [([], True), (["run.until=1"], False), (["local.compile=off"], False), (["task.model.hidden=[9999]"], False)],
)
def test_long_runs_of_small_models_are_scored_in_a_loop(settings: list[str], looped: bool) -> None:
    config = load({"network.nodes": 20, "run.until": 200, "device": "cpu", "task.model": {"kind": "mlp"}}, settings)
    assert plan([config], assembly.timeline([config])).chunks.scored == looped
