r"""The user's own graph, from a text file or written out in the settings, as numbers or as text.

Notation: n nodes, i a node, j its contact, pairs edges as rows (i, j).
"""

import os
import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from batchednodes.data.paths import FILE, found, read_text
from batchednodes.numerics.inputs import located
from batchednodes.numerics.values import shown
from batchednodes.topology.base import Topology
from batchednodes.topology.graph import Graph

_REAL, _NAME = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", r"[^\s#{}]"
_LINE = r"\s*({0})\s+({0})\s*(?:\{{.*\}}\s*)?(?:#.*)?"
_NUMBERS = re.compile(_LINE.format(r"[+-]?\d{1,18}"), re.ASCII)
_NAMES = re.compile(_LINE.format(rf"(?!{_REAL}(?!{_NAME})){_NAME}+"))
"""Lines of two nodes, with what networkx and comments add; names are no numbers."""

_ODD = re.compile(r"[^\s,]*(?:[^0-9\s,]|[0-9]{10})[^\s,]*", re.ASCII)


@dataclass(frozen=True)
class EdgeList(Topology):
    """The user's own graph, from a text file: two nodes a line, '#' begins a comment; repeats are merged.

    Nodes are numbers, or they are names without spaces, which are numbered in their sorted order; a run leaves the
    numbers of names in `nodes.csv`. Data in braces at the end of a line, as `networkx.write_edgelist` writes them, are
    passed over.

    Example:
        >>> import networkx
        >>> from batchednodes.topology import EdgeList
        >>> networkx.write_edgelist(networkx.Graph([("eve", "bob"), ("bob", "ann")]), "friends.txt")
        >>> friends = EdgeList("friends.txt")
        >>> friends.names(), friends.graph(3, 0).degrees.tolist()
        (['ann', 'bob', 'eve'], [1, 2, 1])
    """

    path: str
    """The file, relative to the working directory; nodes are numbered from 0 to n - 1, or are at most n names."""
    directed: bool = False
    """Whether a line "i j" lets only i contact j; if not, both contact each other."""

    def contacts(self, n: int) -> float:
        place = located(self.path)
        size = os.path.getsize(place) if found(place) == FILE else 0
        return size / 4  # a line has 4 bytes or more, and two contacts

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the graph that the file describes.

        Raises:
            ValueError: the file cannot be read or has too many names, or a line no two different nodes of 0 .. n - 1.
        """
        lines, ends, names = self._read()
        if names is not None and len(names) > n:
            raise ValueError(
                f"path: {shown(self.path)} must name at most network.nodes = {n} nodes, got {len(names)}; set "
                f"network.nodes={len(names)}"
            )
        wrong = (ends < 0) | (ends >= n)
        for k in np.flatnonzero(wrong.any(1))[:1]:
            got = ends[k][wrong[k]][0]
            raise ValueError(self._bad(lines[k], f"name nodes of 0 .. {n - 1}", str(got)))
        for k in np.flatnonzero(ends[:, 0] == ends[:, 1])[:1]:
            both = " ".join(str(i) if names is None else names[i] for i in ends[k])
            raise ValueError(self._bad(lines[k], "join two nodes", f"the loop {both}"))
        return Graph.of(n, *ends.T, directed=self.directed)

    def names(self) -> list[str] | None:
        return self._read()[2]

    def _read(self) -> tuple[list[int], Int64[np.ndarray, "pairs 2"], list[str] | None]:
        """Returns the line and the ends of each edge, and the names of nodes 0, 1, ...; None where they are numbers."""
        lines, words, named = list[int](), list[str](), False
        for line, text in enumerate(read_text(located(self.path), "of edges").splitlines(), 1):
            match = (_NAMES if named else _NUMBERS).fullmatch(text)
            if match is None:
                edge = text.partition("#")[0].strip()
                if not edge:
                    continue
                match = None if words else _NAMES.fullmatch(text)
                if match is None:
                    rule = "be two names, as in the lines before" if named else "be two node numbers"
                    raise ValueError(self._bad(line, rule, shown(edge)))
                named = True
            lines.append(line)
            words += match.groups()
        if not named:
            return lines, np.array(words, np.int64).reshape(-1, 2), None
        names = sorted({*words})
        number = {name: k for k, name in enumerate(names)}
        return lines, np.array([number[word] for word in words], np.int64).reshape(-1, 2), names

    def _bad(self, line: int, rule: str, got: str) -> str:
        return f"path: line {line} of {shown(self.path)} must {rule}, got {got}"


@dataclass(frozen=True)
class Edges(Topology):
    """The user's own graph, written out: edge k joins nodes i[k] and j[k]; repeats are merged.

    Example:
        >>> from batchednodes.topology import Edges
        >>> graph = Edges(i=[0, 1, 2], j=[1, 2, 0], directed=True).graph(3, 0)
        >>> graph.indices.tolist()  # 0 contacts 1, 1 contacts 2, 2 contacts 0
        [1, 2, 0]
    """

    i: list[int]
    """One end of each edge; nodes are numbered from 0 to n - 1."""
    j: list[int]
    """The other end of each edge; as many as `i`, none its own other end."""
    directed: bool = False
    """Whether an edge lets only i contact j; if not, both contact each other."""

    def __post_init__(self) -> None:
        if len(self.i) != len(self.j):
            raise ValueError(f"j must be a list of {len(self.i)} nodes, as many as i, got {len(self.j)}")

    def contacts(self, n: int) -> float:
        return 2.0 * len(self.i)

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the graph of these edges.

        Raises:
            ValueError: an end is no node of 0 .. n - 1, or an edge joins a node with itself.
        """
        for key in ("i", "j"):
            for node in getattr(self, key):
                if not 0 <= node < n:
                    raise ValueError(f"{key} must name nodes of 0 .. {n - 1}, got {shown(node)}")
        for a, b in zip(self.i, self.j, strict=True):
            if a == b:
                raise ValueError(f"j must join two nodes, got the loop {a} {b}")
        return Graph.of(n, np.array(self.i, np.int64), np.array(self.j, np.int64), directed=self.directed)


@dataclass(frozen=True)
class Adjacency(Topology):
    """The user's own graph, written out as one text, which is read fast even for a million edges; repeats are merged.

    Example:
        >>> from batchednodes.topology import Adjacency
        >>> Adjacency("0 1 2, 1 3").graph(4, 0).degrees.tolist()  # 0 is joined with 1 and 2, 1 with 3
        [2, 2, 1, 1]

    Reference:
        the adjacency lists of networkx (`networkx.generate_adjlist`), with commas between lines.
    """

    lists: str
    """For each node that has any, its number and those of nodes that it joins, with a comma after each list: "0 1 2, 1
    5" has the edges {0, 1}, {0, 2} and {1, 5}; nodes are numbered from 0 to n - 1."""
    directed: bool = False
    """Whether a node may contact those of its list, but not they the node; if not, both may."""

    @classmethod
    def of(cls, graph: Graph) -> "Adjacency":
        """Returns the setting that stands for a graph."""
        i = np.repeat(np.arange(graph.n), graph.degrees)
        kept = np.ones(i.size, bool) if graph.directed else i < graph.indices
        words = list(map(str, graph.indices[kept].tolist()))
        ends = np.cumsum(np.bincount(i[kept], minlength=graph.n)).tolist()
        lists = (f"{k} {' '.join(words[a:b])}" for k, (a, b) in enumerate(pairwise([0, *ends])) if a < b)
        return cls(", ".join(lists), graph.directed)

    def contacts(self, n: int) -> float:
        return 2.0 * len(self.lists.split())

    def graph(self, n: int, seed: int) -> Graph | None:
        """Returns the edges."""
        odd = _ODD.search(self.lists)
        if odd is not None:
            raise ValueError(f"lists must hold node numbers, spaces and commas, got {shown(odd[0])}")
        numbers = np.array(self.lists.replace(",", " ").split(), np.int64)
        sizes = np.array([len(part.split()) for part in self.lists.split(",")])
        sizes = sizes[sizes > 0]
        first = np.zeros(numbers.size, bool)
        first[np.cumsum(sizes) - sizes] = True
        i, j = np.repeat(numbers[first], sizes - 1), numbers[~first]
        if numbers.size and numbers.max() >= n:
            raise ValueError(f"lists must name nodes of 0 .. {n - 1}, got {numbers.max()}")
        if (i == j).any():
            loop = i[i == j][0]
            raise ValueError(f"lists must join two nodes, got {loop} in the list of {loop}")
        return Graph.of(n, i, j, directed=self.directed)
