r"""The user's own graph, from a text file or written out in the settings, as numbers or as text.

Letters: n nodes, i a node, j its contact, pairs edges as rows (i, j).
"""

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from batchednodes.topology.graphs import Graph
from batchednodes.topology.topology import Topology
from batchednodes.values import shown

_EDGE = re.compile(r"\s*([+-]?\d{1,18})\s+([+-]?\d{1,18})\s*", re.ASCII)
_ODD = re.compile(r"[^\s,]*(?:[^0-9\s,]|[0-9]{10})[^\s,]*", re.ASCII)


def read_text(path: str, what: str) -> str:
    """Returns the text of a file.

    Raises:
        ValueError: it cannot be read, or is not UTF-8; the message says what it should hold.
    """
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EINVAL, "it is a pipe or a device")  # to open a pipe would wait for its writer
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"path must be a readable text file {what}, got {shown(path)}: {reason}") from None


@dataclass(frozen=True)
class EdgeList(Topology):
    """The user's own graph, from a text file: two node numbers a line, '#' begins a comment; repeats are merged."""

    path: str
    """The file, relative to the working directory; nodes are numbered from 0 to n - 1."""
    directed: bool = False
    """Whether a line "i j" lets only i contact j; if not, both contact each other."""

    def contacts(self, n: int) -> float:
        size = os.path.getsize(self.path) if os.path.isfile(self.path) else 0
        return size / 4  # a line has 4 bytes or more, and two contacts

    def graph(self, n: int, seed: int) -> Graph | None:
        """Reads the file."""
        text = read_text(self.path, "of edges")
        pairs = np.array(list(self._edges(text, n)), np.int64).reshape(-1, 2)
        return Graph.of(n, *pairs.T, directed=self.directed)

    def _edges(self, text: str, n: int) -> Iterable[tuple[int, int]]:
        for line, words in enumerate(text.splitlines(), 1):
            edge = words.partition("#")[0]
            if not edge.strip():
                continue
            match = _EDGE.fullmatch(edge)
            if match is None:
                raise ValueError(
                    f"path: line {line} of {shown(self.path)} must be two node numbers, got {shown(edge.strip())}"
                )
            i, j = int(match[1]), int(match[2])
            if not (0 <= i < n and 0 <= j < n):
                bad = j if 0 <= i < n else i
                raise ValueError(f"path: line {line} of {shown(self.path)} must name nodes of 0 .. {n - 1}, got {bad}")
            if i == j:
                raise ValueError(f"path: line {line} of {shown(self.path)} must join two nodes, got the loop {i} {j}")
            yield i, j


@dataclass(frozen=True)
class Edges(Topology):
    """The user's own graph, written out: edge k joins nodes i[k] and j[k]; repeats are merged."""

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
        """Returns the edges."""
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
