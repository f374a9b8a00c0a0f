"""What a convolution does beside its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """Stride, padding with zeros, dilation (each vertical, horizontal) and groups of channels."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def numbers(self) -> list[int]:
        """The numbers, in order."""
        return [*self.stride, *self.padding, *self.dilation, self.groups]

    @property
    def arguments(self) -> tuple[Any, Any, Any, int]:
        """The pairs and the groups, as PyTorch's functions take them one after the other."""
        return self.stride, self.padding, self.dilation, self.groups

    @staticmethod
    def of(numbers: Sequence[int]) -> "Shape":
        """Returns the shape with these numbers."""
        a, b, c, d, e, f, groups = numbers
        return Shape((a, b), (c, d), (e, f), groups)

    def outputs(self, inputs: Sequence[int], kernel: Sequence[int]) -> Pair:
        """Returns height and width of what comes out."""
        sizes = zip(inputs, kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * p - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in sizes)
        return height, width
