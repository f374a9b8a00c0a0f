"""Rounds that mix by chance: MATCHA's matchings and their published probabilities, and epidemic learning.

Statistics use fixed seeds; "false alarm p" is the chance that a correct program would have failed the test at a seed
chosen at random.
"""

import numpy as np
import pytest
import scipy

from batchednodes import train
from batchednodes.algorithms.el_local import ELLocal
from batchednodes.algorithms.el_oracle import ELOracle
from batchednodes.algorithms.matcha import MatchingRounds, activation, weight
from batchednodes.figures.published.compared import published
from batchednodes.topology import (
    ErdosRenyi,
    Graph,
    Hypercube,
    RoundWeights,
    Star,
    TwoCliques,
    UniformWeights,
)
from batchednodes.topology.edge_colouring import matchings
from batchednodes.topology.time_varying_peers import NewPeers

PUBLISHED = published("matcha")
WEIGHTED = ["network.topology.kind=ring", "network.weights.kind=max_degree"]
ROUNDS = {"timing": {"kind": "synchronous"}, "network": {"nodes": 8}, "dtype": "float64", "run": {"until": 5}}


def laplacians(n, found):
    made = np.zeros((len(found), n, n))
    for of, edges in zip(made, found, strict=True):
        for a, b in edges:
            of[a, a] += 1
            of[b, b] += 1
            of[a, b] -= 1
            of[b, a] -= 1
    return made


@pytest.mark.parametrize("case", PUBLISHED["values"])
def test_probabilities_connect_at_least_as_well_as_the_published_ones(case):
    values, (graph, nodes, budget) = PUBLISHED["values"][case], case.split("/")
    found = [np.array(edges) for edges in PUBLISHED["graphs"][graph]]
    n, b = int(nodes.split("=")[1]), float(budget.split("=")[1])
    p = activation(n, found, b)
    assert ((p > 0) & (p < 1)).all()
    assert p.sum() <= b * len(found)
    connected = [float(np.linalg.eigvalsh(np.tensordot(q, laplacians(n, found), 1))[1]) for q in (p, values["p"])]
    assert connected[0] > connected[1] - 2e-6  # published ones are rounded to 1e-6


@pytest.mark.parametrize("seed", range(40))
def test_a_graph_is_cut_into_few_matchings(seed):
    draw = np.random.default_rng(seed)
    n, p = int(draw.integers(1, 14)), draw.random()
    i, j = np.nonzero(np.triu(draw.random((n, n)) < p, 1))
    graph = Graph.of(n, i, j)
    found = matchings(graph)
    assert len(found) <= graph.degrees.max() + 1
    assert all(len({*some.ravel().tolist()}) == some.size for some in found)
    edges = sorted(tuple(edge) for some in found for edge in some.tolist())
    assert edges == sorted(zip(i.tolist(), j.tolist(), strict=True))


@pytest.mark.parametrize("graph", [Star().graph(9, 0), TwoCliques().graph(8, 0), ErdosRenyi(0.4).graph(10, 2)])
def test_no_other_probabilities_connect_more(graph):
    found, draw = matchings(graph), np.random.default_rng(0)
    parts, made = graph.components()[0], laplacians(graph.n, found)
    p = activation(graph.n, found, 0.4)
    best = np.linalg.eigvalsh(np.tensordot(p, made, 1))[parts]
    alpha, rho = weight(graph.n, found, p)
    others = [0.4 * np.ones(len(found))]
    for scale in (1e-4, 1e-2, 1):
        others += [np.clip(p + scale * draw.standard_normal(len(p)), 0, 1) for _ in range(100)]
    others = [q * min(1, 0.4 * len(p) / q.sum()) for q in others]
    assert max(np.linalg.eigvalsh(np.tensordot(q, made, 1))[parts] for q in others) < best * (1 + 1e-7)
    mean, spread = np.tensordot(p, made, 1), np.tensordot(p * (1 - p), made, 1)
    for a in (alpha, alpha - 1e-4, alpha + 1e-4):
        square = np.eye(graph.n) - 2 * a * mean + a**2 * (mean @ mean + 2 * spread)
        assert np.linalg.eigvalsh(square)[-1 - parts] >= rho - 1e-9


def test_matchings_are_on_as_often_as_their_probabilities_say():
    graph, rounds = Hypercube().graph(8, 0), 2000
    assert graph is not None
    law = MatchingRounds(8, 5, graph, 0.5)
    found, p, alpha = law.plan
    mean, square = np.zeros((2, 8, 8))
    for k in range(rounds):
        w = law.matrix(k).toarray()
        assert np.abs(w - w.T).max() == 0
        assert np.abs(w.sum(0) - 1).max() < 1e-12
        assert ((w - np.diag(w.diagonal()) != 0).sum(0) == law.sent(k)).all()
        mean += w / rounds
        square += w @ w / rounds
    expected = np.eye(8) - alpha * np.tensordot(p, laplacians(8, found), 1)
    # entries are means of alpha times coins, on the diagonal of three; 36 beyond 5 sigma: false alarm p = 2e-5
    assert np.abs(mean - expected).max() < 3 * 5 * alpha * 0.5 / rounds**0.5
    rho = np.linalg.eigvalsh(square - 1 / 8)[-1]
    assert rho == pytest.approx(weight(8, found, p)[1], abs=0.03)  # the error of a mean of 2,000 matrices of norm 1


def test_matcha_converges_on_a_ring_and_keeps_the_mean():
    options = ["algorithm={kind: matcha, budget: 0.5}", "network.topology.kind=ring", "local.lr=0", "run.until=200"]
    run = train(ROUNDS, *options, "task.model={kind: linear, init: independent}")
    start = train(ROUNDS, *options, "task.model={kind: linear, init: independent}", "run.until=1e-9")
    assert (run.x - start.x.mean(0)).abs().max() < 1e-6


def dense(law, k):
    found = law.matrix(k)
    assert isinstance(found, scipy.sparse.csr_array)
    return found.toarray()


def given(n, period=1.0):
    return RoundWeights(n, None, UniformWeights(), "row", False, period)


def test_each_node_of_epidemic_learning_takes_the_mean_of_what_comes():
    law = ELLocal(peers=3).round_law(given(12, 0.3), 7)
    seen = set()
    for k in range(20):
        w = dense(law, k)
        peers = NewPeers(0.3, 12, 7, 3).at(0.3 * (k + 0.5))
        to = np.zeros((12, 12))
        to[peers.indices, np.repeat(np.arange(12), 3)] = 1  # to[j, i]: i sends to j
        came = to + np.eye(12)
        np.testing.assert_allclose(w, came / came.sum(1, keepdims=True), rtol=0, atol=1e-15)
        assert law.sent(k).tolist() == [3] * 12
        seen.add(w.tobytes())
    assert len(seen) == 20


def test_the_graph_of_the_oracle_is_regular_and_new_in_each_round():
    law = ELOracle(degree=4).round_law(given(11), 7)
    seen = set()
    for k in range(20):
        w = dense(law, k)
        assert ((np.abs(w - 0.2) < 1e-15).sum(0) == 5).all()
        np.testing.assert_allclose(w, w.T, rtol=0, atol=1e-15)
        assert np.abs(w.sum(0) - 1).max() < 1e-14
        assert law.sent(k).tolist() == [4] * 11
        seen.add(w.tobytes())
    assert len(seen) == 20


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 33])
def test_as_many_peers_as_fit_unless_it_is_said(n):
    local, oracle = (kind.round_law(given(n), 0).sent(0) for kind in (ELLocal(), ELOracle()))
    log = min(n - 1, int(np.ceil(np.log2(n))))
    assert local.tolist() == [log] * n
    assert oracle.tolist() == [log + (n * log) % 2] * n


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["algorithm={kind: matcha, budget: 0}"], "algorithm.budget must be"),
        (
            ["algorithm={kind: matcha}", "network.topology.kind=exponential"],
            "algorithm.kind must be another than matcha",
        ),
        (["algorithm={kind: matcha}", "network.topology.kind=random_matching"], "network.topology changes"),
        (["algorithm={kind: matcha}", "network.nodes=301"], "beyond 300 nodes or 1,000 edges, got 301 nodes"),
        (["algorithm={kind: el_local, peers: 8}"], "algorithm.peers must be below the number of nodes, got 8"),
        (["algorithm={kind: el_local, peers: 0}"], "algorithm.peers must be"),
        (["algorithm={kind: el_oracle, degree: 9}"], "algorithm.degree must be below the number of nodes, got 9"),
        (["algorithm={kind: el_oracle, degree: 3}", "network.nodes=9"], "algorithm.degree must be even"),
        (["algorithm={kind: el_oracle}", *WEIGHTED], "network.weights must be left out"),
        (["algorithm={kind: el_local}", "timing.kind=continuous"], "timing.kind must be synchronous"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        train(ROUNDS, *options)


def test_parts_that_never_meet_are_named_where_the_graph_is_used():
    apart = ["network.topology={kind: erdos_renyi, probability: 0.1}", "run.until=2"]
    with pytest.warns(UserWarning, match="network.topology is not connected"):
        train(ROUNDS, "algorithm.kind=matcha", *apart)
    assert train(ROUNDS, "algorithm.kind=el_local", *apart).x.isfinite().all()  # without a warning
