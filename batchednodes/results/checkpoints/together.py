"""What ranks that write a checkpoint together say to each other; all call each of its methods, in the same order.

Notation: n nodes, t tracked sources.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.share import Share
from batchednodes.algorithms.state import State
from batchednodes.numerics.ranks import Account, Pending, Ranks
from batchednodes.results.checkpoints.part import SAME, Part, Span
from batchednodes.results.checkpoints.snapshot import Batch, Snapshot

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    """Why the first rank failed."""

    kind: type[Exception]
    text: str


class Together:
    """The ranks of a run, each with its part of a checkpoint."""

    def __init__(self, share: Share, cut: Cut | None) -> None:
        """Asks nothing yet.

        Args:
            share: what this rank holds.
            cut: how the tensors of its group are cut; None: it holds their networks alone.
        """
        self.share, self.cut, self.batch = share, cut, None
        self.all = _uncounted(share.world.all)
        self.group = self.all if share.ranks is share.world.all else _uncounted(share.ranks)
        self.pending, self.asked = Pending(self.all), False

    @property
    def first(self) -> bool:
        """Whether this is the rank that holds the folder of the run."""
        return self.share.first

    def told(self, found: Callable[[], T]) -> T:
        """Returns what the first rank finds, which is plain data; where it fails, all do.

        Raises:
            ValueError, OSError: as the first rank does.
        """
        told: T | _Failure | None = None
        if self.first:
            try:
                told = found()
            except (OSError, ValueError) as error:
                told = _Failure(OSError if isinstance(error, OSError) else ValueError, str(error))
        told = self.all.told(told)
        if isinstance(told, _Failure):
            raise told.kind(told.text)
        return told  # pyright: ignore[reportReturnType]

    def failure(self, own: str | None) -> str | None:
        """Returns why a rank failed, the first that did; None: none has. Waits for all."""
        if not self.all.agreed(own is not None):
            return None
        reasons = self.all.collected(own)
        return self.all.told(None if reasons is None else next(reason for reason in reasons if reason is not None))

    def begin(self) -> None:
        """Takes note that a checkpoint is being written."""
        self.asked = False

    def progress(self, code: int) -> int | None:
        """Returns the largest of some codes of what ranks do, as of the last call; None: at the first. Nobody waits."""
        found, asked, self.asked = self.pending.next(code), self.asked, True
        return found if asked else None

    def close(self) -> None:
        """Waits for what has been asked."""
        self.pending.settle()

    def summed(self, snapshot: Snapshot) -> Snapshot:
        """Returns a snapshot with what each rank of a group saw of all its sources added up."""
        state = snapshot.state
        if self.group.size == 1:
            return snapshot
        updated, gained = self.group.total(torch.stack([state.updated, state.gained])).unbind()
        return replace(snapshot, state=replace(state, updated=updated, gained=gained))

    def of(self, snapshot: Snapshot) -> Batch:
        """Returns of which batch a snapshot holds a part, and which."""
        if self.batch is None:
            self.batch = self._batch(snapshot)
        return self.batch

    def _batch(self, snapshot: Snapshot) -> Batch:
        layout, state, networks = snapshot.layout, snapshot.state, self.share.networks
        own = layout.sizes.tolist(), layout.widths.tolist(), snapshot.edges
        found, nodes, tracked, edges = self.all.collected((networks, *own)), dict[int, int](), dict[int, int](), {}
        for held, sizes, widths, on_edges in found or ():
            nodes |= dict(zip(held, sizes, strict=True))
            tracked |= {g: tracked.get(g, 0) + t for g, t in zip(held, widths, strict=True)}
            edges |= dict(zip(held, on_edges or (), strict=False))
        lists = tuple(tuple(of[g] for g in sorted(of)) for of in (nodes, tracked, edges))
        nodes, tracked, edges = self.all.told(lists)
        p = state.p if self.cut is None else self.cut.p
        sources = tuple(self._span(tracked[g]) for g in networks)
        rank, size = self.all.rank, self.all.size
        part = Part(rank, size, networks, self.group.rank == 0, self._columns(state), sources, p)
        return Batch(nodes, tracked, edges or None, part)

    def _span(self, width: int) -> Span:
        """Returns this rank's columns of rows of some width."""
        own = slice(0, width) if self.cut is None else self.cut.columns(width)
        return own.start, own.stop

    def _columns(self, state: State) -> dict[str, Span]:
        """Returns this rank's columns of each tensor that is cut."""
        if self.cut is None:
            return {}
        own = self.cut.columns(self.cut.widths["x"])
        rows = {"x": slice(0, self.cut.p)} | dict(self.cut.whole)
        found = {
            name: (min(max(own.start, part.start), part.stop) - part.start,
                   min(max(own.stop, part.start), part.stop) - part.start)
            for name, part in rows.items()
        }  # fmt: skip
        return found | {name: self._span(self.cut.widths[name]) for name in state.fields if name not in SAME}


def _uncounted(ranks: Ranks) -> Ranks:
    """Returns the same ranks; what they say of checkpoints is no part of what they say of the run."""
    return replace(ranks, account=Account())
