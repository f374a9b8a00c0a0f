"""The shape of a convolution: all settings that it has beside its weights."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]
"""A vertical and a horizontal number."""


@dataclass(frozen=True)
class Shape:
    """What the arguments of `F.conv2d` say beside its tensors."""

    stride: Pair
    """Pixels from one place of the kernel to the next; at least 1."""
    padding: Pair
    """Zeros that are added on each side [pixels]; at least 0."""
    dilation: Pair
    """Pixels from one number of the kernel to the next; at least 1."""
    groups: int
    """Groups of channels that do not mix; at least 1."""

    @property
    def numbers(self) -> list[int]:
        """All seven numbers: stride, padding, dilation (two each) and groups; see `of`."""
        return [*self.stride, *self.padding, *self.dilation, self.groups]

    @property
    def arguments(self) -> tuple[Any, Any, Any, int]:
        """The pairs and the groups, as PyTorch's functions take them one after the other."""
        return self.stride, self.padding, self.dilation, self.groups

    @staticmethod
    def of(numbers: Sequence[int]) -> "Shape":
        """Returns the shape that has these `numbers`."""
        return _shape(*numbers)

    def outputs(self, inputs: Sequence[int], kernel: Sequence[int]) -> Pair:
        """Returns height and width of the output for those of the input and of the kernel [pixels]."""
        sizes = zip(inputs, kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * p - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in sizes)
        return height, width


@functools.lru_cache(1024)
def _shape(a: int, b: int, c: int, d: int, e: int, f: int, groups: int) -> Shape:
    """Returns the shape of seven numbers: the same object again, since each step asks for those of all layers."""
    return Shape((a, b), (c, d), (e, f), groups)
