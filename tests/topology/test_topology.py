"""Graphs, their stacking, and the draw of a peer.

Statistics use fixed seeds; "false alarm p" is the chance that a correct program would have failed the test at a seed
chosen at random.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from scipy import stats

from batchednodes.numerics import rng
from batchednodes.topology import (
    BarabasiAlbert,
    Complete,
    EdgeList,
    ErdosRenyi,
    Exponential,
    Graph,
    Hypercube,
    KRegular,
    Networks,
    Ring,
    Star,
    Topology,
    Torus,
    WattsStrogatz,
    peer,
    stack,
)

RANDOM = [
    KRegular(3),
    KRegular(13),
    ErdosRenyi(),
    ErdosRenyi(0.4),
    WattsStrogatz(),
    WattsStrogatz(6, 1.0),
    BarabasiAlbert(),
]
FIXED = [Ring(), Torus(), Torus(2), Hypercube(), Star(), Exponential()]


def stored(topology: Topology, n: int, seed: int = 0) -> Graph:
    graph = topology.graph(n, seed)
    assert graph is not None
    return graph


def sets(graph: Graph) -> list[set[int]]:
    return [set(graph.indices[a:b].tolist()) for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)]


def check_simple(graph: Graph) -> None:
    """Contacts are valid, sorted, without loops or repeats, and mutual unless directed."""
    rows = np.repeat(np.arange(graph.n), graph.degrees)
    assert (graph.indices >= 0).all()
    assert (graph.indices < graph.n).all()
    assert (rows != graph.indices).all()
    keys = rows * graph.n + graph.indices
    assert (np.diff(keys) > 0).all()
    if not graph.directed:
        np.testing.assert_array_equal(np.sort(graph.indices.astype(np.int64) * graph.n + rows), keys)


# ------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("topology", RANDOM + FIXED, ids=repr)
@pytest.mark.parametrize("n", [16, 64])
def test_graphs_are_simple_and_repeat_for_a_seed(topology, n):
    graph, again = stored(topology, n, 3), stored(topology, n, 3)
    check_simple(graph)
    assert graph.directed == isinstance(topology, Exponential)
    np.testing.assert_array_equal(graph.indptr, again.indptr)
    np.testing.assert_array_equal(graph.indices, again.indices)
    other = stored(topology, n, 4)
    same = np.array_equal(graph.indptr, other.indptr) and np.array_equal(graph.indices, other.indices)
    assert same == (topology in FIXED)  # random kinds on 16 nodes agree by chance with probability below 1e-9


@pytest.mark.parametrize("topology", [Ring(), Torus(), Hypercube(), Star(), Exponential(), ErdosRenyi()], ids=repr)
def test_one_node_has_no_contacts(topology):
    graph = stored(topology, 1)
    assert graph.indices.size == 0
    assert graph.indptr.tolist() == [0, 0]
    assert graph.is_connected
    assert graph.spectral_gap() == 1.0


@pytest.mark.parametrize(
    "topology",
    [Ring(), Torus(), Hypercube(), Star(), Exponential(), ErdosRenyi(1), KRegular(1), BarabasiAlbert(1)],
    ids=repr,
)
def test_two_nodes_share_one_edge(topology):
    assert sets(stored(topology, 2)) == [{1}, {0}]


def test_fixed_kinds_are_as_drawn():
    assert Complete().graph(5, 0) is None
    assert sets(stored(Ring(), 4)) == [{1, 3}, {0, 2}, {1, 3}, {0, 2}]
    assert sets(stored(Torus(1), 4)) == sets(stored(Ring(), 4)) == sets(stored(Torus(4), 4))
    assert sets(stored(Star(), 4)) == [{1, 2, 3}, {0}, {0}, {0}]
    assert sets(stored(Hypercube(), 8))[5] == {4, 7, 1}
    assert sets(stored(Exponential(), 6))[4] == {5, 0, 2}
    assert sets(stored(Exponential(), 8))[0] == {1, 2, 4}
    assert sets(stored(Torus(), 12))[0] == {1, 3, 4, 8}  # 3 rows of 4
    assert sets(stored(Torus(4), 12))[0] == {1, 2, 3, 9}  # 4 rows of 3
    assert (stored(Torus(), 400).degrees == 4).all()


@pytest.mark.parametrize(("degree", "n"), [(1, 2), (2, 5), (3, 4), (3, 200), (4, 5), (9, 20), (10, 20), (18, 20)])
def test_k_regular_has_exact_degrees(degree, n):
    for seed in range(5):
        graph = stored(KRegular(degree), n, seed)
        check_simple(graph)
        assert (graph.degrees == degree).all()


def test_k_regular_of_six_nodes_is_nearly_uniform():
    # Of the 70 cubic graphs on 6 labelled nodes 10 are K(3,3), the triangle-free ones. 2,000 draws; 4 standard errors
    # of the law 1/7 (false alarm 6e-5) plus 0.005 for the bias, measured as 0.003 +- 0.0025 on 20,000 draws.
    free = sum(
        np.trace(np.linalg.matrix_power(stored(KRegular(3), 6, s).adjacency().toarray(), 3)) == 0 for s in range(2000)
    )
    assert abs(free / 2000 - 1 / 7) < 4 * np.sqrt(6 / 49 / 2000) + 0.005


@pytest.mark.parametrize("p", [0.003, 0.3, 0.97])
def test_erdos_renyi_edges_are_binomial_and_uniform(p):
    n, seeds = 200, 40
    total = n * (n - 1) // 2
    counts = np.array([stored(ErdosRenyi(p), n, s).indices.size // 2 for s in range(seeds)])
    low, high = stats.binom.interval(1 - 1e-6, total * seeds, p)  # false alarm 1e-6
    assert low <= counts.sum() <= high
    spread = ((counts - total * p) ** 2).sum() / (total * p * (1 - p))
    assert stats.chi2.ppf(1e-6, seeds) < spread < stats.chi2.ppf(1 - 1e-6, seeds)  # false alarm 2e-6
    degrees = sum(stored(ErdosRenyi(p), n, s).degrees for s in range(seeds))
    bound = stats.binom.interval(1 - 1e-6 / n, (n - 1) * seeds, p)  # false alarm 1e-6 over all nodes
    assert bound[0] <= degrees.min()
    assert degrees.max() <= bound[1]


def test_erdos_renyi_at_the_ends_of_its_range():
    assert stored(ErdosRenyi(0.0), 10).indices.size == 0
    assert (stored(ErdosRenyi("1"), 10).degrees == 9).all()
    assert stored(ErdosRenyi(1e-300), 1000).indices.size == 0
    assert stored(ErdosRenyi("2*log(n)/n"), 500, 1).is_connected  # false alarm about 500 exp(-2 log 500) = 0.002


def test_watts_strogatz_keeps_its_edges_and_moves_some():
    n, k = 400, 6
    ring = {(i, (i + d) % n) for i in range(n) for d in (1, 2, 3)}
    assert sets(stored(WattsStrogatz(k, 0.0), n)) == [{(i + d) % n for d in (-3, -2, -1, 1, 2, 3)} for i in range(n)]
    for rewire in (0.1, 1.0):
        graph = stored(WattsStrogatz(k, rewire), n, 2)
        assert graph.indices.size == n * k
        assert graph.degrees.min() >= k // 2
        near = sets(graph)
        moved = sum(j not in near[i] for i, j in ring)
        back = rewire * k / n  # a moved edge may land where another has left
        low, high = stats.binom.interval(1 - 1e-6, len(ring), rewire)  # false alarm 1e-6
        assert low - 3 * back * len(ring) <= moved <= high


def test_watts_strogatz_leaves_a_complete_graph_alone():
    assert (stored(WattsStrogatz(6, 1.0), 7).degrees == 6).all()


@pytest.mark.parametrize(("attach", "n"), [(1, 2), (1, 300), (2, 3), (2, 300), (5, 300)])
def test_barabasi_albert_is_connected_with_the_stated_edges(attach, n):
    graph = stored(BarabasiAlbert(attach), n, 1)
    check_simple(graph)
    assert graph.indices.size == 2 * attach * (n - attach)
    assert graph.is_connected
    older = np.array([sum(j < i for j in contacts) for i, contacts in enumerate(sets(graph))])
    assert (older[attach + 1 :] == attach).all()


def test_barabasi_albert_attaches_in_proportion_to_degree():
    # attach = 1, n = 4: a path 0-1 grows; node 2 joins an end, then node 3 joins the middle with chance 2 / 4
    hub = sum(stored(BarabasiAlbert(1), 4, s).degrees.max() == 3 for s in range(1000))
    low, high = stats.binom.interval(1 - 1e-6, 1000, 0.5)  # false alarm 1e-6
    assert low <= hub <= high
    degrees = stored(BarabasiAlbert(2), 2000, 0).degrees
    assert degrees.max() > 60  # about 2 sqrt(n) = 90; attachment without preference gives about 2 log2(n) = 22


def test_edge_list_reads_what_was_written(tmp_path):
    file = tmp_path / "edges.txt"
    file.write_text("# a comment\n0 1\n\n  2\t1 # another\n1 0\n")
    assert sets(stored(EdgeList(str(file)), 4)) == [{1}, {0, 2}, {1}, set()]
    assert sets(stored(EdgeList(str(file), directed=True), 4)) == [{1}, {0}, {1}, set()]
    assert stored(EdgeList(str(file), directed=True), 4).directed
    file.write_text("# nobody\n")
    assert stored(EdgeList(str(file)), 3).indices.size == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n1 x\n", "path: line 2 of {!r} must be two node numbers, got '1 x'"),
        ("0 1 2\n", "path: line 1 of {!r} must be two node numbers, got '0 1 2'"),
        ("0 1.5\n", "path: line 1 of {!r} must be two node numbers, got '0 1.5'"),
        ("0,1\n", "path: line 1 of {!r} must be two node numbers, got '0,1'"),
        ("#\n\n0 3\n", "path: line 3 of {!r} must name nodes of 0 .. 2, got 3"),
        ("-1 2\n", "path: line 1 of {!r} must name nodes of 0 .. 2, got -1"),
        ("1 1\n", "path: line 1 of {!r} must join two nodes, got the loop 1 1"),
    ],
)
def test_edge_list_names_the_bad_line(tmp_path, text, message):
    file = tmp_path / "edges.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match="^" + re.escape(message.format(str(file))) + "$"):
        EdgeList(str(file)).graph(3, 0)


def test_edge_list_says_why_a_file_cannot_be_read(tmp_path: Path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe0 1")
    reasons = {"none.txt": "No such file or directory", ".": "Is a directory", "binary": "it is not UTF-8 text"}
    for name, reason in reasons.items():
        path = str(tmp_path / name)
        message = f"path must be a readable text file of edges, got {path!r}: {reason}"
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            EdgeList(path).graph(3, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Torus(0), "rows must be at least 1, got 0"),
        (
            lambda: Torus(5).graph(12, 0),
            "rows must divide the number of nodes, got rows=5 with 12 nodes; leave rows out or use 10 nodes",
        ),
        (
            lambda: Torus().graph(7, 0),
            "rows must divide the number of nodes, and 7 is prime; use 6 or 8 nodes, "
            "or topology kind=ring (the same as rows=1)",
        ),
        (
            lambda: Torus(3).graph(7, 0),
            "rows must divide the number of nodes, got rows=3 with 7 nodes; leave rows out or use 6 nodes",
        ),
        (
            lambda: Hypercube().graph(100, 0),
            "kind=hypercube needs a number of nodes that is a power of two, got 100 nodes; use 64 or 128 nodes, "
            "or topology kind=k_regular",
        ),
        (lambda: KRegular(0), "degree must be at least 1, got 0"),
        (
            lambda: KRegular(4).graph(3, 0),
            "degree must be below the number of nodes, got degree=4 with 3 nodes; "
            "use topology kind=complete or a smaller degree",
        ),
        (
            lambda: KRegular(1).graph(1, 0),
            "degree must be below the number of nodes, got degree=1 with 1 node; "
            "use topology kind=complete or a smaller degree",
        ),
        (
            lambda: KRegular(3).graph(5, 0),
            "degree times the number of nodes must be even, got degree=3 with 5 nodes; use an even degree or 6 nodes",
        ),
        (lambda: ErdosRenyi(1.5), "probability must be in [0, 1], got 1.5"),
        (lambda: ErdosRenyi(-0.1), "probability must be in [0, 1], got -0.1"),
        (lambda: ErdosRenyi("n").graph(7, 0), "probability must be in [0, 1], got 'n' = 7 at n = 7"),
        (lambda: WattsStrogatz(1), "neighbours must be at least 2, got 1"),
        (lambda: WattsStrogatz(3), "neighbours must be even (half on each side), got 3"),
        (lambda: WattsStrogatz(4, 1.1), "rewire must be in [0, 1], got 1.1"),
        (
            lambda: WattsStrogatz(4).graph(4, 0),
            "neighbours must be below the number of nodes, got neighbours=4 with 4 nodes; "
            "use topology kind=complete or fewer neighbours",
        ),
        (lambda: BarabasiAlbert(0), "attach must be at least 1, got 0"),
        (
            lambda: BarabasiAlbert(2).graph(2, 0),
            "attach must be below the number of nodes, got attach=2 with 2 nodes; "
            "use topology kind=complete or a smaller attach",
        ),
    ],
)
def test_errors_say_what_is_needed(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()


def test_kinds_are_frozen_and_compare_by_value():
    assert KRegular(4) == KRegular() != KRegular(6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Torus().rows = 3  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------ spectra


def test_components_are_weak_and_labelled(tmp_path):
    file = tmp_path / "edges.txt"
    file.write_text("0 1\n2 1\n4 3\n")
    for directed in (False, True):
        graph = stored(EdgeList(str(file), directed), 6)
        count, label = graph.components()
        assert count == 3
        assert not graph.is_connected
        assert len(set(label[:3])) == len(set(label[3:5])) == 1
        assert len(set(label.tolist())) == 3
        assert graph.spectral_gap() == 0.0


def test_gossip_matrix_is_stochastic_with_metropolis_weights():
    w = stored(Star(), 4).gossip_matrix().toarray()
    np.testing.assert_allclose(w[0], [0.25, 0.25, 0.25, 0.25], rtol=1e-15)  # 1 - 3/4 in float64
    for topology in RANDOM + FIXED:
        w = stored(topology, 64, 1).gossip_matrix().toarray()
        np.testing.assert_allclose(w.sum(axis=1), 1.0, rtol=1e-14)  # a sum of at most 64 rounded terms
        assert (w.diagonal() > 0).all()
        assert (w >= 0).all()
        if not isinstance(topology, Exponential):
            np.testing.assert_array_equal(w, w.T)


@pytest.mark.parametrize("n", [3, 30, 10_000])
def test_spectral_gap_of_a_ring_is_the_closed_form(n):
    # 10,000 nodes: 1 - gap is rounded at 1e-16, the factorisation a hundred times more; the gap is 1.3e-7
    assert stored(Ring(), n).spectral_gap() == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / n)), rel=1e-6)


def test_spectral_gap_of_other_closed_forms():
    assert stored(KRegular(9), 10).spectral_gap() == pytest.approx(1.0, abs=1e-12)  # complete: W = 11'/n; rounding
    assert stored(Star(), 20).spectral_gap() == pytest.approx(1 / 20, rel=1e-12)  # rounding of a dense solver
    assert stored(Hypercube(), 64).spectral_gap() == pytest.approx(2 / 7, rel=1e-12)
    assert stored(Hypercube(), 1024).spectral_gap() == pytest.approx(2 / 11, rel=1e-9)  # Lanczos
    assert stored(Torus(), 1600).spectral_gap() == pytest.approx(2 / 5 * (1 - np.cos(2 * np.pi / 40)), rel=1e-6)
    for n, rel in ((64, 1e-12), (1024, 1e-10)):  # Ying et al. 2021, theorem 1: 2 / (1 + ceil(log2 n))
        assert stored(Exponential(), n).spectral_gap() == pytest.approx(2 / (1 + np.ceil(np.log2(n))), rel=rel)


@pytest.mark.parametrize(
    "topology", [KRegular(6), WattsStrogatz(), BarabasiAlbert(), Star(), BarabasiAlbert(1)], ids=repr
)
def test_spectral_gap_of_large_graphs_is_that_of_the_dense_matrix(topology):
    graph = stored(topology, 600, 1)
    moduli = np.sort(np.abs(np.linalg.eigvalsh(graph.gossip_matrix().toarray())))
    assert graph.spectral_gap() == pytest.approx(1 - moduli[-2], rel=1e-6)  # Lanczos in 600 dimensions: rounding


def test_spectral_gap_of_a_slow_large_directed_graph_is_refused(tmp_path):
    file = tmp_path / "cycle.txt"
    n = 3000
    file.write_text("".join(f"{i} {(i + 1) % n}\n" for i in range(n)))
    with pytest.raises(ValueError, match=r"^spectral gap of a directed graph with 3000 nodes cannot be found"):
        stored(EdgeList(str(file), directed=True), n).spectral_gap()


# ------------------------------------------------------------------------------------------------ batches and peers


def batch(sizes: list[int]) -> Networks:
    return Networks(np.cumsum([0, *sizes]), np.arange(len(sizes), dtype=np.uint64))


def test_networks_number_their_nodes():
    networks = batch([2, 1, 3])
    assert (networks.n, networks.count, networks.sizes.tolist()) == (6, 3, [2, 1, 3])
    assert networks.network_of().tolist() == [0, 0, 1, 2, 2, 2]
    assert networks.network_of().dtype == np.int32
    assert networks.index().tolist() == [0, 1, 0, 0, 1, 2]
    assert networks.index().dtype == np.int64
    assert [networks.slice(g) for g in range(3)] == [slice(0, 2), slice(2, 3), slice(3, 6)]


def test_stacked_contacts_stay_in_their_network(tmp_path):
    file = tmp_path / "edges.txt"
    file.write_text("0 2\n")
    networks = batch([3, 1, 4, 1, 3])
    contacts = stack(networks, [None, None, stored(Ring(), 4), stored(Ring(), 1), stored(EdgeList(str(file)), 3)])
    assert contacts.start.tolist() == [0, 0, 0, 3, 4, 4, 4, 4, 8, 9, 9, 9]
    assert contacts.size.tolist() == [3, 3, 3, 1, 4, 4, 4, 4, 1, 3, 3, 3]
    assert contacts.complete.tolist() == [True] * 4 + [False] * 8
    assert contacts.indptr.tolist() == [0, 0, 0, 0, 0, 2, 4, 6, 8, 8, 9, 9, 10]
    assert contacts.indices.tolist() == [5, 7, 4, 6, 5, 7, 4, 6, 11, 9]
    assert contacts.indices.dtype == np.int32
    assert np.flatnonzero(contacts.silent()).tolist() == [3, 8, 10]


@njit
def draw_peers(node, bits, lists):
    out = np.empty(bits.size, np.int64)
    for k in range(bits.size):
        out[k] = peer(node, bits[k], lists)
    return out


def test_peers_are_uniform_over_the_contacts():
    networks = batch([5, 1, 6, 2])
    contacts = stack(networks, [None, None, stored(Star(), 6), None])
    lists = contacts.lists()
    bits = rng.generator(5, rng.SOURCES).integers(2**64, size=20_000, dtype=np.uint64)
    expected = {0: [1, 2, 3, 4], 2: [0, 1, 3, 4], 4: [0, 1, 2, 3], 6: [7, 8, 9, 10, 11], 9: [6], 12: [13], 13: [12]}
    for node, others in expected.items():
        found, counts = np.unique(draw_peers(node, bits, lists), return_counts=True)
        assert found.tolist() == others
        if len(others) > 1:
            assert stats.chisquare(counts).pvalue > 1e-6  # false alarm 4e-6 over the four nodes
    assert (draw_peers(5, bits, lists) == -1).all()
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert draw_peers(0, ends, lists).tolist() == [1, 4]
    assert draw_peers(6, ends, lists).tolist() == [7, 11]


def test_an_isolated_node_has_no_peer():
    contacts = stack(batch([3]), [Graph.of(3, np.array([0]), np.array([2]))])
    lists = contacts.lists()
    bits = np.array([0, 2**63, 2**64 - 1], dtype=np.uint64)
    assert draw_peers(1, bits, lists).tolist() == [-1, -1, -1]
    assert draw_peers(np.int32(2), bits, lists).tolist() == [0, 0, 0]


@pytest.mark.parametrize("topology", [KRegular(10), ErdosRenyi(), WattsStrogatz(), BarabasiAlbert()], ids=repr)
def test_large_graphs_are_built(topology):
    graph = stored(topology, 100_000, 1)
    check_simple(graph)
    assert graph.is_connected  # false alarm below 1e-4: all four are connected with overwhelming probability
    if isinstance(topology, KRegular):
        assert (graph.degrees == 10).all()
