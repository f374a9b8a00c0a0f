"""Kernels for images of stacked models against PyTorch's operations and their gradients, and programs made of them."""

import random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from batchednodes.numerics import fx_program
from batchednodes.numerics.convolution import (
    conv2d,
    group_norm,
    library,
    max_pool,
    max_pool_input,
    pooling,
    replace_,
)
from batchednodes.numerics.convolution.shape import Shape

ROWS = 3
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}  # sums of up to a thousand numbers near one, in another order


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found, wanted, dtype=torch.float32):
    torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.fixture
def wide(monkeypatch):
    """Makes the library compute every convolution of float32."""
    for name in ("_WORTH", "_OUTPUTS", "_INPUTS"):
        monkeypatch.setattr(library, name, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("last", [False, True])
def test_the_library_gives_each_row_what_it_gives_one_model(seed, last, wide):
    draw = random.Random(seed)
    groups, shared = draw.choice([1, 1, 2]), draw.choice([False, True])
    (c, o), kernel = (groups * draw.randint(1, 3) for _ in range(2)), (draw.randint(1, 3), draw.randint(1, 3))
    stride, dilation = ((draw.randint(1, 2), draw.randint(1, 3)) for _ in range(2))
    shape = Shape(stride, (draw.randint(0, 2), draw.randint(0, 2)), dilation, groups)
    x, bias = drawn(0, 1 if shared else ROWS, 2, c, 8, 9), drawn(1, ROWS, o) if draw.random() < 0.5 else None
    weight = drawn(2, ROWS, o, c // groups, *kernel)
    y = conv2d.outputs(x, weight, bias, shape.numbers, last)
    g = drawn(3, *y.shape)
    found = [
        conv2d.input_gradient(g, weight, [8, 9], shape.numbers, last),
        conv2d.weight_gradient(g, x, list(kernel), shape.numbers, last),
    ]
    for r in range(ROWS):
        mine = (x[r % len(x)].clone().requires_grad_(), weight[r].clone().requires_grad_())
        wanted = F.conv2d(*mine, None if bias is None else bias[r], *shape.arguments)
        close(y[r], wanted.detach())
        for t, expected in zip(found, torch.autograd.grad(wanted, mine, g[r]), strict=True):
            close(t[r], expected)
    assert (y.movedim(2, -1) if last else y).is_contiguous()


@pytest.mark.parametrize(
    ("how", "shape", "sizes"),
    [
        ("tiles", Shape((1, 1), (1, 1), (1, 1), 1), (4, 16, 32, 3, 8, 8)),
        ("tiles", Shape((1, 1), (0, 2), (1, 1), 1), (3, 32, 16, 3, 14, 10)),
        ("tiles", Shape((1, 1), (2, 2), (1, 1), 1), (5, 16, 16, 5, 6, 10)),
        ("products", Shape((2, 1), (0, 0), (1, 1), 1), (2, 5, 3, 1, 5, 6)),
        ("products", Shape((1, 2), (1, 1), (2, 1), 1), (1, 24, 3, 3, 4, 4)),
        ("lines", Shape((2, 2), (1, 1), (1, 1), 1), (4, 16, 16, 3, 16, 16)),
        ("lines", Shape((3, 2), (0, 2), (1, 1), 1), (2, 16, 32, 4, 10, 15)),
        ("lines", Shape((1, 1), (2, 1), (1, 1), 1), (2, 3, 16, 3, 5, 8)),
        ("library", Shape((2, 2), (1, 1), (2, 2), 1), (4, 16, 16, 3, 16, 16)),
    ],
    ids=str,
)
@pytest.mark.parametrize("last", [False, True])
def test_each_way_gives_what_the_plain_layer_gives_whatever_the_other_rows_are(how, shape, sizes, last, wide):
    b, c, o, k, *size = sizes
    x, weight, bias = drawn(0, ROWS, b, c, *size), drawn(1, ROWS, o, c, k, k) / k, drawn(2, ROWS, o)
    y = conv2d.outputs(x, weight, bias, shape.numbers, last)
    assert library.way(shape, (o, c, k, k), tuple(y.shape[3:]), b) == how
    g = drawn(3, *y.shape) / 8
    found = [
        conv2d.input_gradient(g, weight, size, shape.numbers, last),
        conv2d.weight_gradient(g, x, [k, k], shape.numbers, last),
    ]
    for r in range(ROWS):
        mine = x[r].clone().requires_grad_(), weight[r].clone().requires_grad_()
        wanted = F.conv2d(*mine, bias[r], *shape.arguments)
        close(y[r], wanted.detach())
        for t, expected in zip(found, torch.autograd.grad(wanted, mine, g[r]), strict=True):
            close(t[r], expected)
    last_row = [t[-1:] for t in (x, weight, bias)]
    assert torch.equal(conv2d.outputs(*last_row, shape.numbers, last), y[-1:])
    assert torch.equal(conv2d.weight_gradient(g[-1:], x[-1:], [k, k], shape.numbers, last), found[1][-1:])
    assert (y.movedim(2, -1) if last else y).is_contiguous()


def test_wide_convolutions_go_by_the_library_and_thin_ones_and_other_types_do_not():
    x = torch.zeros(1)
    assert library.takes(x, library._WORTH, 16, 8, True)
    assert library.takes(x, 4 * library._WORTH, 16, 7)  # few inputs, but much to do
    for arguments in ((x.double(), 1 << 30, 16, 8), (x, 1, 16, 8), (x, 1 << 30, 15, 8), (x, 1 << 20, 16, 7)):
        assert not library.takes(*arguments)
    assert not library.takes(x, 1 << 30, 16, 7, back=True)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_change_no_bit_of_what_the_library_computes(count, wide):
    x, weight, numbers, before = (
        drawn(0, ROWS, 4, 8, 9, 9),
        drawn(1, ROWS, 8, 8, 3, 3),
        [1] * 7,
        torch.get_num_threads(),
    )
    alone = [conv2d.weight_gradient(x[r : r + 1], x[r : r + 1], [3, 3], numbers) for r in range(ROWS)]
    torch.set_num_threads(count)
    try:
        together = conv2d.weight_gradient(x, x, [3, 3], numbers)
        assert torch.equal(together, torch.cat(alone))
        assert conv2d.outputs(x, weight, None, numbers).shape == x.shape
    finally:
        torch.set_num_threads(before)


def loss(module):
    def of(weights, x):
        return (functional_call(module, weights, (x,)).sin() * torch.linspace(0, 9, x.numel()).view(x.shape)).sum()

    return of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("groups", "shape"), [(2, (4, 6, 5, 3)), (1, (2, 3, 1, 1)), (5, (1, 5, 16, 16))], ids=str)
def test_stacked_groups_are_normalised_as_those_of_one_model_after_the_other(groups, shape, dtype):
    plain, own = (nn.GroupNorm(groups, shape[1], eps=1e-3, dtype=dtype) for _ in range(2))
    replace_(own)
    assert type(own) is group_norm.GroupNorm
    weights = {name: drawn(k, ROWS, shape[1], dtype=dtype) for k, name in enumerate(("weight", "bias"))}
    x = drawn(2, ROWS, *shape, dtype=dtype)
    first = vmap(grad_and_value(loss(own), argnums=(0, 1)))(weights, x)
    close(first, vmap(grad_and_value(loss(plain), argnums=(0, 1)))(weights, x), dtype)


@pytest.mark.parametrize(
    "function",
    [
        lambda f: vmap(grad(lambda w, x: sum(g.square().sum() for g in grad(f)(w, x).values()))),
        lambda f: lambda w, x: vmap(grad(lambda v, w: grad(f, 1)(w, v).square().sum()))(x, w),
        lambda f: lambda w, x: vmap(vmap(grad(f), (0, None)), (None, 0))(w, x),
        lambda f: lambda w, x: vmap(grad(f), (None, 0))({k: a[0] for k, a in w.items()}, x),
        lambda f: lambda w, x: grad(f)({k: a[0] for k, a in w.items()}, x[0]),
    ],
    ids=["weights twice", "inputs twice", "nested", "shared weights", "one model"],
)
def test_transforms_of_normalisation_compose_as_with_the_plain_layer(function):
    plain, own = (nn.GroupNorm(2, 6, dtype=torch.float64) for _ in range(2))
    replace_(own)
    weights = {name: drawn(k, ROWS, 6, dtype=torch.float64) for k, name in enumerate(("weight", "bias"))}
    x = drawn(2, ROWS, 4, 6, 5, 3, dtype=torch.float64)
    close(function(loss(own))(weights, x), function(loss(plain))(weights, x), torch.float64)


@pytest.mark.parametrize("seed", range(8))
def test_pooling_gives_the_numbers_and_places_of_the_plain_operation(seed):
    draw, dtype = random.Random(seed), [torch.float32, torch.float64][seed % 2]
    kernel, stride, dilation = ([draw.randint(1, 3), draw.randint(1, 3)] for _ in range(3))
    padding, ceil_mode = [draw.randint(0, k // 2) for k in kernel], draw.choice([False, True])
    x = drawn(seed, 3, draw.choice([1, 5, 16]), 9, 8, dtype=dtype).mul(2).round()  # equal numbers, too
    x[0, 0, 2, 3], x[1] = torch.nan, -torch.inf
    y, places = torch.ops.aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode)
    found = max_pool(x, list(y.shape[2:]), [*kernel, *stride, *padding, *dilation])
    torch.testing.assert_close(found, (y, places), rtol=0, atol=0, equal_nan=True)
    g = drawn(9, *y.shape, dtype=dtype).round()  # integers: sums are exact in any order
    back = torch.ops.aten.max_pool2d_with_indices_backward(g, x, kernel, stride, padding, dilation, ceil_mode, places)
    assert torch.equal(max_pool_input(g, found[1], [9, 8]), back)


class Residual(nn.Module):
    """A network with all that programs of images rewrite."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.one, self.two, self.last = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(self.first(x)))
        x = F.max_pool2d(F.relu(self.two(self.second(x)) + x), 2)
        return self.last(x.view(x.shape[0], -1))


def test_programs_of_images_give_what_vmap_gives_in_fewer_operations(wide):
    module = Residual()
    replace_(module)
    weights = dict(module.named_parameters())

    def step(x: Tensor, rows: Tensor) -> Tensor:
        stacked = {k: w.detach() + 0.01 * rows.view(-1, *[1] * w.ndim) for k, w in weights.items()}
        found = vmap(grad(lambda w, x: functional_call(module, w, (x,)).square().mean()))(stacked, x)
        return torch.cat([g.flatten(1) for g in found.values()], 1)

    program = fx_program.trace(step, lambda w: (drawn(w, w, 2, 3, 6, 6), torch.arange(float(w))))
    x = drawn(5, 5, 2, 3, 6, 6), torch.arange(5.0)
    close(program(*x), step(*x))
    names = [str(node.target) for node in program.graph.nodes]
    assert not any("max_pool2d" in name for name in names)
    assert names.count("aten.threshold_backward.default") == 1  # of the sum: the other is the normalisation's
    assert {"aten.relu_.default", "aten.add_.Tensor"} <= set(names)
    assert all(node.kwargs["last"] for node in program.graph.nodes if "last" in node.kwargs)


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 37), (2, 1)])
def test_relu_and_pooling_in_one_pass_give_numbers_and_gradients_of_both(height, width):
    x = drawn(0, 4, 3, height, width, dtype=torch.float64).round(decimals=1)  # with ties
    x[0, 0, :2, :2], x[1, 1, -1, -1], x[0, 0, 0, 0], x[2, 2, 0, 0] = -1.0, torch.nan, torch.inf, torch.nan
    y, places = pooling.halved(x)
    wanted = F.max_pool2d(x.requires_grad_().relu(), 2) if width > 1 else x.new_zeros(4, 3, height // 2, 0)
    assert torch.equal(y.nan_to_num(7.0), wanted.detach().nan_to_num(7.0))
    g = drawn(1, *y.shape, dtype=torch.float64)
    found = pooling.halved_gradient(g, places, [height, width])
    wanted = torch.autograd.grad(wanted, x, g)[0] if width > 1 else torch.zeros_like(x)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.MaxPool2d(2, padding=1)])
@pytest.mark.parametrize("twice", [False, True])
def test_programs_of_small_images_take_relu_and_pooling_in_one_pass_where_that_is_all(pool, twice):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(1, 2, 3), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            return self.head(pool(h).flatten(1)) + (h.mean() if twice else 0)

    module = Net().double()
    module(torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    replace_(module)
    shapes = {k: v.shape for k, v in module.named_parameters()}
    sizes = [s.numel() for s in shapes.values()]

    def objective(row: Tensor, x: Tensor) -> Tensor:
        views = {k: v.view(s) for (k, s), v in zip(shapes.items(), row.split(sizes), strict=True)}
        return functional_call(module, views, (x,)).square().mean()

    def step(rows: Tensor, x: Tensor) -> Tensor:
        gradient, loss = vmap(grad_and_value(objective))(rows, x)
        rows.sub_(gradient)
        return loss

    def given(w: int) -> tuple[Tensor, Tensor]:
        return drawn(0, w, sum(sizes), dtype=torch.float64), drawn(1, w, 2, 1, 8, 8, dtype=torch.float64)

    program = fx_program.trace(step, given)  # which compares them
    assert isinstance(program, torch.fx.GraphModule)
    joined = [node for node in program.graph.nodes if node.target is pooling.halved]
    assert len(joined) == (not twice and pool.kernel_size == 2 and pool.padding == 0)
