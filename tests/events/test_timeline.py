"""The timeline: events in time order that depend on addresses only, never on windows or neighbours in the batch."""

from dataclasses import fields

import numpy as np
import pytest
from scipy import stats

from batchednodes.events.clocks import Deterministic, Never, Poisson, ShiftedExponential
from batchednodes.events.gaps import join
from batchednodes.events.schemes import AgeAware, FixedDuration, Freshest, Uniform
from batchednodes.events.timeline import MEET, PULL, PUSH, UPDATE, Events, Timeline
from batchednodes.numerics import rng
from batchednodes.topology import Networks, Ring, Star, stack

UNIFORM = Uniform()


def timeline(n=20, rate=2.0, seed=1, exchange="push", graph=None, clock=None, scheme=UNIFORM) -> Timeline:
    networks = Networks(np.array([0, n]), np.array([seed], np.uint64))
    update = (clock or ShiftedExponential()).gaps(n, seed, "u")
    return Timeline(networks, stack(networks, [graph]), update, Poisson(rate).gaps(n, seed, "g"), exchange, (scheme,))


def columns(events: Events) -> dict[str, list]:
    return {f.name: getattr(events, f.name).tolist() for f in fields(events) if f.name != "message"}


def test_events_are_in_time_order_and_complete():
    laws = timeline()
    events, clocks = laws.window(laws.begin(), 30.0)
    assert (np.diff(events.time) >= 0).all()
    assert events.time.max() <= 30.0 < min(clocks.next_update.min(), clocks.next_gossip.min())
    for kind, counts in ((UPDATE, clocks.updates), (PUSH, clocks.gossips)):
        of_kind = events.kind == kind
        assert (np.bincount(events.actor[of_kind], minlength=20) == counts).all()
    for i in range(20):  # each node's updates are numbered 0, 1, 2, ... in time order
        updates = (events.kind == UPDATE) & (events.actor == i)
        assert events.count[updates].tolist() == list(range(clocks.updates[i]))
    assert (events.count[events.kind == PUSH] == -1).all()
    assert (events.peer[events.kind == UPDATE] == -1).all()


def test_windows_do_not_change_events():
    laws = timeline()
    whole, end = laws.window(laws.begin(), 10.0)
    clocks, parts = laws.begin(), []
    for until in (0.1, 0.1001, 3.3, 7.0, 10.0):
        events, clocks = laws.window(clocks, until)
        parts.append(columns(events))
    assert {k: [x for p in parts for x in p[k]] for k in parts[0]} == columns(whole)
    assert (clocks.next_gossip == end.next_gossip).all()
    assert (clocks.gossips == end.gossips).all()


@pytest.mark.parametrize(
    "scheme", [UNIFORM, Freshest(), FixedDuration(0.5), AgeAware(1.0)], ids=lambda s: type(s).__name__
)
def test_parts_do_not_change_events(scheme, monkeypatch):
    laws = timeline(30, scheme=scheme)
    clocks = laws.window(laws.begin(), 1.0)[1]
    whole, end = laws.window(clocks, 9.0)
    assert sum(laws.expected(8.0)) > 200  # so that there are several parts now
    monkeypatch.setattr("batchednodes.events.timeline._PART", 40)
    monkeypatch.setattr("batchednodes.events.timeline._PART_NODE", 0)
    parts, last = laws.window(clocks, 9.0)
    assert columns(parts) == columns(whole)
    for field in fields(end)[1:-1]:  # without what is in flight, which is nothing
        assert getattr(end, field.name).tolist() == getattr(last, field.name).tolist(), field.name


def test_a_part_may_hold_more_events_than_a_window_is_expected_to(monkeypatch):
    laws = timeline(1000, rate=0.001, clock=Deterministic(1.0))
    monkeypatch.setattr("batchednodes.events.timeline._PART", 10)
    monkeypatch.setattr("batchednodes.events.timeline._PART_NODE", 0)
    events, _ = laws.window(laws.window(laws.begin(), 0.98)[1], 1.02)  # in it every node has its update
    updates = events.kind == UPDATE
    assert events.actor[updates].tolist() == list(range(1000))
    assert sum(laws.expected(0.04)) < 50


def test_a_network_in_a_batch_has_the_events_it_has_alone():
    first, second = timeline(7, seed=1, graph=Ring().graph(7, 1)), timeline(5, rate=3.0, seed=9)
    networks = Networks(np.array([0, 7, 12]), np.array([1, 9], np.uint64))
    contacts = stack(networks, [Ring().graph(7, 1), None])
    both = Timeline(
        networks,
        contacts,
        join([first.update, second.update]),
        join([first.gossip, second.gossip]),
        "push",
        (UNIFORM,) * 2,
    )
    events, _ = both.window(both.begin(), 20.0)
    for laws, low, high in ((first, 0, 7), (second, 7, 12)):
        alone, _ = laws.window(laws.begin(), 20.0)
        mine = (events.actor >= low) & (events.actor < high)
        assert events.time[mine].tolist() == alone.time.tolist()
        assert (events.actor[mine] - low).tolist() == alone.actor.tolist()
        peers = np.where(events.peer[mine] < 0, -1, events.peer[mine] - low)
        assert peers.tolist() == alone.peer.tolist()


def test_periods_are_exact_multiples():
    laws = timeline(3, clock=Deterministic(0.1))
    events, _ = laws.window(laws.begin(), 0.3)
    assert events.time[events.kind == UPDATE].tolist() == [k * 0.1 for k in (1, 2) for _ in range(3)]
    assert laws.window(laws.begin(), 3 * 0.1)[1].updates.tolist() == [3, 3, 3]


def test_peers_are_uniform_and_never_the_node_itself():
    laws = timeline(6, rate=100.0, clock=Never())
    events, _ = laws.window(laws.begin(), 20.0)
    pairs = np.zeros((6, 6), int)
    np.add.at(pairs, (events.actor, events.peer), 1)
    assert (np.diag(pairs) == 0).all()
    others = pairs[~np.eye(6, dtype=bool)].reshape(6, 5)
    assert stats.chisquare(others, axis=1).pvalue.min() > 1e-3 / 6  # false alarm: 0.1% over seeds; the seed is fixed


def test_contacts_follow_the_graph():
    laws = timeline(9, rate=5.0, graph=Star().graph(9, 0))
    events, _ = laws.window(laws.begin(), 10.0)
    gossip = events.kind == PUSH
    assert ((events.actor[gossip] == 0) ^ (events.peer[gossip] == 0)).all()


def test_a_lone_node_gossips_with_nobody():
    events, clocks = timeline(1).window(timeline(1).begin(), 100.0)
    assert (events.kind == UPDATE).all()
    assert len(events) > 50
    assert clocks.gossips.tolist() == [0]


def test_simultaneous_events_come_updates_first_then_by_node():
    networks = Networks(np.array([0, 3]), np.array([0], np.uint64))
    tick = Deterministic(1.0).gaps(3, 0, "u")
    laws = Timeline(networks, stack(networks, [None]), tick, tick, "meet", (Uniform(),))
    events, _ = laws.window(laws.begin(), 2.0)
    assert events.time.tolist() == [1.0] * 6 + [2.0] * 6
    assert events.kind.tolist() == ([UPDATE] * 3 + [MEET] * 3) * 2
    assert events.actor.tolist() == [0, 1, 2] * 4


def test_simultaneous_events_of_different_periods_come_in_the_order_of_nodes():
    networks = Networks(np.array([0, 3]), np.array([0], np.uint64))
    tick = join([Deterministic(period).gaps(1, 0, "u") for period in (1.0, 2.0, 0.5)])
    laws = Timeline(networks, stack(networks, [None]), tick, tick, "push", (Uniform(),))
    events, _ = laws.window(laws.begin(), 2.0)
    last = events.time == 2.0
    assert events.actor[last].tolist() == [0, 1, 2] * 2
    assert events.kind[last].tolist() == [UPDATE] * 3 + [PUSH] * 3


def test_many_nodes_contact_as_each_of_them_would_alone():
    # Nodes go through their draws together; here each goes through its own, by the definition of the addresses.
    laws = timeline(700, rate=3.0, seed=5)
    events, _ = laws.window(laws.begin(), 4.0)
    for i in range(0, 700, 87):
        t, k, expected = -np.log(draw(5, i, 0)[0]) / 3.0, 0, []
        while t <= 4.0:
            gap, other = draw(5, i, k + 1)
            j = int(other * 699)
            expected.append((t, j + (j >= i)))
            t, k = t - np.log(gap) / 3.0, k + 1
        own = (events.kind == PUSH) & (events.actor == i)
        assert events.peer[own].tolist() == [j for _, j in expected]
        assert np.allclose(events.time[own], [t for t, _ in expected], rtol=1e-14, atol=0)  # a scale for a division


def draw(seed: int, node: int, count: int) -> tuple[float, float]:
    """Returns the two uniform numbers at an address of gossip."""
    high, low = rng.block(np.uint64(seed), rng.GOSSIP, node, count)
    return rng.unit(np.uint64(high)), rng.unit(np.uint64(low))


@pytest.mark.parametrize(("exchange", "kind"), [("push", PUSH), ("pull", PULL), ("meet", MEET)])
def test_exchanges_share_their_contacts(exchange, kind):
    laws, push = timeline(exchange=exchange), timeline(exchange="push")
    events, _ = laws.window(laws.begin(), 5.0)
    reference, _ = push.window(push.begin(), 5.0)
    assert set(events.kind.tolist()) == {UPDATE, kind}
    assert events.peer.tolist() == reference.peer.tolist()


def test_room_for_events_grows_when_more_come_than_expected():
    laws = timeline(1, clock=Poisson(0.5))  # one node: the spread around the expected number is large
    for until in np.geomspace(0.1, 1e5, 40):
        events, clocks = laws.window(laws.begin(), until)
        assert clocks.updates[0] == len(events)
        assert clocks.next_update[0] > until  # none is missing


def test_expected_numbers_are_the_renewal_rates():
    laws = timeline(50)
    updates, gossips = laws.expected(100.0)
    _, clocks = laws.window(laws.begin(), 100.0)
    assert updates == pytest.approx(50 * 100 * 1.0)
    assert abs(clocks.gossips.sum() - gossips) < 4 * np.sqrt(gossips)  # Poisson, 4 standard deviations; fixed seed
