r"""Engine: the loop. Windows of events are made, regrouped into waves and executed, up to each mark.

    clocks -> timeline (events in time order) -> schedule (waves) -> batched execution on x

Notation: n nodes, m events of a window, x models.
"""

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from batchednodes.algorithms.mixing import takes_all
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.one_by_one import OneByOne
from batchednodes.algorithms.reference import Reference
from batchednodes.algorithms.state import State
from batchednodes.algorithms.state import fit_ as fit_rows_
from batchednodes.algorithms.versions import fit_, widen_
from batchednodes.algorithms.waves import Round, UpdateWave, Waves
from batchednodes.events.messages.records import SLOTS
from batchednodes.events.timeline import ROUND, Clocks, Events, Timeline
from batchednodes.events.waves import Schedule, schedule
from batchednodes.numerics.memory import BackgroundWorker
from batchednodes.simulation.lookahead import Deal, Lookahead
from batchednodes.simulation.prefetch import Minibatches, Own

Pause = Callable[[], bool]
"""Whether a run should pause as soon as it can, for a checkpoint or to stop."""


def never() -> bool:
    """Returns False: go on."""
    return False


@dataclass(frozen=True)
class Window:
    """Events of a span of time, and what an executor has made of them ahead, on the host."""

    events: Events
    """In time order."""
    clocks: Clocks
    """Where the clocks stand after them."""
    phases: tuple[UpdateWave | slice | Round, ...]
    """Waves of updates, the waves of lines of phases of gossip, and rounds, in order; empty where events run one by
    one."""
    steps: int
    """What runs without a pause: phases, or single events."""
    waves: int
    """Waves of all phases."""
    lines: GossipPhase | None
    """Those of all phases, one after the other, on the host, in pinned memory where the models are on another device:
    they go there at once. None where events run one by one."""
    minibatches: Minibatches | None = None
    """Those of all updates, wave by wave; None: they are drawn as they are needed."""


@dataclass(frozen=True)
class Executor(ABC):
    """A way to run the events of a window on the state; all of them mean the same."""

    algorithm: Waves | Reference | OneByOne

    def fit_(self, state: State, slots: int) -> None:
        """Gives the state rows for some slots of messages, if it has fewer."""
        fit_rows_(state, slots)
        fit_(state.versions, self.algorithm.layout, slots)

    def schedule(self, events: Events, clocks: Clocks, state: State) -> Schedule | None:
        """Returns the schedule of a window, which `prepare` may be given; None: it takes none."""
        return None

    @abstractmethod
    def prepare(
        self, events: Events, clocks: Clocks, state: State, host: BackgroundWorker, plan: Schedule | None = None
    ) -> Window:
        """Returns a window ready to run; reads nothing of the state that changes, and may be called beside `run_`.

        Args:
            events: of the window.
            clocks: where the clocks stand after them.
            state: that they will change.
            host: the thread that makes ready what is left while the window runs.
            plan: the schedule of the events, if another has made it.
        """

    @abstractmethod
    def run_(self, state: State, window: Window, done: int = 0, pause: Pause = never) -> int:
        """Runs a window in place, from one of its steps on, to its end or until asked to pause.

        Args:
            state: changed.
            window: what `prepare` made.
            done: steps of the window that the state has seen.
            pause: asked before each step but the first of a call, so that calls always get on.

        Returns:
            The steps that the state has seen now; `window.steps` at the end.
        """


@dataclass(frozen=True)
class Serial(Executor):
    """One event at a time, in time order."""

    algorithm: Reference | OneByOne

    def prepare(
        self, events: Events, clocks: Clocks, state: State, host: BackgroundWorker, plan: Schedule | None = None
    ) -> Window:
        return Window(events, clocks, (), len(events), len(events), None)

    def run_(self, state: State, window: Window, done: int = 0, pause: Pause = never) -> int:
        for step in range(done, window.steps):
            if step > done and pause():
                return step
            self.algorithm.event_(state, window.events, step)
        return window.steps


@dataclass(frozen=True)
class Batched(Executor):
    """Wave by wave; the same result, at the speed of batched matrix work."""

    algorithm: Waves
    threads: int = 1
    """Threads of the host that make a window; they never change it."""
    own: Own | None = None
    """Which rows of a wave of updates this process trains, of whose minibatches alone it draws; None: all."""

    def schedule(self, events: Events, clocks: Clocks, state: State) -> Schedule | None:
        return None if ROUND in events.kind[-1:] else schedule(events, state.nodes + slots(clocks))

    def prepare(
        self, events: Events, clocks: Clocks, state: State, host: BackgroundWorker, plan: Schedule | None = None
    ) -> Window:
        plan, layout = plan or self.schedule(events, clocks, state), self.algorithm.layout
        if plan is None:
            return self._rounds(events, clocks, state, host)
        lines, counts = GossipPhase.of(events, plan, state.nodes, state.x.device, self.threads)
        by_waves = self.algorithm.cut is None and not takes_all(state.versions, self.algorithm.kernel)
        if layout.kinds.size > 1 and events.message is None and by_waves:  # over ranks lines have one order on all
            lines = lines.by_table(layout.table, layout.kinds.size, plan.updates)
        actors, times = lines.actors.numpy(), lines.times.numpy()
        phases, u = list[UpdateWave | slice | Round](), 0
        for first, last in pairwise(plan.phases.tolist()):
            if plan.updates[first]:
                part = slice(lines.waves[first], lines.waves[last])
                done, u = u, u + part.stop - part.start
                phases.append(UpdateWave(actors[part], counts[done:u], times[part]))
            else:
                phases.append(slice(first, last))
        return self._window(events, clocks, phases, lines, plan.waves.size - 1, state, host)

    def _rounds(self, events: Events, clocks: Clocks, state: State, host: BackgroundWorker) -> Window:
        """Returns a window of synchronous rounds: at each instant a wave of updates, then all networks due mix."""
        update, phases, waves = events.kind != ROUND, list[UpdateWave | slice | Round](), [0]
        starts = np.flatnonzero(np.diff(events.time, prepend=-1.0))
        for a, b in pairwise([*starts.tolist(), len(events)]):
            middle = a + int(update[a:b].sum())
            nodes, rounds = slice(a, middle), slice(middle, b)
            phases.append(UpdateWave(events.actor[nodes].astype(np.int64), events.count[nodes], events.time[nodes]))
            phases.append(Round(events.actor[rounds], events.count[rounds], float(events.time[a])))
            waves.append(waves[-1] + middle - a)
        columns = (events.actor[update].astype(np.int64), events.time[update], np.array(waves))
        lines = GossipPhase.updates(*columns, state.nodes, state.x.device)
        return self._window(events, clocks, phases, lines, len(phases), state, host)

    def _window(
        self, events: Events, clocks: Clocks, phases: list[UpdateWave | slice | Round], lines: GossipPhase, waves: int,
        state: State, host: BackgroundWorker,
    ) -> Window:  # fmt: skip
        updates = [phase for phase in phases if isinstance(phase, UpdateWave)]
        minibatches = None
        if self.algorithm.drawing is None:
            minibatches = Minibatches(self.algorithm.problem, updates, state.x.device, host, self.own)
        return Window(events, clocks, tuple(phases), len(phases), waves, lines, minibatches)

    def run_(self, state: State, window: Window, done: int = 0, pause: Pause = never) -> int:
        assert window.lines is not None
        lines = window.lines.on(state.x.device, self.algorithm.weight)
        if not self.algorithm.follows(state, lines):
            return self._run_(state, window, lines, done, pause)
        reached = self._run_(replace(state, versions=state.versions[:0]), window, lines, done, pause)
        first, last = (sum(_waves(phase) for phase in window.phases[:step]) for step in (done, reached))
        self.algorithm.follow_(state, lines.between(first, last))
        return reached

    def _run_(self, state: State, window: Window, lines: GossipPhase, done: int, pause: Pause) -> int:
        """Does so with the lines of the window where the models are; of a state without versions, without these."""
        at, first, waves = lines.waves.tolist(), 0, itertools.count()
        for step, phase in enumerate(window.phases):
            part, wave = slice(0), 0
            if isinstance(phase, slice):
                first = phase.stop
            elif isinstance(phase, UpdateWave):
                part = slice(at[first], at[first + 1])
                first, wave = first + 1, next(waves)
            if step < done:
                continue
            if step > done and pause():
                return step
            if isinstance(phase, UpdateWave):
                examples = None if window.minibatches is None else window.minibatches.of(wave)
                columns = (lines.receivers[part], lines.actors[part], lines.times[part])
                self.algorithm.update_(state, phase, *columns, examples)
            elif isinstance(phase, Round):
                self.algorithm.round_(state, phase)
            else:
                self.algorithm.mix_(state, lines.between(phase.start, phase.stop))
        return window.steps


def _waves(phase: UpdateWave | slice | Round) -> int:
    """Returns how many waves of lines a phase has."""
    return phase.stop - phase.start if isinstance(phase, slice) else 1


def slots(clocks: Clocks) -> int:
    """Returns the rows of x for snapshots of models that are under way."""
    return 0 if clocks.in_flight is None else int(clocks.in_flight.head[SLOTS])


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    clocks: Clocks
    """Where the clocks stand; clocks.time is the simulated time [s]."""
    events: int
    """Events executed since t = 0, but for those of a window that is not at its end."""
    waves: int
    """Waves that they took."""
    marks: int = 0
    """Marks observed so far: the number of the next one."""
    done: int = 0
    """Steps that the state has seen of the window after `clocks`."""
    end: float | None = None
    """End of that window [s]; None: none has begun."""

    def after(self, window: Window) -> "Progress":
        """Returns the progress at the end of the window."""
        return Progress(window.clocks, self.events + len(window.events), self.waves + window.waves, self.marks)


class Observer(ABC):
    """Who watches a run, and may halt it."""

    @abstractmethod
    def pause(self) -> bool:
        """Returns whether to call `advance` as soon as possible; called often, from within windows."""

    @abstractmethod
    def advance(self, progress: Progress) -> bool:
        """Takes note of progress, at the end of a window or after a pause; returns whether to go on."""

    @abstractmethod
    def observe(self, progress: Progress) -> bool:
        """Takes note of mark number `progress.marks`, in place of `advance`; returns whether to go on."""

    def window(self, planned: float) -> float:
        """Returns how long the next window is [s]; asked in the order of windows."""
        return planned


class Unobserved(Observer):
    """Nobody watches, and the run goes to its end."""

    def pause(self) -> bool:
        return False

    def advance(self, progress: Progress) -> bool:
        return True

    def observe(self, progress: Progress) -> bool:
        return True


@dataclass(frozen=True)
class Engine:
    """What runs, on which events, and when it is observed."""

    timeline: Timeline
    executor: Executor
    until: float
    """End of the run [s]."""
    marked: float | Sequence[float]
    """Simulated time between two marks, or the times of all of them [s]; the end is a mark too."""
    window: float
    """Longest simulated time that is scheduled at once [s]; never changes a result but for rounding."""
    ahead: int = 1
    """Windows that are made while one runs; at least 1, over ranks that deal schedules as many as there are ranks."""
    deal: Deal | None = None
    """Over ranks, who makes which schedules; None: this process makes all."""

    def divided(self, threads: int, ahead: int) -> "Engine":
        """Returns the same, with some threads of the host that make windows, some of these ahead."""
        executor = self.executor
        executor = replace(executor, threads=threads) if isinstance(executor, Batched) else executor
        return replace(self, timeline=replace(self.timeline, threads=threads), executor=executor, ahead=ahead)

    def begin(self) -> Progress:
        """Returns the progress of a run that has not begun."""
        return Progress(self.timeline.begin(), 0, 0)

    def marks(self, after: float) -> Iterator[float]:
        """Yields the times of the marks later than `after`, and the end."""
        end = self.until * (1 - 1e-12)  # a mark within rounding of the end is the end
        yield from itertools.takewhile(lambda time: time < end, self._later(after))
        if after < self.until:
            yield self.until

    def _later(self, after: float) -> Iterator[float]:
        """Yields the times of the marks later than `after`, whatever the end is."""
        if isinstance(self.marked, Sequence):
            yield from self.marked[bisect.bisect_right(self.marked, after) :]
            return
        for k in itertools.count(math.floor(after / self.marked)):
            if k * self.marked > after:
                yield k * self.marked

    def run_(self, state: State, progress: Progress, observer: Observer) -> Progress:
        """Runs to the end in place, or until the observer halts it.

        Windows end where they end without pauses, so that a run which was halted anywhere, and goes on from its
        progress and state, is bit for bit the same.

        Args:
            state: changed in place.
            progress: how far the state has come.
            observer: called at each mark (first at t = 0, when the run begins), window and pause.

        Returns:
            How far the state has come now.
        """
        if progress.marks == 0:
            going, progress = observer.observe(progress), replace(progress, marks=1)
            if not going:
                return progress
        with self._lookahead(state, progress.clocks) as made:
            for window, marked in self._windows(made, progress, observer):
                if progress.done > window.steps:
                    raise ValueError(
                        f"checkpoint must be of this run, got {progress.done} of {window.steps} steps done"
                    )
                widen_(state.versions, int(window.clocks.updates.max()))
                self.executor.fit_(state, slots(window.clocks))
                done = self.executor.run_(state, window, progress.done, observer.pause)
                while done < window.steps:
                    progress = replace(progress, done=done, end=window.clocks.time)
                    if not observer.advance(progress):
                        return progress
                    done = self.executor.run_(state, window, done, observer.pause)
                progress = progress.after(window)
                going = (observer.observe if marked else observer.advance)(progress)
                progress = replace(progress, marks=progress.marks + marked)
                if not going:
                    break
        return progress

    def _lookahead(self, state: State, clocks: Clocks) -> Lookahead[Window]:
        """Returns what makes windows that change a state."""

        def prepare(events: Events, clocks: Clocks, plan: Schedule | None, host: BackgroundWorker) -> Window:
            return self.executor.prepare(events, clocks, state, host, plan)

        scheduled = partial(self.executor.schedule, state=state)
        return Lookahead(self.timeline, clocks, scheduled, prepare, self.ahead, self.deal)

    def _windows(self, made: Lookahead[Window], start: Progress, observer: Observer) -> Iterator[tuple[Window, bool]]:
        """Yields the windows up to the end and whether each ends at a mark; the next are made while one runs."""
        waiting = deque[tuple[Callable[[], Window], bool]]()
        for until, marked in self._ends(start.clocks.time, start.end, observer):
            waiting.append((made.window(until), marked))
            if len(waiting) > self.ahead:
                ready, at_mark = waiting.popleft()
                yield ready(), at_mark
        while waiting:
            ready, at_mark = waiting.popleft()
            yield ready(), at_mark

    def _ends(self, after: float, first: float | None, observer: Observer) -> Iterator[tuple[float, bool]]:
        """Yields the ends of the windows later than `after`, and whether each is a mark; `first`: of one begun."""
        time = after
        for mark in self.marks(after):
            while time < mark:
                time = min(mark, time + observer.window(self.window) if first is None else first)
                first = None
                yield time, time == mark
