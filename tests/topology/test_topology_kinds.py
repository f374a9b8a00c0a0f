"""Grids, trees, communities and graphs of networkx against networkx' own, and against enumeration.

Statistics use fixed seeds; "false alarm p" is the chance that a correct program would have failed the test at a seed
chosen at random.
"""

import re

import networkx as nx
import numpy as np
import pytest
from scipy import stats

from batchednodes import load
from batchednodes.config import dump
from batchednodes.config.document import parse
from batchednodes.numerics import rng
from batchednodes.topology import (
    Adjacency,
    BinaryTree,
    Chain,
    Davis,
    DoubleBinaryTree,
    Edges,
    Graph,
    Grid,
    Karate,
    NetworkX,
    RandomGeometric,
    StochasticBlock,
    Topology,
    Torus,
    TwoCliques,
    from_networkx,
)


def stored(topology: Topology, n: int, seed: int = 0) -> Graph:
    graph = topology.graph(n, seed)
    assert isinstance(graph, Graph)
    rows = np.repeat(np.arange(n), graph.degrees)
    assert (np.diff(rows * n + graph.indices) > 0).all()  # sorted, no repeats
    assert (rows != graph.indices).all()
    return graph


def edges(graph: Graph) -> set[tuple[int, int]]:
    """Returns the contacts as pairs, an undirected edge once, its smaller node first."""
    i = np.repeat(np.arange(graph.n), graph.degrees).tolist()
    return {
        (a, b) if graph.directed else (min(a, b), max(a, b)) for a, b in zip(i, graph.indices.tolist(), strict=True)
    }


def numbered(found: nx.Graph, order: list | None = None) -> set[tuple[int, int]]:
    """Returns the edges of a graph of networkx, its nodes numbered in an order."""
    number = {node: k for k, node in enumerate(order or list(found))}
    return {(min(number[a], number[b]), max(number[a], number[b])) for a, b in found.edges}


# ------------------------------------------------------------------------------------------------------------- fixed


@pytest.mark.parametrize("sides", [[4, 5], [1, 7], [2, 2], [2, 3, 4], [3, 1, 5], [1, 1, 1]])
@pytest.mark.parametrize("wraps", [False, True])
def test_grids_are_those_of_networkx(sides, wraps):
    n = int(np.prod(sides))
    found = (Torus(sides=sides) if wraps else Grid(sides)).graph(n, 0)
    assert isinstance(found, Graph)
    theirs = nx.Graph(nx.grid_graph(sides[::-1], periodic=wraps))  # networkx names the last side first
    theirs.remove_edges_from(list(nx.selfloop_edges(theirs)))
    assert edges(found) == numbered(theirs, sorted(theirs))


def test_sides_are_as_equal_as_they_can_be():
    assert edges(stored(Grid(), 12)) == edges(stored(Grid([3, 4]), 12))
    assert edges(stored(Torus(), 24)) == edges(stored(Torus(4), 24)) == edges(stored(Torus(sides=[4, 6]), 24))
    assert edges(stored(Torus(dimensions=3), 24)) == edges(stored(Torus(sides=[2, 3, 4]), 24))
    assert edges(stored(Grid(dimensions=3), 90)) == edges(stored(Grid([3, 5, 6]), 90))
    assert edges(stored(Grid(dimensions=3), 1000)) == edges(stored(Grid([10, 10, 10]), 1000))
    assert edges(stored(Grid(), 1)) == set()
    assert edges(stored(Grid(dimensions=3), 2)) == {(0, 1)}


def test_a_chain_and_a_binary_tree_are_as_drawn():
    assert edges(stored(Chain(), 4)) == {(0, 1), (1, 2), (2, 3)}
    assert edges(stored(Chain(), 1)) == edges(stored(BinaryTree(), 1)) == edges(stored(DoubleBinaryTree(), 1)) == set()
    assert edges(stored(BinaryTree(), 6)) == {(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)}


def in_order(n: int) -> dict[int, int]:
    """Returns parents in the tree that NCCL draws beside its code, built from the top: node 0 above the others.

    The root of numbers first .. last is the one divisible by the largest power of two.
    """
    parents: dict[int, int] = {}

    def build(first: int, last: int, above: int) -> None:
        if first > last:
            return
        root = max(range(first, last + 1), key=lambda i: i & -i)
        parents[root] = above
        build(first, root - 1, root)
        build(root + 1, last, root)

    build(1, n - 1, 0)
    return parents


@pytest.mark.parametrize("n", [2, 3, 14, 15, 16, 33, 100])
def test_the_two_trees_share_no_inner_node_but_the_first(n):
    one = in_order(n)
    two = (
        {n - 1 - i: n - 1 - p for i, p in one.items()}
        if n % 2 == 0
        else {(i + 1) % n: (p + 1) % n for i, p in one.items()}
    )
    graph = stored(DoubleBinaryTree(), n)
    assert edges(graph) == {(min(e), max(e)) for tree in (one, two) for e in tree.items()}
    assert {*one.values()} & {*two.values()} <= ({0} if n % 2 else set())
    assert graph.degrees.max() <= 4
    for tree in (one, two):
        depths = [0] * n
        for i in tree:
            k = i
            while k in tree:
                k, depths[i] = tree[k], depths[i] + 1
        assert max(depths) <= np.ceil(np.log2(n))


@pytest.mark.parametrize("n", [2, 9, 10])
def test_two_cliques_are_joined_by_bridges(n):
    half = n - n // 2
    for bridges in {1, n // 2}:
        whole = {(i, j) for part in (range(half), range(half, n)) for i in part for j in part if i < j}
        assert edges(stored(TwoCliques(bridges), n)) == whole | {(k, half + k) for k in range(bridges)}


def test_observed_graphs_are_those_of_networkx():
    assert edges(stored(Karate(), 34)) == numbered(nx.karate_club_graph())
    assert edges(stored(Davis(), 32)) == numbered(nx.davis_southern_women_graph())
    assert {a < 18 <= b for a, b in edges(stored(Davis(), 32))} == {True}


# ------------------------------------------------------------------------------------------------------------ random


@pytest.mark.parametrize("blocks", [3, [5, 1, 4]])
def test_blocks_have_their_probabilities_pair_by_pair(blocks):
    n, seeds, p_in, p_out = 10, 2000, 0.4, 0.15
    block = np.repeat(np.arange(3), [4, 3, 3] if blocks == 3 else blocks)
    found = sum(stored(StochasticBlock(blocks, p_in, p_out), n, s).adjacency().toarray() for s in range(seeds))
    for i in range(n):
        for j in range(i):
            p = p_in if block[i] == block[j] else p_out
            low, high = stats.binom.interval(1 - 1e-6, seeds, p)
            assert low <= found[i, j] <= high  # false alarm 45e-6 over the 45 pairs
    total = stats.binom.interval(1 - 1e-6, seeds * 45, p_in)  # edges are independent: no more spread than that
    assert found.sum() / 2 < total[1]


def test_blocks_at_the_ends_of_their_range():
    assert edges(stored(StochasticBlock(2, 1, 0), 5)) == {(0, 1), (0, 2), (1, 2), (3, 4)}
    assert edges(stored(StochasticBlock(5, 1, 0), 5)) == set()
    assert edges(stored(StochasticBlock([2, 1], 0, 1), 3)) == {(0, 2), (1, 2)}
    assert stored(StochasticBlock(1), 1).indices.size == 0
    assert stored(StochasticBlock(), 400, 1).is_connected  # false alarm 400 exp(-2.25 log 400) = 6e-4


def test_geometric_neighbours_are_all_within_the_radius():
    n, radius = 200, 0.15
    graph = stored(RandomGeometric(radius), n, 3)
    points = rng.uniforms(3, rng.GRAPH, np.arange(n), 2)
    near = np.linalg.norm(points[:, None] - points, axis=2) <= radius
    np.testing.assert_array_equal(graph.adjacency().toarray() > 0, near & ~np.eye(n, dtype=bool))
    assert (stored(RandomGeometric(2.0), 5).degrees == 4).all()
    assert stored(RandomGeometric(0), 5).indices.size == 0
    assert stored(RandomGeometric(), 300, 1).is_connected  # the radius is 1.8 times the threshold's


def test_large_graphs_are_built():
    for topology, degree in (
        (StochasticBlock(1000, "500/n", "9.5/n"), 10.0),
        (RandomGeometric("sqrt(10/(3.14159265*n))"), 10.0),
        (Torus(dimensions=3), 6.0),
    ):
        graph = stored(topology, 100_000, 1)
        assert graph.degrees.mean() == pytest.approx(degree, rel=0.03)  # the rim of the square costs 1.5%


# ---------------------------------------------------------------------------------------------------------- networkx


def test_a_generator_gets_arguments_and_the_seed():
    caveman = NetworkX("connected_caveman_graph", {"l": 5, "k": "n/5"})
    assert edges(stored(caveman, 20)) == numbered(nx.connected_caveman_graph(5, 4))
    drawn = NetworkX("gnm_random_graph", {"n": "n", "m": 30})
    assert edges(stored(drawn, 20, 1)) == edges(stored(drawn, 20, 1)) != edges(stored(drawn, 20, 2))
    fixed = NetworkX("gnm_random_graph", {"n": "n", "m": 30, "seed": 7})
    assert edges(stored(fixed, 20, 1)) == edges(stored(fixed, 20, 2)) == numbered(nx.gnm_random_graph(20, 30, seed=7))
    assert stored(NetworkX("gn_graph", {"n": "n"}), 20).directed
    assert stored(NetworkX("gnp_random_graph", {"n": 20, "p": 0.3, "directed": True}), 20).directed
    assert stored(NetworkX("random_partition_graph", {"sizes": [4, 6], "p_in": 1, "p_out": 0}), 10).degrees.sum() == 42


def test_a_graph_object_becomes_a_setting():
    for found in (nx.petersen_graph(), nx.MultiDiGraph([("b", "a"), ("b", "a"), ("a", "a"), ("a", "c"), ("c", "a")])):
        made, n = from_networkx(found), len(found)
        graph, number = stored(made, n), {node: k for k, node in enumerate(found)}
        assert edges(graph) == {
            (number[a], number[b]) if found.is_directed() else (min(number[a], number[b]), max(number[a], number[b]))
            for a, b, *_ in found.edges if a != b
        }  # fmt: skip
        config = load({"network": {"nodes": n, "topology": made}})
        assert config.network.topology == made
        assert isinstance(config.network.topology, Adjacency)
        assert "topology:\n    kind: adjacency\n    lists: 0 1" in dump(config)
        assert load(parse(dump(config))) == config


def test_adjacency_lists_are_those_of_networkx():
    found = nx.barabasi_albert_graph(50, 3, seed=1)
    made = from_networkx(found)
    lists = ", ".join(line for line in nx.generate_adjlist(found) if " " in line)
    assert edges(stored(Adjacency(lists), 50)) == edges(stored(made, 50)) == numbered(found)
    assert sorted(made.lists.split(", ")[0].split()) == sorted(lists.split(", ")[0].split())
    assert edges(stored(Adjacency("0 1 2,\n2 1 1,3,\t,"), 4)) == {(0, 1), (0, 2), (1, 2)}
    assert edges(stored(Adjacency("2 0 1, 0 2", directed=True), 3)) == {(2, 0), (2, 1), (0, 2)}
    assert edges(stored(Adjacency(""), 2)) == set() == edges(stored(from_networkx(nx.empty_graph(2)), 2))
    assert Adjacency("0 1, 1 2").contacts(3) >= 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid([3]), "sides must be two or three numbers of nodes, got 1"),
        (lambda: Grid([3, 0]), "sides must be at least 1, got 0"),
        (lambda: Grid(dimensions=4), "dimensions must be 2 or 3, got 4"),
        (lambda: Grid([3, 4], 3), "dimensions must be left out with sides, got 3 with 2 sides"),
        (lambda: Torus(3, [3, 4]), "rows must be left out with sides or dimensions=3, got 3"),
        (lambda: Torus(3, dimensions=3), "rows must be left out with sides or dimensions=3, got 3"),
        (
            lambda: Grid([3, 4]).graph(13, 0),
            "sides must have the number of nodes as their product, got [3, 4] with 13 nodes",
        ),
        (
            lambda: Grid(dimensions=3).graph(22, 0),
            "dimensions=3 needs a number of nodes that is a product of three sides above 1, got 22 nodes; "
            "use 27 nodes, dimensions=2, or sides",
        ),
        (lambda: StochasticBlock(0), "blocks must be at least 1, got 0"),
        (lambda: StochasticBlock(4).graph(3, 0), "blocks must be at most the number of nodes, 3, got 4"),
        (
            lambda: StochasticBlock([4, 4]).graph(9, 0),
            "blocks must have the number of nodes as their sum, got a sum of 8 with 9 nodes",
        ),
        (lambda: StochasticBlock(p_in=2), "p_in must be in [0, 1], got 2"),
        (lambda: StochasticBlock(p_out="n").contacts(4), "p_out must be in [0, 1], got 'n' = 4 at n = 4"),
        (lambda: TwoCliques(0), "bridges must be at least 1, got 0"),
        (
            lambda: TwoCliques(3).graph(5, 0),
            "bridges must be at most half of the nodes, got bridges=3 with 5 nodes; use fewer bridges",
        ),
        (lambda: RandomGeometric(-1), "radius must be at least 0 and finite, got -1"),
        (lambda: Karate().graph(33, 0), "kind=karate is a graph of 34 nodes, got 33 nodes; set network.nodes=34"),
        (lambda: Davis().graph(34, 0), "kind=davis is a graph of 32 nodes, got 34 nodes; set network.nodes=32"),
        (lambda: Adjacency("0 1; 2").graph(3, 0), "lists must hold node numbers, spaces and commas, got '1;'"),
        (lambda: Adjacency("0 -1").graph(3, 0), "lists must hold node numbers, spaces and commas, got '-1'"),
        (lambda: Adjacency("0 1000000000").graph(3, 0),
         "lists must hold node numbers, spaces and commas, got '1000000000'"),
        (lambda: Adjacency("0 1, 1 3").graph(3, 0), "lists must name nodes of 0 .. 2, got 3"),
        (lambda: Adjacency("0 1, 2 1 2").graph(3, 0), "lists must join two nodes, got 2 in the list of 2"),
        (lambda: Edges([1, 2], [0]), "j must be a list of 2 nodes, as many as i, got 1"),
        (lambda: Edges([1], [3]).graph(3, 0), "j must name nodes of 0 .. 2, got 3"),
        (lambda: Edges([-1], [1]).graph(3, 0), "i must name nodes of 0 .. 2, got -1"),
        (lambda: Edges([1], [1]).graph(3, 0), "j must join two nodes, got the loop 1 1"),
        (
            lambda: NetworkX("star_graph", {"n": "n"}).graph(9, 0),
            "arguments must make as many nodes as network.nodes, 9, got 10 from star_graph; "
            "change them, or set network.nodes=10",
        ),
        (
            lambda: NetworkX("star_graph", {"m": 3}).graph(9, 0),
            "arguments must be those of star_graph (n), got 'm'",
        ),
        (
            lambda: NetworkX("star_graph", {"n": {"a": 1}}),
            "arguments.n must be a number, true, false, null, a list of numbers or an expression in n, got {'a': 1}",
        ),
        (
            lambda: NetworkX("star_graph", {"n": "m"}).graph(9, 0),
            "arguments.n must be a number or an expression in n, got 'm': unknown name 'm'; expressions may use n, "
            "numbers, + - * / ** ( ), log, log2, sqrt, exp, min, max",
        ),
        (
            lambda: NetworkX("complete_graph", {"n": 10**9}).graph(9, 0),
            "arguments must have whole numbers of at most 90 for 9 nodes, got a larger one with n=1000000000",
        ),
        (
            lambda: NetworkX("ring_of_cliques", {"num_cliques": 10, "clique_size": 10}).graph(9, 0),
            "arguments must have whole numbers with a product of at most 90 for 9 nodes, "
            "got a larger one with clique_size=10",
        ),
        (
            lambda: NetworkX("complete_graph", {"n": "n"}).graph(2100, 0),
            "arguments must be such that the generator makes a graph, got: more than 21,100 nodes or 2,000,000 edges",
        ),
        (
            lambda: NetworkX("is_valid_joint_degree", {"joint_degrees": None}).graph(9, 0),
            "arguments must be such that the generator makes a graph, "
            "got: 'NoneType' object is not iterable",
        ),
        (
            lambda: NetworkX("star_graph", {"create_using": 1}),
            "arguments must not hold create_using; a generator's own kind of graph is used",
        ),
        (
            lambda: NetworkX("random_unlabeled_tree", {"n": "n", "number_of_trees": 2}).graph(3, 0),
            "generator must return one graph, got something else",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_is_needed(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()


@pytest.mark.parametrize("name", ["os.system", "read_edgelist", "line_graph", "hypercube_graph", "__builtins__", ""])
def test_only_public_generators_of_bounded_graphs_are_called(name):
    message = "generator must be a public function of networkx.generators that makes a graph of bounded size, got "
    with pytest.raises(ValueError, match="^" + re.escape(message + repr(name)) + "$"):
        NetworkX(name).graph(8, 0)
