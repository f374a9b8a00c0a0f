"""Layers that most rows cannot hold, or no run: state, draws, branches on values, what no vmap carries, what fails.

Each leaves the shape of its input as it is.
"""

import random
import threading
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from fuzz.shapes import Call, Layer, Shape


class Counting(nn.Module):
    """Counts its calls, in a buffer that is there or made."""

    def __init__(self, made: bool) -> None:
        super().__init__()
        if not made:
            self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input."""
        if not hasattr(self, "calls"):
            self.register_buffer("calls", torch.zeros(()))
        self.calls += 1
        return x


class Holding(nn.Module):
    """Holds something among its attributes."""

    def __init__(self, held: object) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input."""
        return x * 1


class Complex(nn.Module):
    """Has a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.ones(1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        """Returns its input, turned."""
        return (x * self.phase).real


class Doubled(torch.autograd.Function):
    """Doubles, without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Returns 2 x."""
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Returns 2 g."""
        return 2 * g


class Ruled(torch.autograd.Function):
    """Doubles, with a rule for vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Returns 2 x."""
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps nothing."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Returns 2 g."""
        return 2 * g


def _raises(x: Tensor) -> Tensor:
    raise KeyError("missing")


def _exits(x: Tensor) -> Tensor:
    raise SystemExit(3)


def _fixed(x: Tensor) -> Tensor:
    return x + torch.zeros(4, *x.shape[1:]).to(x)


def _uneven(x: Tensor) -> Tensor:
    if len(x) % 2 and len(x) > 1:
        raise RuntimeError("examples in pairs only")
    return x


def _changes(x: Tensor) -> Tensor:
    return x.add_(1)


def _nothing(x: Tensor) -> None:
    return None


_CALLS = (
    lambda x: x + torch.randn_like(x), lambda x: x * torch.rand(x.shape).to(x), lambda x: x[torch.randperm(len(x))],
    lambda x: torch.bernoulli(torch.full_like(x, 0.5)), lambda x: x + random.random(), lambda x: x.clone().normal_(),
    lambda x: nn.functional.rrelu(x, training=True),
    lambda x: x + torch.from_numpy(np.random.default_rng().random(1)).to(x),
    lambda x: nn.functional.rrelu(x, training=True),
    lambda x: x if x.sum() > 0 else -x, lambda x: x * float(x.mean()), lambda x: x * x.flatten()[0].item(),
    lambda x: torch.from_numpy(x.detach().numpy()) + x, lambda x: x * len(x.nonzero()), lambda x: x + x[x > 0].sum(),
    lambda x: x * len(torch.unique(x)), lambda x: x.masked_select(x > 0).sum() + x, lambda x: Doubled.apply(x),
    lambda x: Ruled.apply(x), lambda x: x.half().to(x), lambda x: x.double().to(x), lambda x: x / 0, lambda x: x.log(),
    lambda x: x * 1e200, lambda x: (x - x).sqrt() + x, lambda x: x.detach(),
    lambda x: torch.zeros_like(x), _raises, _exits,
    _fixed, _uneven, _changes, _nothing, lambda x: x.float(), lambda x: x.double(), lambda x: (x, x),
    lambda x: {"a": x},
    lambda x: x.view(4, -1), lambda x: x.to_sparse().to_dense(), lambda x: x.tolist() and x,
    lambda x: x.sum().backward() or x,
    lambda x: x.requires_grad_(), lambda x: torch.histc(x, 3).sum() + x, lambda x: x.bool().to(x), lambda x: x.pow(0.5),
    lambda x: x.data.mul_(1) and x, lambda x: x.to("meta"), lambda x: x.type(torch.int64),
    lambda x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False),
    lambda x: x.register_hook(lambda g: g) and x,
    lambda x: x.repeat_interleave(torch.ones(len(x), dtype=torch.long), 0), lambda x: x.cpu().to(x),
    lambda x: x.bfloat16().to(x),
    lambda x: torch.multinomial(x.abs().flatten(1) + 1, 1).sum() + x,
    lambda x: x + torch.bincount(x.long().abs().flatten()).sum(),
    lambda x: torch.linalg.inv(x.new_zeros(2, 2)).sum() + x, lambda x: x.set_(x.clone()),
    lambda x: x.expand(2, *x.shape),
)  # fmt: skip


def _call(shape: Shape, draw: Random) -> nn.Module:
    return Call(draw.choice(_CALLS))


def _odd_module(shape: Shape, draw: Random) -> nn.Module:
    """Returns a module of which PyTorch, or a user, keeps more than numbers."""
    d = shape[-1]
    line = nn.Linear(d, d)
    makers = (
        lambda: nn.BatchNorm1d(d) if len(shape) == 1 else nn.Sequential(nn.Flatten(0, -2), nn.BatchNorm1d(d)),
        lambda: nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(shape[0]).eval()), lambda: weight_norm(line),
        lambda: spectral_norm(line), lambda: parametrizations.spectral_norm(line),
        lambda: prune.l1_unstructured(line, "weight", 1),
        lambda: Counting(made=True), lambda: Counting(made=False), lambda: Holding(threading.Lock()), Complex,
        lambda: Holding(open(__file__)), lambda: Holding(torch.ones(2, requires_grad=True) * 2),  # noqa: SIM115
        lambda: Holding(torch.Generator()), lambda: Holding({"a": nn.Parameter(torch.ones(2))}),
        lambda: torch.jit.script(line),
        lambda: torch.jit.trace(line, torch.zeros(2, d)), lambda: nn.DataParallel(line), lambda: nn.RReLU(),
        lambda: nn.SyncBatchNorm(d), lambda: nn.Embedding(3, 2, max_norm=1.0), lambda: line.double(),
        lambda: line.half(),
        lambda: line.to("meta"), lambda: nn.LazyBatchNorm1d(), lambda: nn.Linear(d + 1, d), lambda: nn.Linear(d, 0),
        lambda: nn.ModuleDict({"a": line}), lambda: line.requires_grad_(False),
        lambda: Holding(nn.Linear(d, d)), lambda: nn.FractionalMaxPool2d(1, 1),
        lambda: nn.CrossMapLRN2d(2), lambda: nn.AdaptiveLogSoftmaxWithLoss(d, 4, [2]),
        lambda: nn.Linear(d, d, dtype=torch.float64),
        lambda: nn.LazyConv2d(2, 1), lambda: torch.compile(line, backend="eager"),
    )  # fmt: skip
    return draw.choice(makers)()


ODD: dict[str, Layer] = {
    "odd": Layer(_call, sound=False, jumps=True),
    "odd_module": Layer(_odd_module, sound=False, jumps=True),
}
"""All kinds, by name."""
