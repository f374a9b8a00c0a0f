r"""Models at a mark: means, distances, lengths and scores of those that one process holds, or ranks hold together.

Where x is cut by columns, sums over entries are totals over ranks, and whole rows come to ranks to be scored, each to
one of them. All ranks that hold a network take part in each call, and get what it returns.

Notation: g networks, n nodes, k models of each, p parameters, x models [n, p].
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.cut import Asked, Cut
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.numerics.memory import Chunk
from batchednodes.results.metrics.consensus import consensus, distances, finite, lengths, mean_model, squares

T = TypeVar("T")

Work = Callable[[Float[Tensor, "g k p"], slice], tuple[Tensor, ...]]
"""Maps some models of each network, and their place among all k that are asked for, to numbers of each [g, k]."""


@dataclass(frozen=True, eq=False)
class Models(ABC):
    """The models of all nodes of a batch."""

    x: Float[Tensor, "n c"]
    """Models, or this rank's columns of them."""
    p: int
    """Parameters of a whole model."""

    @abstractmethod
    def consensus(
        self, parts: list[slice], kept: Bool[Tensor, "g n"] | None, mixed: Bool[Tensor, "g p"] | None
    ) -> tuple[Float64[Tensor, "g p"], Float64[Tensor, "g n"]]:
        """Returns the mean model of each network, and the distance of each model from it; see `consensus`."""

    @abstractmethod
    def distances(self, parts: list[slice], point: Float64[Tensor, "g p"]) -> Float64[Tensor, "g n"]:
        """Returns the distance of each model of some networks of one size from a point of its network."""

    @abstractmethod
    def lengths(self) -> Float64[Tensor, " n"]:
        """Returns the length of each model."""

    @abstractmethod
    def finite(self, x: Float[Tensor, "n c"]) -> Tensor:
        """Returns whether all numbers of each row are finite; x: rows, of this rank's columns where they are cut."""

    @abstractmethod
    def each(
        self, rows: Int64[Tensor, "g k"], size: int, work: Work, numbers: int, first: Tensor | None = None
    ) -> list[Tensor]:
        """Returns numbers of some models of networks.

        Args:
            rows: of x, of these models.
            size: models that are worked on at once, at most.
            work: finds the numbers.
            numbers: how many of each model.
            first: another model of each network [g, 1, p], whose numbers come first; None: there is none.
        """

    @abstractmethod
    def told(self, rows: Int64[Tensor, " k"], find: Callable[[Float[Tensor, "k p"]], T]) -> T:
        """Returns what a function makes of some models at once; an error of its is one of all ranks."""


@dataclass(frozen=True, eq=False)
class Whole(Models):
    """Those that this process holds."""

    def consensus(
        self, parts: list[slice], kept: Bool[Tensor, "g n"] | None, mixed: Bool[Tensor, "g p"] | None
    ) -> tuple[Float64[Tensor, "g p"], Float64[Tensor, "g n"]]:
        return consensus(stacked(self.x, parts), kept, mixed)

    def distances(self, parts: list[slice], point: Float64[Tensor, "g p"]) -> Float64[Tensor, "g n"]:
        return distances(stacked(self.x, parts), point)

    def lengths(self) -> Float64[Tensor, " n"]:
        return lengths(self.x)

    def finite(self, x: Float[Tensor, "n c"]) -> Tensor:
        return finite(x)

    def each(
        self, rows: Int64[Tensor, "g k"], size: int, work: Work, numbers: int, first: Tensor | None = None
    ) -> list[Tensor]:
        step, found = max(1, size // len(rows)), list[tuple[Tensor, ...]]()
        for begin in range(0, max(1, rows.shape[1]), step):
            part = slice(begin, min(begin + step, rows.shape[1]))
            models = self.x[rows[:, part]]
            found.append(work(models if begin or first is None else torch.cat([first, models], 1), part))
        return [torch.cat(sides, 1) for sides in zip(*found, strict=True)]

    def told(self, rows: Int64[Tensor, " k"], find: Callable[[Float[Tensor, "k p"]], T]) -> T:
        return find(self.x[rows])


@dataclass(frozen=True, eq=False)
class Columns(Models):
    """Those of which each of some ranks holds some columns."""

    cut: Cut
    width: int
    """Columns of the tensor whose first p the models are, all ranks together."""
    chunk: Chunk
    """Models that this rank works on at once: fewer where its memory does not hold them."""

    @property
    def mine(self) -> slice:
        """This rank's entries of a model."""
        part = self.cut.columns(self.width)
        return slice(min(part.start, self.p), min(part.stop, self.p))

    def consensus(
        self, parts: list[slice], kept: Bool[Tensor, "g n"] | None, mixed: Bool[Tensor, "g p"] | None
    ) -> tuple[Float64[Tensor, "g p"], Float64[Tensor, "g n"]]:
        x = stacked(self.x, parts)
        mean = mean_model(x, kept, self.p)
        apart = squares(x, mean, None if mixed is None else mixed[:, self.mine], self.p)
        bounds = [min(bound, self.p) for bound in self.cut.bounds(self.width)]
        whole = self.cut.ranks.joined(mean.T, [b - a for a, b in pairwise(bounds)]).T.contiguous()
        return whole, self.cut.ranks.total(apart).sqrt()

    def distances(self, parts: list[slice], point: Float64[Tensor, "g p"]) -> Float64[Tensor, "g n"]:
        return self.cut.ranks.total(squares(stacked(self.x, parts), point[:, self.mine], None, self.p)).sqrt()

    def lengths(self) -> Float64[Tensor, " n"]:
        return self.cut.ranks.total(lengths(self.x).square()).sqrt()

    def finite(self, x: Float[Tensor, "n c"]) -> Tensor:
        return self.cut.ranks.largest((~finite(x)).long()) == 0

    def each(
        self, rows: Int64[Tensor, "g k"], size: int, work: Work, numbers: int, first: Tensor | None = None
    ) -> list[Tensor]:
        g, step, ranks = len(rows), max(1, size // len(rows)), self.cut.ranks
        counts, found = self.cut.counts(rows.shape[1]), list[Tensor]()
        begins, lead = torch.tensor([0, *counts]).cumsum(0).tolist(), first if ranks.rank == 0 else None
        for turn in range(max(1, *(-(-count // step) for count in counts))):
            ends = [(begin + turn * step, begin + (turn + 1) * step, end) for begin, end in pairwise(begins)]
            parts = [slice(min(a, end), min(b, end)) for a, b, end in ends]
            asked = [rows[:, part].flatten() for part in parts]
            one = Asked(self.x, torch.cat(asked), [some.numel() for some in asked], self.width, self.p)
            models, part = self.cut.take([one])[0].view(g, -1, self.p), parts[ranks.rank]
            models, lead = (models if lead is None else torch.cat([lead, models], 1)), None
            if models.shape[1]:
                found.append(self._kept(models, part, work))
        mine = torch.cat(found, 1) if found else self.x.new_zeros(g, 0, numbers, dtype=torch.float64)
        counts[0] += first is not None
        whole = ranks.joined(mine.transpose(0, 1), counts).permute(2, 1, 0)
        return [*whole.contiguous()]

    def _kept(self, models: Float[Tensor, "g k p"], part: slice, work: Work) -> Float64[Tensor, "g k numbers"]:
        """Returns numbers of models that are here, of as many at once as memory holds."""
        g, ahead = len(models), models.shape[1] - (part.stop - part.start)  # models without a place come first

        def attempt(size: int) -> Tensor:
            step, found = max(1, size // g), list[Tensor]()
            for begin in range(0, models.shape[1], step):
                some, first = models[:, begin : begin + step], part.start + begin - ahead
                place = slice(max(first, part.start), first + some.shape[1])
                found.append(_alike(work, some, place))
            return torch.cat(found, 1)

        return self.chunk.attempt(g * models.shape[1], attempt)

    def told(self, rows: Int64[Tensor, " k"], find: Callable[[Float[Tensor, "k p"]], T]) -> T:
        ranks = self.cut.ranks
        one = Asked(self.x, rows, [rows.numel(), *[0] * (ranks.size - 1)], self.width, self.p)
        models, said = self.cut.take([one])[0], None
        if ranks.rank == 0:
            try:
                said = find(models), None
            except ValueError as error:
                said = None, str(error)
        found, wrong = ranks.told(said)
        if wrong is not None:
            raise ValueError(wrong)
        return found


def columns_of(rowwise: Rowwise, cut: Cut, chunk: Chunk, state: State, time: float | None = None) -> Columns:
    """Returns the models of the nodes that are scored, of a state that is cut; all ranks that hold it must ask.

    Args:
        rowwise: the algorithm.
        cut: how ranks hold the state.
        chunk: models that are worked on at once.
        state: stays as it is.
        time: up to which they flow [s]; None: they are those after the last event of each node.
    """
    p, width, n = rowwise.p, cut.widths["x"], state.nodes
    algorithm, flows = rowwise.algorithm, rowwise.algorithm.flows() and time is not None
    if type(algorithm).model is Algorithm.model and not flows:
        part = cut.columns(width)
        return Columns(state.x[:n, : max(0, min(part.stop, p) - part.start)], p, cut, width, chunk)
    names = sorted(state.fields.keys() - state.on_edges - {*algorithm.living("inbox")})
    part, step = cut.columns(p), max(1, chunk.planned) * cut.ranks.size
    found = state.x.new_empty(n, part.stop - part.start)
    for nodes in torch.arange(n, device=found.device).split(step):
        counts = cut.counts(nodes.numel())
        tensors = [(state.x, width), *((state.fields[name], cut.widths[name]) for name in names)]
        x, *others = cut.take([Asked(t, nodes, counts, wide) for t, wide in tensors])
        r = {"x": x[:, :p]} | {name: x[:, one] for name, one in rowwise.columns.items()}
        r |= dict(zip(names, others, strict=True))
        if flows:
            assert time is not None
            now = r["last_event"].flatten().clamp(min=time)
            rowwise.flow_(r, rowwise.contact(r, nodes[cut.share(counts)], now))
        cut.put_([Asked(found, nodes, counts, p)], [algorithm.model(r)])
    return Columns(found, p, cut, p, chunk)


def _alike(work: Work, models: Float[Tensor, "g k p"], part: slice) -> Float64[Tensor, "g k numbers"]:
    """Returns numbers of some models; of one alone with a copy of it, since the products of one round otherwise."""
    alone = models.shape[1] == 1 and part.stop > part.start
    numbers = work(torch.cat([models, models], 1), part) if alone else work(models, part)
    return torch.stack([t.double() for t in numbers], 2)[:, : models.shape[1]]


def stacked(x: Float[Tensor, "rows p"], parts: list[slice]) -> Float[Tensor, "g n p"]:
    """Returns the models of networks of one size; without a copy where they lie one after the other."""
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return x[parts[0].start : parts[-1].stop].view(len(parts), parts[0].stop - parts[0].start, x.shape[1])
    return torch.stack([x[part] for part in parts])
