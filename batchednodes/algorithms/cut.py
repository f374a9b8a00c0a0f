r"""One batch over ranks: each tensor with rows is cut by columns, since gossip acts on every column alike.

Only what looks at whole rows, as local SGD does, communicates: the rows of a wave are dealt evenly over ranks, gathered
there by one exchange, and scattered by another. Nothing is negotiated, for every rank knows the schedule. Versions are
cut by sources.

Notation: R ranks, w rows of a wave, x models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from batchednodes.algorithms.fields import Field, columns
from batchednodes.numerics.ranks import Ranks
from batchednodes.numerics.rows import write_

_STEP = 16
"""Columns that stay together: vector instructions round by where rows begin and end."""

_ALIGNED = 8
"""Each tensor begins at a multiple of so many bytes of what is sent."""

Shape = tuple[int, int]
"""Rows and columns of a block."""

_AT_ONCE = 64 << 20
"""Bytes of whole rows that all ranks are given at once [B]."""


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
    p: int = 0
    """Parameters of a model."""
    whole: Mapping[str, slice] = field(default_factory=dict)
    """Where the fields that are mixed lie behind the model in a whole row of x."""

    @staticmethod
    def of(ranks: Ranks, declared: Mapping[str, Field], p: int) -> "Cut":
        """Returns how the models of a batch, and the fields that are declared, are cut over ranks."""
        whole = columns(declared, p)
        widths = {name: one.numbers(p) for name, one in declared.items() if not one.mixed}
        return Cut(ranks, {"x": max((part.stop for part in whole.values()), default=p), **widths}, p, whole)

    @property
    def beside(self) -> dict[str, slice]:
        """Where they lie, as far as they do, in this rank's columns of x."""
        return self.within(self.whole, self.widths["x"])

    @property
    def models(self) -> slice:
        """Which parameters of a model this rank has."""
        own = self.columns(self.widths["x"])
        return slice(min(own.start, self.p), min(own.stop, self.p))

    def bounds(self, width: int) -> list[int]:
        """Returns where the columns of each rank begin, of rows of some width, and the width.

        Example:
            >>> from batchednodes.algorithms.cut import Cut
            >>> from batchednodes.numerics.ranks import Ranks
            >>> cut = Cut(Ranks(0, 3), {})
            >>> cut.bounds(100), cut.bounds(1), cut.columns(100)
            ([0, 32, 64, 100], [0, 0, 0, 1], slice(0, 32, None))
        """
        size, blocks = self.ranks.size, -(-width // _STEP)
        return [min(width, _STEP * (blocks * r // size)) for r in range(size)] + [width]

    def columns(self, width: int) -> slice:
        """Returns the columns of this rank, of rows of some width."""
        bounds = self.bounds(width)
        return slice(bounds[self.ranks.rank], bounds[self.ranks.rank + 1])

    def counts(self, w: int) -> list[int]:
        """Returns how many rows of a wave each rank is dealt: pairs, so that the sides of a meeting stay together.

        Nor is a row alone where there are more: products of one matrix alone round otherwise than those of several.

        Example:
            >>> from batchednodes.algorithms.cut import Cut
            >>> from batchednodes.numerics.ranks import Ranks
            >>> cut = Cut(Ranks(0, 3), {})
            >>> cut.counts(13), cut.counts(3), cut.counts(1)
            ([4, 4, 5], [0, 0, 3], [0, 0, 1])
        """
        size = self.ranks.size
        ends = [2 * (w // 2 * r // size) for r in range(size)] + [w]
        return [b - a for a, b in pairwise(ends)]

    def share(self, counts: Sequence[int]) -> slice:
        """Returns which rows of a wave this rank is dealt."""
        first = sum(counts[: self.ranks.rank])
        return slice(first, first + counts[self.ranks.rank])

    def within(self, columns: Mapping[str, slice], width: int) -> dict[str, slice]:
        """Returns where named columns of whole rows lie among the columns of this rank, those that do.

        Example:
            >>> from batchednodes.algorithms.cut import Cut
            >>> from batchednodes.numerics.ranks import Ranks
            >>> Cut(Ranks(1, 2), {}).within({"model": slice(0, 20), "w": slice(20, 36)}, width=36)  # it has 16, ..., 35
            {'model': slice(0, 4, None), 'w': slice(4, 20, None)}
        """
        own = self.columns(width)
        return {
            name: slice(*(min(max(end, own.start), own.stop) - own.start for end in (part.start, part.stop)))
            for name, part in columns.items()
        }

    def take(self, asked: Sequence[Asked]) -> list[Tensor]:
        """Returns the rows of some tensors that this rank is dealt, whole; one exchange, in which all ranks take part.

        They are copies, one after the other in memory of their own.
        """
        me, sizes = self.ranks.rank, range(self.ranks.size)
        here = [[(one.counts[q], one.tensor.shape[1]) for one in asked] for q in sizes]
        there = [[(one.counts[me], _wide(self._ends(one), q)) for one in asked] for q in sizes]
        send, blocks = _packed(asked, here)
        for k, one in enumerate(asked):
            for q, rows in enumerate(one.rows.split([*one.counts])):
                torch.index_select(one.tensor, 0, rows, out=blocks[q][k])
        came = self._exchange(send, asked, here, there)
        return [torch.cat([came[q][k] for q in sizes], 1) for k in range(len(asked))]

    def put_(
        self, asked: Sequence[Asked], whole: Sequence[Tensor], told: Shaped[Tensor, " m"] | None = None
    ) -> Tensor | None:
        """Writes rows, whole, back where `take` had them from: all ranks get their columns; one exchange.

        Args:
            asked: of tensors that are written; rows are different ones.
            whole: what this rank was dealt, and has changed.
            told: a number of each such row of the first tensor, for all ranks; None: there is none.

        Returns:
            The numbers of all rows that were dealt, in their order.
        """
        me, sizes = self.ranks.rank, range(self.ranks.size)
        parts = [self._ends(one) for one in asked]
        here = [[(one.counts[me], _wide(bounds, q)) for one, bounds in zip(asked, parts, strict=True)] for q in sizes]
        there = [[(one.counts[q], one.tensor.shape[1]) for one in asked] for q in sizes]
        every = [*asked]
        if told is not None:
            every.append(Asked(told.unsqueeze(1), told.new_empty(0, dtype=torch.int64), asked[0].counts, 1))
            for q in sizes:
                here[q].append((told.numel(), 1))
                there[q].append((asked[0].counts[q], 1))
        send, blocks = _packed(every, here)
        for q in sizes:
            for new, bounds, block in zip(whole, parts, blocks[q], strict=False):
                block.copy_(new[:, bounds[q] : bounds[q + 1]])
            if told is not None:
                blocks[q][-1].copy_(told.unsqueeze(1))
        came = self._exchange(send, every, here, there)
        for k, one in enumerate(asked):
            for q, rows in enumerate(one.rows.split([*one.counts])):
                write_(one.tensor, rows, came[q][k])
        return None if told is None else torch.cat([came[q][-1] for q in sizes]).squeeze(1)

    def sent(self, shapes: Iterable[tuple[Sequence[int], int, int]], back: bool, told: int = 0) -> int:
        """Returns the bytes that this rank sends to others in one exchange of rows.

        Args:
            shapes: of each tensor the rows that each rank is dealt, the columns of a whole row, and the bytes of a
                number.
            back: whether rows are put back; else they are taken.
            told: rows of which a number is told besides, which this rank is dealt.

        Example:
            >>> from batchednodes.algorithms.cut import Cut
            >>> from batchednodes.numerics.ranks import Ranks
            >>> cut = Cut(Ranks(0, 2), {})
            >>> x = (cut.counts(11), 100, 4)  # 4 and 7 rows, of which the ranks have 48 and 52 columns
            >>> cut.sent([x], back=False), cut.sent([x], back=True)
            (1344, 832)
        """
        me, total = self.ranks.rank, 8 * told * (self.ranks.size - 1)
        for counts, width, size in shapes:
            wide = [b - a for a, b in pairwise(self.bounds(width))]
            for q in range(self.ranks.size):
                rows, columns = (counts[me], wide[q]) if back else (counts[q], wide[me])
                total += _padded(rows * columns * size) * (q != me)
        return total

    def _ends(self, one: Asked) -> list[int]:
        """Returns where the columns of each rank begin, of those that are asked for, and their number."""
        bounds = self.bounds(one.width)
        return bounds if one.stop is None else [min(bound, one.stop) for bound in bounds]

    def joined(self, rows: Shaped[Tensor, "rows c"], width: int) -> Shaped[Tensor, "rows width"]:
        """Returns whole rows of this rank's columns of them, on all ranks; some at a time, an exchange each.

        Args:
            rows: this rank's columns of rows that all have.
            width: columns of a whole row.
        """
        made = rows.new_empty(rows.shape[0], width)
        for part, new in zip(*(t.split(self.at_once(width * rows.element_size())) for t in (rows, made)), strict=True):
            bounds, flat = self.bounds(width), part.contiguous().flatten().view(torch.uint8)
            sizes = [part.shape[0] * (b - a) * rows.element_size() for a, b in pairwise(bounds)]
            got = self.ranks.exchange(flat.repeat(self.ranks.size), [flat.numel()] * self.ranks.size, sizes)
            for (a, b), block in zip(pairwise(bounds), got.split(sizes), strict=True):
                new[:, a:b] = block.clone().view(rows.dtype).view(part.shape[0], b - a)
        return made

    def at_once(self, size: int) -> int:
        """Returns how many rows of some bytes `joined` exchanges at once."""
        return max(1, _AT_ONCE // max(1, size))

    def _exchange(
        self, send: Tensor, asked: Sequence[Asked], here: Sequence[Sequence[Shape]], there: Sequence[Sequence[Shape]]
    ) -> list[list[Tensor]]:
        """Returns the blocks from each rank, for what is sent to each; a block for each of some tensors."""
        sent, received = ([_bytes(asked, each) for each in shapes] for shapes in (here, there))
        return _blocks(self.ranks.exchange(send, sent, received), asked, there)


def _wide(bounds: Sequence[int], q: int) -> int:
    """Returns how many columns a rank has."""
    return bounds[q + 1] - bounds[q]


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _bytes(asked: Sequence[Asked], shapes: Sequence[Shape]) -> int:
    """Returns the bytes of blocks of some shapes, one for each tensor."""
    return sum(_padded(w * c * one.tensor.element_size()) for one, (w, c) in zip(asked, shapes, strict=True))


def _packed(asked: Sequence[Asked], shapes: Sequence[Sequence[Shape]]) -> tuple[Tensor, list[list[Tensor]]]:
    """Returns new memory for what is sent, and the blocks for each rank in it, a block for each tensor."""
    size, where = sum(_bytes(asked, each) for each in shapes), asked[0].tensor.device
    send = torch.empty(size, dtype=torch.uint8, device=where)
    return send, _blocks(send, asked, shapes)


def _blocks(memory: Tensor, asked: Sequence[Asked], shapes: Sequence[Sequence[Shape]]) -> list[list[Tensor]]:
    """Returns the blocks for, or from, each rank, as views."""
    found, first = list[list[Tensor]](), 0
    for each in shapes:
        found.append([])
        for one, (w, c) in zip(asked, each, strict=True):
            size = w * c * one.tensor.element_size()
            found[-1].append(memory[first : first + size].view(one.tensor.dtype).view(w, c))
            first += _padded(size)
    return found
