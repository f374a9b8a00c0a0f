"""The schedule against brute force: every pair of events that touch one row must keep its order."""

import numpy as np
import pytest
import torch

from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.events.clocks import Deterministic, Poisson, ShiftedExponential
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import MEET, PULL, PUSH, UPDATE, Events, Timeline
from batchednodes.events.waves import Schedule, schedule
from batchednodes.topology import Complete, ErdosRenyi, Networks, Ring, Star, stack


def rows(kind: int, actor: int, peer: int) -> tuple[set[int], set[int]]:
    """Returns the rows that an event reads, and those that it writes."""
    if kind == UPDATE:
        return {actor}, {actor}
    both = {actor, peer}
    return both, {PUSH: {peer}, PULL: {actor}, MEET: both}[kind]


def violations(events: Events, wave: np.ndarray) -> list[str]:
    """Checks all pairs of events, the older one first: O(m^2)."""
    touched = [rows(*e) for e in zip(events.kind.tolist(), events.actor.tolist(), events.peer.tolist(), strict=True)]
    found = []
    for b, (reads, writes) in enumerate(touched):
        for a in range(b):
            earlier_reads, earlier_writes = touched[a]
            if earlier_writes & reads and wave[a] >= wave[b]:
                found.append(f"read after write: {a} {b}")
            if earlier_writes & writes and wave[a] >= wave[b]:
                found.append(f"write after write: {a} {b}")
            if earlier_reads & writes and wave[a] > wave[b]:
                found.append(f"write after read: {a} {b}")
    return found


def random_events(n: int, exchange: str, graph, clock, seed: int, until: float) -> Events:
    networks = Networks(np.array([0, n]), np.array([seed], np.uint64))
    contacts = stack(networks, [graph])
    laws = Timeline(
        networks, contacts, clock.gaps(n, seed, "u"), Poisson(2.0).gaps(n, seed, "g"), exchange, (Uniform(),)
    )
    return laws.window(laws.begin(), until)[0]


def check_shape(events: Events, plan: Schedule) -> None:
    """Checks that waves partition the events, hold one kind each, and that phases alternate."""
    assert sorted(plan.order.tolist()) == list(range(len(events)))
    assert (np.diff(plan.waves) > 0).all()
    assert plan.phases[0] == 0
    assert plan.phases[-1] == plan.waves.size - 1
    is_update = events.kind == UPDATE
    assert (plan.updates[plan.wave] == is_update).all()
    kinds = []
    for first, last in zip(plan.phases[:-1], plan.phases[1:], strict=True):
        chosen = is_update[plan.order[plan.waves[first] : plan.waves[last]]]
        assert chosen.all() or not chosen.any()
        assert not chosen.any() or last - first == 1  # updates: one wave
        kinds.append(bool(chosen[0]))
    for k in range(plan.waves.size - 1):
        assert (np.diff(plan.order[plan.waves[k] : plan.waves[k + 1]]) > 0).all()  # time order within a wave


@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
@pytest.mark.parametrize(
    "clock", [ShiftedExponential(), Poisson(4.0), Deterministic(0.5)], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("topology", [Complete(), Ring(), Star(), ErdosRenyi(0.3)], ids=lambda t: type(t).__name__)
def test_every_dependency_is_kept(exchange, clock, topology):
    for n, seeds in ((1, 1), (2, 1), (3, 2), (7, 2), (20, 1)):
        for seed in range(seeds):
            events = random_events(n, exchange, topology.graph(n, seed), clock, seed, until=100 / n**0.8)
            plan = schedule(events, n)
            check_shape(events, plan)
            assert violations(events, plan.wave) == []


@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_lines_are_the_events_wave_by_wave(exchange):
    events = random_events(20, exchange, None, ShiftedExponential(), 0, until=8.0)
    plan = schedule(events, 20)
    said, counts = GossipPhase.of(events, plan, 20, torch.device("cpu"))
    expected, updates = [], []
    for k in range(plan.waves.size - 1):
        assert said.waves[k] == len(expected)
        wave = plan.order[plan.waves[k] : plan.waves[k + 1]]
        for e in sorted(wave, key=lambda e: events.actor[e]) if plan.updates[k] else wave:  # updates row by row
            i, j, time = int(events.actor[e]), int(events.peer[e]), float(events.time[e])
            if events.kind[e] == UPDATE:
                expected.append((i, i, i, time))
                updates.append(int(events.count[e]))
            else:
                both = [(j, i, i, time), (i, j, i, time)]
                expected += {"push": both[:1], "pull": both[1:], "meet": both[::-1]}[exchange]
    columns = (said.receivers, said.senders, said.actors, said.times)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
    assert counts.tolist() == updates
    assert said.pairs == (exchange == "meet")


def test_the_checker_sees_a_schedule_that_forgets_write_after_read():
    # The obvious scheduler keeps the last writer of each row only. It must fail here, or the checker is blind.
    events = random_events(20, "push", None, Poisson(1.0), 0, until=8.0)
    written, wave = np.full(20, -1), np.empty(len(events), int)
    for e in range(len(events)):
        i, j = events.actor[e], events.peer[e]
        touched = [i] if events.kind[e] == UPDATE else [i, j]
        wave[e] = max(written[r] for r in touched) + 1
        written[touched[-1]] = wave[e]
    assert any(v.startswith("write after read") for v in violations(events, wave))


def test_places_are_the_earliest():
    # One update of 0, then pushes 0 -> 1, 0 -> 2, 1 -> 3: the two pushes of 0 share a wave, the third comes after.
    events = Events(
        np.arange(4.0), np.array([UPDATE, PUSH, PUSH, PUSH], np.int8), np.array([0, 0, 0, 1], np.int32),
        np.array([-1, 1, 2, 3], np.int32), np.zeros(4, np.int64),
    )  # fmt: skip
    plan = schedule(events, 4)
    assert plan.wave.tolist() == [0, 1, 1, 2]
    assert plan.phases.tolist() == [0, 1, 3]


def test_no_events_make_no_waves():
    empty = Events(
        np.zeros(0), np.zeros(0, np.int8), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64)
    )
    plan = schedule(empty, 5)
    assert plan.order.size == 0
    assert plan.waves.tolist() == [0]
    assert plan.phases.tolist() == [0]


def test_waves_are_large():
    # DESIGN: with one update per unit time and rate log n, about 8 update phases a unit of time and n/16 a gossip wave.
    n = 2000
    networks = Networks(np.array([0, n]), np.array([0], np.uint64))
    laws = Timeline(
        networks,
        stack(networks, [None]),
        ShiftedExponential().gaps(n, 0, "u"),
        Poisson("log(n)").gaps(n, 0, "g"),
        "push",
        (Uniform(),),
    )
    events, _ = laws.window(laws.begin(), 10.0)
    plan = schedule(events, n)
    first = events.kind[plan.order[plan.waves[plan.phases[:-1]]]] == UPDATE
    assert 6 < first.sum() / 10 < 11
    gossip_waves = plan.waves.size - 1 - first.sum()
    assert (events.kind == PUSH).sum() / gossip_waves > n / 32
