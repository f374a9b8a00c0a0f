"""Host threads: events, clocks, waves and lines are the same arrays, however many threads make them."""

import threading
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from batchednodes.algorithms.mixing import lines
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.events import merge_streams, update_times
from batchednodes.events import timeline as timeline_module
from batchednodes.events.clocks import Deterministic, Poisson, ShiftedExponential
from batchednodes.events.gaps import Gaps, join
from batchednodes.events.schemes import Freshest, Scheme, Uniform
from batchednodes.events.timeline import UPDATE, Clocks, Events, Timeline
from batchednodes.events.waves import schedule
from batchednodes.numerics import host_threads
from batchednodes.topology import Networks, Ring, stack

SIZES = [1700, 40, 700, 1]
"""Nodes of each network: several blocks of draws, a part of one, and a node that has nobody to contact."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Lets a few events be worth a thread, so that small runs are divided."""
    monkeypatch.setattr(timeline_module, "_SMALL", 16)
    for module in (update_times, merge_streams, lines):
        monkeypatch.setattr(module, "WORTH", 64)


def own_gaps(n: int) -> Gaps:
    """Returns gaps by an inverse CDF, of half a second to one and a half."""
    return Gaps.by(lambda u, a, b: a + b * u, np.ones(n), 0.5, 1.0, "update.clock")


def laws(schemes: list[Scheme], exchange: str, update: list[Gaps]) -> Timeline:
    networks = Networks(np.cumsum([0, *SIZES]), np.arange(7, 11, dtype=np.uint64))
    gossip = join([Poisson(rate).gaps(n, 0, "g") for n, rate in zip(SIZES, (2.0, 1.0, 0.3, 1.0), strict=True)])
    graphs = [None, Ring().graph(40, 0), None, None]
    return Timeline(networks, stack(networks, graphs), join(update), gossip, exchange, tuple(schemes))


def same(one: Events | Clocks, other: Events | Clocks) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(np.array_equal(a, b) for a, b in pairs)


CASES = {
    "push": ([Uniform()] * 4, "push", [ShiftedExponential().gaps(n, 0, "u") for n in SIZES]),
    "meetings at the same instants": (
        [Uniform()] * 4, "meet", [Deterministic([0.25, 0.5][n > 99]).gaps(n, 0, "u") for n in SIZES]
    ),
    "schemes that look at updates": (
        [Freshest(), Uniform(), Freshest(), Uniform()], "push", [ShiftedExponential().gaps(n, 0, "u") for n in SIZES]
    ),
    "gaps of one's own": ([Uniform()] * 4, "pull", [own_gaps(n) for n in SIZES]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_events_clocks_waves_and_lines_are_the_same_whatever_the_threads(case, threads):
    one = laws(*CASES[case])
    several = replace(one, threads=threads)
    start, again = one.begin(), several.begin()
    assert same(start, again)
    for until in (1.5, 4.0):
        (events, start), (divided, again) = one.window(start, until), several.window(again, until)
        assert len(events) > 1_000
        assert same(events, divided)
        assert same(start, again)
        plan, n = schedule(events, one.networks.n), one.networks.n
        (alone, counts), (there, others) = (
            GossipPhase.of(events, plan, n, torch.device("cpu"), some) for some in (1, threads)
        )
        assert np.array_equal(counts, others)
        for name in ("receivers", "senders", "actors", "times"):
            assert torch.equal(getattr(alone, name), getattr(there, name))


@pytest.mark.parametrize("threads", [1, 3])
def test_updates_of_a_wave_come_by_row_and_contacts_by_time(threads):
    timeline = laws(*CASES["push"])
    events, _ = timeline.window(timeline.begin(), 2.0)
    plan = schedule(events, timeline.networks.n)
    found, counts = GossipPhase.of(events, plan, timeline.networks.n, torch.device("cpu"), threads)
    update = events.kind == UPDATE
    order = np.lexsort((np.arange(len(events)), np.where(update, events.actor, 0), plan.wave))
    assert found.actors.tolist() == events.actor[order].tolist()
    assert found.receivers.tolist() == np.where(update, events.actor, events.peer)[order].tolist()
    assert found.times.tolist() == events.time[order].tolist()
    assert counts.tolist() == events.count[order][update[order]].tolist()


def test_every_node_is_in_one_piece_that_begins_with_a_block_of_draws():
    offsets = np.array([100, 1700, 1740, 2440, 2441])
    blocks = np.concatenate([np.arange(a, b, 512) for a, b in pairwise(offsets)])
    for threads in range(1, 9):
        cuts = update_times.pieces(offsets, 1e6, threads)
        assert cuts[[0, -1]].tolist() == [100, 2441]
        assert (np.diff(cuts) > 0).all()
        assert set(cuts[:-1]) <= set(blocks)
        assert (cuts.size > 2) == (threads > 1)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("pieces", [0, 1, 9])
def test_each_piece_is_done_once(pieces, threads):
    done = []
    host_threads.divide(done.append, pieces, threads)
    assert sorted(done) == list(range(pieces))


def test_pieces_run_at_once():
    together = threading.Barrier(3, timeout=60)  # breaks, and raises, unless three threads come
    host_threads.divide(lambda _: together.wait(), 3, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_of_a_piece_is_raised(threads):
    def fail(k):
        if k == 4:
            raise KeyError(k)

    with pytest.raises(KeyError, match="4"):
        host_threads.divide(fail, 6, threads)


def test_threads_of_one_machine_are_those_of_all_its_ranks(monkeypatch):
    monkeypatch.setattr(host_threads.os, "sched_getaffinity", lambda _: range(12), raising=False)
    found = []
    for ranks in ("", "1", "4", "40"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        found.append(host_threads.cores())
    assert found == [8, 8, 3, 1]
