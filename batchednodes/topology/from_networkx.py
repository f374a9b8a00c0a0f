r"""Graphs of networkx: two that sociologists observed, any of its generators, and any graph object.

Notation: n nodes.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from batchednodes.numerics import rng
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import evaluate, shown
from batchednodes.topology.base import Topology
from batchednodes.topology.given import Adjacency
from batchednodes.topology.graph import Graph

if TYPE_CHECKING:
    import networkx
else:
    networkx = deferred("networkx")

EDGES = 2_000_000
"""The most edges of a graph that networkx makes: it takes about 500 bytes for each."""

UNBOUNDED = ("graph_atlas_g", "hypercube_graph", "kneser_graph", "mycielski_graph", "sudoku_graph")
"""Generators whose graphs grow beyond all bounds with a small argument, and cannot be stopped."""


@dataclass(frozen=True)
class Karate(Topology):
    """Friendships of the 34 members of a karate club: 78 edges.

    Example:
        >>> from batchednodes.topology import Karate
        >>> graph = Karate().graph(34, 0)
        >>> graph.indices.size // 2, graph.degrees.max().item()  # friendships, and friends of the most popular
        (78, 17)

    Reference:
        W. W. Zachary, "An information flow model for conflict and fission in small groups", J. Anthropol. Res., 1977.
    """

    def contacts(self, n: int) -> float:
        return 156.0

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the club, in networkx' order of nodes."""
        return _observed(n, "karate", networkx.karate_club_graph())


@dataclass(frozen=True)
class Davis(Topology):
    """Who came to which social event: 18 women of the American South, then 14 events; bipartite, 89 edges.

    Example:
        >>> from batchednodes.topology import Davis
        >>> graph = Davis().graph(32, 0)
        >>> graph.indices[: graph.degrees[0]].tolist()  # the events to which the first woman came
        [18, 19, 20, 21, 22, 23, 25, 26]

    Reference:
        A. Davis, B. B. Gardner, M. R. Gardner, "Deep South", 1941.
    """

    def contacts(self, n: int) -> float:
        return 178.0

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns women and events, in networkx' order of nodes."""
        return _observed(n, "davis", networkx.davis_southern_women_graph())


def _observed(n: int, kind: str, found: Any) -> Graph:
    if n != len(found):
        raise ValueError(f"kind={kind} is a graph of {len(found)} nodes, got {n} nodes; set network.nodes={len(found)}")
    return stored(found)


@dataclass(frozen=True)
class NetworkX(Topology):
    """A graph from a generator of networkx, by its name; weights are left out, loops dropped, parallel edges merged.

    Example:
        >>> from batchednodes.topology import NetworkX
        >>> caves = NetworkX("connected_caveman_graph", {"l": "n/5", "k": 5})
        >>> caves.graph(20, 0).degrees.tolist()
        [4, 3, 4, 4, 5, 4, 3, 4, 4, 5, 4, 3, 4, 4, 5, 4, 3, 4, 4, 5]
    """

    generator: str
    """A public function of networkx.generators that returns a graph, as connected_caveman_graph."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Its arguments by name: numbers, true or false, null, lists of numbers, or expressions in n, as {n: n, m: 3}. A
    generator that draws gets the network's seed as `seed`, unless one is given."""

    def __post_init__(self) -> None:
        for key, value in self.arguments.items():
            if key == "create_using":
                raise ValueError("arguments must not hold create_using; a generator's own kind of graph is used")
            for one in value if isinstance(value, list) else [value]:
                if one is not None and not isinstance(one, bool | int | float | str):
                    raise ValueError(
                        f"arguments.{key} must be a number, true, false, null, a list of numbers or an expression in "
                        f"n, got {shown(value)}"
                    )

    def contacts(self, n: int) -> float:
        return min(2.0 * EDGES, n * (n - 1.0))

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns what the generator makes.

        Raises:
            ValueError: there is no such generator, or it does not take these arguments, or makes no graph of n nodes.
        """
        make = _generators().get(self.generator)
        if make is None:
            raise ValueError(
                "generator must be a public function of networkx.generators that makes a graph of bounded size, got "
                f"{shown(self.generator)}"
            )
        takes = inspect.signature(make).parameters
        given = {key: _evaluated(value, n, f"arguments.{key}") for key, value in self.arguments.items()}
        unknown = [key for key in given if key not in takes or key in ("backend", "backend_kwargs")]
        if unknown:
            named = ", ".join(key for key in takes if key not in ("backend", "backend_kwargs", "create_using"))
            raise ValueError(f"arguments must be those of {self.generator} ({named}), got {shown(unknown[0])}")
        _refuse_large(given, n, "create_using" in takes)
        if "seed" in takes:
            given.setdefault("seed", int(rng.generator(seed, rng.GRAPH).integers(2**32)))
        found = _made(make, given, n, "create_using" in takes)
        if len(found) != n:
            raise ValueError(
                f"arguments must make as many nodes as network.nodes, {n}, got {len(found)} from {self.generator}; "
                f"change them, or set network.nodes={max(1, len(found))}"
            )
        return stored(found)


def _generators() -> dict[str, Callable[..., Any]]:
    """Returns the public functions of the modules of networkx.generators that take no graph, by name."""
    modules = [module for _, module in inspect.getmembers(networkx.generators, inspect.ismodule)]
    named = {name: getattr(module, name) for module in modules for name in getattr(module, "__all__", ())}
    return {
        name: make
        for name, make in named.items()
        if name not in UNBOUNDED and "G" not in inspect.signature(make).parameters
    }


def _evaluated(value: Any, n: int, key: str) -> Any:
    """Returns an argument with texts as expressions in n; whole numbers as integers."""
    if isinstance(value, list):
        return [_evaluated(one, n, key) for one in value]
    if not isinstance(value, str):
        return value
    number = evaluate(value, n, key)
    return int(number) if number.is_integer() else number


def _refuse_large(given: dict[str, Any], n: int, bounded: bool) -> None:
    """Refuses whole numbers that are large; a list counts as its sum.

    The size of a graph that is not bounded otherwise is about the product of those numbers.
    """
    most, product = max(10 * n, min(n * n, EDGES)) if bounded else 10 * n, 1
    for key, value in given.items():
        whole = [abs(x) for x in (value if isinstance(value, list) else [value]) if type(x) is int]
        size = 1 if key == "seed" else max(1, sum(whole))
        product = size if bounded else product * size
        if product > most:
            rule = "whole numbers" if bounded else "whole numbers with a product"
            raise ValueError(
                f"arguments must have {rule} of at most {most:,} for {n} nodes, got a larger one with "
                f"{key}={shown(value)}"
            )


def _made(make: Callable[..., Any], given: dict[str, Any], n: int, bounded: bool) -> Any:
    """Returns the graph of a generator, one of bounded size if it takes the graph to fill."""
    directed, kinds = bool(given.get("directed")), (networkx.Graph, networkx.DiGraph)
    for kind in kinds[directed:] if bounded else (None,):
        graph = {} if kind is None else {"create_using": _bounded(kind, n)}
        try:
            found = make(**given, **graph)
        except Exception as error:
            if kind is networkx.Graph and "directed" in str(error).lower():
                continue
            if isinstance(error, MemoryError):
                raise
            reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
            raise ValueError(f"arguments must be such that the generator makes a graph, got: {reason}") from None
        if isinstance(found, kinds):
            return found
    raise ValueError("generator must return one graph, got something else")


def _bounded(kind: type, n: int) -> Any:
    """Returns an empty graph of networkx that refuses to grow far beyond n nodes, or beyond EDGES."""

    class Bounded(kind):
        """Counts what is added, and asks for the true size only where the count is too large."""

        def __init__(self, *args: Any, **attributes: Any) -> None:
            self.added = 0
            super().__init__(*args, **attributes)

        def add_node(self, node: Any, **attributes: Any) -> None:
            super().add_node(node, **attributes)
            self.check_(0)

        def add_nodes_from(self, nodes: Iterable[Any], **attributes: Any) -> None:
            for some in _parts(nodes):
                super().add_nodes_from(some, **attributes)
                self.check_(0)

        def add_edge(self, i: Any, j: Any, **attributes: Any) -> None:
            super().add_edge(i, j, **attributes)
            self.check_(1)

        def add_edges_from(self, edges: Iterable[Any], **attributes: Any) -> None:
            for some in _parts(edges):
                super().add_edges_from(some, **attributes)
                self.check_(len(some))

        def check_(self, more: int) -> None:
            """Notes some more edges; raises ValueError where there are too many nodes or edges."""
            self.added += more
            if self.added > EDGES:
                self.added = self.number_of_edges()
            if len(self) > 10 * n + 100 or self.added > EDGES:
                raise ValueError(f"more than {10 * n + 100:,} nodes or {EDGES:,} edges")

    return Bounded()


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yields the items, a thousand at a time."""
    rest = iter(items)
    while some := list(itertools.islice(rest, 1000)):
        yield some


def stored(found: Any) -> Graph:
    """Returns a graph of networkx as contact lists, its nodes numbered in its own order; loops are dropped."""
    number = {node: i for i, node in enumerate(found)}
    ends = np.array([(number[i], number[j]) for i, j, *_ in found.edges()], np.int64).reshape(-1, 2)
    return Graph.of(len(number), *ends.T, directed=found.is_directed())


def from_networkx(found: Any) -> Adjacency:
    """Returns the setting `network.topology` that stands for a graph object of networkx.

    Example:
        >>> import networkx
        >>> from batchednodes.topology import from_networkx
        >>> from_networkx(networkx.path_graph(4))
        Adjacency(lists='0 1, 1 2, 2 3', directed=False)

    Args:
        found: a graph or multigraph, directed or not, with at least one node; node k of the run is the k-th of
            `found.nodes`. Weights and loops are left out, parallel edges merged.

    Raises:
        ValueError: it has no node.
    """
    if len(found) == 0:
        raise ValueError("graph must have at least one node, got none")
    return Adjacency.of(stored(found))


def from_matrix(found: Any) -> Adjacency:
    """Returns the setting `network.topology` that stands for an adjacency matrix, of NumPy, PyTorch or SciPy.

    Example:
        >>> import numpy as np
        >>> from batchednodes.topology import from_matrix
        >>> from_matrix(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
        Adjacency(lists='0 1, 1 2', directed=False)

    Args:
        found: square, of zeros and ones; entry [i, j] says whether i may contact j. One that is not symmetric is a
            directed graph. The diagonal is left out.

    Raises:
        ValueError: it is not square, or has other entries.
    """
    matrix: Any = found if hasattr(found, "tocoo") else _dense(found)
    shape = tuple(matrix.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"graph must be a square matrix, one row for each node, got shape {list(shape)}")
    if matrix.dtype.kind not in "biuf":
        raise ValueError(f"graph must be a matrix of zeros and ones, got {matrix.dtype}")
    entries = scipy.sparse.coo_array(matrix)
    entries.eliminate_zeros()
    other = entries.data[entries.data != 1]
    if other.size:
        rule = "graph must be a matrix of zeros and ones"
        fix = "probabilities of contacts belong into network.weights={kind: given}"
        raise ValueError(f"{rule}, got an entry {shown(other[0].item())}; {fix}")
    i, j = entries.row.astype(np.int64), entries.col.astype(np.int64)
    directed = abs(entries - entries.T).nnz > 0
    return Adjacency.of(Graph.of(shape[0], i, j, directed=directed))


def _dense(found: Any) -> np.ndarray:
    try:
        return np.asarray(found)
    except TypeError:  # of a sparse tensor of PyTorch
        raise ValueError(f"graph must be a dense tensor, or a sparse matrix of SciPy, got {shown(found)}") from None
