r"""Engine: the loop. Windows of events are made, regrouped into waves and executed, up to each mark.

    clocks -> timeline (events in time order) -> schedule (waves) -> batched execution on x

Letters: n nodes, m events of a window, x models.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.gossip_sgd import GossipSGD, UpdateWave
from batchednodes.algorithms.serial import SerialGossipSGD
from batchednodes.algorithms.state import State
from batchednodes.gossip import Mixing, writes
from batchednodes.mixing import takes_all
from batchednodes.schedule import Schedule, schedule
from batchednodes.timeline import UPDATE, Clocks, Events, Timeline
from batchednodes.versions import widen_


class Executor(ABC):
    """A way to run the events of a window on the state; all of them mean the same."""

    @abstractmethod
    def run_(self, state: State, events: Events) -> int:
        """Runs a window of events in place; returns the number of waves it took."""


@dataclass(frozen=True)
class Serial(Executor):
    """One event at a time, in time order."""

    algorithm: SerialGossipSGD

    def run_(self, state: State, events: Events) -> int:
        self.algorithm.events_(state, events)
        return len(events)


@dataclass(frozen=True)
class Batched(Executor):
    """Wave by wave; the same result, at the speed of batched matrix work."""

    algorithm: GossipSGD

    def run_(self, state: State, events: Events) -> int:
        plan = schedule(events, state.x.shape[0])
        for first, last in zip(plan.phases[:-1].tolist(), plan.phases[1:].tolist(), strict=True):
            head = plan.order[plan.waves[first]]
            if events.kind[head] == UPDATE:
                self.algorithm.update_(state, _updates(events, plan, first))
            else:
                self.algorithm.mix_(state, self._mixing(state.versions, events, plan, first, last))
        return plan.waves.size - 1

    def _mixing(self, versions: Tensor, events: Events, plan: Schedule, first: int, last: int) -> Mixing:
        phase, weight, layout = writes(events, plan, first, last), self.algorithm.weight, self.algorithm.layout
        if layout.kinds.size > 1 and not takes_all(versions, self.algorithm.kernel):
            phase = phase.by_table(layout.table, layout.kinds.size)
        j, i, actors, times = (
            torch.from_numpy(column).to(weight.device, non_blocking=True)
            for column in (phase.receivers, phase.senders, phase.actors, phase.times)
        )
        return Mixing(j, i, weight[actors], times, phase.waves, phase.cuts, phase.pairs)


def _updates(events: Events, plan: Schedule, wave: int) -> UpdateWave:
    chosen = plan.order[plan.waves[wave] : plan.waves[wave + 1]]
    return UpdateWave(events.actor[chosen].astype(np.int64), events.count[chosen], events.time[chosen])


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    clocks: Clocks
    """Where the clocks stand; clocks.time is the simulated time [s]."""
    events: int
    """Events executed since the start of this run."""
    waves: int
    """Waves that they took."""


@dataclass(frozen=True)
class Engine:
    """What runs, on which events, and when it is observed."""

    timeline: Timeline
    executor: Executor
    until: float
    """End of the run [s]."""
    mark_every: float
    """Simulated time between two marks [s]; the end is a mark too."""
    window: float
    """Longest simulated time that is scheduled at once [s]; never changes a result but for rounding."""

    def marks(self, after: float) -> Iterator[float]:
        """Yields the times of the marks later than `after`: multiples of mark_every, and the end."""
        k = math.floor(after / self.mark_every)
        while k * self.mark_every < self.until * (1 - 1e-12):  # a mark within rounding of the end is the end
            if k * self.mark_every > after:
                yield k * self.mark_every
            k += 1
        if after < self.until:
            yield self.until

    def run_(
        self,
        state: State,
        clocks: Clocks,
        observe: Callable[[Progress], bool],
        advance: Callable[[Progress], None],
    ) -> Progress:
        """Runs to the end in place, or until an observer asks to stop.

        Args:
            state: changed in place.
            clocks: where the clocks stand.
            observe: called at each mark, and at the start of a run from t = 0; returns whether to go on.
            advance: called after each window, to show progress.
        """
        progress = Progress(clocks, 0, 0)
        if clocks.time == 0 and not observe(progress):
            return progress
        for mark in self.marks(clocks.time):
            while progress.clocks.time < mark:
                progress = self._window_(state, progress, min(mark, progress.clocks.time + self.window))
                advance(progress)
            if not observe(progress):
                break
        return progress

    def _window_(self, state: State, progress: Progress, until: float) -> Progress:
        events, clocks = self.timeline.window(progress.clocks, until)
        widen_(state.versions, int(clocks.updates.max()))
        waves = self.executor.run_(state, events)
        return Progress(clocks, progress.events + len(events), progress.waves + waves)


def automatic_window(timeline: Timeline) -> float:
    """Returns a window [s] of about a million events, or four for each node: long enough for large waves."""
    rate = sum(timeline.expected(1.0))
    return ((1 << 20) + 4 * timeline.networks.n) / rate if rate > 0 else math.inf
