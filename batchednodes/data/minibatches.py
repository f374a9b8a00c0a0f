r"""Minibatches by address: the rows of a node's k-th update are a pure function of (seed, node, k).

One sampler serves all networks of a batch. Nothing is advanced: updates may be drawn in any order, twice, or after a
restart, with the same result.

Notation: n nodes, w nodes of a call, R rows of all nodes, m rows of one node, q position in a node's stream of samples,
e = q // m its epoch, r = q % m its place in the epoch, s steps, b samples of a minibatch.
"""

import math
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, no_type_check

import numpy as np
import scipy
from jaxtyping import Float64, Int32, Int64, UInt64
from numba import int64, njit

from batchednodes.numerics import rng
from batchednodes.numerics.logarithm import log

_BATCH, _KEY, _STEPS, _SAMPLED = rng.BATCH, rng.KEY, rng.STEPS, rng.SAMPLED

_UNLIKELY = 1e-15
"""Probability with which a Poisson sample has more samples than are kept of it, at most."""


def largest(rows: int, batch_size: int) -> int:
    """Returns how many of its rows a node's Poisson sample has at most, but with negligible probability.

    Example:
        >>> from batchednodes.data.minibatches import largest
        >>> largest(1000, 32), largest(20, 16), largest(10, 10)
        (85, 20, 10)
    """
    low, high = batch_size - 1, rows
    while high - low > 1:  # more than `low` are likely enough, more than `high` are not
        middle = (low + high) // 2
        likely = scipy.special.bdtrc(middle, rows, batch_size / rows) > _UNLIKELY
        low, high = (middle, high) if likely else (low, middle)
    return high


@dataclass(frozen=True, eq=False)
class Sampler:
    """The minibatches of every node.

    Entry b of step s of update k is position q = b + batch_size (s + S) of the node's stream of samples, after the S
    steps of the updates before; where all have as many, S = steps k. Else a draw by address says how many k has. With
    `replacement` each position is a uniform row of the node. With `shuffle` the node's rows are dealt epoch by epoch,
    each epoch in a new random order: every batch is full, so one may span two epochs, and a node with fewer rows than a
    batch repeats them.

    With `poisson` each row of the node is in a minibatch with probability batch_size / m, independently: sizes are
    random, and sums are divided by batch_size.

    Where an update is whole epochs, E of them, update k deals epochs E k to E k + E - 1 of the same stream. An epoch is
    ceil(m / batch_size) minibatches, the last of which holds what is left.

    The order of each node's current epoch, and the steps before its last update, are kept (4 R + 32 n bytes), but where
    an update is whole epochs: memory of a pure function, which never changes a result. Threads that call a sampler wait
    for each other.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Sampler
        >>> nodes = (np.zeros(2, np.uint64), np.arange(2))
        >>> rows = (np.arange(10), np.array([0, 4, 10]))  # node 0 owns rows 0 to 3
        >>> sampler = Sampler(*nodes, *rows, batch_size=2, steps=1, sampling="shuffle")
        >>> batches = sampler.draw(np.array([0, 0]), np.array([0, 1]))  # its first two updates: one epoch
        >>> sorted(batches.flatten().tolist())
        [0, 1, 2, 3]
    """

    seeds: UInt64[np.ndarray, " n"]
    """Seed of each node's network."""

    index: Int64[np.ndarray, " n"]
    """Index of each node within its network; 0 <= index < 2^32."""

    rows: Int64[np.ndarray, " R"]
    """Data set rows of all nodes, node by node."""

    offsets: Int64[np.ndarray, " n+1"]
    """Node i owns rows[offsets[i]:offsets[i + 1]]; at least one row."""

    batch_size: int
    """Samples of one step."""

    steps: int
    """Steps of one update, at most; 1 where it is whole epochs."""

    sampling: Literal["shuffle", "replacement", "poisson"]
    """Without replacement within an epoch, or with; or each row independently."""

    epochs: int | None = None
    """Epochs of one update; None: it is `steps` full minibatches."""

    keyed: bool = False
    """Whether a minibatch comes with a key, by which its step draws more; the key of step s of update k of a node is a
    pure function of (seed, node, k, s)."""

    steps_law: Float64[np.ndarray, " s"] | None = None
    """Probability that an update has at most 1, 2, ..., `steps` steps; None: each has all."""

    steps_of: Int64[np.ndarray, " n"] = field(init=False, repr=False)
    """Minibatch steps of one update of each node; of a law the mean, rounded."""

    _order: Int32[np.ndarray, " _"] = field(init=False, repr=False)
    _epoch: Int64[np.ndarray, " n"] = field(init=False, repr=False)
    _done: Int64[np.ndarray, " n"] = field(init=False, repr=False)
    _updates: Int64[np.ndarray, " n"] = field(init=False, repr=False)
    _steps: Int64[np.ndarray, " n"] = field(init=False, repr=False)
    _lock: Lock = field(init=False, repr=False, default_factory=Lock)

    def __post_init__(self) -> None:
        n = len(self.seeds)
        assert len(self.index) == n == len(self.offsets) - 1, "one seed, index and shard for each node"
        assert self.offsets[0] == 0, "the first node's rows come first"
        assert self.offsets[-1] == len(self.rows), "every row belongs to a node"
        assert n == 0 or 0 < np.diff(self.offsets).min() <= np.diff(self.offsets).max() < 2**31, "no empty shard"
        assert self.batch_size > 0, "a batch holds samples"
        assert self.steps > 0, "an update takes steps"
        assert self.sampling in ("shuffle", "replacement", "poisson"), self.sampling
        assert self.epochs is None or (self.epochs > 0 and self.steps == 1), "whole epochs in place of steps"
        assert self.epochs is None or self.sampling == "shuffle", "an epoch deals each row once"
        steps = np.full(n, self.steps) if self.epochs is None else self.epochs * -(-self.sizes // self.batch_size)
        if self.steps_law is not None:
            assert self.epochs is None and self.steps_law.size == self.steps, "a law of steps, up to the most"  # noqa: PT018
            steps = np.full(n, round(self.steps - float(self.steps_law[:-1].sum())))
        object.__setattr__(self, "steps_of", steps)
        object.__setattr__(self, "_updates", np.zeros(n, dtype=np.int64))
        object.__setattr__(self, "_steps", np.zeros(n, dtype=np.int64))
        kept = len(self.rows) if self.sampling == "shuffle" and self.epochs is None else 0
        object.__setattr__(self, "_order", np.empty(kept, dtype=np.int32))
        object.__setattr__(self, "_epoch", np.full(n, -1, dtype=np.int64))
        object.__setattr__(self, "_done", np.zeros(n, dtype=np.int64))

    @property
    def sizes(self) -> Int64[np.ndarray, " n"]:
        """Rows of each node."""
        return np.diff(self.offsets)

    @property
    def shape(self) -> tuple[int, int]:
        """Most steps s of an update, and most samples b of a minibatch, of any node."""
        if self.expected is not None:
            sizes = np.unique(self.sizes)
            return self.steps, max((largest(int(m), self.batch_size) for m in sizes), default=self.batch_size)
        if self.epochs is None:
            return self.steps, self.batch_size
        return int(self.steps_of.max(initial=0)), min(self.batch_size, int(self.sizes.max(initial=0)))

    @property
    def drawn(self) -> tuple[int, int]:
        """Most steps s of an update, and the numbers that are drawn for each: most samples b, and the key."""
        s, b = self.shape
        return s, b + self.keyed

    @property
    def expected(self) -> int | None:
        """Samples of a minibatch on average, where their number is random; None: it is not."""
        return self.batch_size if self.sampling == "poisson" else None

    def steps_before(self, counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Returns how many minibatch steps each node has made in its first updates, counts[i] of node i."""
        if self.steps_law is None:
            return counts * self.steps_of
        with self._lock:
            before, steps = np.empty((2, counts.size), dtype=np.int64)
            laws = (self.steps_law, self._updates, self._steps)
            _counted(self.seeds, self.index, np.arange(counts.size), counts, *laws, before, steps)
        return before

    @property
    def padded(self) -> bool:
        """Whether some minibatch of a node is smaller than another's, or some update shorter."""
        if self.expected is not None:
            return True
        return self.epochs is not None and bool((self.epochs * self.sizes != math.prod(self.shape)).any())

    @property
    def uneven(self) -> bool:
        """Whether some update has fewer steps than another."""
        return self.steps_law is not None or bool((self.steps_of != self.shape[0]).any())

    def draw(
        self,
        nodes: Int64[np.ndarray, " w"],
        counts: Int64[np.ndarray, " w"],
        out: Int64[np.ndarray, "w s b"] | None = None,
    ) -> Int64[np.ndarray, "w s b"]:
        """Returns the data set rows of the minibatches of update number counts[k] of nodes[k], and their keys, if any.

        Smaller minibatches end, and shorter updates go on, with entries of -1. A key comes after all entries.

        Args:
            nodes: in the whole batch of networks, 0 <= node < n; a node may appear more than once.
            counts: updates that the node completed before this one: 0, 1, 2, ...
            out: receives the result and is returned, without gaps; None: new memory.
        """
        assert nodes.size == 0 or (nodes.min() >= 0 and nodes.max() < len(self.seeds)), "a node that exists"
        assert counts.size == 0 or counts.min() >= 0, "updates are counted from 0"
        out = np.empty((len(nodes), *self.drawn), dtype=np.int64) if out is None else out
        if self.keyed:
            _keys(self.seeds, self.index, nodes, counts, out)
            entries = np.empty((len(nodes), *self.shape), dtype=np.int64)
            self._draw_(nodes, counts, entries)
            out[:, :, :-1] = entries
        else:
            self._draw_(nodes, counts, out)
        return out

    def _draw_(self, nodes: np.ndarray, counts: np.ndarray, out: np.ndarray) -> None:
        """Writes the rows of minibatches, without keys."""
        parts = (self.seeds, self.index, self.rows, self.offsets, nodes)
        if self.sampling == "poisson":
            _sampled(*parts, counts, self.batch_size, out)
            return
        if self.epochs is not None:
            _passed(*parts, counts, self.epochs, out)
            return
        with self._lock:
            places = self._places(nodes, counts, out)
            if self.sampling == "shuffle":
                _shuffled(*parts, *places, _flat(out), self._order, self._epoch, self._done)
            else:
                _replaced(*parts, *places, _flat(out))

    def _places(self, nodes: np.ndarray, counts: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first position of each update in its node's stream, and how many it takes; clears the rest."""
        if self.steps_law is None:
            size = math.prod(self.shape)
            return counts * size, np.full(len(nodes), size)
        before, steps = np.empty((2, len(nodes)), dtype=np.int64)
        _counted(self.seeds, self.index, nodes, counts, self.steps_law, self._updates, self._steps, before, steps)
        out[:] = -1
        return before * self.batch_size, steps * self.batch_size


def _flat(drawn: Int64[np.ndarray, "w s b"]) -> Int64[np.ndarray, "w sb"]:
    return drawn.reshape(len(drawn), math.prod(drawn.shape[1:]))


@njit(nogil=True, cache=True)
@no_type_check
def _keys(seeds, index, nodes, counts, out):  # noqa: ANN001, ANN202  (numba infers the types)
    """Writes the key of each step: the first word of block (count 2^32 + step)."""
    for k in range(nodes.size):
        i = nodes[k]
        for s in range(out.shape[1]):
            word, _ = rng.block(seeds[i], _KEY, index[i], (counts[k] << 32) + s)
            out[k, s, out.shape[2] - 1] = int64(word)


@njit(nogil=True, cache=True)
@no_type_check
def _words(seed, node, begin, end, words):  # noqa: ANN001, ANN202  (numba infers the types)
    """Writes the words of positions begin..end-1, word q % 2 of block q // 2, from words[begin % 2] on.

    The words are made before they are used, because this loop is the one that the compiler can vectorise.
    """
    for a in range(((end + 1) >> 1) - (begin >> 1)):
        words[2 * a], words[2 * a + 1] = rng.block(seed, _BATCH, node, (begin >> 1) + a)


@njit(nogil=True, cache=True)
@no_type_check
def _counted(seeds, index, nodes, counts, law, updates, made, before, steps):  # noqa: ANN001, ANN202
    """Writes the steps of each update, and those of its node before it, from the last update whose are known."""
    for k in range(nodes.size):
        i = nodes[k]
        if counts[k] < updates[i]:
            updates[i], made[i] = 0, 0
        while True:
            u = rng.unit(rng.block(seeds[i], _STEPS, index[i], updates[i])[0])
            steps[k] = min(np.searchsorted(law, u, side="right") + 1, law.size)
            if updates[i] == counts[k]:
                break
            updates[i], made[i] = updates[i] + 1, made[i] + steps[k]
        before[k] = made[i]


@njit(nogil=True, cache=True)
@no_type_check
def _replaced(seeds, index, rows, offsets, nodes, firsts, sizes, out):  # noqa: ANN001, ANN202
    """Position q is rows[below(word q % 2 of block q // 2)]."""
    words = np.empty(out.shape[1] + 2, dtype=np.uint64)
    for k in range(nodes.size):
        i, size = nodes[k], sizes[k]
        start, m, first = offsets[i], offsets[i + 1] - offsets[i], firsts[k]
        _words(seeds[i], index[i], first, first + size, words)
        for b in range(size):
            out[k, b] = rows[start + rng.below(words[b + (first & 1)], m)]


@njit(nogil=True, cache=True)
@no_type_check
def _sampled(seeds, index, rows, offsets, nodes, counts, batch_size, out):  # noqa: ANN001, ANN202
    """Takes each row of a node with probability q = batch_size / m.

    From one to the next it is 1 + floor(log u / log(1 - q)) rows, with word 0 of block (step 2^32 + number) for u.
    """
    out[:] = -1
    for k in range(nodes.size):
        i = nodes[k]
        start, m = offsets[i], offsets[i + 1] - offsets[i]
        left = np.log1p(-batch_size / m) if batch_size < m else -np.inf
        for s in range(out.shape[1]):
            step, place = counts[k] * out.shape[1] + s, -1.0
            for b in range(out.shape[2]):
                u = rng.unit(rng.block(seeds[i], _SAMPLED, index[i], (step << 32) + b)[0])
                place += 1.0 + np.floor(log(u) / left)
                if place >= m:
                    break
                out[k, s, b] = rows[start + int64(place)]


@njit(nogil=True, cache=True)
@no_type_check
def _shuffled(seeds, index, rows, offsets, nodes, firsts, sizes, out, order, epoch, done):  # noqa: ANN001, ANN202
    """Position q is row order_e[r] of the node, with order_e the random order of epoch e = q // m, and r = q % m."""
    words = np.empty(out.shape[1] + 2, dtype=np.uint64)
    for k in range(nodes.size):
        i, first, size = nodes[k], firsts[k], sizes[k]
        start, m, end = offsets[i], offsets[i + 1] - offsets[i], first + size
        e, r = divmod(first, m)
        if epoch[i] != e:
            epoch[i], done[i] = e, 0
            for place in range(m):
                order[start + place] = place
        for place in range(r, min(done[i], r + size)):
            out[k, place - r] = rows[start + order[start + place]]
        place = done[i]
        for begin in range(e * m + place, end, size):  # positions that were not dealt
            stop = min(begin + size, end)
            _words(seeds[i], index[i], begin, stop, words)
            for q in range(begin, stop):
                if place == m:
                    e, place = e + 1, 0
                    for other in range(m):
                        order[start + other] = other
                _swap(order, start, place, m, words[q - begin + (begin & 1)])
                if q >= first:
                    out[k, q - first] = rows[start + order[start + place]]
                place += 1
        epoch[i], done[i] = e, place


@njit(nogil=True, cache=True)
@no_type_check
def _passed(seeds, index, rows, offsets, nodes, counts, epochs, out):  # noqa: ANN001, ANN202
    """Update k of a node deals its epochs e = epochs k to epochs (k + 1) - 1, each cut into minibatches."""
    b = out.shape[2]
    words = np.empty(b + 2, dtype=np.uint64)
    order = np.empty(np.diff(offsets).max(), dtype=np.int32)
    out[:] = -1
    for k in range(nodes.size):
        i, s = nodes[k], 0
        start, m = offsets[i], offsets[i + 1] - offsets[i]
        for e in range(counts[k] * epochs, (counts[k] + 1) * epochs):
            for place in range(m):
                order[place] = place
            for first in range(0, m, b):
                stop = min(first + b, m)
                _deal(seeds[i], index[i], e * m, first, stop, order, 0, m, words)
                for place in range(first, stop):
                    out[k, s, place - first] = rows[start + order[place]]
                s += 1


@njit(nogil=True, cache=True)
@no_type_check
def _deal(seed, node, base, begin, stop, order, start, m, words):  # noqa: ANN001, ANN202
    """Fills places begin..stop-1 of an epoch's order (Fisher--Yates), which lies at order[start:start + m].

    Place r uses word g % 2 of block g // 2 with g = base + r; base is the epoch times m, so that no two epochs share a
    draw.
    """
    first = base + begin
    _words(seed, node, first, base + stop, words)
    for r in range(begin, stop):
        _swap(order, start, r, m, words[r - begin + (first & 1)])


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _swap(order, start, r, m, word):  # noqa: ANN001, ANN202
    """Fills place r of the order (Fisher--Yates) by one of those that are left, which a word chooses."""
    j = start + r + rng.below(word, m - r)
    order[start + r], order[j] = order[j], order[start + r]
