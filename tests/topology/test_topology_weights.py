"""Contact probabilities: their matrices densely, and contacts that follow them."""

import math
import re

import numpy as np
import pytest

from batchednodes import load, train
from batchednodes.events.clocks import Never, Poisson
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import Timeline
from batchednodes.topology import (
    BarabasiAlbert,
    Chain,
    ErdosRenyi,
    Exponential,
    GivenWeights,
    Graph,
    KRegular,
    Laplacian,
    MaxDegree,
    MetropolisHastings,
    Networks,
    RandomGeometric,
    Ring,
    Star,
    Torus,
    UniformWeights,
    WattsStrogatz,
    Weighted,
    Weights,
    stack,
)
from batchednodes.topology.weights import best_constant

GRAPHS = [Ring(), Star(), Chain(), BarabasiAlbert(), ErdosRenyi(0.1), Torus(4)]


def stored(topology, n: int, seed: int = 1) -> Graph:
    graph = topology.graph(n, seed)
    assert isinstance(graph, Graph)
    return graph


def weighted(weights: Weights, graph: Graph) -> Weighted:
    made = weights.chooser(graph)
    assert isinstance(made, Weighted)
    return made


def laplacian(graph: Graph) -> np.ndarray:
    a = graph.adjacency().toarray()
    return np.diag(a.sum(1)) - a


@pytest.mark.parametrize("topology", GRAPHS, ids=repr)
def test_probabilities_are_the_papers(topology):
    graph = stored(topology, 20)
    a, d = graph.adjacency().toarray(), graph.degrees
    for weights, law in (
        (MetropolisHastings(), a / (1 + np.maximum(d[:, None], d))),
        (MaxDegree(), a / (1 + d.max())),
        (Laplacian(), a * best_constant(graph)),
    ):
        made = weighted(weights, graph)
        np.testing.assert_allclose(made.probabilities().toarray(), law, rtol=0, atol=1e-15 * 20)  # 20 rounded sums
        np.testing.assert_allclose(made.share(), law.sum(axis=1), rtol=1e-14)  # likewise
        assert made.share().max() <= 1 + 1e-12
        union = made.union()
        assert union is not None
        np.testing.assert_array_equal(union.adjacency().toarray(), a)
    assert UniformWeights().chooser(graph) is None


@pytest.mark.parametrize("n", [20, 700])
@pytest.mark.parametrize("topology", [*GRAPHS, KRegular(6)], ids=repr)
def test_the_constant_is_the_best_that_gives_probabilities(topology, n):
    graph = stored(topology, n)
    values, a = np.linalg.eigvalsh(laplacian(graph)), best_constant(graph)
    free = 2 / (max(0.0, values[1]) + values[-1])
    # dense up to 500 nodes; else Lanczos and factorisation, with gaps in error by 1e-5 of the largest value
    assert a == pytest.approx(min(free, 1 / graph.degrees.max()), rel=1e-9 if n < 500 else 1e-4)
    assert 1 - a * graph.degrees.max() > -1e-9

    def slowest(constant: float) -> float:
        return abs(1 - constant * values[1:]).max()

    below = np.linspace(0.01, 1, 60) / graph.degrees.max()
    assert slowest(a) <= min(map(slowest, below)) + 1e-5


def test_a_star_would_need_a_negative_probability():
    graph = stored(Star(), 9)
    assert best_constant(graph) == 1 / 8  # 2 / (1 + 9) would leave the hub 1 - 8 / 5
    assert best_constant(stored(Ring(), 8)) == pytest.approx(2 / (2 - math.sqrt(2) + 4), rel=1e-12)  # rounding
    assert best_constant(Graph.of(2, np.zeros(0, int), np.zeros(0, int))) == 0.0


def timeline(weights: Weights, graph: Graph, rate: float = 40.0) -> Timeline:
    n = graph.n
    networks = Networks(np.array([0, n]), np.array([1], np.uint64))
    return Timeline(networks, stack(networks, [weights.chooser(graph) or graph]), Never().gaps(n, 1, "u"),
                    Poisson(rate).gaps(n, 1, "g"), "push", (Uniform(),))  # fmt: skip


@pytest.mark.parametrize("weights", [MetropolisHastings(), MaxDegree(), Laplacian()], ids=repr)
@pytest.mark.parametrize("topology", [Star(), BarabasiAlbert()], ids=repr)
def test_contacts_have_their_probabilities(weights, topology):
    graph, span = stored(topology, 8), 500.0
    laws, ticks = timeline(weights, graph), 40.0 * 500
    events, clocks = laws.window(laws.begin(), span)
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (events.actor, events.peer), 1)
    law = weighted(weights, graph).probabilities().toarray() * ticks
    assert (
        abs(pairs - law) <= 5 * np.sqrt(law)
    ).all()  # Poisson, 5 standard deviations; false alarm 4e-5 over 64 pairs
    assert abs(len(events) - laws.expected(span)[1]) < 5 * math.sqrt(len(events))  # likewise
    assert clocks.gossips.tolist() == np.bincount(events.actor, minlength=8).tolist()
    uniform = timeline(UniformWeights(), graph)
    every = uniform.window(uniform.begin(), span)[0]
    assert {*zip(events.time.tolist(), events.actor.tolist(), strict=True)} < {
        *zip(every.time.tolist(), every.actor.tolist(), strict=True)
    }  # the clock is the same: some ticks are without contact
    halves = laws.window(laws.begin(), 0.7)
    rest = laws.window(halves[1], span)[0]
    assert events.time.tolist() == halves[0].time.tolist() + rest.time.tolist()
    assert events.peer.tolist() == halves[0].peer.tolist() + rest.peer.tolist()


def test_ends_of_the_uniform_numbers_find_the_first_and_the_last():
    made = Weighted.of(stored(Star(), 4), np.array([0.1, 0.2, 0.7, 0.5, 0.0, 1.0]))
    bits = np.array([0, 2**64 - 1], np.uint64)

    def ends(node: int) -> list[int]:
        return made.peers(np.zeros(2), np.full(2, node, np.int32), bits).tolist()

    assert [ends(i) for i in range(4)] == [[1, 3], [0, -1], [-1, -1], [0, 0]]
    assert made.share().tolist() == [1.0, 0.5, 0.0, 1.0]


# ------------------------------------------------------------------------------------------------------------- files


def test_given_weights_are_read(tmp_path):
    file = tmp_path / "weights.csv"
    file.write_text("node, peer, probability\n0,1,0.25 # a comment\n\n2,1,0\n1, 2, 1e-1\n1,0,.9\n")
    made = weighted(GivenWeights(str(file)), stored(Chain(), 4))
    law = np.zeros((4, 4))
    law[0, 1], law[1, 2], law[1, 0] = 0.25, 0.1, 0.9
    np.testing.assert_allclose(made.probabilities().toarray(), law, rtol=1e-15)
    assert made.share().tolist() == [0.25, 1.0, 0.0, 0.0]
    union = made.union()
    assert union is not None
    assert union.adjacency().toarray().tolist() == (law > 0).tolist()
    options = [f"network.weights={{kind: given, path: '{file}'}}", "network.topology.kind=chain", "network.nodes=4"]
    options += ["task.data={samples_per_node: 4, test_samples: 4, features: 2}", "run.until=3"]
    with pytest.warns(UserWarning, match="network.topology is not connected: 2 components"):
        assert train({}, *options).metrics["gossips"].iloc[-1] > 0


def test_a_large_file_of_weights_is_read_as_rows_in_any_order(tmp_path):
    graph, draw = stored(Torus(), 2500), np.random.default_rng(0)
    i, p = np.repeat(np.arange(2500), graph.degrees), draw.uniform(0, 0.25, graph.indices.size)
    order = draw.permutation(p.size)
    rows = [f"{i[e]},{graph.indices[e]},{float(p[e])!r}" for e in order]
    (tmp_path / "w.csv").write_text("\n".join(rows))
    made = weighted(GivenWeights(str(tmp_path / "w.csv")), graph).probabilities()
    np.testing.assert_allclose(made.data, p, rtol=0, atol=1e-15)  # differences of sums of four


@pytest.mark.parametrize(
    "topology",
    [RandomGeometric(0.09), BarabasiAlbert(3), KRegular(6), Torus(), WattsStrogatz(6, 0.1), ErdosRenyi("8/n"), Ring()],
    ids=repr,
)
def test_the_best_constant_of_a_larger_graph_is_the_dense_one(topology, monkeypatch):
    graph = stored(topology, 600)
    sparse = best_constant(graph)
    monkeypatch.setattr("batchednodes.topology.weights.DENSE", 600)
    assert sparse == pytest.approx(best_constant(graph), rel=1e-5)  # a gap is in error by 1e-5 at most


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1\n", "path: line 1 of {!r} must be two node numbers and a probability, got '0,1'"),
        ("0,1,x\n", "path: line 1 of {!r} must be two node numbers and a probability, got '0,1,x'"),
        ("0,1,1e\n", "path: line 1 of {!r} must be two node numbers and a probability, got '0,1,1e'"),
        ("#\n0,1,1.5\n", "path: line 2 of {!r} must give a probability in [0, 1], got 1.5"),
        ("0,1,-0.5\n", "path: line 1 of {!r} must give a probability in [0, 1], got -0.5"),
        ("0,2,0.5\n", "path: line 1 of {!r} must name a contact of network.topology, got 0, 2"),
        ("0,9,0.5\n", "path: line 1 of {!r} must name a contact of network.topology, got 0, 9"),
        ("0,1,0.5\n0,1,0.1\n", "path: line 2 of {!r} must give a contact once, got 0, 1 again"),
        (
            "1,0,0.6\n1,2,0.6\n",
            "path: probabilities of a node in {!r} must sum to at most 1, got 1.2 for node 1",
        ),
    ],
)
def test_given_weights_name_the_bad_line(tmp_path, text, message):
    file = tmp_path / "weights.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match="^" + re.escape(message.format(str(file))) + "$"):
        GivenWeights(str(file)).chooser(stored(Chain(), 4))


def test_a_missing_file_of_weights_is_named():
    with pytest.raises(ValueError, match=r"^path must be a readable text file of weights, got 'none': No such file"):
        GivenWeights("none").chooser(stored(Chain(), 4))


@pytest.mark.parametrize("weights", [MetropolisHastings(), MaxDegree(), Laplacian()], ids=repr)
def test_symmetric_weights_need_edges_both_ways(weights):
    message = "kind must be uniform or given where edges lead one way only, as in this network.topology"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        weights.chooser(stored(Exponential(), 8))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [],
            "network.weights.kind must be uniform with network.topology.kind=complete, whose neighbours are not stored "
            "or change, got 'max_degree'",
        ),
        (
            ["network.topology.kind=random_matching"],
            "network.weights.kind must be uniform with network.topology.kind=random_matching, whose neighbours are not "
            "stored or change, got 'max_degree'",
        ),
        (
            ["network.topology.kind=ring", "gossip.scheme.kind=freshest"],
            "gossip.scheme.kind must be uniform with network.weights.kind=max_degree, got 'freshest'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        load({"network": {"weights": {"kind": "max_degree"}}}, overrides)
