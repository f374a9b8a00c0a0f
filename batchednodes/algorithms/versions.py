r"""Versions: the counts of all networks in one flat tensor, a block for each network.

The block of network g has a row for each of its nodes and a column for each of its tracked sources, so that a batch of
small and large networks is not padded to the largest. Blocks lie in increasing order of (t, n): as views, all blocks of
one width t are one table [rows, t], and all of one shape one stack [networks, n, t]. What the counts mean stands in
staleness.py.

Notation: n nodes, g networks, t columns of a network, k distinct widths, N versions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Int32, Int64
from torch import Tensor

_TYPES = (torch.int16, torch.int32, torch.int64)
"""Types of counts, the smallest first: merging is bound by memory, so half the bytes take half the time."""


def dtype_for(updates: float) -> torch.dtype:
    """Returns the smallest type that holds the counts of a run, if the busiest node expects some updates.

    It leaves room for ten standard deviations of a Poisson count, which varies more than counts of shifted exponential
    gaps. What exceeds it all the same is met by `widen_`.

    Example:
        >>> from batchednodes.algorithms.versions import dtype_for
        >>> dtype_for(100.0), dtype_for(1e6)
        (torch.int16, torch.int32)
    """
    return _fitting(updates + 10 * math.sqrt(updates) + 100)


def widen_(versions: Int[Tensor, " numbers"], largest: int) -> None:
    """Turns the versions into a larger type, in place, if theirs does not hold the largest count to come."""
    if largest > torch.iinfo(versions.dtype).max:
        versions.data = versions.to(_fitting(float(largest)))


def fit_(versions: Int[Tensor, " numbers"], layout: "Layout", slots: int) -> None:
    """Gives the versions and their layout, in place, rows for some slots of messages, if they have fewer."""
    layout.reserve(slots)
    missing = layout.room - versions.numel()
    if missing > 0:
        versions.data = torch.cat([versions, versions.new_zeros(missing)])


def _fitting(count: float) -> torch.dtype:
    return next(dtype for dtype in _TYPES if count <= torch.iinfo(dtype).max)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows of each network lie in the flat tensor.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.versions import Layout
        >>> layout = Layout.of([2, 3], [2, 1], torch.device("cpu"))  # all, and one, of their nodes are tracked
        >>> versions = layout.zeros(torch.int16)
        >>> layout.block(versions, 0).shape, layout.block(versions, 1).shape
        (torch.Size([2, 2]), torch.Size([3, 1]))
    """

    sizes: Int64[np.ndarray, " g"]
    """Nodes of each network."""
    widths: Int64[np.ndarray, " g"]
    """Columns of each network; 0: nothing is tracked."""
    network: Int32[np.ndarray, " n"]
    """Network of each node."""
    first: Int64[np.ndarray, " g"]
    """Place of the first number of each network's block."""
    kinds: Int64[np.ndarray, " k"]
    """The distinct widths, in increasing order."""
    stacks: tuple[Int64[np.ndarray, " _"], ...]
    """Networks whose blocks have one shape, stack by stack as they lie in the tensor."""
    place: Int64[Tensor, " n"]
    """Place of the first number of each node's row, then of those of slots, see `reserve`; on the device."""
    row: Int64[Tensor, " n"]
    """Row of each node in the table of its width; on the device."""
    width: Int64[Tensor, " n"]
    """Columns of each node's row; on the device."""
    table: Int32[np.ndarray, " n"]
    """Number of the table of each node, in increasing order of widths; on the host."""

    @staticmethod
    def of(sizes: Sequence[int] | np.ndarray, widths: Sequence[int] | np.ndarray, device: torch.device) -> "Layout":
        """Returns the layout of networks with some numbers of nodes and columns."""
        n, t = np.array(sizes, np.int64), np.array(widths, np.int64)
        order = np.lexsort((n, t))
        first, base = _starts(n * t, order), _starts(n, order)  # base: rows of all networks that lie before
        steps = np.flatnonzero(np.diff(n[order]) | np.diff(t[order])) + 1
        kinds, table = np.unique(t, return_inverse=True)
        begins = np.array([base[t == kind].min() for kind in kinds])  # rows before each table
        inside = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        place = np.repeat(first, n) + inside * np.repeat(t, n)
        row = np.repeat(base - begins[table], n) + inside
        place, row, width = (torch.as_tensor(a, device=device) for a in (place, row, np.repeat(t, n)))
        stacks = tuple(np.split(order, steps))
        network = np.repeat(np.arange(n.size, dtype=np.int32), n)
        return Layout(n, t, network, first, kinds, stacks, place, row, width, table[network].astype(np.int32))

    @property
    def numbers(self) -> int:
        """Number of counts of all networks."""
        return int((self.sizes * self.widths).sum())

    @property
    def room(self) -> int:
        """Number of counts of all networks and of the slots that are reserved."""
        return self.numbers + (self.place.numel() - self.network.size) * int(self.kinds.max())

    def reserve(self, slots: int) -> None:
        """Gives some slots of messages rows, in place, if they have none; after all nodes, as wide as the widest."""
        missing = self.network.size + slots - self.place.numel()
        if missing > 0:
            first = self.room + int(self.kinds.max()) * torch.arange(missing, device=self.place.device)
            self.place.data = torch.cat([self.place, first])

    def zeros(self, dtype: torch.dtype) -> Int[Tensor, " numbers"]:
        """Returns the versions at t = 0."""
        return torch.zeros(self.room, dtype=dtype, device=self.place.device)

    def block(self, versions: Int[Tensor, " numbers"], g: int) -> Int[Tensor, "n t"]:
        """Returns the versions of network g, as a view."""
        n, t = int(self.sizes[g]), int(self.widths[g])
        return versions[self.first[g] : self.first[g] + n * t].view(n, t)

    def of_node(self, versions: Int[Tensor, " numbers"], i: int) -> Int[Tensor, " t"]:
        """Returns the versions of node i, as a view."""
        first = int(self.place[i])
        return versions[first : first + int(self.kinds[self.table[i]])]

    def joined(self, versions: Int[Tensor, " numbers"]) -> Int[Tensor, "n t"]:
        """Returns the versions of all networks, one after the other; they must have one width."""
        assert self.kinds.size == 1
        blocks = [self.block(versions, g) for g in range(self.sizes.size)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def view(self, versions: Int[Tensor, " numbers"], networks: np.ndarray) -> Int[Tensor, "g n t"]:
        """Returns the versions of the networks of one stack, as a view."""
        first, n, t = (int(a[networks[0]]) for a in (self.first, self.sizes, self.widths))
        return versions[first : first + networks.size * n * t].view(networks.size, n, t)

    def by_width(self, versions: Int[Tensor, " numbers"]) -> list[Int[Tensor, "rows t"]]:
        """Returns the table of each width, as views."""
        shapes = [(int(self.sizes[self.widths == t].sum()), int(t)) for t in self.kinds]
        parts = versions[: self.numbers].split([rows * t for rows, t in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _starts(lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns where each part begins if parts of some lengths lie one after the other in an order."""
    starts = np.empty_like(lengths)
    starts[order] = np.cumsum(lengths[order]) - lengths[order]
    return starts


def count_(versions: Int[Tensor, " numbers"], own: Int64[Tensor, " w"]) -> None:
    """Adds one at the places of the nodes that have just been updated; place -1, not tracked, adds nothing."""
    versions.index_add_(0, own.clamp(min=0), (own >= 0).to(versions.dtype))
