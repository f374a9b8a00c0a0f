r"""Windows made ahead: events, schedules and lines of the next ones, in threads of the host, while one runs.

Only the clocks go from one window to the next, so the events of a window are made while waves are made of those of the
windows before it. Over ranks, schedules can be dealt: rank r makes those of windows r, r + R, ... and tells the rest.

Notation: k number of a window, R ranks, r one of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from batchednodes.events.timeline import Clocks, Events, Timeline
from batchednodes.events.waves import Schedule
from batchednodes.numerics.memory import BackgroundWorker

W = TypeVar("W")
"""What a window is."""

MAKERS = 2
"""Threads that make waves, at most, each of a window of its own."""

_LARGE = 1 << 18
"""Events of a window, from which on it pays to have more than one made at a time."""


def automatic_window(timeline: Timeline) -> float:
    """Returns a window [s] of about a million events, or four for each node: long enough for large waves."""
    rate = sum(timeline.expected(1.0))
    return ((1 << 20) + 4 * timeline.networks.n) / rate if rate > 0 else math.inf


def depth(threads: int, events: float, ranks: int = 1) -> int:
    """Returns how many windows are made ahead of the one that runs, if memory holds them.

    Example:
        >>> from batchednodes.simulation.lookahead import depth
        >>> depth(1, 1e7), depth(2, 1e7), depth(8, 1e7), depth(8, 1e3)
        (1, 2, 3, 1)

    Args:
        threads: that make them.
        events: of a window.
        ranks: to which schedules are dealt, a window each.
    """
    if events < _LARGE:
        return 1
    return max(ranks, 1 if threads == 1 else min(1 + MAKERS, 1 + max(1, threads // 2)))


@dataclass(frozen=True)
class Deal:
    """Which schedules this rank makes: all ranks have the same windows, so that none need be asked.

    Example:
        >>> from batchednodes.simulation.lookahead import Deal
        >>> one = Deal(rank=1, size=3, tell=lambda source, arrays: arrays)
        >>> [k for k in range(8) if one.mine(k)]
        [1, 4, 7]
    """

    rank: int
    """r."""
    size: int
    """R."""
    tell: Callable[[int, Sequence[np.ndarray] | None], Sequence[np.ndarray]]
    """Returns, on all ranks, the arrays that one of them gives, whose number comes first; None on the others. Called
    for windows 0, 1, ... in order, by one thread beside that of the run: it needs a group of its own."""

    def mine(self, k: int) -> bool:
        """Returns whether this rank makes the schedule of window k."""
        return k % self.size == self.rank

    def share(self, k: int, arrays: Sequence[np.ndarray] | None) -> Sequence[np.ndarray]:
        """Returns the arrays of window k, on all ranks.

        Args:
            k: number of the window.
            arrays: what was made of it, on the rank that makes it; None on the others.
        """
        return self.tell(k % self.size, arrays)


class Lookahead(Generic[W]):
    """Makes windows that are asked for in order: events in one thread, waves in others."""

    def __init__(
        self,
        timeline: Timeline,
        clocks: Clocks,
        schedule: Callable[[Events, Clocks], Schedule | None],
        prepare: Callable[[Events, Clocks, Schedule | None, BackgroundWorker], W],
        ahead: int = 1,
        deal: Deal | None = None,
    ) -> None:
        """Makes nothing yet.

        Args:
            timeline: the laws of events.
            clocks: where they stand.
            schedule: makes the waves of a window; None: its events are regrouped by no schedule.
            prepare: makes a window of its events, the clocks after them, and their waves, which it makes itself where
                they are None; the worker is that which draws minibatches.
            ahead: how many windows are made while one runs; of 1 one thread makes all, and draws minibatches.
            deal: over ranks, who makes which waves; None: each rank makes all.
        """
        self.timeline, self.clocks, self.schedule, self.prepare = timeline, clocks, schedule, prepare
        self.deal, self.number, self.host = deal, 0, BackgroundWorker()
        self.drawer, self.teller, self.makers = self.host, self.host, [self.host]
        self.workers = [self.host]
        if ahead > 1:  # makers hand work to the host at once, each by its own thread: it must have its thread before
            self.workers += [BackgroundWorker() for _ in range(2 + min(MAKERS, ahead - 1))]
            if all(worker.has_thread() for worker in self.workers):
                self.drawer, self.teller, *self.makers = self.workers[1:]

    def window(self, until: float) -> Callable[[], W]:
        """Returns what waits for the next window, up to a time [s], and gives it; what it is made of comes in order."""
        k, self.number = self.number, self.number + 1
        drawn, maker = self.drawer.submit(self._draw, until), self.makers[k % len(self.makers)]
        if self.deal is None:
            return maker.submit(self._whole, drawn)
        return self.teller.submit(self._told, k, maker.submit(self._planned, k, drawn))

    def _draw(self, until: float) -> tuple[Events, Clocks]:
        events, self.clocks = self.timeline.window(self.clocks, until)
        return events, self.clocks

    def _whole(self, drawn: Callable[[], tuple[Events, Clocks]]) -> W:
        return self.prepare(*drawn(), None, self.host)

    def _planned(
        self, k: int, drawn: Callable[[], tuple[Events, Clocks]]
    ) -> tuple[Events, Clocks, Sequence[np.ndarray] | None]:
        """Returns events and clocks of a window, and the arrays of its schedule if it is this rank's to make.

        There are none where events are regrouped by no schedule; all ranks come to tell each other so.
        """
        assert self.deal is not None
        events, clocks = drawn()
        if not self.deal.mine(k):
            return events, clocks, None
        made = self.schedule(events, clocks)
        return events, clocks, () if made is None else (made.wave, made.waves, made.phases, made.updates)

    def _told(self, k: int, planned: Callable[[], tuple[Events, Clocks, Sequence[np.ndarray] | None]]) -> W:
        assert self.deal is not None
        events, clocks, arrays = planned()
        found = self.deal.share(k, arrays)
        return self.prepare(events, clocks, Schedule(*found) if len(found) else None, self.host)

    def __enter__(self) -> "Lookahead[W]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the threads. What has not begun is left out, but where other ranks wait for what it would tell them.

        Where this rank fails it tells them nothing more, nor waits for what they would tell: they may wait for it.
        """
        failed, dealt = kind is not None, self.deal is not None
        for worker in (self.drawer, *self.makers, self.teller, *self.workers):
            worker.close(leave=failed or not dealt, wait=not (failed and dealt))
