"""Convolutions of stacked models against `nn.Conv2d`, one model after the other and under vmap."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from batchednodes.models.stacked import Stack
from batchednodes.numerics.convolution import conv2d, matmul, replace_, restore_, threading

ROWS = 3
SETTINGS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 3}, (2, 2, 6, 5)),
    ({"in_channels": 1, "out_channels": 1, "kernel_size": 1}, (1, 1, 1, 1)),
    ({"in_channels": 3, "out_channels": 5, "kernel_size": 1, "stride": 3}, (19, 3, 5, 7)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": (2, 4), "stride": (3, 2), "padding": (3, 1)}, (2, 2, 7, 8)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 5, "padding": 4, "bias": False}, (2, 2, 3, 3)),
    (
        {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 2)}
        | {"dilation": (2, 1), "groups": 2},
        (2, 4, 9, 8),
    ),
    ({"in_channels": 3, "out_channels": 3, "kernel_size": 3, "groups": 3, "stride": 2, "dilation": 3}, (2, 3, 9, 10)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": "valid"}, (2, 6, 5)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": (5, 3), "padding": "same", "dilation": 2}, (2, 2, 6, 5)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": (4, 3), "padding": "same"}, (2, 2, 6, 5)),
    (
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
        (2, 2, 6, 5),
    ),
    (
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
        (2, 2, 6, 5),
    ),
]
TOLERANCE = {
    torch.float64: 1e-12,  # other orders of a few hundred sums of numbers near one
    torch.float32: 1e-4,  # the same, with 24 bits
    torch.bfloat16: 0.3,  # eight bits; sums of up to a hundred terms, and of their squares' slopes
}


def loss(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda weights, x: functional_call(module, weights, (x,)).sin().sum()


def pair(settings: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Module, nn.Module, dict[str, Tensor], Tensor]:
    """Returns the plain layer, the one of our own, rows of weights and a generator's draw for inputs."""
    plain, own = nn.Conv2d(**settings, dtype=dtype), nn.Conv2d(**settings, dtype=dtype)
    replace_(own)
    assert type(own) is conv2d.Conv2d
    draw = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(ROWS, *w.shape, generator=draw, dtype=torch.float64).to(dtype)
        for name, w in plain.named_parameters()
    }
    return plain, own, weights, torch.randn(2000 * ROWS, generator=draw, dtype=torch.float64).to(dtype)


def close(plain: Any, own: Any, dtype: torch.dtype) -> None:
    torch.testing.assert_close(own, plain, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("settings", "shape"), SETTINGS, ids=lambda value: str(value))
def test_stacked_convolutions_are_those_of_one_model_after_the_other(settings, shape, dtype):
    plain, own, weights, numbers = pair(settings, dtype)
    x = numbers[: ROWS * torch.Size(shape).numel()].view(ROWS, *shape)
    one = grad_and_value(loss(plain), argnums=(0, 1))
    for shared in (False, True):
        inputs = x[:1].expand_as(x) if shared else x
        wanted = [one({name: w[r] for name, w in weights.items()}, inputs[r]) for r in range(ROWS)]
        stacked = vmap(grad_and_value(loss(own), argnums=(0, 1)), in_dims=(0, None if shared else 0))
        (of_weights, of_x), value = stacked(weights, x[0] if shared else x)
        close(torch.stack([value for _, value in wanted]), value, dtype)
        close(torch.stack([g[1] for g, _ in wanted]), of_x, dtype)
        for name in weights:
            close(torch.stack([g[0][name] for g, _ in wanted]), of_weights[name], dtype)


@pytest.mark.parametrize(("settings", "shape"), [SETTINGS[0], SETTINGS[5]], ids=["plain", "groups"])
@pytest.mark.parametrize(
    "function",
    [
        lambda f: lambda w, x: grad(lambda w: vmap(f, (0, None))(w, x[0]).sum())(w),  # vmap inside of grad
        lambda f: lambda w, x: grad(lambda x: vmap(f, (0, None))(w, x[0]).sum())(x),
        lambda f: lambda w, x: grad(lambda v: vmap(f, (None, 0))(v, x).sum())({k: a[0] for k, a in w.items()}),
        lambda f: vmap(grad(lambda w, x: sum(g.square().sum() for g in grad(f)(w, x).values()))),  # second derivatives
        lambda f: lambda w, x: vmap(grad(lambda v, w: grad(f, 1)(w, v).square().sum()))(x, w),
        lambda f: (
            lambda w, x: vmap(vmap(grad(f), (0, None)))({k: torch.stack([a, a + 1]) for k, a in w.items()}, x[:2])
        ),
        lambda f: lambda w, x: vmap(vmap(grad(f), (None, 0)), (0, None))(w, x),
        lambda f: lambda w, x: vmap(vmap(grad(f), (0, None)), (None, 0))(w, x),
    ],
    ids=["weights", "inputs", "shared weights", "weights twice", "inputs twice", "networks", "outer", "inner"],
)
def test_transforms_compose_as_with_the_plain_layer(settings, shape, function):
    plain, own, weights, numbers = pair(settings, torch.float64)
    x = numbers[: ROWS * torch.Size(shape).numel()].view(ROWS, *shape)
    close(function(loss(plain))(weights, x), function(loss(own))(weights, x), torch.float64)


def test_one_model_is_computed_by_the_plain_operations():
    plain, own, weights, numbers = pair(SETTINGS[0][0], torch.float64)
    one, x = {name: w[0] for name, w in weights.items()}, numbers[:120].view(2, 2, 6, 5)
    wanted, found = grad_and_value(loss(plain))(one, x), grad_and_value(loss(own))(one, x)
    assert torch.equal(wanted[1], found[1])
    assert torch.equal(wanted[0]["bias"], found[0]["bias"])
    close(wanted[0]["weight"], found[0]["weight"], torch.float64)  # oneDNN may choose another kernel for one gradient


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_a_trace_holds_few_operations_that_can_be_replayed(mode):
    _, own, weights, numbers = pair(SETTINGS[5][0], torch.float64)
    step, x = vmap(grad(loss(own))), numbers[: ROWS * 576].view(ROWS, 2, 4, 9, 8)
    traced = make_fx(step, tracing_mode=mode)(weights, x)
    names = [str(node.target) for node in traced.graph.nodes if "batchednodes" in str(node.target)]
    assert names == ["batchednodes.convolve.default", "batchednodes.convolution_weight.default"]  # x needs no gradient
    for name, g in traced(weights, x + 1).items():
        assert torch.equal(g, step(weights, x + 1)[name])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_and_chunks_change_no_bit(count, monkeypatch):
    monkeypatch.setattr(threading, "_WORTH", 0)
    _, own, weights, numbers = pair(SETTINGS[5][0], torch.float64)
    step, x, before = vmap(grad(loss(own))), numbers[: ROWS * 576].view(ROWS, 2, 4, 9, 8), torch.get_num_threads()
    alone = [step({name: w[r : r + 1] for name, w in weights.items()}, x[r : r + 1]) for r in range(ROWS)]
    torch.set_num_threads(count)
    try:
        together = step(weights, x)
    finally:
        torch.set_num_threads(before)
    for name, g in together.items():
        assert torch.equal(g, torch.cat([part[name] for part in alone]))


def test_products_take_few_examples_at_a_time(monkeypatch):
    _, own, weights, numbers = pair(SETTINGS[5][0], torch.bfloat16)
    step, x = vmap(grad_and_value(loss(own), argnums=(0, 1))), numbers[: ROWS * 576].view(ROWS, 2, 4, 9, 8)
    wanted = step(weights, x)
    monkeypatch.setattr(matmul, "_COLUMNS", 1)
    close(wanted, step(weights, x), torch.bfloat16)


class Odd(nn.Conv2d):
    """A convolution of a user's own."""


def test_only_plain_convolutions_are_replaced_and_only_in_the_skeleton():
    module = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), Odd(2, 2, 1), nn.Conv2d(2, 1, 1))
    stack = Stack.of(module, torch.float64, torch.device("cpu"))
    kinds = [type(m) for m in stack.skeleton.modules() if isinstance(m, nn.Conv2d)]
    assert kinds == [conv2d.Conv2d, Odd, conv2d.Conv2d]
    for plain in (module, stack.module(torch.ones(stack.p, dtype=torch.float64))):
        assert [type(m) for m in plain.modules() if isinstance(m, nn.Conv2d)] == [nn.Conv2d, Odd, nn.Conv2d]
    restore_(stack.skeleton)
    assert type(stack.skeleton[2]) is nn.Conv2d
