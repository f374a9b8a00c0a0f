"""Shapes: what layers of a random module take, and how any tensor is made into that.

Each layer begins by making what it gets into what it takes, so that layers follow each other in any order, and any of
them can be left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
"""Of one example."""

Kind = Literal["any", "vector", "sequence", "image", "ids"]
"""any: [b, ...]; vector: [b, d]; sequence: [b, t, d]; image: [b, c, h, w]; ids: integers [b, t], as they are."""

Make = Callable[[Shape, Random], nn.Module]
"""Makes a layer for examples of a shape, with options of its own."""

MOST = 64
"""Numbers of an example up to which layers make it larger."""


@dataclass(frozen=True)
class Layer:
    """A kind of layer."""

    make: Make
    """Makes one."""
    takes: Kind = "any"
    """What it takes."""
    sound: bool = True
    """Whether a run trains it, whatever it comes after."""
    jumps: bool = False
    """Whether its outputs are no continuous function of its inputs, so that rounding may change them by much."""


class Call(nn.Module):
    """Calls a function of one tensor."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        """Returns what the function returns."""
        return self.function(x)


class Parametric(nn.Module):
    """Calls a function of one tensor and some parameters."""

    def __init__(self, function: Callable[..., Tensor], *shapes: Shape) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([0.5 * torch.randn(shape) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the function returns."""
        return self.function(x, *self.weights)


class Shaped(nn.Module):
    """A layer, after what makes any tensor into what it takes."""

    def __init__(self, kind: Kind, layer: nn.Module, raw: bool) -> None:
        super().__init__()
        self.kind, self.layer, self.raw = kind, layer, raw

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the layer returns."""
        if self.kind == "ids":
            return self.layer(x if self.raw else x.long())
        return self.layer(shaped(self.kind, x))


def shaped(kind: Kind, x: Tensor) -> Tensor:
    """Returns a tensor as what some layer takes."""
    match kind:
        case "vector":
            return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
        case "sequence":
            x = x.flatten(2).transpose(1, 2) if x.ndim > 3 else x
            return x.flatten(1).unsqueeze(2) if x.ndim < 3 else x
        case "image":
            return x.reshape(len(x), *([1] * (4 - x.ndim)), *x.shape[1:]) if x.ndim < 4 else x.flatten(3)
        case _:
            return x if x.ndim > 1 else x.unsqueeze(1)


def shape_of(kind: Kind, shape: Shape) -> Shape:
    """Returns the shape of an example that a layer takes, of one of any shape."""
    return tuple(shaped(kind, torch.zeros(2, *shape)).shape[1:])


def kernel(draw: Random, *sizes: int) -> tuple[int, ...]:
    """Returns the sizes of a window into something of some sizes."""
    return tuple(draw.randint(1, min(3, size)) for size in sizes)


def divisor(draw: Random, number: int) -> int:
    """Returns a divisor of a number."""
    return draw.choice([k for k in range(1, number + 1) if number % k == 0])


def index(draw: Random, size: int, low: int = 0) -> Tensor:
    """Returns some integers, low <= i < size."""
    return torch.tensor([draw.randrange(low, size) for _ in range(draw.randint(1, 5))])
