"""Networks: modules of random layers, which plain data describe, so that a config can name them."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.odd import ODD
from fuzz.plain import PLAIN
from fuzz.shapes import Layer, Shape, Shaped, shape_of
from fuzz.structured import STRUCTURED
from fuzz.tables import tables

HEADS = (
    *("right", "more", "fewer", "fewer tokens", "flat", "unsqueezed", "first", "tuple", "swapped", "integers"),
    *("double", "detached", "constant", "empty", "scalar", "sigmoid"),
)
"""What networks put out: what is right, and what is not; see `Head`."""

SOUND = ("right", "more", "sigmoid")
"""Heads that put out what a run takes; to put out `more` is wrong only where targets are real."""


_SPOILT: dict[str, Callable[[Tensor], Any]] = {
    "flat": lambda y: y.flatten(),
    "unsqueezed": lambda y: y.unsqueeze(1),
    "first": lambda y: y[:, 0],
    "tuple": lambda y: (y, y),
    "swapped": lambda y: y.movedim(-1, 1) if y.ndim > 2 else y.T,
    "integers": lambda y: y.long(),
    "double": lambda y: y.double(),
    "detached": lambda y: y.detach(),
    "constant": lambda y: torch.ones_like(y),
    "scalar": lambda y: y.mean(),
    "sigmoid": lambda y: y.sigmoid(),
}
"""What becomes of outputs, by what a network puts out."""


class Head(nn.Module):
    """Maps what layers leave of an example to numbers for each of its labels, or to something wrong."""

    def __init__(self, width: int, outputs: int, tokens: Shape, kind: str) -> None:
        super().__init__()
        self.outputs = max(1, outputs + {"more": 2, "fewer": -1}.get(kind, 0)) if kind != "empty" else 0
        self.tokens, self.kind = tokens if kind != "fewer tokens" else (*tokens[:-1], 1), kind
        self.layer = nn.Linear(width, self.outputs * math.prod(self.tokens))

    def forward(self, x: Tensor) -> Any:
        """Returns outputs [b, *tokens, outputs], or something wrong."""
        y = self.layer(x.flatten(1)).view(len(x), *self.tokens, self.outputs)
        made = _SPOILT.get(self.kind)
        return y if made is None else made(y)


class Network(nn.Module):
    """Some layers one after the other, then a head."""

    def __init__(self, layers: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(layers), head

    def forward(self, x: Tensor) -> Any:
        """Returns what the head puts out."""
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


LAYERS = PLAIN | STRUCTURED
"""Kinds of layers that follow each other in any order, by name."""


def kinds(rows: int) -> dict[str, Layer]:
    """Returns all kinds of layers, by name, with tables of some rows."""
    return LAYERS | tables(rows) | ODD


def build(
    layers: Sequence[Sequence[Any]],
    shape: Sequence[int],
    outputs: int,
    tokens: Sequence[int] = (),
    rows: int = 8,
    head: str = "right",
    raw: bool = False,
) -> nn.Module:
    """Returns a network.

    Args:
        layers: name and seed of each.
        shape: of an example.
        outputs: numbers that are wanted for each label, or targets.
        tokens: shape of the labels of an example.
        rows: of tables.
        head: what it puts out, one of HEADS.
        raw: whether indices are looked up as they come, without `.long()`.
    """
    made, shape, known = [], tuple(shape), kinds(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about what is old
        for name, seed in layers:
            kind = known[name]
            taken = shape_of(kind.takes, shape)
            layer = Shaped(kind.takes, kind.make(taken, Random(seed)), raw)
            made.append(layer)
            shape = taken if name in ODD else _shape_after(layer, shape)
        return Network(made, Head(math.prod(shape), outputs, tuple(tokens), head))


def _shape_after(layer: Shaped, shape: Shape) -> Shape:
    """Returns the shape of what a layer makes of an example; the layer stays as it is."""
    with torch.no_grad():
        zeros = torch.zeros(2, *shape, dtype=torch.long if layer.kind == "ids" else None)
        return tuple(copy.deepcopy(layer).eval()(zeros).shape[1:])
