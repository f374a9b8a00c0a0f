r"""Gossip matrices: one wave of gossip as a sparse, row-stochastic matrix W, so that the wave is x <- W x.

A wave is a list of writes (j, i): row j becomes (1 - w) x_j + w x_i, all right-hand sides as they were before the wave.
A push i -> j is one write (j, i), a pull is one of the puller, a meeting two: (i, j) and (j, i), with one weight, so
that it keeps the mean. No row is written twice in a wave; rows that no write touches keep their value, and are not
stored.

Notation: n nodes, e writes of a wave, p parameters, W gossip matrix, w weight of the other's model in a write.
"""

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from batchednodes.events.timeline import Events
from batchednodes.events.waves import Lines, Schedule, count_lines, lines


@dataclass(frozen=True)
class GossipMatrix:
    """The rows of W that differ from the identity, as sparse CSR.

    Reference:
        S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52(6), 2006.
    """

    rows: Int64[Tensor, " e"]
    """Rows that change, each once."""
    matrix: Tensor
    """These rows of W, sparse CSR [e, n]; each sums to 1; dimensionless."""

    @staticmethod
    def of(
        receivers: Int64[Tensor, " e"], senders: Int64[Tensor, " e"], weights: Float[Tensor, " e"], n: int
    ) -> "GossipMatrix":
        """Returns W of the writes x_j <- (1 - w) x_j + w x_i.

        Args:
            receivers: rows j, each at most once.
            senders: row i of each write; i = j only with w = 0, see `Mixing.without`.
            weights: w of each write, 0 <= w <= 1, dimensionless; sets the dtype of W.
            n: number of rows of x.
        """
        size = receivers.numel()
        return GossipMatrix(receivers, _csr(_begins(size, receivers.device), *_entries(receivers, senders, weights), n))

    def apply_(self, x: Float[Tensor, "n p"]) -> None:
        """Writes W x into x."""
        x.index_copy_(0, self.rows, self.matrix @ x)

    def dense(self) -> Float[Tensor, "n n"]:
        """Returns all of W, with the identity where nothing changes; O(n^2), for small n."""
        w = torch.eye(self.matrix.shape[1], dtype=self.matrix.dtype, device=self.rows.device)
        w[self.rows] = self.matrix.to_dense()
        return w


@functools.cache
def announce_beta() -> None:
    """Lets torch say, once and to nobody, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor([0, 1], [0], [1.0], size=(1, 1), check_invariants=False)


def _entries(receivers: Tensor, senders: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns columns and values of the two entries of each row, in order of columns.

    The columns are int32, which MKL and cuSPARSE take as they are.
    """
    swap = (senders < receivers).unsqueeze(1)
    columns = torch.stack([receivers, senders], 1)
    values = torch.stack([1 - weights, weights], 1)
    columns, values = torch.where(swap, columns.flip(1), columns), torch.where(swap, values.flip(1), values)
    return columns.flatten().int(), values.flatten()


def _begins(size: int, device: torch.device) -> Tensor:
    return torch.arange(0, 2 * size + 1, 2, dtype=torch.int32, device=device)


def _csr(begins: Tensor, columns: Tensor, values: Tensor, n: int) -> Tensor:
    """Returns the CSR matrix with two entries a row."""
    announce_beta()
    return torch.sparse_csr_tensor(begins, columns, values, size=(begins.numel() - 1, n), check_invariants=False)


@dataclass(frozen=True)
class Carried:
    """What a phase of gossip says besides, where messages are under way."""

    nodes: int
    """Rows of x that are nodes; those from here on are slots of messages, and a write of one is a copy."""
    origins: Int64[Tensor, " e"]
    """The node whose model each write reads; of the same network as the row that it changes."""
    sent: Float64[Tensor, " e"]
    """When that model was sent [s]."""
    part: Int64[Tensor, " e"]
    """Which part of it counts: the number of a part of the model, or of the draw of its entries; -1: all; -2: all, and
    the node that takes it begins to compute from it."""

    def part_of(self, part: slice) -> "Carried":
        """Returns what is said of some writes."""
        return Carried(self.nodes, self.origins[part], self.sent[part], self.part[part])


@dataclass(frozen=True)
class Mixing:
    """A phase of gossip: its waves of writes, in order, on the device of x."""

    receivers: Int64[Tensor, " e"]
    """Row that each write changes."""
    senders: Int64[Tensor, " e"]
    """Row that each write reads besides."""
    weights: Float[Tensor, " e"]
    """Weight of the sender's model in the new one; dimensionless."""
    times: Float64[Tensor, " e"]
    """Instant of each write [s]."""
    waves: Int64[np.ndarray, " W1"]
    """On the host: wave k holds the writes waves[k]:waves[k + 1]; within a wave they are in the order of time."""
    cuts: Int64[np.ndarray, " c1"]
    """On the host: the same with each wave cut into the tables of the versions; see `Writes.by_table`."""
    pairs: bool = False
    """Whether writes 2k and 2k + 1 are the two sides of one meeting."""
    carried: Carried | None = None
    """What else is to be known where messages are under way; None where models are exchanged at once."""

    def without(self, since: Float64[Tensor, " n"]) -> "Mixing":
        """Returns the same phase with the contacts of some nodes made to do nothing, to either side.

        Each of their writes reads, with weight 0, the row that it changes: x_j <- 1 x_j + 0 x_j is x_j where that is
        finite, and max(N_j, N_j) is N_j. A weight of 0 alone would not do: 0 times infinity is NaN.

        Args:
            since: when each node was cut off; inf: it is not. A model that was sent before still counts.
        """
        nodes = since.isfinite()
        if self.carried is None:
            idle = nodes[self.receivers] | nodes[self.senders]
        else:
            n = self.carried.nodes
            cut = nodes[self.receivers.clamp(max=n - 1)] | (since[self.carried.origins] <= self.carried.sent)
            idle = cut & (self.receivers < n)
        senders = torch.where(idle, self.receivers, self.senders)
        return replace(self, senders=senders, weights=torch.where(idle, 0.0, self.weights))

    def between(self, first: int, last: int) -> "Mixing":
        """Returns waves first, ..., last - 1 of a phase whose waves are not cut into tables."""
        a, b = self.waves[[first, last]].tolist()
        j, i, weights, times = (column[a:b] for column in (self.receivers, self.senders, self.weights, self.times))
        waves = self.waves[first : last + 1] - a
        carried = None if self.carried is None else self.carried.part_of(slice(a, b))
        return Mixing(j, i, weights, times, waves, waves, self.pairs, carried)

    def matrices(self, n: int) -> "Iterator[GossipMatrix]":
        """Yields the gossip matrix of each wave, for n rows."""
        columns, values = _entries(self.receivers, self.senders, self.weights)
        begins = _begins(int(np.diff(self.waves).max(initial=0)), columns.device)
        for a, b in zip(self.waves[:-1].tolist(), self.waves[1:].tolist(), strict=True):
            matrix = _csr(begins[: b - a + 1], columns[2 * a : 2 * b], values[2 * a : 2 * b], n)
            yield GossipMatrix(self.receivers[a:b], matrix)


@dataclass(frozen=True)
class Writes:
    """The writes of a phase of gossip, on the host."""

    receivers: Int64[np.ndarray, " e"]
    """Row j that each write changes."""
    senders: Int64[np.ndarray, " e"]
    """Row i that each write reads besides."""
    actors: Int64[np.ndarray, " e"]
    """The node that made the contact, whose weight counts: i of a push, j of a pull, either of a meeting."""
    times: Float64[np.ndarray, " e"]
    """Instant of each write [s]."""
    waves: Int64[np.ndarray, " W1"]
    """Wave k holds the writes waves[k]:waves[k + 1]; within a wave they are in the order of time."""
    cuts: Int64[np.ndarray, " c1"]
    """The same with each wave cut into the tables of the versions: just the waves while there is one table."""
    pairs: bool
    """Whether writes 2k and 2k + 1 are the two sides of one meeting."""
    message: tuple[Float64[np.ndarray, "2 e"], Int64[np.ndarray, " e"]] | None = None
    """Of the lines, see `schedule.Lines`."""

    def by_table(self, table: Int32[np.ndarray, " n"], count: int) -> "Writes":
        """Returns the same writes such that those of table a in wave k are cuts[k count + a]:cuts[k count + a + 1].

        Within a wave, the writes of each network stay in the order of time.

        Args:
            table: number of the table of each node.
            count: number of tables.
        """
        waves = np.repeat(np.arange(self.waves.size - 1), np.diff(self.waves))
        part = waves * count + table[self.receivers]
        order = np.argsort(part, kind="stable")
        cuts = np.searchsorted(part[order], np.arange((self.waves.size - 1) * count + 1))
        j, i, actors, times = (a[order] for a in (self.receivers, self.senders, self.actors, self.times))
        return Writes(j, i, actors, times, self.waves, cuts, self.pairs)


def writes(events: Events, plan: Schedule, first: int, last: int) -> Writes:
    """Returns the writes of the gossip waves first, ..., last - 1 of a schedule."""
    e = count_lines(events)
    return written(lines(events, plan, np.empty((3, e), np.int64), np.empty(e)), first, last)


def written(said: Lines, first: int, last: int) -> Writes:
    """Returns the writes of the gossip waves first, ..., last - 1, as views of the lines of a schedule."""
    part, waves = slice(said.waves[first], said.waves[last]), said.waves[first : last + 1] - said.waves[first]
    columns = (said.receivers[part], said.senders[part], said.actors[part], said.times[part])
    message = None if said.message is None else (said.message[0][:, part], said.message[1][part])
    return Writes(*columns, waves, waves, said.pairs, message)
