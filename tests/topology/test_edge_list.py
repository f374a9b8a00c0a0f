"""Edge lists as networkx writes them: data at the ends of lines, and names in place of numbers."""

import csv
import random

import networkx
import numpy as np
import pytest

from batchednodes import train
from batchednodes.topology import EdgeList

CHARACTERS = networkx.les_miserables_graph()
"""77 characters, whose edges have weights."""

TINY = {"network": {"nodes": 77}, "run": {"until": 1}, "gossip": {"clock": {"rate": 1}}}


@pytest.fixture
def written(tmp_path):
    """Returns a function that lets networkx write a graph, and gives the path."""

    def write(graph, name="edges.txt", **how):
        networkx.write_edgelist(graph, tmp_path / name, **how)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("data", [True, False])
def test_names_are_numbered_in_their_sorted_order(written, data):
    graph = networkx.relabel_nodes(CHARACTERS, {"Valjean": "Jean-Été"})
    path, names = written(graph, data=data), sorted(graph)
    found = EdgeList(path).graph(80, 0)
    expected = networkx.to_scipy_sparse_array(graph, names, weight=None)
    assert np.array_equal(found.adjacency().toarray()[:77, :77], expected.toarray())
    assert (found.degrees[77:] == 0).all()  # whom nobody names
    assert EdgeList(path).names() == names


def test_data_at_the_end_of_a_line_are_passed_over(written):
    graph = networkx.erdos_renyi_graph(20, 0.3, seed=1)
    random.seed(1)
    for i, j in graph.edges:
        graph.edges[i, j].update(random.choice([{}, {"weight": 0.5}, {"colour": "#f00", "note": "{ a } # b"}]))
    source = EdgeList(written(graph))
    assert np.array_equal(source.graph(20, 0).adjacency().toarray() != 0, networkx.to_numpy_array(graph, weight=None))
    assert source.names() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\nb 1\n", "line 2 of {} must be two names, as in the lines before, got 'b 1'"),
        ("0 1\nb a\n", "line 2 of {} must be two node numbers, got 'b a'"),
        ("0.0 1.0\n", "line 1 of {} must be two node numbers, got '0.0 1.0'"),
        ("Evelyn J Laura M {}\n", "line 1 of {} must be two node numbers, got 'Evelyn J Laura M {{}}'"),
        ("a b {'x': 1} 2\n", "line 1 of {} must be two node numbers, got \"a b {{'x': 1}} 2\""),
        ("a b 1.5\n", "line 1 of {} must be two node numbers, got 'a b 1.5'"),
        ("a b\n\nb b {}\n", "line 3 of {} must join two nodes, got the loop b b"),
        ("a b\nc d\n", "{} must name at most network.nodes = 3 nodes, got 4; set network.nodes=4"),
    ],
)
def test_what_is_no_edge_is_named(tmp_path, text, message):
    path = str(tmp_path / "edges.txt")
    (tmp_path / "edges.txt").write_text(text)
    with pytest.raises(ValueError, match="must") as error:
        EdgeList(path).graph(3, 0)
    assert str(error.value) == f"path: {message.format(repr(path))}"


def test_a_run_leaves_the_names_of_its_nodes(written, tmp_path):
    settings = f"network.topology={{kind: edge_list, path: {written(CHARACTERS)}}}"
    train(TINY, settings, out=tmp_path / "run")
    with (tmp_path / "run" / "nodes.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["node", "name"]
    assert rows == [[str(k), name] for k, name in enumerate(sorted(CHARACTERS))]
    train(TINY, "network.topology={kind: ring}", out=tmp_path / "other")
    assert not (tmp_path / "other" / "nodes.csv").exists()


def test_names_of_a_sweep_say_in_which_network_they_are(written, tmp_path):
    one, other = written(networkx.path_graph("ab"), "one.txt"), written(networkx.path_graph(["c", '"d,']), "other.txt")
    options = ["network={nodes: 2, topology: {kind: edge_list, path: x}}"]
    options += [f"sweep={{network.topology.path: ['{one}', '{other}']}}"]
    train(TINY, *options, out=tmp_path / "run")
    with (tmp_path / "run" / "nodes.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.reader(file)]
    assert rows == [["network", "node", "name"], *map(list, ("00a", "01b")), ["1", "0", '"d,'], ["1", "1", "c"]]
