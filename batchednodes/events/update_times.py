r"""Updates of a span of time, node by node, drawn in some threads at once.

Nodes are drawn in blocks, which are the same whatever the threads: each thread draws some blocks that lie side by side,
into arrays of its own, so that the lists, one after the other, are those of one thread.

Notation: n nodes, m updates, k number of an update among those of its node.
"""

import math
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int64, UInt64
from numba import njit, uint64

from batchednodes.events.gaps import Gaps, act, due, gaps_by, next_gap, waits
from batchednodes.events.merge_streams import List
from batchednodes.numerics import rng
from batchednodes.numerics.host_threads import WORTH, divide

_EACH = 2
"""Pieces for each thread: nodes of one piece may have more updates than those of another."""


@dataclass(frozen=True)
class Updates:
    """The updates of a span of time, node by node, and where the clocks stand after it."""

    lists: list[List]
    """Time, node, and number of each update, 0, 1, ... for the first, second, ... of a node in the span; lists of nodes
    that follow each other."""
    next: Float64[np.ndarray, " n"]
    """Time of the next update of each node [s]."""
    counts: Int64[np.ndarray, " n"]
    """Updates of each node so far."""

    @property
    def size(self) -> int:
        """Number of updates."""
        return sum(time.size for time, _, _ in self.lists)

    def joined(self) -> List:
        """Returns all of them in one list."""
        if len(self.lists) == 1:
            return self.lists[0]
        time, actor, number = (np.concatenate(columns) for columns in zip(*self.lists, strict=True))
        return time, actor, number

    @staticmethod
    def none(n: int) -> "Updates":
        """Returns no updates of n nodes."""
        nothing = (np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32))
        return Updates([nothing], np.zeros(n), np.zeros(n, np.int64))


def pieces(offsets: Int64[np.ndarray, " g1"], expected: float, threads: int) -> Int64[np.ndarray, " _"]:
    """Returns where to cut nodes into pieces for some threads, 0 and n included: only where a block of nodes begins.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.update_times import pieces
        >>> pieces(np.array([0, 1000, 3000]), 1e6, 2).tolist()  # blocks begin at 0, 512, 1000, 1512, 2024 and 2536
        [0, 512, 1000, 2024, 3000]

    Args:
        offsets: first node of each network, and the number of nodes of all.
        expected: about how many events all nodes make; few are no work for several threads.
        threads: at least 1; of one there is one piece.
    """
    first, n = int(offsets[0]), int(offsets[-1])
    wanted = min(_EACH * threads, int(expected / WORTH)) if threads > 1 else 1
    ideal = first + np.arange(1, wanted) * (n - first) // max(1, wanted)
    start = offsets[np.searchsorted(offsets, ideal, side="right") - 1]
    return np.unique([first, *(start + (ideal - start) // rng.TOGETHER * rng.TOGETHER), n])


def first_updates(
    laws: Gaps, seeds: UInt64[np.ndarray, " n"], index: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Returns the time of the first update of each node [s], which begins at t = 0.

    Args:
        laws: of the gaps between updates.
        seeds: of each node's network.
        index: number of each node in it.
    """
    return _first(laws.compiled(), seeds, index)


def updates(
    offsets: Int64[np.ndarray, " g1"], seeds: UInt64[np.ndarray, " g"], laws: Gaps, until: float,
    following: Float64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"], span: float, threads: int = 1,
) -> Updates:  # fmt: skip
    """Returns the updates of all nodes up to some time.

    Args:
        offsets: first node of each network, and the number of nodes of all.
        seeds: of each network.
        laws: of the gaps between updates.
        until: the time [s].
        following: when the next update of each node is [s]; stays as it is.
        counts: updates of each node so far; likewise.
        span: time since `following` and `counts` were so [s], by which room for updates is guessed.
        threads: that draw; the result is the same whatever they are.
    """
    expected, compiled = span * laws.rate, laws.compiled()
    cuts = pieces(offsets, float(expected.sum()), threads)
    lists, found = [(np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32))] * (cuts.size - 1), following.copy()
    made = counts.copy()

    def draw(piece: int) -> None:
        nodes = slice(int(cuts[piece]), int(cuts[piece + 1]))
        some = float(expected[nodes].sum())
        room = int(some + 6 * math.sqrt(some)) + (nodes.stop - nodes.start) // 8 + 64
        while True:  # until all fit
            out = (np.empty(room), np.empty(room, np.int32), np.empty(room, np.int32))
            size = _emit(nodes.start, nodes.stop, offsets, seeds, compiled, until, counts, *out, found, made)
            if size <= room:
                break
            room, found[nodes], made[nodes] = 2 * room, following[nodes], counts[nodes]
        time, actor, number = out
        lists[piece] = (time[:size], actor[:size], number[:size])

    divide(draw, len(lists), threads)
    return Updates(lists, found, made)


@njit(nogil=True, cache=True)
@no_type_check
def _first(laws, seeds, index):  # noqa: ANN001, ANN202  (numba infers the types)
    out = np.empty(index.size)
    for i in range(index.size):
        bits, _ = rng.block(seeds[i], rng.UPDATE, index[i], uint64(0))
        out[i] = next_gap(i, laws, bits)
    return out


@njit(nogil=True, cache=True)
@no_type_check
def _emit(begin, end, offsets, seeds, laws, until, before, time, actor, number, following, counts):  # noqa: ANN001, ANN202
    """Writes the updates of nodes begin, ..., end - 1 up to `until`; returns their number, or more than fit.

    Some nodes at a time have one update each, again and again, until none of them has another.
    """
    nodes, draws = np.empty(rng.TOGETHER, np.uint64), np.empty(rng.TOGETHER, np.uint64)
    high, low, wait = np.empty(rng.TOGETHER, np.uint64), np.empty(rng.TOGETHER, np.uint64), np.empty(rng.TOGETHER)
    m = 0
    for g in range(seeds.size):
        first, last = offsets[g], min(end, offsets[g + 1])
        for i in range(max(begin, first), last, rng.TOGETHER):
            size = due((i, min(last, i + rng.TOGETHER)), first, following, until, nodes)
            while size > 0:
                new = slice(m, m + size)
                if new.stop > time.size:
                    return new.stop
                for a in range(size):
                    i = uint64(first) + nodes[a]
                    draws[a], number[m + a] = counts[i] + 1, counts[i] - before[i]
                rng.blocks(seeds[g], rng.UPDATE, nodes[:size], draws, high, low)
                waits(high[:size], wait)
                if laws[2].size > 0:
                    gaps_by(nodes[:size], first, high, laws, wait)
                size = act(nodes[:size], first, wait, laws, following, counts, until, time[new], actor[new])
                m = new.stop
    return m
