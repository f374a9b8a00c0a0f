r"""Lag counts: sums, maxima and a histogram of S[j, c] = own[c] - N[j, c] over the tables of networks of one shape.

N[j, c] is how many updates of source c may be in the model of node j, own[c] how many it has made: S is staleness.

A table is read twice, and nothing of its size is allocated but, on CUDA, for some rows at a time.

Notation: g networks, n nodes, t sources of a network, b bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Int, Int64
from numba import njit
from torch import Tensor

_BINS = 1 << 20
"""The most bins of a histogram; above, a bin holds several values."""

_BLOCK = 1 << 24
"""Numbers of tables that the reference works on at a time."""


_SPREAD = 1 << 16
"""Bins of all histograms that rows share among them on CUDA, about: additions to one number wait for each other."""


@dataclass(frozen=True, eq=False)
class LagCounts:
    """What the tables of some networks of one shape add up to; on the host."""

    of_row: Int64[np.ndarray, "g n"]
    """Sum of S over the sources, for each node."""
    of_column: Int64[np.ndarray, "g t"]
    """Sum of S over the nodes, for each source."""
    largest: Int64[np.ndarray, " g"]
    """Largest S."""
    pairs: Int64[np.ndarray, "g b"]
    """Number of entries with S in [k 2^shift, (k + 1) 2^shift), for each bin k."""
    shift: int
    """Logarithm of the width of a bin; 0, each value has its own, while the largest S is below 2^20."""

    @staticmethod
    def of(found: Sequence[Tensor]) -> "LagCounts":
        """Returns what `tally` has found, once it is on the host, without the bins that are too high for any S."""
        of_row, of_column, largest, pairs = (t.numpy() for t in found)
        shift, room = bins(int(largest.max()))
        return LagCounts(of_row, of_column, largest, pairs[:, :room], shift)


def tally(tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"], most: int) -> list[Tensor]:
    """Returns sums by row and by column, largest S and histogram of some tables, on their device; nobody waits for it.

    Example:
        >>> import torch
        >>> from batchednodes.numerics.lag_counts import LagCounts, tally
        >>> versions = torch.tensor([[[5, 0], [3, 2]]])  # of sources 0 and 1, at two nodes
        >>> counts = LagCounts.of(tally(versions, torch.tensor([[5, 2]]), most=5))
        >>> counts.of_row.tolist()  # node 0 lacks two updates of source 1, node 1 two of source 0
        [[2, 2]]

    Args:
        tables: versions of networks of one shape; t is at least 1.
        own: number of updates of each source, at least all of its column.
        most: no source has made more.
    """
    return by_loops(tables, own) if tables.device.type == "cpu" else by_blocks(tables, own, most)


def by_loops(tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"]) -> list[Tensor]:
    """Returns the tally by compiled loops on the CPU."""
    found = sums(tables, own)
    return [*found, counts(tables, own, *bins(int(found[2].max())))]


def by_blocks(tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"], most: int) -> list[Tensor]:
    """Returns the tally by operations on blocks of rows, on any device: the reference."""
    found = _block_sums(tables, own)
    widest, room = bins(most)
    shift = sum((found[2].amax() >= _BINS << k).long() for k in range(widest)) if widest else 0  # the device knows it
    return [*found, _block_counts(tables, own, shift, _BINS if widest else room)]


def sums(tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"]) -> list[Tensor]:
    """Returns sums by row and by column, and the largest S, of some tables: the first part of their tally."""
    if tables.device.type != "cpu":
        return _block_sums(tables, own)
    return [torch.from_numpy(array) for array in _sums(tables.numpy(), own.numpy())]


def counts(tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"], shift: int, room: int) -> Int64[Tensor, "g b"]:
    """Returns the histogram of S of some tables: the second part; shift, room: see `bins`."""
    if tables.device.type != "cpu":
        return _block_counts(tables, own, shift, room)
    return torch.from_numpy(_counts(tables.numpy(), own.numpy(), shift, room))


def _blocks(tables: Int[Tensor, "g n t"]) -> tuple[Tensor, ...]:
    return tables.split(max(1, _BLOCK // (tables.shape[0] * tables.shape[2])), dim=1)


def _block_sums(tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"]) -> list[Tensor]:
    made, blocks = own.long(), _blocks(tables)
    of_row = made.sum(1, keepdim=True) - torch.cat([block.sum(2, dtype=torch.int64) for block in blocks], 1)
    of_column = tables.shape[1] * made  # block by block: sums of another type than their table's begin with a copy
    for block in blocks:
        of_column -= block.sum(1, dtype=torch.int64)
    return [of_row, of_column, (own - tables.amin(1)).amax(1).long()]


def _block_counts(
    tables: Int[Tensor, "g n t"], own: Int[Tensor, "g t"], shift: int | Tensor, room: int
) -> Int64[Tensor, "g b"]:
    networks, n, _ = tables.shape
    copies, device = max(1, min(n, _SPREAD // (networks * room))), tables.device
    pairs = torch.zeros(copies * networks * room, dtype=torch.int64, device=device)
    network, one = torch.arange(networks, device=device).view(-1, 1, 1), pairs.new_ones(1)
    for block in _blocks(tables):
        copy = torch.arange(block.shape[1], device=device).view(1, -1, 1) % copies
        places = (copy * networks + network) * room + ((own.unsqueeze(1) - block) >> shift)
        pairs.index_add_(0, places.flatten(), one.expand(places.numel()))
    return pairs.view(copies, networks, room).sum(0)


def bins(largest: int) -> tuple[int, int]:
    """Returns the logarithm of the width of a bin, and the number of bins."""
    shift = max(0, largest.bit_length() - _BINS.bit_length() + 1)
    return shift, (largest >> shift) + 1


@njit(nogil=True, cache=True)
@no_type_check
def _sums(tables, own):  # noqa: ANN001, ANN202
    """Returns the sums of S by row and by column, and the largest S of each table."""
    networks, n, t = tables.shape
    rows, columns = np.zeros((networks, n), np.int64), np.zeros((networks, t), np.int64)
    largest = np.zeros(networks, np.int64)
    for g in range(networks):
        counts, column = own[g], columns[g]
        for j in range(n):
            row, total, top = tables[g, j], 0, 0
            for c in range(t):
                s = np.int64(counts[c]) - np.int64(row[c])
                total += s
                top = max(top, s)
                column[c] += s
            rows[g, j] = total
            largest[g] = max(largest[g], top)
    return rows, columns, largest


@njit(nogil=True, cache=True)
@no_type_check
def _counts(tables, own, shift, bins):  # noqa: ANN001, ANN202
    """Returns the histogram of S of each table."""
    networks, n, t = tables.shape
    pairs = np.zeros((networks, bins), np.int64)
    for g in range(networks):
        counts, bars = own[g], pairs[g]
        for j in range(n):
            row = tables[g, j]
            for c in range(t):
                bars[(counts[c] - row[c]) >> shift] += 1
    return pairs
