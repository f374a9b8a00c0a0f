"""Tapes of minibatch steps, against vmap; and their parts, against NumPy."""

import ctypes
import itertools
import logging
import platform
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from numba import njit
from scipy import special
from torch import nn

from batchednodes import load
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.models.losses import choose
from batchednodes.models.stacked import Stack
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.tape import record
from batchednodes.numerics.tape.ahead import RANGES
from batchednodes.numerics.tape.assembler import Writer
from batchednodes.numerics.tape.elementary import erf, exp, expm1, log, log1p, tanh
from batchednodes.numerics.tape.elementwise import gather
from batchednodes.numerics.tape.matmul import multiply
from batchednodes.numerics.tape.opcodes import Finish, Op
from batchednodes.numerics.tape.strides import StridedView, loops, packed
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import plan

SAMPLES, INPUTS = 50, 6
MODELS = {
    "linear": lambda k: nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, k)),
    "no-bias": lambda k: nn.Linear(INPUTS, k, bias=False),
    "sigmoid": lambda k: nn.Sequential(nn.Linear(INPUTS, k), nn.Sigmoid()),
    "softmax": lambda k: nn.Sequential(nn.Linear(INPUTS, k), nn.Softmax(-1)),
    "tanh": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, k)),
    "relu": lambda k: nn.Sequential(nn.Linear(INPUTS, 40), nn.ReLU(), nn.Linear(40, k)),
    "deep": lambda k: nn.Sequential(nn.Linear(INPUTS, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, k)),
    "leaky": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.LeakyReLU(), nn.Linear(5, k)),
    "silu": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.SiLU(), nn.Linear(5, k)),
    "gelu": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.GELU(), nn.Linear(5, k)),
    "elu": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.ELU(), nn.Linear(5, k)),
    "softplus": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.Softplus(), nn.Linear(5, k)),
    "norm": lambda k: nn.Sequential(nn.Linear(INPUTS, 5), nn.LayerNorm(5), nn.Linear(5, k)),
}


class Adapted(nn.Module):
    """A frozen layer with an adapter."""

    def __init__(self, o: int) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(INPUTS, o).requires_grad_(False), nn.Linear(INPUTS, 2, bias=False)
        self.up = nn.Linear(2, o, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.unflatten(-1, (3, 2)))[0][:, -1]


class Heads(nn.Module):
    """Causal attention of two heads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.unflatten(-1, (3, 2, 2)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(h, h.tanh(), h, is_causal=True).transpose(1, 2).flatten(1)


DEEPER = {
    "lora": lambda k: nn.Sequential(Adapted(5), nn.ReLU(), nn.Linear(5, k)),
    "gru": lambda k: nn.Sequential(Last(nn.GRU(2, 5, batch_first=True)), nn.Linear(5, k)),
    "lstm": lambda k: nn.Sequential(Last(nn.LSTM(2, 5, batch_first=True)), nn.Linear(5, k)),
    "lstms": lambda k: nn.Sequential(Last(nn.LSTM(2, 19, 2, batch_first=True, bidirectional=True)), nn.Linear(38, k)),
    "attention": lambda k: nn.Sequential(nn.Linear(INPUTS, 12), Heads(), nn.Linear(12, k)),
}
LOSSES = {
    "labels": ("cross_entropy", 3, 3),
    "one-hot": ("mse", 3, 3),
    "values": ("mse", None, 2),
    "value": ("mse", None, 1),
}


def descent(
    model="relu", loss="labels", momentum=False, decay=False, nesterov=False, uneven="none", dtype=torch.float64
):
    """Returns the descent of a model on random data, its rates of 40 nodes, and its number of parameters."""
    name, classes, outputs = LOSSES[loss]
    torch.manual_seed(0)
    stack = Stack.of((MODELS | DEEPER)[model](outputs), dtype, torch.device("cpu"))
    features = torch.randn(SAMPLES, INPUTS, dtype=dtype)
    targets = torch.randint(0, classes, (SAMPLES,)) if classes else torch.randn(SAMPLES, outputs, dtype=dtype)
    lr, m, d = (torch.linspace(low, 0.3, 40, dtype=dtype) for low in (0.05, 0.1, 0.0))
    rates, criterion = (
        Hyperparameters(lr, m if momentum else None, d if decay else None, nesterov),
        choose(name, classes),
    )

    def objective(parameters, features, targets, weights=None):
        outputs = stack.call_named(parameters, features)
        return criterion.mean(outputs, targets) if weights is None else criterion.weighted(outputs, targets, weights)

    return LocalSGD.of(objective, stack.views, rates, features, targets, uneven != "none", uneven), rates, stack.p


def drawn(one: LocalSGD, rates: Hyperparameters, p: int, w: int, steps: int = 1, b: int = 5):
    """Returns models, momentum buffers, minibatches and rates of w rows."""
    draw = torch.Generator().manual_seed(w)
    x, v = (torch.randn(w, p, generator=draw, dtype=torch.float64).to(rates.lr) for _ in range(2))
    examples = torch.randint(0, SAMPLES, (w, steps, b), generator=draw)
    if one.padded:
        examples[::2, -1, 2:] = -1
    if one.uneven != "none":
        examples[::3, 1:] = -1
    rows = torch.randperm(40, generator=draw)[:w]
    return x, None if rates.momentum is None else v, examples, rates.of(rows)


def updated(one: LocalSGD, rates: Hyperparameters, p: int, w: int, steps: int = 1):
    """Returns models, losses and momentum buffers after an update of w rows."""
    x, v, examples, some = drawn(one, rates, p, w, steps)
    loss = one.run_(x, v, examples, some)
    return [x, loss.clone(), *([] if v is None else [v])]


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)  # sums of other orders


@pytest.mark.parametrize(("model", "loss"), list(itertools.product(MODELS, LOSSES)))
def test_a_tape_gives_what_vmap_gives(model, loss):
    plain, rates, p = descent(model, loss)
    tape = plain.taped(p, 5, rates)
    for w in (1, 7, 31):
        same(updated(tape, rates, p, w, steps=2), updated(plain, rates, p, w, steps=2))


@pytest.mark.parametrize("model", DEEPER)
def test_a_tape_of_deeper_models_gives_what_vmap_gives(model):
    plain, rates, p = descent(model)
    tape = plain.taped(p, 5, rates)
    assert tape.tape is not None
    same(updated(tape, rates, p, 7, steps=2), updated(plain, rates, p, 7, steps=2))


@pytest.mark.parametrize(("momentum", "decay", "nesterov"), list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("uneven", ["none", "skip", "mask"])
def test_a_tape_makes_all_kinds_of_steps(momentum, decay, nesterov, uneven):
    if nesterov and not momentum:
        pytest.skip("Nesterov needs momentum")
    plain, rates, p = descent("relu", "labels", momentum, decay, nesterov, uneven)
    same(updated(plain.taped(p, 5, rates), rates, p, 12, steps=3), updated(plain, rates, p, 12, steps=3))


def test_a_tape_of_float32_rounds_as_float32():
    plain, rates, p = descent(dtype=torch.float32)
    for a, b in zip(updated(plain.taped(p, 5, rates), rates, p, 9), updated(plain, rates, p, 9), strict=True):
        assert a.dtype == torch.float32
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)  # some units in the last place of numbers up to 4


@pytest.mark.parametrize("momentum", [False, True])
def test_a_tape_updates_rows_where_they_lie_and_no_others(momentum):
    plain, rates, p = descent(momentum=momentum)
    tape = plain.taped(p, 5, rates)
    x, v, examples, some = drawn(plain, rates, p, 20)
    rows = torch.tensor([7, 0, 19, 3])
    some = Hyperparameters(
        *(None if r is None else r[:4] for r in (some.lr, some.momentum, some.weight_decay)), nesterov=False
    )
    there, buffers = x[rows], None if v is None else v[rows]
    wanted = tape.run_(there, buffers, examples[:4], some)
    before = x.clone()
    assert torch.equal(tape.run_at_(x, v, rows, examples[:4], some), wanted)
    assert torch.equal(x[rows], there)
    assert v is None or torch.equal(v[rows], buffers)
    others = torch.ones(20, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(x[others], before[others])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_any_wave_and_with_any_threads(threads):
    plain, rates, p = descent("deep")
    tape, before = plain.taped(p, 200, rates), torch.get_num_threads()
    x, _, examples, some = drawn(plain, rates, p, 40, steps=2, b=200)
    alone = [x[k : k + 1].clone() for k in range(40)]
    losses = [
        tape.run_(row, None, examples[k : k + 1], Hyperparameters(some.lr[k : k + 1], None, None, False))
        for k, row in enumerate(alone)
    ]
    torch.set_num_threads(threads)
    try:
        together = tape.run_(x, None, examples, some)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(x, torch.cat(alone))
    assert torch.equal(together, torch.cat(losses))


def test_what_is_not_finite_is_seen():
    plain, rates, p = descent()
    x, _, examples, some = drawn(plain, rates, p, 6)
    x[2, 0], x[4, :] = torch.nan, torch.inf
    loss = plain.taped(p, 5, rates).run_(x, None, examples, some)
    assert loss.isfinite().tolist() == [True, True, False, True, False, True]


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        ([nn.Hardsigmoid()], "hardsigmoid"),
        ([nn.Unflatten(-1, (1, 1, INPUTS)), nn.Conv2d(1, 1, 1), nn.Flatten(-3)], "convolve"),
    ],
)
def test_what_there_is_no_instruction_for_is_named(layers, word, monkeypatch):
    monkeypatch.setitem(MODELS, "other", lambda k: nn.Sequential(*layers, nn.Linear(INPUTS, k)))
    plain, rates, p = descent("other")
    with pytest.raises(UntraceableError, match=word):
        plain.taped(p, 5, rates)


def test_an_update_that_the_tape_gets_wrong_is_refused():
    def step_(x, entries, features):
        return x.sum(1) + 0 * features[entries.flatten()].sum()

    def arguments(w):
        return torch.ones(w, 3, dtype=torch.float64), torch.zeros(w, 2, dtype=torch.int64), torch.ones(5).double()

    with pytest.raises(UntraceableError):
        record(step_, arguments)


@pytest.mark.parametrize(
    ("model", "has"),
    [("mlp, hidden: [8], activation: gelu", True), ("python, target: 'example_models:small_cnn'", False)],
)
def test_auto_takes_a_tape_where_there_is_one_and_says_why_it_takes_a_program_elsewhere(model, has, caplog):
    caplog.set_level(logging.INFO, "batchednodes")
    options = ["network.nodes=20", "run.until=400", "task.data={kind: digits}", f"task.model={{kind: {model}}}"]
    config = load({}, options)
    events = assembly.timeline([config])
    run = assembly.assemble([config], events, plan([config], events).chunks)
    found = run.engine.executor.algorithm.descent
    assert (found.tape is not None) == has
    assert has or isinstance(found.step_, torch.fx.GraphModule)
    assert bool(re.search("auto: no tape .*convol", caplog.text)) != has


def each(function, x):
    """Returns a function of each number, compiled for their type."""

    @njit(error_model="numpy")
    def all_of(x):
        out = np.empty_like(x)
        for i in range(x.size):
            out[i] = function(x[i])
        return out

    return all_of(x)


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_functions_err_by_less_than_two_units_in_the_last_place(number):
    draw, high = np.random.default_rng(0), 87 if number == np.float32 else 708
    cases = {
        exp: (np.exp, np.concatenate([draw.uniform(-high, high, 20_000), draw.uniform(-1, 1, 20_000)])),
        log: (np.log, np.concatenate([np.exp(draw.uniform(-80, 80, 20_000)), draw.uniform(0.5, 2, 20_000)])),
        expm1: (np.expm1, np.concatenate([draw.uniform(-high, high, 20_000), draw.uniform(-1e-3, 1e-3, 20_000)])),
        log1p: (np.log1p, np.concatenate([draw.uniform(-0.9, 9, 20_000), draw.uniform(-1e-3, 1e-3, 20_000)])),
        erf: (
            lambda x: special.erf(x.astype(float)),
            np.concatenate([draw.uniform(-9, 9, 20_000), draw.uniform(-1e-3, 1e-3, 20_000)]),
        ),
        tanh: (np.tanh, np.concatenate([draw.uniform(-30, 30, 20_000), draw.uniform(-1e-3, 1e-3, 20_000)])),
    }
    for function, (reference, x) in cases.items():
        x = x.astype(number)
        found, wanted = each(function, x), reference(x.astype(np.longdouble))
        assert found.dtype == number
        # Half a unit is the rounding of the result.
        assert np.abs(found - wanted).max(where=wanted == 0, initial=0) == 0
        assert np.abs((found - wanted) / np.where(wanted == 0, 1, wanted)).max() < 2 * np.finfo(number).eps


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_functions_know_what_is_not_finite(number):
    inf, nan = np.inf, np.nan
    cases = [
        (exp, [-inf, -1e4, 0, 1e4, inf, nan], [0, 0, 1, inf, inf, nan]),
        (log, [0, 1, inf, -1, nan], [-inf, 0, inf, nan, nan]),
        (tanh, [-inf, 0, inf, nan], [-1, 0, 1, nan]),
        (erf, [-inf, 0, inf, nan], [-1, 0, 1, nan]),
        (expm1, [-inf, 0, inf, nan], [-1, 0, inf, nan]),
        (log1p, [-1, 0, inf, -2, nan], [-inf, 0, inf, nan, nan]),
    ]
    for function, x, wanted in cases:
        assert np.array_equal(each(function, np.array(x, number)), np.array(wanted, number), equal_nan=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_exponentials_meet_no_numbers_below_normal(number):
    flags, underflow = ctypes.CDLL("libm.so.6"), 16  # cores of many kinds take a hundred cycles for each such number
    x = np.concatenate([[-np.inf], np.linspace(-1e4, 80, 100_001), np.linspace(-710, 0, 100_001)]).astype(number)
    for function in (exp, expm1):
        each(function, x)
        flags.feclearexcept(underflow)
        each(function, x)
        assert not flags.fetestexcept(underflow)


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_products_of_all_sizes_write_their_result_and_nothing_else(number):
    draw = np.random.default_rng(0)
    for m, n, k in itertools.product([1, 2, 3, 7, 8, 13, 16], [1, 2, 7, 8, 9, 16, 31, 33, 64, 70], [0, 1, 5]):
        a, b = draw.standard_normal((k, m)).astype(number), draw.standard_normal((k, n)).astype(number)
        out = np.full((m + 1, n + 3), 7, number)
        multiply(out.ctypes.data, n + 3, a.ctypes.data, 1, m, b.ctypes.data, n, m, n, k, out.itemsize, number(0),
                 int(Finish.STORE), 0, 0, np.zeros(RANGES, np.int64))  # fmt: skip
        # k terms, each rounded once; NumPy's are rounded in another order
        assert np.allclose(out[:m, :n], a.T @ b, rtol=0, atol=10 * k * np.finfo(number).eps)
        assert (out[m:] == 7).all()
        assert (out[:, n:] == 7).all()


def test_lines_of_any_strides_are_gathered():
    numbers = np.arange(1000.0)
    for (lines, n), (next_line, step) in itertools.product(
        [(1, 1), (1, 7), (7, 1), (3, 20), (20, 3)], [(0, 0), (0, 1), (1, 0), (1, 20), (20, 1), (2, 40), (40, 2), (5, 5)]
    ):
        out = np.empty(lines * n)
        gather(numbers.ctypes.data, step, next_line, lines, n, out)
        i, j = np.arange(n), np.arange(lines)[:, None]
        assert (out.reshape(lines, n) == j * next_line + i * step).all()


def test_places_are_reshaped_as_numpy_reshapes_without_a_copy():
    draw = np.random.default_rng(0)
    shapes = [(4, 6), (2, 3, 4), (24,), (1, 24), (6, 1, 4), (3, 8), (2, 12), (2, 2, 6), (24, 1)]
    for old, new in itertools.product(shapes, repeat=2):
        order = draw.permutation(len(old))
        array = np.arange(24).reshape([old[d] for d in order]).transpose(np.argsort(order))
        place = StridedView(0, old, tuple(s // array.itemsize for s in array.strides)).reshaped(new)
        view = array.view()
        try:
            view.shape = new
        except AttributeError:
            assert place is None
        else:
            assert place is not None
            found = np.lib.stride_tricks.as_strided(array, new, [s * array.itemsize for s in place.strides])
            assert (found == array.reshape(new)).all()


def test_loops_join_what_lies_side_by_side_and_refuse_more_than_three():
    out, bias = StridedView(0, (4, 5), packed((4, 5))), StridedView(1, (4, 5), (0, 1))
    assert loops([out, out]) == ([1, 1, 20], [[0, 0, 1], [0, 0, 1]])
    assert loops([out, bias]) == ([1, 4, 5], [[0, 5, 1], [0, 0, 1]])
    shape = (2, 2, 2, 2)
    assert loops([StridedView(0, shape, packed(shape)), StridedView(1, shape, packed(shape, (3, 2, 1, 0)))]) is None


def test_memory_is_shared_by_numbers_that_are_not_needed_at_once():
    writer = Writer()
    last = StridedView(0, (64,), (1,))
    for _ in range(10):
        last = writer.add(Op.EXP, writer.new((64,)), last)
    writer.add(Op.EXP, writer.new((64,)), last)  # nobody reads this
    writer.add(Op.ADD_TO, StridedView(1, (64,), (1,)), None, last, 1.0)
    code = writer.code()
    assert len(code.instructions) == 11
    assert code.reals == 128


def test_a_copy_of_what_has_changed_since_is_not_read():
    writer = Writer()
    x = StridedView(0, (2, 3), (3, 1))
    copy = writer.copy(x, (1, 0))
    writer.add(Op.ADD_TO, x, None, copy, 1.0)
    with pytest.raises(UntraceableError, match="changed"):
        writer.add(Op.ADD_TO, replace(x, base=1), None, copy, 1.0)
