r"""The user's own graph, from a text file.

Letters: n nodes, i a node, j its contact, pairs edges as rows (i, j).
"""

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchednodes.topology.graphs import Graph
from batchednodes.topology.kinds import Topology
from batchednodes.values import shown

_EDGE = re.compile(r"\s*([+-]?\d{1,18})\s+([+-]?\d{1,18})\s*", re.ASCII)


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
        try:
            if stat.S_IFMT(os.stat(self.path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise OSError(errno.EINVAL, "it is a pipe or a device")  # to open a pipe would wait for its writer
            text = Path(self.path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ValueError(f"path must be a readable text file of edges, got {shown(self.path)}: {reason}") from None
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
