r"""One batch over ranks: each tensor with rows is cut by columns, since gossip acts on every column alike.

Only what looks at whole rows, as local SGD does, communicates: the rows of a wave are dealt evenly over ranks, gathered
there by one exchange, and scattered by another. Nothing is negotiated, for every rank knows the schedule. Versions are
cut by sources.

Notation: R ranks, w rows of a wave, x models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from batchednodes.numerics.ranks import Ranks

_STEP = 16
"""Columns that stay together: vector instructions round by where rows begin and end."""

_ALIGNED = 8
"""Each tensor begins at a multiple of so many bytes of what is sent."""


@dataclass(frozen=True)
class Asked:
    """Rows of one tensor, which ranks are dealt."""

    tensor: Shaped[Tensor, "rows c"]
    """This rank's columns of all rows."""
    rows: Int64[Tensor, " w"]
    """Which are asked for: those of the first rank, those of the second, and so on."""
    counts: Sequence[int]
    """How many each rank is dealt."""
    width: int
    """Columns of a whole row."""
    stop: int | None = None
    """How many of these are asked for, the first ones; None: all."""


@dataclass(frozen=True, eq=False)
class Cut:
    """How the tensors of a batch are cut over ranks."""

    ranks: Ranks
    widths: Mapping[str, int]
    """Columns of whole rows of each tensor that is cut: "x", fields beside the model included, and other fields."""

    def bounds(self, width: int) -> list[int]:
        """Returns where the columns of each rank begin, of rows of some width, and the width.

        Example:
            >>> from batchednodes.algorithms.cut import Cut
            >>> from batchednodes.numerics.ranks import Ranks
            >>> cut = Cut(Ranks(0, 3), {})
            >>> cut.bounds(100), cut.bounds(1), cut.columns(100)
            ([0, 32, 64, 100], [0, 0, 0, 1], slice(0, 32, None))
        """
        size = self.ranks.size
        step = _STEP if width >= _STEP * size else 1
        blocks = -(-width // step)
        return [min(width, step * (blocks * r // size)) for r in range(size)] + [width]

    def columns(self, width: int) -> slice:
        """Returns the columns of this rank, of rows of some width."""
        bounds = self.bounds(width)
        return slice(bounds[self.ranks.rank], bounds[self.ranks.rank + 1])

    def counts(self, w: int, together: int = 1) -> list[int]:
        """Returns how many rows of a wave each rank is dealt; together: so many that lie side by side stay so."""
        ends = [together * (w // together * r // self.ranks.size) for r in range(self.ranks.size + 1)]
        return [b - a for a, b in pairwise(ends)]

    def share(self, counts: Sequence[int]) -> slice:
        """Returns which rows of a wave this rank is dealt."""
        first = sum(counts[: self.ranks.rank])
        return slice(first, first + counts[self.ranks.rank])

    def take(self, asked: Sequence[Asked]) -> list[Tensor]:
        """Returns the rows of some tensors that this rank is dealt, whole; one exchange, in which all ranks take part.

        They are copies, one after the other in memory of their own.
        """
        blocks = [one.tensor.index_select(0, one.rows).split([*one.counts]) for one in asked]
        send = [[block[q] for block in blocks] for q in range(self.ranks.size)]
        mine = [one.counts[self.ranks.rank] for one in asked]
        shapes = [
            [(m, b - a) for m, (a, b) in zip(mine, (self._ends(one)[q : q + 2] for one in asked), strict=True)]
            for q in range(self.ranks.size)
        ]
        came = self._exchange(send, shapes, asked)
        return [torch.cat([came[q][k] for q in range(self.ranks.size)], 1) for k in range(len(asked))]

    def put_(self, asked: Sequence[Asked], whole: Sequence[Tensor]) -> None:
        """Writes rows, whole, back where `take` had them from: all ranks get their columns; one exchange."""
        parts = [self._ends(one) for one in asked]
        send = [
            [new[:, bounds[q] : bounds[q + 1]] for new, bounds in zip(whole, parts, strict=True)]
            for q in range(self.ranks.size)
        ]
        own = [one.tensor.shape[1] for one in asked]
        shapes = [[(one.counts[q], c) for one, c in zip(asked, own, strict=True)] for q in range(self.ranks.size)]
        came = self._exchange(send, shapes, asked)
        for k, one in enumerate(asked):
            one.tensor.index_copy_(0, one.rows, torch.cat([came[q][k] for q in range(self.ranks.size)]))

    def _ends(self, one: Asked) -> list[int]:
        """Returns where the columns of each rank begin, of those that are asked for, and their number."""
        bounds = self.bounds(one.width)
        return bounds if one.stop is None else [min(bound, one.stop) for bound in bounds]

    def _exchange(
        self, send: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[tuple[int, int]]], asked: Sequence[Asked]
    ) -> list[list[Tensor]]:
        """Returns the blocks from each rank, of some shapes, for blocks to each; a block for each of some tensors."""
        types = [one.tensor.dtype for one in asked]
        packed = [torch.cat([_bytes(block) for block in blocks]) for blocks in send]
        sizes = [[_padded(rows * c * dtype.itemsize) for (rows, c), dtype in zip(each, types, strict=True)]
                 for each in shapes]  # fmt: skip
        got = self.ranks.exchange(torch.cat(packed), [p.numel() for p in packed], [sum(s) for s in sizes])
        found = []
        for each, some, part in zip(shapes, sizes, got.split([sum(s) for s in sizes]), strict=True):
            blocks = zip(each, types, part.split(some), strict=True)
            found.append([
                block[: rows * c * dtype.itemsize].view(dtype).view(rows, c) for (rows, c), dtype, block in blocks
            ])  # fmt: skip
        return found


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _bytes(block: Tensor) -> Tensor:
    """Returns the bytes of a block, and some more, so that the next begins where its numbers may."""
    flat = block.contiguous().flatten().view(torch.uint8)
    missing = _padded(flat.numel()) - flat.numel()
    return torch.cat([flat, flat.new_zeros(missing)]) if missing else flat
