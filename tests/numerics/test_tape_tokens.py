"""Tapes of models of tokens, against vmap; and what they do along lines and with rows of tables, against PyTorch."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import stats
from torch import nn

from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.models.losses import choose
from batchednodes.models.stacked import Stack, Ways
from batchednodes.numerics.tape import lines
from batchednodes.numerics.tape.strides import StridedView, joining, packed

TOKENS, LONG, D, SAMPLES = 20, 5, 8, 30


class Model(nn.Module):
    """A table of tokens, what follows it, and scores of the next token."""

    def __init__(self, *parts: nn.Module, width: int = D, padding: int | None = None, tied: bool = False) -> None:
        super().__init__()
        self.table, self.parts = nn.Embedding(TOKENS, D, padding_idx=padding), nn.Sequential(*parts)
        self.head = nn.Linear(width, TOKENS, bias=not tied)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.parts(self.table(x))
        return self.head(h[0] if isinstance(h, tuple) else h)


class Layer(nn.Module):
    """Places that are learned, and a layer of causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(LONG, D)
        self.layer = nn.TransformerEncoderLayer(D, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(LONG, dtype=x.dtype)
        return self.layer(x + self.places(torch.arange(LONG)), mask, is_causal=True)


def frozen_norm() -> nn.Module:
    """Returns a layer normalization whose weights are not trained."""
    norm = nn.LayerNorm((LONG, D)).requires_grad_(False)
    norm.weight.normal_()
    return norm


MODELS = {
    "attention": lambda: Model(Layer()),
    "tied": lambda: Model(nn.LayerNorm(D), nn.Tanh(), tied=True),
    "padding": lambda: Model(padding=0),
    "frozen norm": lambda: Model(frozen_norm(), nn.GELU()),
    "tanh": lambda: Model(nn.GELU("tanh"), nn.RMSNorm(D)),
    "both ways": lambda: Model(nn.RNN(D, D, batch_first=True, bidirectional=True), width=2 * D),
}


def descent(model, dtype=torch.float64, guarded=False):
    """Returns the descent of a model on random tokens, its rates, and its number of parameters."""
    torch.manual_seed(0)
    stack = Stack.of(MODELS[model](), dtype, torch.device("cpu"))
    stack = replace(stack, ways=Ways(stand_ins=True, guarded=guarded))
    features, targets = torch.randint(0, TOKENS, (2, SAMPLES, LONG))
    mean = choose("cross_entropy", TOKENS).mean

    def objective(parameters, features, targets):
        return mean(stack.call_named(parameters, features), targets)

    rates = Hyperparameters(torch.linspace(0.05, 0.3, 7, dtype=dtype), None, None, False)
    return LocalSGD.of(objective, stack.views, rates, features, targets), rates, stack


@pytest.mark.parametrize("model", MODELS)
def test_a_tape_of_tokens_gives_what_vmap_gives(model):
    plain, rates, stack = descent(model)
    tape = plain.taped(stack.p, 4, rates)
    x = 0.3 * torch.randn(7, stack.p, dtype=torch.float64)
    examples, other = torch.randint(0, SAMPLES, (7, 2, 4)), x.clone()
    loss = tape.run_(x, None, examples, rates).clone()
    assert torch.allclose(loss, plain.run_(other, None, examples, rates), rtol=1e-12)
    assert torch.allclose(x, other, rtol=1e-12, atol=1e-13)  # sums of other orders


@pytest.mark.parametrize("guarded", [False, True])
def test_only_rows_of_a_table_that_are_looked_up_change(guarded):
    plain, rates, stack = descent("frozen norm", torch.float32, guarded)
    tape, x = plain.taped(stack.p, 2, rates), torch.randn(3, stack.p)
    examples, before = torch.tensor([[[0, 1]], [[2, 2]], [[3, 4]]]), x.clone()
    tape.run_(x, None, examples, rates.of(torch.arange(3)))
    changed = (stack.views(x)["table.weight"] != stack.views(before)["table.weight"]).any(2)
    for row, taken in zip(changed, examples, strict=True):
        assert set(row.nonzero().flatten().tolist()) == set(plain.features[taken].flatten().tolist())


def test_a_token_that_there_is_not_makes_the_loss_not_a_number():
    plain, rates, stack = descent("tied")
    tape, x = plain.taped(stack.p, 1, rates), torch.randn(2, stack.p, dtype=torch.float64)
    tape.features[1, 0] = TOKENS
    loss = tape.run_(x, None, torch.tensor([[[0]], [[1]]]), rates.of(torch.arange(2)))
    assert loss.isnan().tolist() == [False, True]


def _lines(function, *places):
    """Returns a kernel's result on lines of 33 numbers."""
    out = np.empty_like(places[0])
    function(out.ravel(), *(place.ravel() for place in places))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_along_lines_give_what_autograd_gives(dtype):
    m, d = 40, 33
    x, g = torch.randn(2, m, d, dtype=dtype)
    roots = np.empty(m, x.numpy().dtype)
    eps = roots.dtype.type(0.1)
    softmax = partial(lines.softmax_lines, d=d, m=m)
    back = partial(lines.softmax_lines_back, d=d, m=m)
    cases = [
        (F.gelu, lines.gelu, lambda o, g, x, _: lines.gelu_back(o, g, x)),
        (lambda x: F.layer_norm(x, (d,), eps=0.1), lambda o, x: lines.normalize(o, x, roots, eps, d, m),
         lambda o, g, _, y: lines.normalize_back(o, g, y, roots, d, m)),
        (lambda x: x.softmax(1), partial(softmax, True), lambda o, g, _, y: back(True, o, g, y)),
        (lambda x: x.log_softmax(1), partial(softmax, False), lambda o, g, _, y: back(False, o, g, y)),
    ]  # fmt: skip
    for function, forward, backward in cases:
        wanted, pull = torch.func.vjp(function, x)
        y = _lines(forward, x.numpy())
        # some units in the last place of numbers up to 10
        close = partial(np.allclose, rtol=0, atol=50 * float(torch.finfo(dtype).eps))
        assert close(y, wanted)
        assert close(_lines(backward, g.numpy(), x.numpy(), y), pull(g)[0])


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_gelu_of_any_number_keeps_its_digits(number):
    x = np.concatenate([np.linspace(-40, 40, 5001), [np.nan, np.inf]]).astype(number)
    found, wanted = _lines(lines.gelu, x), x.astype(float) * stats.norm.cdf(x.astype(float))
    # Half a unit of the probability, which is up to 1, and as much of the product.
    assert np.allclose(found, wanted, rtol=2 * np.finfo(number).eps, atol=4 * np.finfo(number).eps, equal_nan=True)


def test_a_copy_in_the_order_that_joins_dimensions_has_the_view():
    cases = [
        ((8, 4, 3, 2), (32, 3, 2)),
        ((8, 4, 3, 2), (8, 12, 2)),
        ((4, 6), (3, 8)),
        ((2, 1, 3), (6,)),
        ((6,), (2, 3)),
    ]
    for shape, other in cases:
        for first in (packed(shape), packed(shape, range(len(shape) - 1, -1, -1))):
            order = joining(StridedView(0, shape, first), other)
            assert StridedView(0, shape, packed(shape, order)).reshaped(other) is not None
    heads = StridedView(0, (8, 4, 32, 16), (32, 4096, 1, 256))  # [h d, b q] as [b, h, q, d]: what is innermost stays so
    assert joining(heads, (32, 32, 16)) == [0, 1, 3, 2]
