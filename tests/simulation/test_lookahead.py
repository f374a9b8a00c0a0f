"""Windows made ahead, in threads and over ranks, are those that one thread makes, and runs are bit for bit the same."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from batchednodes import load
from batchednodes.algorithms.waves import UpdateWave
from batchednodes.events import waves
from batchednodes.numerics.memory import BackgroundWorker, Chunks
from batchednodes.numerics.ranks import Ranks
from batchednodes.simulation.build import assembly
from batchednodes.simulation.build.assembly import Simulation
from batchednodes.simulation.engine import Engine, Unobserved
from batchednodes.simulation.lookahead import Deal
from batchednodes.simulation.prefetch import Minibatches, dealt

SMALL = [
    "network.nodes=40",
    "task.data.features=4",
    "task.data.samples_per_node=6",
    "task.data.test_samples=20",
    "local.batch_size=2",
    "staleness.track=all",
    "run.until=6",
    "run.window=0.7",
]
KINDS = {
    "pushes": [],
    "messages": ["gossip.delay={kind: exponential, mean: 0.3}"],
    "rounds": ["timing={kind: synchronous}"],
    "one by one": ["executor=serial"],
}


def built(*overrides: str) -> Simulation:
    configs = [load({}, [*SMALL, *overrides])]
    return assembly.assemble(configs, assembly.timeline(configs), Chunks(update=64, evaluate=64))


def ended(run: Simulation, change: Callable[[Engine], Engine]) -> dict[str, torch.Tensor]:
    """Returns models and versions at the end of a run by an engine that is changed first."""
    engine = change(run.engine)
    progress = engine.run_(run.state, engine.begin(), Unobserved())
    return {"x": run.state.x, "versions": run.state.versions, "events": torch.tensor([progress.events, progress.waves])}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_made_ahead_change_nothing(kind):
    alone = ended(built(*KINDS[kind]), lambda engine: engine)
    for threads, ahead in ((2, 2), (3, 3), (1, 9)):
        assert same(alone, ended(built(*KINDS[kind]), lambda e, t=threads, a=ahead: e.divided(t, a)))  # type: ignore[misc]


def test_windows_made_ahead_without_threads_change_nothing(monkeypatch):
    alone = ended(built(), lambda engine: engine)
    monkeypatch.setattr(BackgroundWorker, "has_thread", lambda _: False)
    assert same(alone, ended(built(), lambda engine: engine.divided(1, 3)))
    assert same(
        alone, ended(built(), lambda engine: replace(engine, ahead=3, deal=Deal(0, 1, lambda _, made: made or ())))
    )


class Board:
    """What ranks tell each other, each a thread here: the array of one is there for all when all have come."""

    def __init__(self, ranks: int) -> None:
        self.come, self.given, self.told = threading.Barrier(ranks, timeout=60), np.zeros(0), list[tuple[int, int]]()

    def deal(self, rank: int, ranks: int) -> Deal:
        """Returns what deals schedules to a rank."""
        return Deal(rank, ranks, Threads(rank, ranks, board=self).told_arrays)


@dataclass(frozen=True, eq=False)
class Threads(Ranks):
    """Ranks that are threads of one process, and tell each other by a board."""

    board: Board = field(kw_only=True)

    def _tell(self, source: int, array: np.ndarray) -> None:
        if source == self.rank:
            self.board.given = array
            self.board.told.append((source, array.size))
        self.board.come.wait()
        array[:] = self.board.given
        self.board.come.wait()


@pytest.mark.parametrize("kind", ["rounds", "one by one", "messages"])
def test_what_has_no_schedule_is_not_waited_for_by_ranks(kind):
    alone, board = ended(built(*KINDS[kind]), lambda engine: engine), Board(2)
    runs = [built(*KINDS[kind]) for _ in range(2)]

    def rank(r: int) -> dict[str, torch.Tensor]:
        return ended(runs[r], lambda engine: replace(engine.divided(1, 2), deal=board.deal(r, 2)))

    with ThreadPoolExecutor(2) as pool:
        assert all(same(alone, found) for found in pool.map(rank, range(2)))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_schedules_dealt_over_ranks_change_nothing(ranks, monkeypatch):
    alone, made = ended(built(), lambda engine: engine), list[int]()
    board, runs = Board(ranks), [built() for _ in range(ranks)]

    def rank(r: int) -> dict[str, torch.Tensor]:
        return ended(runs[r], lambda engine: replace(engine.divided(2, ranks), deal=board.deal(r, ranks)))

    plain = waves.schedule
    monkeypatch.setattr("batchednodes.simulation.engine.schedule", lambda *given: made.append(1) or plain(*given))
    with ThreadPoolExecutor(ranks) as pool:
        for found in pool.map(rank, range(ranks)):
            assert same(alone, found)
    assert len(made) == 12  # two windows before each mark, each scheduled by one rank
    heads = board.told[::5]  # each schedule is four arrays, and a head that says how long they are
    assert [source for source, _ in heads] == [k % ranks for k in range(12)]  # in order, the next rank each time


@pytest.mark.slow  # it breaks a timeline, which checked signatures refuse
def test_a_run_that_halts_leaves_no_thread_behind():
    before, run = threading.active_count(), built()
    engine = replace(run.engine.divided(1, 3), timeline=replace(run.engine.timeline, networks=None))  # makes no events
    with pytest.raises(AttributeError):
        engine.run_(run.state, run.engine.begin(), Unobserved())
    assert threading.active_count() == before


def test_a_rank_that_fails_does_not_wait_for_what_others_would_tell():
    released, begun, told = threading.Event(), threading.Event(), list[int]()

    def tell(source: int, arrays: Sequence[np.ndarray] | None) -> Sequence[np.ndarray]:
        begun.set()
        told.append(released.wait(30))  # the other rank waits elsewhere, for this one
        return arrays or ()

    run = built()
    engine = replace(run.engine.divided(1, 3), deal=Deal(0, 2, tell))
    made = engine._lookahead(run.state, engine.begin().clocks)
    for until in (0.7, 1.4):
        made.window(until)
    assert begun.wait(60)
    made.__exit__(ValueError)
    assert told == []
    released.set()
    for worker in made.workers:
        worker.close()


def test_threads_end_that_were_there_when_memory_held_no_more_of_them(monkeypatch):
    before, run, asked = threading.active_count(), built(), list[int]()
    plain = BackgroundWorker.has_thread
    monkeypatch.setattr(BackgroundWorker, "has_thread", lambda w: asked.append(1) or (len(asked) < 4 and plain(w)))
    engine = run.engine.divided(1, 3)
    alive = engine._lookahead(run.state, engine.begin().clocks)
    assert threading.active_count() == before + 3
    with alive:
        pass
    assert threading.active_count() == before


@pytest.mark.parametrize("part", [10**9, 300, 0])
def test_minibatches_of_own_rows_are_those_of_all(part, monkeypatch):
    problem, draw = built().problem, np.random.default_rng(1)
    monkeypatch.setattr("batchednodes.simulation.prefetch.PART", part)
    given = [
        UpdateWave(draw.permutation(40)[:size], np.full(size, k), np.full(size, float(k)))
        for k, size in enumerate((40, 1, 0, 7, 33))
    ]
    with closing(BackgroundWorker()) as host:
        some = [Minibatches(problem, given, torch.device("cpu"), host, dealt(rank, 3)) for rank in range(3)]
        for k, wave in enumerate(given):
            whole = problem.draw(wave.nodes, wave.counts)
            parts = [own.of(k) for own in some]
            for rank, drawn in enumerate(parts):
                rows = dealt(rank, 3)(wave.nodes.size)
                if drawn is None:
                    assert (rows.stop - rows.start) * whole[0].numel() * 8 > part
                else:
                    assert torch.equal(drawn.index, whole[rows])
        assert part < 10**9 or all(own.of(4) is not None for own in some)


def test_rows_of_a_wave_are_dealt_once_and_evenly():
    for w in (0, 1, 5, 64):
        for ranks in (1, 2, 3, 8):
            rows = [dealt(rank, ranks)(w) for rank in range(ranks)]
            assert [k for part in rows for k in range(w)[part]] == list(range(w))
            assert max(r.stop - r.start for r in rows) - min(r.stop - r.start for r in rows) <= 1
