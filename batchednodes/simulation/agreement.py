r"""Agreement: what the processes of a run know, and decide, together.

One network, or a few that all ranks hold together, may pause between any two steps: ranks say at each step whether they
want to, and know at the next one what the others said, so that none waits. Groups of ranks that hold networks of their
own are in the same window at any time, and pause at its end only; windows are then so short that they do so soon.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from batchednodes.algorithms.share import Share
from batchednodes.numerics.ranks import Pending
from batchednodes.results.metrics.observed import Observation, Observed, joined
from batchednodes.simulation.divergence import Nodes
from batchednodes.simulation.engine import Progress
from batchednodes.topology import Networks

_LONGEST, _SHORT = 1.0, 0.25
"""Wall time of a window after which the next ones are half as long, and below which they are twice as long [s]."""

_FIRST = 1 / 64
"""Share of the planned window that the first one is long, whose wall time nobody knows."""


@dataclass(frozen=True)
class Totals:
    """What all networks of a run have done so far."""

    events: int
    waves: int
    updates: int


class Agreement(ABC):
    """How the processes of a run agree; where there are several, all must ask the same in the same order."""

    @property
    @abstractmethod
    def first(self) -> bool:
        """Whether this is the process that writes, and speaks to the user."""

    @abstractmethod
    def pauses(self, wish: bool) -> bool:
        """Returns whether to pause before the next step; wish: whether this process wants to."""

    @abstractmethod
    def any(self, wish: bool) -> bool:
        """Returns whether a process says so."""

    @abstractmethod
    def told(self, thing: Any) -> Any:
        """Returns what the first process gives; plain data."""

    @abstractmethod
    def largest(self, value: int) -> int:
        """Returns the largest of what processes give."""

    @abstractmethod
    def totals(self, progress: Progress) -> Totals:
        """Returns the totals over all networks; progress: of those of this process."""

    @abstractmethod
    def begun(self, progress: Progress) -> Progress:
        """Returns the progress of this process, of a run that goes on from some progress of all networks."""

    @abstractmethod
    def observed(self, observed: Observed) -> Observed:
        """Returns what was observed of all networks: in full for the first process, rows alone for the others."""

    @abstractmethod
    def nodes(self, nodes: Nodes) -> Nodes:
        """Returns nodes of all networks, by their rows among all; nodes: those of this process."""

    @abstractmethod
    def of_networks(self, values: Sequence[Any]) -> list[Any]:
        """Returns a value of each network of the batch; values: of those of this process; plain data."""

    @abstractmethod
    def of_row(self, row: int, ask: Callable[[int], Any]) -> Any:
        """Returns what is answered for a row of x of the whole batch, by those that hold it; plain data.

        Args:
            row: of all.
            ask: answers, of the number that the row has there.
        """

    @abstractmethod
    def window(self, planned: float) -> float:
        """Returns how long the next window is, which is planned to be so long [s]."""

    @abstractmethod
    def ran(self) -> None:
        """Takes note that a window has run."""

    @abstractmethod
    def runs(self) -> None:
        """Takes note that the next window runs now."""

    @abstractmethod
    def close(self) -> None:
        """Waits for what has been asked, and not answered."""


class Alone(Agreement):
    """One process, which decides all."""

    @property
    def first(self) -> bool:
        return True

    def pauses(self, wish: bool) -> bool:
        return wish

    def any(self, wish: bool) -> bool:
        return wish

    def told(self, thing: Any) -> Any:
        return thing

    def largest(self, value: int) -> int:
        return value

    def totals(self, progress: Progress) -> Totals:
        return Totals(progress.events, progress.waves, int(progress.clocks.updates.sum()))

    def begun(self, progress: Progress) -> Progress:
        return progress

    def observed(self, observed: Observed) -> Observed:
        return observed

    def nodes(self, nodes: Nodes) -> Nodes:
        return nodes

    def of_networks(self, values: Sequence[Any]) -> list[Any]:
        return [*values]

    def of_row(self, row: int, ask: Callable[[int], Any]) -> Any:
        return ask(row)

    def window(self, planned: float) -> float:
        return planned

    def ran(self) -> None: ...

    def runs(self) -> None: ...

    def close(self) -> None: ...


class AmongRanks(Agreement):
    """Ranks, each with its share of the networks."""

    def __init__(self, share: Share, networks: Networks) -> None:
        """Begins to agree; networks: those of the whole batch."""
        self.share, self.networks, self.all = share, networks, share.world.all
        self.pending = Pending(self.all) if len(share.groups) == 1 else None
        self.part, self.last = 1.0 if self.pending else _FIRST, time.perf_counter()

    @property
    def first(self) -> bool:
        return self.share.first

    @property
    def _counts(self) -> bool:
        """Whether this is the rank of its group that speaks for it."""
        return self.share.ranks.rank == 0

    def pauses(self, wish: bool) -> bool:
        return self.pending is not None and self.pending.next(wish) > 0

    def any(self, wish: bool) -> bool:
        return self.all.agreed(wish) > 0

    def told(self, thing: Any) -> Any:
        return self.all.told(thing if self.first else None)

    def largest(self, value: int) -> int:
        return self.all.agreed(value)

    def totals(self, progress: Progress) -> Totals:
        own = [progress.events, progress.waves, int(progress.clocks.updates.sum())]
        return Totals(*self.all.total(torch.tensor(own if self._counts else [0, 0, 0])).tolist())

    def begun(self, progress: Progress) -> Progress:
        return progress if self.share.number == 0 else replace(progress, events=0, waves=0)

    def observed(self, observed: Observed) -> Observed:
        found = self.all.collected(observed if self._counts else None)
        if found is not None:
            parts = [one for one in found if one is not None]
            observed = replace(joined(parts, self.share.groups, self.networks), done=observed.done)
        rows, nodes = self.told(([one.row for one in observed.networks], observed.diverged))
        if self.first:
            return observed
        return Observed([Observation(row, {}, None) for row in rows], nodes, observed.done)

    def nodes(self, nodes: Nodes) -> Nodes:
        found = self.all.collected(self._placed(self.share.number, nodes) if self._counts else [])
        return self.told(sorted(node for some in found or () for node in some))

    def _placed(self, group: int, nodes: Nodes) -> list[tuple[int, float]]:
        """Returns nodes of a group of ranks by their rows in the whole batch."""
        rows = self._rows(group) if nodes else []
        return [(rows[row], when) for row, when in nodes]

    def _rows(self, group: int) -> list[int]:
        """Returns the rows in the whole batch of those of a group of ranks."""
        return [row for g in self.share.groups[group] for row in range(*self.networks.offsets[g : g + 2].tolist())]

    def of_networks(self, values: Sequence[Any]) -> list[Any]:
        found = self.all.collected(dict(zip(self.share.networks, values, strict=True)))
        whole = {} if found is None else {g: value for one in found for g, value in one.items()}
        return self.told([whole[g] for g in sorted(whole)])

    def of_row(self, row: int, ask: Callable[[int], Any]) -> Any:
        mine = self._rows(self.share.number)
        answer = [ask(mine.index(row))] if row in mine else []
        found = self.all.collected(answer)
        return self.told(None if found is None else next(one[0] for one in found if one))

    def window(self, planned: float) -> float:
        return planned * self.part

    def ran(self) -> None:
        if self.pending is None:
            seconds = self.all.agreed(int(1e6 * (time.perf_counter() - self.last))) / 1e6
            if seconds > _LONGEST:
                self.part /= 2
            elif seconds < _SHORT:
                self.part = min(1.0, 2 * self.part)

    def runs(self) -> None:
        self.last = time.perf_counter()

    def close(self) -> None:
        if self.pending is not None:
            self.pending.settle()


def agreement(share: Share | None, networks: Networks) -> Agreement:
    """Returns how the processes of a run agree, of which this one holds a share; None: it is the only one."""
    return Alone() if share is None else AmongRanks(share, networks)
