"""Gossip schemes: who speaks when, replayed event by event; windows and batch-mates change nothing; rates and laws."""

import math
from dataclasses import fields

import numpy as np
import pytest
from scipy import stats

from batchednodes import load, train
from batchednodes.events.clocks import Deterministic, Exponential, Never, Poisson, ShiftedExponential
from batchednodes.events.gaps import join
from batchednodes.events.schemes import AgeAware, FixedDuration, Freshest, SchemeWindow, Uniform
from batchednodes.events.timeline import UPDATE, Events, Timeline
from batchednodes.numerics import rng
from batchednodes.topology import Graph, Networks, Ring, Star, stack

SCHEMES = [Uniform(), Freshest(), FixedDuration(0.4), AgeAware(0.0), AgeAware(0.5), AgeAware("n")]
SPEAKING = SCHEMES[1:]


def timeline(scheme, n=12, rate=2.0, seed=1, exchange="push", graph=None, clock=None) -> Timeline:
    networks = Networks(np.array([0, n]), np.array([seed], np.uint64))
    update = (clock or ShiftedExponential()).gaps(n, seed, "u")
    return Timeline(networks, stack(networks, [graph]), update, Poisson(rate).gaps(n, seed, "g"), exchange, (scheme,))


def events_of(laws: Timeline, until: float) -> Events:
    return laws.window(laws.begin(), float(until))[0]


def in_time(events: Events):
    columns = (events.time, events.kind, events.actor, events.peer)
    return zip(*(c.tolist() for c in columns), strict=True)


def columns(events: Events) -> dict[str, list]:
    return {f.name: getattr(events, f.name).tolist() for f in fields(events) if f.name != "message"}


@pytest.mark.parametrize("exchange", ["push", "meet"])
@pytest.mark.parametrize("graph", [None, Ring().graph(12, 1)], ids=["complete", "ring"])
def test_only_holders_of_the_newest_update_speak(exchange, graph):
    holders, spoken = set(), 0
    for _, kind, actor, peer in in_time(events_of(timeline(Freshest(), rate=5.0, exchange=exchange, graph=graph), 50)):
        if kind == UPDATE:
            holders = {actor}
        else:
            assert actor in holders
            spoken += actor != peer
            holders.add(peer)
    assert spoken > 200


def test_a_node_speaks_for_a_fixed_duration_after_its_own_update():
    last, waits = {}, []
    for time, kind, actor, _ in in_time(events_of(timeline(FixedDuration("4/n"), rate=5.0), 100)):
        if kind == UPDATE:
            last[actor] = time
        else:
            waits.append(time - last[actor])
    assert 0 < min(waits) < 0.01
    assert 4 / 12 - 0.01 < max(waits) <= 4 / 12


@pytest.mark.parametrize("exchange", ["push", "meet"])
@pytest.mark.parametrize("wait", [0.0, 0.3, 2.0, 1e6])
def test_old_nodes_keep_silent_in_proportion_to_their_age(wait, exchange):
    n = 12
    stamp, now, speakers = np.zeros(n), math.nan, set()
    for time, kind, actor, peer in in_time(events_of(timeline(AgeAware(wait), exchange=exchange), 60)):
        if kind == UPDATE:
            now = stamp[actor] = time
        else:
            assert time >= now + wait * (now - stamp[actor])
            speakers.add(stamp[actor] == now)
            young = max(stamp[actor], stamp[peer])
            stamp[peer] = young if exchange == "meet" else max(stamp[peer], stamp[actor])
            stamp[actor] = young if exchange == "meet" else stamp[actor]
    assert speakers == ({True} if wait == 1e6 else {True, False})  # whoever is told in time is as young as the updater


def age_aware_by_hand(events: Events, n: int, wait: float, total: float, seed: int, meet: bool, until: float):
    """Yields the contacts of the complete graph, with a sorted list instead of a linked one, from the same draws."""
    updates = [(time, actor) for time, kind, actor, _ in in_time(events) if kind == UPDATE] + [(math.inf, -1)]
    order, stamp, awake, now, time = list(range(n)), [0.0] * n, [], math.nan, 0.0
    for k in range(10**6):
        bits = rng.block(np.uint64(seed), rng.SHARED, 0, k)
        high, peers = rng.unit(np.uint64(bits[0])), rng.block(np.uint64(seed), rng.SHARED, 1, k)[0]
        low = rng.unit(np.uint64(bits[1]))
        if k and awake:
            awake += [i for i in order if i not in awake and time >= now + wait * (now - stamp[i])]
            i = awake[int(low * len(awake))]
            j = int(rng.unit(np.uint64(peers)) * (n - 1))
            j += j >= i
            yield time, i, j
            for old, young in ((j, i), (i, j)):
                if stamp[young] > stamp[old] and (meet or old == j):
                    awake += [] if old in awake else [old]
                    stamp[old] = stamp[young]
                    order.remove(old)
                    order.insert(order.index(young) + 1, old)
        time -= math.log(high) / total
        while updates[0][0] <= time:
            now, i = updates.pop(0)
            stamp[i], awake = now, [i]
            order.remove(i)
            order.insert(0, i)
        if time > until:
            return


@pytest.mark.parametrize("exchange", ["push", "meet"])
@pytest.mark.parametrize("wait", [0.0, 0.4, 3.0])
def test_age_aware_contacts_are_those_drawn_by_hand(exchange, wait):
    events = events_of(timeline(AgeAware(wait), n=6, rate=4.0, exchange=exchange), 100.0)
    found = [(time, actor, peer) for time, kind, actor, peer in in_time(events) if kind != UPDATE]
    assert found == list(age_aware_by_hand(events, 6, wait, 24.0, 1, exchange == "meet", 100.0))
    assert abs(len(found) - 2400) < 5 * math.sqrt(2400)  # Poisson, 5 standard deviations; fixed seed


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("exchange", ["push", "meet"])
def test_windows_do_not_change_contacts(scheme, exchange):
    laws = timeline(scheme, exchange=exchange)
    whole, end = laws.window(laws.begin(), 10.0)
    clocks, parts = laws.begin(), []
    for until in (0.1, 0.1001, 0.9, 0.91, 3.3, 3.4, 3.5, 7.0, 10.0):
        events, clocks = laws.window(clocks, until)
        parts.append(columns(events))
    assert {k: [x for p in parts for x in p[k]] for k in parts[0]} == columns(whole)
    assert len(whole) > 130
    for field in fields(end):
        assert np.array_equal(getattr(clocks, field.name), getattr(end, field.name)), field.name


@pytest.mark.parametrize("scheme", [Uniform(), AgeAware(0.5)], ids=repr)
def test_buffers_that_are_too_small_change_nothing(scheme):
    laws = timeline(scheme, rate=20.0)
    events, clocks = laws.window(laws.begin(), 10.0)
    updates = np.flatnonzero(events.kind == UPDATE)
    node_by_node = updates[np.argsort(events.actor[updates], kind="stable")]
    own = (events.time[node_by_node], events.actor[node_by_node])
    state = laws.begin().state()
    window = SchemeWindow(
        0, 12, np.uint64(1), laws.gossip, laws.contacts, False, *own, start=10.0, until=10.0
    )  # expects none
    said = scheme.contacts_(window, state)
    order = np.argsort(said.time, kind="stable")
    gossip = events.kind != UPDATE
    assert said.time[order].tolist() == events.time[gossip].tolist()
    assert said.peer[order].tolist() == events.peer[gossip].tolist()
    assert state.made.tolist() == clocks.gossips.tolist()


def test_many_more_contacts_than_expected_change_nothing():
    for scheme, rates in ((Freshest(), [300.0] * 12), (FixedDuration(0.4), [900.0] + [0.0] * 11)):
        laws = timeline(scheme, rate=rates)
        whole, _ = laws.window(laws.begin(), 10.0)
        clocks, parts = laws.begin(), []
        for until in np.arange(1, 2001) / 200:  # few enough for one buffer each
            events, clocks = laws.window(clocks, until)
            parts.append(columns(events))
        assert {k: [x for p in parts for x in p[k]] for k in parts[0]} == columns(whole)


def test_networks_of_a_batch_have_the_contacts_that_they_have_alone():
    sizes = [3 + g for g in range(len(SCHEMES))]
    alone = [timeline(s, n, seed=g + 1) for g, (s, n) in enumerate(zip(SCHEMES, sizes, strict=True))]
    networks = Networks(np.concatenate([[0], np.cumsum(sizes)]), np.arange(1, len(sizes) + 1, dtype=np.uint64))
    update, gossip = join([a.update for a in alone]), join([a.gossip for a in alone])
    both = Timeline(networks, stack(networks, [None] * len(sizes)), update, gossip, "push", tuple(SCHEMES))
    events, clocks = both.window(both.begin(), 20.0)
    for g, laws in enumerate(alone):
        mine, single = (
            (events.actor >= networks.offsets[g]) & (events.actor < networks.offsets[g + 1]),
            events_of(laws, 20),
        )
        assert events.time[mine].tolist() == single.time.tolist()
        assert (events.actor[mine] - networks.offsets[g]).tolist() == single.actor.tolist()
        assert (
            np.where(events.peer[mine] < 0, -1, events.peer[mine] - networks.offsets[g]).tolist()
            == single.peer.tolist()
        )
        assert clocks.gossips[networks.slice(g)].sum() == (single.kind != UPDATE).sum() > 10


@pytest.mark.parametrize("scheme", SPEAKING, ids=repr)
def test_clocks_count_each_nodes_contacts(scheme):
    laws = timeline(scheme)
    events, clocks = laws.window(laws.begin(), 20.0)
    assert (np.bincount(events.actor[events.kind != UPDATE], minlength=12) == clocks.gossips).all()


@pytest.mark.parametrize("scheme", SPEAKING, ids=repr)
def test_nobody_speaks_where_there_is_nothing_new_or_nobody_to_tell(scheme):
    assert len(events_of(timeline(scheme, clock=Never()), 50)) == 0
    assert (events_of(timeline(scheme, n=1), 50).kind == UPDATE).all()
    assert (events_of(timeline(scheme, rate=0.0), 50).kind == UPDATE).all()
    pair = Graph.of(4, np.array([0]), np.array([2]))
    lonely = events_of(timeline(scheme, n=4, graph=pair), 50)
    gossip = lonely.kind != UPDATE
    assert set(lonely.actor[gossip].tolist()) == {0, 2}
    star = events_of(timeline(scheme, n=5, graph=Star().graph(5, 0)), 50)
    gossip = star.kind != UPDATE
    assert ((star.actor[gossip] == 0) ^ (star.peer[gossip] == 0)).all()


@pytest.mark.parametrize("clock", [Exponential(1.0), ShiftedExponential(0.5, 2.0), Deterministic(0.8)], ids=repr)
@pytest.mark.parametrize("scheme", [*SCHEMES, FixedDuration(1.5)], ids=repr)
def test_expected_contacts_are_those_of_a_long_run(scheme, clock):
    laws = timeline(scheme, n=10, rate=3.0, clock=clock)
    _, expected = laws.expected(2000.0)
    _, clocks = laws.window(laws.begin(), 2000.0)
    # Updates at fixed times come in bursts, and those that are no Poisson process change how far they spread: 10%.
    bound = 0.1 if isinstance(scheme, Freshest) and not isinstance(clock, Exponential) else 0.03
    if not (isinstance(scheme, Freshest) and isinstance(clock, Deterministic)):  # all at once: nothing like the formula
        assert clocks.gossips.sum() == pytest.approx(expected, rel=bound)


def test_peak_rates_are_those_of_the_scheme():
    for scheme, peak in zip(SCHEMES, [2.0, 2.0, 2.0, 2.0, 24.0, 24.0], strict=True):
        assert timeline(scheme).peaks() == [pytest.approx(peak)]


@pytest.mark.slow
@pytest.mark.parametrize(("capacity", "n"), [("1", 8), ("log(n)", 15), ("n", 30)])
def test_freshest_staleness_is_within_its_interval_of_the_law(capacity, n):
    result = train(
        {
            "network": {"nodes": n},
            "update": {"clock": {"kind": "exponential", "rate": 1}},
            "gossip": {"clock": {"rate": capacity}, "scheme": {"kind": "freshest"}},
            "task": {"data": {"features": 1, "samples_per_node": 1, "test_samples": 2}},
            "run": {"until": 300, "mark_every": 150, "eval_nodes": 1},
            "replicas": 16,
        }
    )
    last = result.metrics[result.metrics["time"] == 300]
    means, law = last["staleness_mean"].to_numpy(), last["staleness_theory"].iloc[0]  # of the second half: warm by then
    half = stats.t.ppf(0.9995, 15) * means.std(ddof=1) / 4  # false alarm 0.1% for each case; the seeds are fixed
    assert abs(means.mean() - law) < half < 0.2 * law


@pytest.mark.parametrize("scheme", SPEAKING, ids=repr)
def test_runs_report_what_was_transmitted(scheme):
    kind = {Freshest: "freshest", FixedDuration: "fixed_duration", AgeAware: "age_aware"}[type(scheme)]
    more = {f.name: getattr(scheme, f.name) for f in fields(scheme)}
    config = {
        "network": {"nodes": 6},
        "gossip": {"scheme": {"kind": kind} | more},
        "run": {"until": 5, "mark_every": 5},
    }
    rows = train(config).metrics
    assert rows["gossip_rate_mean"].isna().tolist() == [True, False]
    last = rows.iloc[-1]
    assert last["gossip_rate_mean"] == pytest.approx(last["gossips"] / 6 / 5)
    assert last["gossip_rate_mean"] < last["gossip_rate_max"]


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"kind": "freshest"}, "gossip.exchange must be push or meet with gossip.scheme.kind=freshest.*got 'pull'"),
        ({"kind": "age_aware"}, "gossip.exchange must be push or meet with gossip.scheme.kind=age_aware.*got 'pull'"),
        ({"kind": "fixed_duration"}, "gossip.exchange must be push or meet with .*fixed_duration.*got 'pull'"),
    ],
)
def test_nodes_that_hold_news_cannot_pull(scheme, message):
    with pytest.raises(ValueError, match=message):
        load({"gossip": {"scheme": scheme, "exchange": "pull"}})


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"kind": "fixed_duration", "duration": 0}, r"gossip.scheme.duration must be .*\[s\], got 0"),
        ({"kind": "fixed_duration", "duration": "n-100"}, r"gossip.scheme.duration must be .*'n-100' = 0 at n = 100"),
        ({"kind": "age_aware", "wait": -1}, "gossip.scheme.wait must be .*got -1"),
        ({"kind": "freshest", "wait": 1}, "unknown key 'gossip.scheme.wait'"),
        ({"kind": "newest"}, "gossip.scheme"),
    ],
)
def test_wrong_schemes_are_refused(scheme, message):
    with pytest.raises(ValueError, match=message):
        load({"gossip": {"scheme": scheme}})
