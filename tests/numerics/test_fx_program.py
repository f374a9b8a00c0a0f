"""Programs of functions of rows, and graphs of them, against the functions themselves."""

import itertools
import shutil
from dataclasses import replace

import example_models
import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from batchednodes.algorithms.local_sgd import LocalSGD, Uneven
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.models.losses import choose, cross_entropy
from batchednodes.models.stacked import Stack
from batchednodes.numerics import devices
from batchednodes.numerics.cuda_graphs import CudaGraphs, capture, padded
from batchednodes.numerics.fx_program import UntraceableError, compare, trace

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
SAMPLES = 50
STRADDLED = [1, 2, 7, 8, 9, 10, 31]
"""Numbers of rows below, at and above those that programs are traced with."""

MODELS = {
    "linear": (lambda: nn.Linear(16, 3), 16),
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3)), 16),
    "wide": (lambda: nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.LayerNorm(20), nn.Linear(20, 17)), 16),
    "softmax": (lambda: nn.Sequential(nn.Linear(16, 4), nn.Softmax(-1), nn.Linear(4, 3, bias=False)), 16),
    "cnn": (example_models.small_cnn, 64),
}


def descent(
    model: str,
    momentum: bool = False,
    decay: bool = False,
    nesterov: bool = False,
    device: str = "cpu",
    uneven: Uneven = "none",
):
    """Returns the descent of a model on random data, its rates of 40 nodes, and its number of parameters."""
    make, inputs = MODELS[model]
    torch.manual_seed(0)
    where = devices.named(device)
    stack = Stack.of(make(), torch.float64, where)
    features = torch.randn(SAMPLES, inputs, dtype=torch.float64).to(where)
    targets = torch.randint(0, 3, (SAMPLES,)).to(where)
    lr, m, d = (torch.linspace(low, 0.3, 40, dtype=torch.float64).to(where) for low in (0.05, 0.1, 0.0))
    rates = Hyperparameters(lr, m if momentum else None, d if decay else None, nesterov)

    def objective(parameters, features, targets, weights=None):
        outputs = stack.call_named(parameters, features)
        if weights is None:
            return cross_entropy(outputs, targets)
        return choose("auto", 3).weighted(outputs, targets, weights)

    padding = (uneven != "none", uneven)
    return LocalSGD.of(objective, stack.views, rates, features, targets, *padding), rates, stack.p


def updated(one: LocalSGD, rates: Hyperparameters, p: int, w: int, steps: int = 1):
    """Returns models, momentum buffers and losses after an update of w rows."""
    draw = torch.Generator().manual_seed(w)
    x, v = (torch.randn(w, p, generator=draw, dtype=torch.float64).to(rates.lr) for _ in range(2))
    examples = torch.randint(0, SAMPLES, (w, steps, 5), generator=draw).to(rates.lr.device)
    if one.padded:
        examples[::2, -1, 2:], examples[::3, 1:] = -1, -1
    rows = torch.randperm(40, generator=draw)[:w].to(rates.lr.device)
    v = None if rates.momentum is None else v
    loss = one.run_(x, v, examples, rates.of(rows))
    return [x, loss.clone(), *([] if v is None else [v])]


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)  # products of transposes sum in another order


@pytest.mark.parametrize("model", MODELS)
def test_a_program_gives_what_vmap_gives_for_any_number_of_rows(model):
    plain, rates, p = descent(model)
    program = plain.traced(p, 5, rates, compiled=False)
    for w in STRADDLED:
        same(updated(program, rates, p, w), updated(plain, rates, p, w))


@pytest.mark.parametrize(("momentum", "decay", "nesterov"), list(itertools.product([False, True], repeat=3)))
def test_a_program_makes_all_kinds_of_steps(momentum, decay, nesterov):
    if nesterov and not momentum:
        pytest.skip("Nesterov needs momentum")
    plain, rates, p = descent("mlp", momentum, decay, nesterov)
    program = plain.traced(p, 5, rates, compiled=False)
    same(updated(program, rates, p, 12, steps=3), updated(plain, rates, p, 12, steps=3))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_a_compiled_program_gives_what_vmap_gives_without_compiling_again():
    plain, rates, p = descent("mlp", momentum=True)
    program = plain.traced(p, 5, rates, compiled=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        for w in STRADDLED:
            same(updated(program, rates, p, w), updated(plain, rates, p, w))


class Watched(fx.Interpreter):
    """Runs a program, and keeps the shapes of what its products and softmaxes give."""

    def __init__(self, program):
        super().__init__(program)
        self.shapes = []

    def run_node(self, n):
        result = super().run_node(n)
        if n.target in (torch.ops.aten.bmm.default, torch.ops.aten._log_softmax.default):
            self.shapes.append(tuple(result.shape))
        return result


def test_what_is_narrow_is_computed_as_its_transpose():
    plain, rates, p = descent("mlp")
    program = Watched(plain.traced(p, 5, rates, compiled=False).step_)
    lr, examples = rates.lr[:7], torch.zeros(7, 5, dtype=torch.int64)
    program.run(torch.zeros(7, p, dtype=torch.float64), examples, plain.features, plain.targets, lr)
    assert sorted(program.shapes) == sorted([(7, 5, 20), (7, 3, 5), (7, 3, 5), (7, 5, 20), (7, 3, 20), (7, 20, 16)])


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_program_takes_no_detours(model):
    plain, rates, p = descent(model)
    program, aten = plain.traced(p, 5, rates, compiled=False).step_, torch.ops.aten
    assert isinstance(program, fx.GraphModule)
    nodes = list(program.graph.nodes)
    for node in nodes:
        if node.target is aten.transpose.int:
            assert node.args[0].target is not aten.transpose.int
    assert not [node for node in nodes if node.target in (aten.ones_like.default, aten.detach.default)]
    assert [node.args[1] for node in nodes if node.target in (aten.gather.default, aten.scatter_add.default)] == [1, 1]


def test_sizes_follow_the_rows():
    def spread_(x, shift):
        x.sub_(x.reshape(-1).sum() / x.shape[0])
        return torch.cat([x.reshape(-1), shift.expand(x.shape[0] + 3)])

    program = trace(spread_, lambda w: (torch.arange(2.0 * w).view(w, 2), torch.ones(1)))
    for w in STRADDLED:
        first, second = torch.ones(w, 2), torch.ones(w, 2)
        assert torch.equal(program(first, torch.ones(1)), spread_(second, torch.ones(1)))
        assert torch.equal(first, second)


def test_large_models_have_the_same_program_though_no_number_is_computed_for_it():
    plain, rates, p = descent("cnn")
    first, second = plain.traced(p, 5, rates, False), plain.traced(p, 5, rates, False, large=True)
    assert getattr(first.step_, "code") == getattr(second.step_, "code")  # noqa: B009
    assert all(torch.equal(a, b) for a, b in zip(*(updated(one, rates, p, 8) for one in (first, second)), strict=True))
    seen = list[type]()

    def step_(x, *more):
        seen.append(type(x))
        return plain.step_(x, *more)

    replace(plain, step_=step_).traced(p, 5, rates, False, large=True)
    assert seen == [FakeTensor, FakeTensor, torch.Tensor]  # traced twice, compared once


@torch.library.custom_op("batchednodes_tests::without_shapes", mutates_args=())
def without_shapes(x: torch.Tensor) -> torch.Tensor:
    """Returns one more; nothing says what shape that has."""
    return x + 1


def test_what_cannot_be_followed_by_shapes_is_traced_with_numbers():
    numbers = torch.arange(4.0)

    def scaled(x):
        return x * numbers.exp()

    for function in (scaled, without_shapes):
        program = trace(function, lambda w: (torch.arange(4.0 * w).view(w, 4),), large=True)
        assert torch.equal(program(torch.ones(5, 4)), function(torch.ones(5, 4)))


def branches(x):
    return x * 2 if x.shape[0] > 8 else x


def scales(x):
    return x * (1.0 / x.shape[0])


def counts(x):
    return x + torch.arange(x.shape[0] ** 2)[-1]


def looks(x):
    return x if x.sum() > 0 else -x


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("function", [branches, scales, counts, looks], ids=lambda f: f.__name__)
def test_a_function_that_is_another_one_for_other_rows_or_values_has_no_program(function, large):
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(UntraceableError):
        trace(function, lambda w: (torch.randn(w, generator=draw),), large=large)


def replayed(function, tensors):
    """Runs a function again on the same tensors, as a CUDA graph does."""
    result = function(*tensors)

    def replay():
        result.copy_(function(*tensors))

    return replay, result


def test_graphs_give_what_the_function_gives_whatever_ran_before():
    plain, rates, p = descent("mlp", momentum=True, decay=True)
    graphs = CudaGraphs(plain._steps_, 11, replayed)
    recorded = replace(plain, graphs=graphs)
    for w in (9, 3, 11, 9, 1):
        same(updated(recorded, rates, p, w, steps=2), updated(plain, rates, p, w, steps=2))
    assert sorted(graphs._made) == [1, 3, 10, 11]


def test_graphs_serve_rows_with_fewer_examples_and_steps():
    plain, rates, p = descent("mlp", momentum=True, decay=True, uneven="mask")
    program = plain.traced(p, 5, rates, compiled=False)
    recorded = replace(program, graphs=CudaGraphs(program._steps_, 11, replayed))
    own = replace(plain, uneven="skip")
    for w in (9, 3, 11, 9, 1):
        same(updated(recorded, rates, p, w, steps=3), updated(own, rates, p, w, steps=3))


@pytest.mark.parametrize("device", [CUDA])
def test_cuda_graphs_serve_rows_with_fewer_examples_and_steps(device):
    plain, rates, p = descent("cnn", momentum=True, decay=True, device=device, uneven="mask")
    recorded, own = plain.traced(p, 5, rates, compiled=False).recorded(31), replace(plain, uneven="skip")
    for w in (*STRADDLED, *STRADDLED):
        same(updated(recorded, rates, p, w, steps=3), updated(own, rates, p, w, steps=3))


@pytest.mark.parametrize("device", [CUDA])
def test_cuda_graphs_give_what_vmap_gives(device):
    plain, rates, p = descent("cnn", momentum=True, decay=True, device=device)
    recorded = plain.traced(p, 5, rates, compiled=False).recorded(31)
    for w in (*STRADDLED, *STRADDLED):
        same(updated(recorded, rates, p, w, steps=2), updated(plain, rates, p, w, steps=2))


@pytest.mark.cuda
def test_a_graph_is_recorded_on_the_device_of_its_tensors():
    if devices.count() < 2:
        pytest.skip("needs two devices")
    graphs, other = CudaGraphs(lambda x: x.mul_(2).sum(1), 8, capture()), devices.named("cuda:1")
    for w in (3, 2, 8, 3):
        x = torch.arange(2.0 * w).view(w, 2)
        there = x.to(other)
        assert torch.equal(graphs(there).cpu(), 2 * x.sum(1))
        assert torch.equal(there.cpu(), 2 * x)


def test_graphs_share_memory_of_about_twice_the_largest():
    graphs = CudaGraphs(lambda x: x.sum(1), 1000, replayed)
    for w in range(1, 1001, 7):
        graphs(torch.zeros(w, 1))
    buffers = {
        fixed.untyped_storage().data_ptr(): fixed.untyped_storage().nbytes() for (fixed,), *_ in graphs._made.values()
    }
    assert sum(buffers.values()) <= 4 * (1000 + 1024)  # the largest, and the powers of 2 below it
    assert len(graphs._made) > 20


def test_padding_is_at_most_a_quarter():
    sizes = [padded(w) for w in range(1, 2000)]
    assert all(w <= size <= 1.25 * w for w, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 4 * 11
    assert [padded(size) for size in sizes] == sizes


def test_data_that_rows_share_are_not_compared_with_themselves(monkeypatch):
    data, compared = torch.ones(1 << 16), []
    allclose = torch.allclose
    monkeypatch.setattr(torch, "allclose", lambda a, *more, **named: compared.append(a) or allclose(a, *more, **named))
    compare(lambda x, data: x * data[0], lambda x, data: data[1] * x, lambda w: (torch.ones(w, 3), data))
    assert compared
    assert all(one.numel() < data.numel() for one in compared)  # a comparison takes four times their memory
