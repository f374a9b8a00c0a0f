"""LSTMs of stacked models: outputs, gradients and their gradients are those of PyTorch's own, model by model."""

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from batchednodes.numerics.tape import recurrent

W, STEPS, EXAMPLES, INPUTS = 3, 5, 4, 6

LAYERS = {
    "one": {"hidden_size": 16},  # whole vectors
    "deep": {"hidden_size": 3, "num_layers": 2, "bidirectional": True},
    "odd": {"hidden_size": 37, "batch_first": True, "bias": False, "bidirectional": True},
}


def posed(name, dtype):
    """Returns a layer, a loss of all that it gives, and parameters, inputs and first states of W models."""
    draw = torch.Generator().manual_seed(0)
    layer = nn.LSTM(INPUTS, **LAYERS[name]).to(dtype)
    parameters = {k: 0.4 * torch.randn(W, *v.shape, generator=draw).to(dtype) for k, v in layer.named_parameters()}
    shape = (EXAMPLES, STEPS) if layer.batch_first else (STEPS, EXAMPLES)
    x = torch.randn(W, *shape, INPUTS, generator=draw).to(dtype)
    ways = layer.num_layers * (1 + layer.bidirectional)
    states = torch.randn(W, 2, ways, EXAMPLES, layer.hidden_size, generator=draw).to(dtype)

    def loss(call, own, inputs, begin):
        more = layer.bias, layer.num_layers, 0.0, True, layer.bidirectional, layer.batch_first
        out, last, cell = call(inputs, list(begin), list(own.values()), *more)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        return (weights * out).sum() + last.sin().sum() + (cell**2).sum()

    return loss, parameters, x, states


def compared(got, wanted, close):
    """Compares trees of tensors, relative to the largest number of each."""
    for a, b in zip(torch.utils._pytree.tree_leaves(got), wanted, strict=True):
        assert (a - b).abs().max() <= close * b.abs().max()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])  # sums in other orders
def test_gradients_are_those_of_torch(name, dtype, close):
    loss, *given = posed(name, dtype)
    got = vmap(grad(lambda *some: loss(recurrent.layers, *some), (0, 1, 2)))(*given)
    each = []
    for w in range(W):
        some = [{k: v[w].clone().requires_grad_() for k, v in given[0].items()}]
        some += [t[w].clone().requires_grad_() for t in given[1:]]
        leaves = torch.utils._pytree.tree_leaves(some)
        each.append(torch.autograd.grad(loss(torch.lstm, *some), leaves))
    compared(got, [torch.stack(parts) for parts in zip(*each, strict=True)], close)


def test_gradients_of_gradients_are_those_of_operations(monkeypatch):
    loss, *given = posed("deep", torch.float64)

    def second():
        def length(*some):
            return sum((g**2).sum() for g in grad(lambda *all_: loss(recurrent.layers, *all_))(*some).values())

        return vmap(grad(length, (0, 1, 2)))(*given)

    got = second()
    monkeypatch.setattr(recurrent._Lstm, "apply", lambda *all_: (*recurrent._composed(*all_), None))
    compared(got, torch.utils._pytree.tree_leaves(second()), 1e-12)


def test_gates_far_from_zero_are_finite_and_not_a_number_stays():
    pre = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4, torch.nan]).view(1, 1, 6, 1).repeat(1, 1, 1, 4)
    pre[..., 3] *= -1  # one division makes the third gate and the last
    zeros = torch.zeros(1, 6, 1)
    out, _, cell, _ = recurrent._Lstm.apply(pre, torch.zeros(1, 4, 1), torch.zeros(1, 4), zeros, zeros, False)
    gate = pre[0, 0, :, 0].double()
    wanted = gate.sigmoid() * gate.tanh()
    assert torch.allclose(cell.flatten().double(), wanted, rtol=1e-6, atol=1e-12, equal_nan=True)
    assert torch.allclose(out.flatten().double(), (-gate).sigmoid() * wanted.tanh(), 1e-6, 1e-12, equal_nan=True)


def test_what_is_no_plain_lstm_is_left_to_torch():
    x, state = torch.zeros(2, 3, 4), torch.zeros(1, 3, 5)
    weights = [torch.zeros(20, 4), torch.zeros(20, 5)]
    more = (False, 1, 0.0, True, False, False)
    assert recurrent.takes((x, [state, state], weights, *more))
    assert not recurrent.takes((x, [state, state], [*weights, torch.zeros(2, 5)], *more))  # projected
    assert not recurrent.takes((x.half(), [state, state], weights, *more))
    assert not recurrent.takes((x[:0], [state, state], weights, *more))
    assert not recurrent.takes((x[0], torch.ones(2), [state, state], weights, *more[:5]))  # of several lengths
