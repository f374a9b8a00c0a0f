"""Every class of torch.nn trains batched as one event at a time and is scored as by PyTorch, or is refused by name."""

import pytest
import torch
import walking
from torch import nn
from torch.nn import quantizable
from torch_modules import CASES, FEATURES, Case, classes, guess, network
from torch_uses import MORE

ALL = classes(nn) | {f"quantizable.{name}": kind for name, kind in classes(quantizable).items()}
"""What the package exports: a class that is new in it is walked by its default arguments, or fails as untested."""

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Relative: sums of up to some hundred terms in another order."""


@pytest.fixture(autouse=True)
def _undetermined():
    """Lets PyTorch run MaxUnpool, of which it says that it is not deterministic; on a CPU, with one thread, it is."""
    torch.use_deterministic_algorithms(mode=False)
    yield
    torch.use_deterministic_algorithms(mode=True)


def error(a, b):
    """Returns the largest difference over the largest size."""
    return float((a - b).abs().max() / b.abs().max())


def walk(case: Case, compiled: bool = False) -> None:
    """Trains and scores the network of a case in each way."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randint(0, 5, (walking.NODES * walking.EXAMPLES, FEATURES), generator=generator).to(case.dtype)
    targets = torch.randn(len(features), 1, generator=generator).to(case.dtype)
    module = network(case)
    problem = walking.posed(module, features, targets)
    assert problem.stack.ways.draws == case.draws
    x = problem.stack.row(module).repeat(walking.NODES, 1)
    x += 0.1 * torch.randn(x.shape, generator=generator).to(x)
    for name, kind in problem.stack.kept.items():
        if not kind.is_floating_point:  # counts are whole
            problem.stack.views(x)[name].zero_()
    one, close = walking.serial(problem, x), CLOSE[case.dtype]
    assert error(one, x) > 0
    assert error(walking.batched(problem, x, compiled=compiled), one) <= close
    if not case.draws:
        assert error(walking.plain(problem, x), one) <= close
    ours, theirs = walking.scored(problem, x)
    assert error(ours, theirs) <= close


def judge(name: str, case: Case) -> str:
    """Walks a case, or checks that it is refused for its reason; returns what became of it."""
    if not case.refused:
        walk(case)
        return f"{name} trained"
    with pytest.raises(ValueError, match=case.refused) as refused:
        walk(case)
    assert "file an issue" not in str(refused.value)
    return f"{name} refused: {str(refused.value).partition(', got')[2].lstrip(': ')[:90]}"


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about what is old
@pytest.mark.parametrize("name", ALL)
def test_torch_nn_class_trains_or_is_refused(name, record_property):
    case = CASES.get(name) or guess(ALL[name])
    assert case is not None, f"torch.nn.{name} is untested: give it arguments in torch_modules.CASES"
    record_property("torch.nn", judge(name, case))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MORE)
def test_torch_nn_in_other_uses_trains_or_is_refused(name, record_property):
    record_property("other uses", judge(name, MORE[name]))


def test_torch_nn_cases_are_of_classes_that_exist():
    assert not set(CASES) - set(ALL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["RNN", "MultiheadAttention", "Conv1d", "Dropout2d", "written zeros_like"])
def test_torch_nn_programs_equal_serial(name):
    walk(CASES.get(name) or MORE[name], compiled=True)
