"""Instructions that become parts of others: against the instructions one by one, and their kernels against NumPy."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import test_tape
import torch
from scipy.special import log_softmax

from batchednodes.numerics.tape import ahead, fusion
from batchednodes.numerics.tape.assembler import Writer
from batchednodes.numerics.tape.labels import label, label_back
from batchednodes.numerics.tape.matmul import BYTES, multiply
from batchednodes.numerics.tape.opcodes import FINISH, Finish, Op
from batchednodes.numerics.tape.strides import StridedView, packed
from batchednodes.numerics.tape.transpose import transpose

NOTHING = np.zeros(ahead.RANGES, np.int64)
B = 16
"""Examples of a minibatch: enough to lie side by side."""
TYPES = pytest.mark.parametrize("number", [np.float32, np.float64])


def ran(code):
    """Returns how often each operation occurs in a tape, products by what becomes of their sums."""
    return Counter(Finish(one[FINISH]).name if one[0] == Op.PRODUCT else Op(one[0]).name for one in code.instructions)


def test_a_step_of_a_perceptron_has_no_instructions_between_its_products():
    plain, rates, p = test_tape.descent("relu")
    counted = ran(plain.taped(p, B, rates).tape.code)
    assert {name: counted[name] for name in Finish.__members__} == {
        "STORE": 0, "ADD_TO": 2, "BIAS": 1, "BIAS_RELU": 1, "RELU_BACK": 1,
    }  # fmt: skip
    assert counted["LABEL"] == counted["LABEL_BACK"] == 1
    assert counted["TOTAL"] == 3  # gradients of biases, and the loss
    assert not {"FILL", "SCALE", "ADD", "RELU", "PICK", "SPREAD"} & set(counted)


def one_by_one(monkeypatch, *arguments, **more):
    """Returns a tape, and the same without fusion; rates, and the number of parameters."""
    plain, rates, p = test_tape.descent(*arguments, **more)
    made = plain.taped(p, B, rates)
    monkeypatch.setattr(fusion, "fused", lambda instructions, _: list(instructions))
    return made, plain.taped(p, B, rates), rates, p


def updated(one, rates, p, w):
    """Returns models, losses and momentum buffers after an update of w rows, of two steps."""
    x, v, examples, some = test_tape.drawn(one, rates, p, w, steps=2, b=B)
    loss = one.run_(x, v, examples, some)
    return [x, loss.clone(), *([] if v is None else [v])]


@pytest.mark.parametrize(("momentum", "dtype"), [(False, torch.float32), (False, torch.float64), (True, torch.float64)])
@pytest.mark.parametrize("model", ["linear", "relu", "deep", "norm"])
def test_fused_instructions_round_as_one_by_one(monkeypatch, model, momentum, dtype):
    made, wanted, rates, p = one_by_one(monkeypatch, model, "values", momentum, momentum, dtype=dtype)
    assert len(made.tape.code.instructions) < len(wanted.tape.code.instructions)
    for w in (1, 7):
        results = [updated(one, rates, p, w) for one in (made, wanted)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("uneven", ["none", "mask"])
def test_cross_entropy_in_two_instructions_is_that_one_by_one(monkeypatch, uneven):
    made, wanted, rates, p = one_by_one(monkeypatch, "relu", "labels", uneven=uneven)
    assert ran(made.tape.code)["LABEL"] == 1
    results = [updated(one, rates, p, 7) for one in (made, wanted)]
    test_tape.same(*results)


@pytest.mark.parametrize(
    ("case", "stays"),
    [("free", 0), ("a factor changes", 1), ("it would write a factor", 1), ("two read it", 1), ("both are it", 1)],
)
def test_a_product_stays_where_it_must(case, stays):
    writer = Writer()
    a, b, out = (StridedView(k, shape, packed(shape)) for k, shape in enumerate([(3, 5), (5, 4), (3, 4)]))
    sums = writer.product(a, b, 4)
    if case == "a factor changes":
        writer.add(Op.SCALE, a, replace(a, base=3), number=2.0)
    if case == "two read it":
        writer.add(Op.ADD_TO, replace(out, base=3), None, sums, 1.0)
    if case == "both are it":
        writer.add(Op.RELU_BACK, out, sums, sums)
    else:
        writer.add(Op.ADD_TO, replace(out, base=0) if case == "it would write a factor" else out, None, sums, 1.0)
    assert ran(writer.code())["STORE"] == stays


@TYPES
def test_what_becomes_of_sums_rounds_as_it_does_apart(number):
    draw = np.random.default_rng(0)
    for m, n in itertools.product([1, 2, 3, 5, 7, 8, 9, 11, 16, 19], [1, 7, 16, 31, 32, 40]):
        a, b, d = (draw.standard_normal(shape).astype(number) for shape in ((m, 6), (6, n), (m, n + 1)))
        start, c, size = draw.standard_normal((m + 1, n + 3)).astype(number), number(0.3), a.itemsize
        found = {}
        for finish in Finish:
            out = found[finish] = start.copy()
            multiply(out.ctypes.data, n + 3, a.ctypes.data, 6, 1, b.ctypes.data, n, m, n, 6, size, c, int(finish),
                     d.ctypes.data, n + 1, NOTHING)  # fmt: skip
            assert np.array_equal(out[m:], start[m:])
            assert np.array_equal(out[:, n:], start[:, n:])
        sums = found[Finish.STORE][:m, :n]
        biased = sums + d[:, :1]
        assert np.array_equal(found[Finish.ADD_TO][:m, :n], start[:m, :n] + c * sums)
        assert np.array_equal(found[Finish.BIAS][:m, :n], biased)
        assert np.array_equal(found[Finish.BIAS_RELU][:m, :n], np.maximum(biased, 0))
        assert np.array_equal(found[Finish.RELU_BACK][:m, :n], np.where(d[:, :n] <= 0, 0, sums))


@TYPES
def test_transposes_of_a_tile_or_more_write_their_result_and_nothing_else(number):
    lanes = BYTES // np.dtype(number).itemsize
    for m, n in itertools.product([lanes, lanes + 1, 2 * lanes, 3 * lanes - 1], repeat=2):
        a, out = np.arange(m * (n + 2)).astype(number).reshape(m, n + 2), np.full((n, m + 3), -1, number)
        transpose(a.ctypes.data, n + 2, m, n, out.ctypes.data, m + 3, out.itemsize, number(0))
        assert np.array_equal(out[:, :m], a[:, :n].T)
        assert (out[:, m:] == -1).all()


@TYPES
def test_softmax_at_labels_and_its_adjoint(number):
    draw, eps = np.random.default_rng(0), np.finfo(number).eps
    for d, m in itertools.product([1, 2, 10], [1, 7, 16, 17, 40]):
        a, labels, seeds = 3 * draw.standard_normal((d, m)), draw.integers(0, d, m), draw.standard_normal(m)
        a, seeds = a.astype(number), seeds.astype(number)
        labels[-1] = d  # there is none such
        p, picked, spares = np.full(d * m + 1, 7, number), np.empty(m, number), np.empty((2, 16), number)
        label(p.ctypes.data, a.ravel(), picked, labels, d, m, spares)
        y = log_softmax(a.astype(float), 0)
        wanted = y[labels[:-1], np.arange(m - 1)]
        # some roundings of numbers up to 10
        assert np.allclose(p[:-1].reshape(d, m), np.exp(y), rtol=0, atol=20 * eps)
        assert np.allclose(picked[:-1], wanted, rtol=0, atol=20 * eps)
        assert np.isnan(picked[-1])
        assert p[-1] == 7
        back = np.empty(d * m, number)
        label_back(back, seeds, 1, labels, p, number(0.5), d, m, spares)
        slope = 0.5 * seeds * ((np.arange(d)[:, None] == labels) - np.exp(y))
        assert np.allclose(back.reshape(d, m)[:, :-1], slope[:, :-1], rtol=0, atol=20 * eps)
        assert (back.reshape(d, m)[:, -1] == 0).all()


@TYPES
def test_softmax_at_labels_of_what_is_not_finite(number):
    a = np.array([[0, 0, 0, np.nan, 5], [-1e4, -np.inf, 1e4, 0, np.inf]], number)
    p, picked = np.empty(10, number), np.empty(5, number)
    label(p.ctypes.data, a.ravel(), picked, np.array([0, 1, 0, 0, 1]), 2, 5, np.empty((2, 16), number))
    assert np.array_equal(p.reshape(2, 5), [[1, 1, 0, np.nan, np.nan], [0, 0, 1, np.nan, np.nan]], equal_nan=True)
    assert np.array_equal(picked, np.array([0, -np.inf, -1e4, np.nan, np.nan], number), equal_nan=True)


def test_all_of_the_next_row_is_asked_for_in_so_many_times_and_no_more_than_that():
    numbers = np.zeros(1000)
    for sizes, times, most in [((640, 0, 100), 3, 10_000), ((5000, 3000), 7, 6000), ((64,), 100, 10_000)]:
        later, first = np.zeros(ahead.RANGES + 2 * len(sizes), np.int64), numbers.ctypes.data
        ahead.begin(later)
        for size in sizes:
            ahead.want(later, first, size, most)
        ahead.share(later, times)
        for _ in range(times):
            ahead.ask(later)
        ranges = later[ahead.RANGES :].reshape(-1, 2)
        assert (ranges[:, 0] == ranges[:, 1]).all()
        before = [sum(sizes[:k]) for k in range(len(sizes))]
        assert ranges[:, 1].tolist() == [first + min(n, max(0, most - m)) for n, m in zip(sizes, before, strict=True)]
