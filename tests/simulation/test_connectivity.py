"""Facts about graphs: spectra by closed forms and by enumeration, and contraction by contacts that were drawn."""

import math

import numpy as np
import pytest

from batchednodes import load
from batchednodes.results import theory
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning import connectivity as connections
from batchednodes.simulation.planning.connectivity import Connectivity, connectivity

ROUNDING = 1e-10
"""Relative: eigenvalues of dense matrices of up to 600 nodes."""


def facts(*overrides: str) -> Connectivity:
    config = load({"network": {"nodes": 12}, "gossip": {"exchange": "meet", "clock": {"rate": 2}}}, overrides)
    return connectivity(config, assembly.timeline([config]), 0)


def test_facts_of_simple_graphs_are_the_closed_forms():
    ring = facts("network.topology.kind=ring")
    assert (ring.components, ring.degrees) == (1, (2, 2.0, 2))
    assert ring.gap == pytest.approx(1 - math.cos(2 * math.pi / 12), rel=ROUNDING)
    # a meeting on edge (i, j): 1 - l_2 / 2, l_2 = (2 - 2 cos(2 pi / n)) / n of the sum of pairs' probabilities 1 / n
    rho = 1 - (1 - math.cos(2 * math.pi / 12)) / 12
    assert ring.contraction == pytest.approx(rho, rel=ROUNDING)
    assert ring.rate == pytest.approx((1 - rho) * 12 * 2, rel=1e-8)  # a difference of near numbers
    star = facts("network.topology.kind=star")
    assert (star.degrees, star.gap) == ((1, 22 / 12, 11), pytest.approx(1, rel=ROUNDING))
    for exchange in ("push", "pull", "meet"):
        small = facts(f"gossip.exchange={exchange}")
        assert small.contraction == pytest.approx(theory.complete_consensus(12, exchange, 0.5), rel=ROUNDING)
        large = facts("network.nodes=2000", f"gossip.exchange={exchange}")
        assert large.contraction == theory.complete_consensus(2000, exchange, 0.5)
        assert (large.gap, large.degrees) == (2000 / 1999, (1999, 1999.0, 1999))
    assert facts("network.nodes=2000").contraction == 1 - 1 / 1999


def test_weights_thin_the_contacts():
    for kind, p in (("max_degree", 1 / 3), ("metropolis_hastings", 1 / 3)):
        found = facts("network.topology.kind=ring", f"network.weights.kind={kind}")
        assert found.gap == pytest.approx(2 * p * (1 - math.cos(2 * math.pi / 12)), rel=ROUNDING)
        assert found.contraction == pytest.approx(1 - (1 - math.cos(2 * math.pi / 12)) / 12, rel=ROUNDING)
        assert found.rate == pytest.approx((1 - math.cos(2 * math.pi / 12)) * 2 * 2 * p, rel=1e-8)


def test_what_is_not_known_is_null():
    assert facts("gossip.clock.kind=never").contraction is None
    assert facts("gossip.scheme.kind=freshest").rate is None
    assert facts("gossip.weight={kind: uniform, low: 0, high: 1}").contraction is None
    assert facts("gossip.exchange=push_pull").contraction is None
    assert facts("gossip.exchange=push", "gossip.loss.kind=independent").contraction is None
    assert facts("network.nodes=1").gap is None
    large = facts("network.nodes=6000", "network.topology.kind=ring")
    assert (large.gap, large.contraction, large.degrees) == (None, None, (2, 2.0, 2))
    assert facts("network.nodes=1200", "network.topology.kind=ring", "gossip.exchange=push").contraction is None
    with pytest.warns(UserWarning, match="not connected"):
        apart = facts("network.topology={kind: erdos_renyi, probability: 0.1}", "seed=3")
    assert apart.components > 1
    assert apart.contraction == pytest.approx(1, abs=1e-12)  # rounding
    assert apart.gap == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("exchange", ["push", "meet"])
@pytest.mark.parametrize(
    "topology",
    ["{kind: barabasi_albert}", "{kind: exponential}", "{kind: random_matching, period: 0.3}",
     "{kind: base_graph, degree: 2, period: 0.3}", "{kind: random_peers, degree: 2, period: 0.3}"],
)  # fmt: skip
def test_contraction_is_that_of_the_contacts_of_a_run(topology, exchange):
    options = [f"network.topology={topology}", f"gossip.exchange={exchange}", "gossip.clock.rate={kind: uniform}",
               "update.clock.kind=never", "network.nodes=11"]  # fmt: skip
    config = load({}, options)
    laws = assembly.timeline([config])
    found = connectivity(config, laws, 0)
    events = laws.window(laws.begin(), 9000.0)[0]
    probability, pairs = np.zeros(121), np.stack([events.actor, events.peer], 1)
    np.add.at(probability, pairs @ [11, 1], 1 / len(events))
    matrices = np.tile(np.eye(11), (121, 1, 1))
    for e, (i, j) in enumerate(np.ndindex(11, 11)):
        for to, source in [(j, i), (i, j)][: 2 if exchange == "meet" else 1]:
            if i != j:
                matrices[e, to, to] = matrices[e, to, source] = 0.5
    rho = theory.contraction(probability / probability.sum(), matrices)
    # 99,000 contacts: a frequency of up to 0.09 is off by 0.001, and the eigenvalue by about as much at worst; those of
    # a graph that changes repeat for a round, of 3 contacts of each node
    assert found.contraction is not None
    assert 1 - found.contraction == pytest.approx(1 - rho, rel=0.05, abs=0.0015)
    assert found.rate == pytest.approx((1 - rho) * len(events) / 9000, rel=0.06, abs=0.0015 * 11)


@pytest.mark.parametrize("kind", ["barabasi_albert", "ring", "torus"])
def test_sparse_meetings_are_the_dense_ones(kind):
    config = load({"network": {"nodes": 600, "topology": {"kind": kind}}})
    graph = config.network.topology.graph(600, 0)
    draw = np.random.default_rng(1).uniform(0.5, 1.5, 600)
    pairs = graph.adjacency().multiply((draw / (draw @ graph.degrees))[:, None]).tocsr()
    dense = theory.contact_consensus(pairs.toarray(), "meet", 0.4)
    assert 1 - theory.meeting_consensus(pairs, 0.4) == pytest.approx(1 - dense, rel=1e-4)  # gaps to 1e-5 and rounding


def test_directed_walks_have_the_gap_of_their_slowest_real_part():
    cycle = np.roll(np.eye(7), 1, axis=1)
    assert theory.walk_gap(cycle) == pytest.approx(1 - math.cos(2 * math.pi / 7), rel=ROUNDING)
    assert theory.walk_gap(cycle / 2) == pytest.approx((1 - math.cos(2 * math.pi / 7)) / 2, rel=ROUNDING)


@pytest.mark.parametrize(
    "options",
    [
        ["network.topology={kind: k_regular, degree: 6}"],
        ["network.topology={kind: barabasi_albert, attach: 3}"],
        ["network.topology.kind=torus"],
        ["network.topology={kind: watts_strogatz, neighbours: 6}", "network.weights.kind=metropolis_hastings"],
        ["network.topology={kind: barabasi_albert, attach: 3}", "network.weights.kind=max_degree"],
        ["network.topology={kind: random_matching}"],
        ["network.topology.kind=hypercube", "network.nodes=256"],
        ["network.topology.kind=star"],
    ],
)
def test_sparse_gaps_are_the_dense_ones(options, monkeypatch):
    options = ["network.nodes=300", *options]
    dense = facts(*options).gap
    monkeypatch.setattr(connections, "DENSE", 100)
    sparse = facts(*options).gap
    assert sparse is not None
    assert sparse == pytest.approx(dense, rel=1.1e-4)  # found to 1e-4


def test_gaps_of_large_graphs_are_found_where_they_are_quick():
    degree = 10
    found = facts("network.nodes=100000", f"network.topology={{kind: k_regular, degree: {degree}}}")
    law = 1 - 2 * math.sqrt(degree - 1) / degree  # Friedman 2008: no random regular graph is far from Ramanujan's
    assert found.gap == pytest.approx(law, rel=1e-3)  # found 0.40006 for 0.4
    assert found.contraction is None
    assert facts("network.nodes=100000").gap == 100000 / 99999
    assert facts("network.nodes=65536", "network.topology.kind=hypercube").gap == pytest.approx(2 / 16, rel=1e-4)


def test_gaps_of_large_graphs_are_null_where_no_sparse_iteration_finds_them():
    assert facts("network.nodes=1100", "network.topology={kind: exponential}").gap is None  # not reversible
    assert facts("network.nodes=1100", "network.topology={kind: base_graph, degree: 2}").gap is None  # likewise
    assert facts("network.nodes=6000", "network.topology.kind=ring").gap is None  # slow
    with pytest.warns(UserWarning, match="not connected"):
        assert facts("network.nodes=1100", "network.topology={kind: erdos_renyi, probability: 1/n}").gap == 0
