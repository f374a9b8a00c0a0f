"""Graphs that change: laws of a round by brute force, contacts that follow them; windows and batches do not matter.

Statistics use fixed seeds; "false alarm p" is the chance that a correct program would have failed the test at a seed
chosen at random.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import stats

from batchednodes import load, train
from batchednodes.events.clocks import Deterministic, Never, Poisson
from batchednodes.events.gaps import join
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import Events, Timeline
from batchednodes.numerics import rng
from batchednodes.topology import (
    BaseGraph,
    Changing,
    Networks,
    OnePeerExponential,
    PeerSampler,
    RandomMatching,
    RandomPeers,
    Ring,
    stack,
)
from batchednodes.topology.base_k_plus_1 import base_graph, simple_base_graph

KINDS = [OnePeerExponential(0.3), RandomMatching(0.3), RandomPeers(2, 0.3), BaseGraph(1, 0.3), BaseGraph(3, 0.07)]


def chooser(topology: Changing, n: int, seed: int = 1) -> PeerSampler:
    found = topology.graph(n, seed)
    assert isinstance(found, PeerSampler)
    return found


def timeline(topology: Changing | None, n: int = 11, seed: int = 1, rate: float = 4.0) -> Timeline:
    networks = Networks(np.array([0, n]), np.array([seed], np.uint64))
    graph = None if topology is None else chooser(topology, n, seed)
    laws = (Never().gaps(n, seed, "u"), Poisson(rate).gaps(n, seed, "g"))
    return Timeline(networks, stack(networks, [graph]), *laws, "push", (Uniform(),))


def events_of(laws: Timeline, until: float) -> Events:
    return laws.window(laws.begin(), float(until))[0]


def columns(events: Events) -> dict[str, list]:
    return {f.name: getattr(events, f.name).tolist() for f in fields(events) if getattr(events, f.name) is not None}


def contacts(events: Events, period: float) -> list[tuple[int, int, int]]:
    """Returns round, node and peer of each contact."""
    return [
        (math.floor(t / period), i, j)
        for t, i, j in zip(events.time.tolist(), events.actor.tolist(), events.peer.tolist(), strict=True)
    ]


# -------------------------------------------------------------------------------------------------- laws of a round


def matrix(edges, n: int) -> np.ndarray:
    w = np.zeros((n, n))
    np.add.at(w, (edges.i, edges.j), edges.weight)
    w += w.T
    return w + np.diag(1 - w.sum(axis=1))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_one_cycle_of_the_base_graph_gives_the_exact_mean(k):
    for n in [*range(k + 1, 60), 97, 128, 210]:
        for make in (base_graph, simple_base_graph):
            product, cycle = np.eye(n), make(n, k)
            for edges in cycle:
                w = matrix(edges, n)
                assert w.min() > -1e-12  # rounding
                assert (w > 0).sum(axis=1).max() <= k + 1  # at most k neighbours, and itself
                assert (edges.i != edges.j).all()
                product = w @ product
            np.testing.assert_allclose(product, 1 / n, rtol=0, atol=1e-12)  # some dozens of rounded products
            assert len(cycle) <= 2 * math.log(n) / math.log(k + 1) + 2 + 1e-9
    assert [len(base_graph(n, 1)) for n in (2, 4, 5, 6, 8)] == [1, 2, 5, 4, 3]  # 6 = 2 x 3: a pair, then 3 of 3


@pytest.mark.parametrize(
    ("topology", "n", "rounds"),
    [("{kind: base_graph, degree: 1}", 5, 5), ("{kind: base_graph, degree: 2}", 7, 4),
     ("{kind: base_graph, degree: 3}", 22, 5), ("one_peer_exponential", 16, 4)],
)  # fmt: skip
def test_synchronous_rounds_reach_the_mean_in_one_cycle_and_not_before(topology, n, rounds):
    settings = {"network.nodes": n, "timing.kind": "synchronous", "local.lr": 0, "dtype": "float64"}
    settings |= {"task.model": {"kind": "linear", "init": "independent"}, "run.until": rounds}
    run = train(settings, f"network.topology={topology if '{' in topology else {'kind': topology}}")
    away = run.metrics["consensus_distance"].tolist()
    assert away[-1] < 1e-15 < 1e-3 < away[-2]
    assert torch.allclose(run.x.mean(0), train(settings, "run.until=1e-9").x.mean(0), rtol=0, atol=1e-14)


def test_one_peer_exponential_hops_by_powers_of_two():
    for n, hops in ((1, [0]), (2, [1]), (8, [1, 2, 4]), (11, [1, 2, 4, 8])):
        found = contacts(events_of(timeline(OnePeerExponential(0.3), n), 20), 0.3)
        assert all(j == (i + hops[r % len(hops)]) % n for r, i, j in found)
        assert len(found) > 300 or n < 3


def shuffled(n: int, seed: int, turn: int) -> list[int]:
    """Returns all nodes in the random order of a round, from the addresses of its draws."""
    row = list(range(n))
    for i in range(n - 1, 0, -1):
        bits = rng.block(np.uint64(seed), rng.GRAPH_ROUND, i, np.uint64(turn))[0]
        j = int(rng.unit(np.uint64(bits)) * (i + 1))
        row[i], row[j] = row[j], row[i]
    return row


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_a_matching_is_that_of_its_addresses(n):
    found = contacts(events_of(timeline(RandomMatching(0.3), n, seed=5), 30), 0.3)
    for turn, i, j in found:
        row = shuffled(n, 5, turn)
        assert {row.index(i) // 2} == {row.index(j) // 2}
    assert len({turn for turn, *_ in found}) > 60 or n < 3
    assert found or n == 1


@pytest.mark.parametrize("n", [4, 5])
def test_matchings_are_uniform_and_independent(n):
    turns = 6000
    time, node = np.repeat(np.arange(turns) + 0.5, n), np.tile(np.arange(n, dtype=np.int32), turns)
    partners = chooser(RandomMatching(), n).peers(time, node, np.zeros(time.size, np.uint64)).reshape(turns, n)
    seen = Counter(map(tuple, partners.tolist()))
    assert len(seen) == {4: 3, 5: 15}[n]  # all matchings: 3 of four nodes, 5 x 3 of five
    assert stats.chisquare([*seen.values()]).pvalue > 1e-6  # false alarm 1e-6
    pairs = Counter(zip(map(tuple, partners[:-1].tolist()), map(tuple, partners[1:].tolist()), strict=True))
    counts = [pairs[a, b] for a, b in itertools.product(seen, seen)]
    assert stats.chisquare(counts).pvalue > 1e-6  # nearly independent cells: false alarm about 1e-6


def test_new_peers_are_a_uniform_subset_of_the_others_each_round():
    n, k, turns, asks = 5, 2, 6000, 40
    time = np.repeat(np.arange(turns) + 0.5, asks)
    bits = rng.generator(3, rng.SOURCES).integers(2**64, size=time.size, dtype=np.uint64)
    for node in (0, 3):
        found = chooser(RandomPeers(k), n).peers(time, np.full(time.size, node, np.int32), bits).reshape(turns, asks)
        sets = Counter(frozenset(row) for row in found.tolist())
        subsets = {frozenset(s) for s in itertools.combinations({*range(n)} - {node}, k)}
        assert sum(sets[s] for s in subsets) > turns * (1 - 1e-8)  # each of two is asked for in 40 draws
        assert stats.chisquare([sets[s] for s in subsets]).pvalue > 1e-6  # false alarm 1e-6
        singles = np.bincount(found[:, 0], minlength=n)
        assert singles[node] == 0
        assert stats.chisquare(np.delete(singles, node)).pvalue > 1e-6  # likewise


@pytest.mark.parametrize(("n", "k"), [(2, 1), (6, 5), (40, 7)])
def test_a_node_has_k_peers_in_a_round(n, k):
    found = defaultdict(set)
    for turn, i, j in contacts(events_of(timeline(RandomPeers(k, 5.0), n, rate=30.0), 20), 5.0):
        assert i != j
        found[turn, i].add(j)
    sizes = [len(peers) for peers in found.values()]
    assert max(sizes) == k
    assert np.mean(sizes) > 0.99 * k  # 150 contacts a round: hardly any peer is missed
    assert len(found) == 4 * n


# --------------------------------------------------------------------------------------------------------- contacts


@pytest.mark.parametrize("topology", KINDS, ids=repr)
def test_contacts_come_where_the_clock_ticks_and_the_round_has_a_neighbour(topology):
    n, period = 11, topology.seconds(11)
    ticks = events_of(timeline(None, n), 30)
    events, clocks = timeline(topology, n).window(timeline(topology, n).begin(), 30.0)
    turns = np.floor(ticks.time / period).astype(int)
    node = ticks.actor.astype(np.int32)
    there = chooser(topology, n).peers(ticks.time, node, np.zeros(len(ticks), np.uint64)) >= 0
    if isinstance(topology, BaseGraph):
        cycle = base_graph(n, topology.degree)
        busy = [{*edges.i.tolist(), *edges.j.tolist()} for edges in cycle]
        assert there.tolist() == [i in busy[r % len(cycle)] for r, i in zip(turns, node, strict=True)]
        neighbours = [{(a, b) for e in zip(edges.i, edges.j, strict=True) for a, b in (e, e[::-1])} for edges in cycle]
        assert all((i, j) in neighbours[r % len(cycle)] for r, i, j in contacts(events, period))
    assert events.time.tolist() == ticks.time[there].tolist()
    assert events.actor.tolist() == ticks.actor[there].tolist()
    assert clocks.gossips.tolist() == np.bincount(events.actor, minlength=n).tolist()
    assert clocks.draws.tolist() == np.bincount(ticks.actor, minlength=n).tolist()


@pytest.mark.parametrize("topology", KINDS, ids=repr)
def test_expected_contacts_are_those_that_come(topology):
    laws = timeline(topology, 11, rate=20.0)
    expected, found = laws.expected(200.0)[1], len(events_of(laws, 200))
    # Poisson, 5 standard deviations (false alarm 6e-7), and less than one cycle of nine rounds that is not complete
    assert abs(found - expected) < 5 * math.sqrt(expected) + 9 * topology.seconds(11) * 220
    mean = chooser(topology, 11)
    np.testing.assert_allclose(mean.probabilities().sum(axis=1), mean.share(), rtol=1e-12)  # sums of 11 rounded terms


@pytest.mark.parametrize("topology", KINDS, ids=repr)
def test_probabilities_are_those_of_the_contacts(topology):
    n = 6
    events = events_of(timeline(topology, n, rate=300.0), topology.seconds(n) * 360)  # whole cycles, of up to 6 rounds
    pairs = np.zeros((n, n))
    np.add.at(pairs, (events.actor, events.peer), 1)
    law, ticks = chooser(topology, n).probabilities().toarray(), 300.0 * topology.seconds(n) * 360
    assert ((law > 0) == (pairs > 0)).all()
    # a pair is likely for a whole round: at least 360 p rounds of weight at most one decide, 6 standard deviations
    np.testing.assert_allclose(pairs / ticks, law, rtol=0, atol=6 * (math.sqrt(0.25 / 360) + math.sqrt(0.25 / ticks)))


@pytest.mark.parametrize("topology", KINDS, ids=repr)
def test_windows_change_nothing(topology):
    laws = timeline(topology)
    whole, end = laws.window(laws.begin(), 12.0)
    assert len(whole) > 100
    parts, clocks = [], laws.begin()
    for until in [0.01, 0.3, 0.6, 0.60001, 5.0, 5.1, 12.0]:
        part, clocks = laws.window(clocks, until)
        parts.append(part)
    assert {name: [v for part in parts for v in columns(part)[name]] for name in columns(whole)} == columns(whole)
    for field in fields(end)[1:]:
        one, other = getattr(end, field.name), getattr(clocks, field.name)
        assert (one is None and other is None) or one.tolist() == other.tolist(), field.name


@pytest.mark.parametrize("topology", KINDS, ids=repr)
def test_a_network_in_a_batch_has_the_events_it_has_alone(topology):
    sizes, seeds = [7, 11, 7, 5], [3, 1, 4, 3]
    networks = Networks(np.cumsum([0, *sizes]), np.array(seeds, np.uint64))
    graphs = [None, chooser(topology, 11, 1), chooser(RandomMatching(0.1), 7, 4), Ring().graph(5, 3)]
    gaps = join([Poisson(4.0).gaps(n, s, "g") for n, s in zip(sizes, seeds, strict=True)])
    laws = Timeline(networks, stack(networks, graphs), Never().gaps(30, 0, "u"), gaps, "push", (Uniform(),) * 4)
    events, alone = events_of(laws, 8), events_of(timeline(topology), 8)
    mine = (events.actor >= 7) & (events.actor < 18)
    assert events.time[mine].tolist() == alone.time.tolist()
    assert (events.peer[mine] - 7).tolist() == alone.peer.tolist()
    for first, last in ((0, 7), (18, 25), (25, 30)):
        own = (events.actor >= first) & (events.actor < last)
        assert own.sum() > 50
        assert ((events.peer[own] >= first) & (events.peer[own] < last)).all()


def test_clocks_with_a_period_keep_exact_multiples_where_contacts_are_dropped():
    n = 5
    networks, graph = Networks(np.array([0, n]), np.array([1], np.uint64)), chooser(RandomMatching(0.2), n)
    laws = Timeline(networks, stack(networks, [graph]), Never().gaps(n, 0, "u"), Deterministic(0.1).gaps(n, 0, "g"),
                    "meet", (Uniform(),))  # fmt: skip
    times = events_of(laws, 5).time.tolist()
    assert {*times} == {k * 0.1 for k in range(1, 51)}
    assert all(count in (4, 8) for count in Counter(times).values())  # one of five has no partner


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "sent", ["gossip.exchange=meet", "gossip={delay: {kind: exponential}, loss: {kind: independent}}"]
)
@pytest.mark.parametrize("kind", ["one_peer_exponential", "random_matching", "random_peers", "base_graph"])
def test_batched_is_serial(kind, sent):
    options = [f"network.topology={{kind: {kind}, period: 0.4}}", "network.nodes=9", "run.until=4", "dtype=float64",
               "task.data={samples_per_node: 5, test_samples: 5, features: 3}", sent]  # fmt: skip
    batched, serial = train({}, *options), train({}, *options, "executor=serial")
    np.testing.assert_allclose(batched.x, serial.x, rtol=1e-12, atol=1e-15)  # linear models in float64: rounding
    assert batched.metrics["gossips"].tolist() == serial.metrics["gossips"].tolist()
    assert batched.metrics["gossips"].iloc[-1] > 20


def config(*overrides: str):
    return load({"network": {"nodes": 10, "topology": {"kind": "random_peers"}}}, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.topology.period=0"], "network.topology.period must be positive and finite [s], got 0.0"),
        (
            ["network.topology.period=n-10"],
            "network.topology.period must be positive and finite [s], got 'n-10' = 0 at n = 10",
        ),
        (
            ["network.topology.period=1e-9", "run.until=5"],
            "network.topology.period must be at least run.until / 1,000,000,000 = 5e-09 [s], got 1e-09",
        ),
        (["network.topology.degree=0"], "network.topology.degree must be at least 1, got 0"),
        (["network.topology={kind: base_graph, degree: 0}"], "network.topology.degree must be at least 1, got 0"),
        *(
            (
                [f"network.topology.kind={kind}", f"gossip.scheme.kind={scheme}"],
                f"gossip.scheme.kind must be uniform with network.topology.kind={kind}, a graph that changes, "
                f"got '{scheme}'",
            )
            for kind, scheme in (
                ("random_peers", "freshest"), ("random_matching", "fixed_duration"), ("base_graph", "age_aware"),
            )
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        config(*overrides)


@pytest.mark.parametrize("kind", [RandomPeers, BaseGraph])
def test_degrees_are_below_the_number_of_nodes(kind):
    message = "degree must be below the number of nodes, got degree=4 with 4 nodes; "
    message += "use topology kind=complete or a smaller degree"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        kind(4).graph(4, 0)
