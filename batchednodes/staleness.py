r"""Staleness: how many of a source's updates are missing from a node's model.

N[j, c] counts the updates of source number c that node j's model contains, at most; an update of the source adds one to
its own entry, gossip takes the elementwise maximum (mixing/). The staleness is S[j, c] = N[source, c] - N[j, c] >= 0,
for every node j but the source itself. Each network has a table of its own, see versions.py.

Letters: n nodes of all networks, g networks, t columns (tracked sources of a network), N versions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor

from batchednodes import rng
from batchednodes.topology import Networks
from batchednodes.versions import Layout

Track = int | Literal["all", "none"]


@dataclass(frozen=True)
class Sources:
    """The tracked sources of each network, and the column of each source."""

    nodes: tuple[Int64[np.ndarray, " _"], ...]
    """For each network, its sources as rows of x, in increasing order; empty: nothing is tracked."""
    column: Int64[np.ndarray, " n"]
    """Column of each node as a source; -1 where it is not tracked."""

    @property
    def widths(self) -> Int64[np.ndarray, " g"]:
        """Number of sources of each network."""
        return np.array([s.size for s in self.nodes], np.int64)

    @property
    def width(self) -> int:
        """Largest number of sources of a network."""
        return int(self.widths.max(initial=0))

    def layout(self, networks: Networks, device: torch.device) -> Layout:
        """Returns where the versions of each network lie, with what the device needs to know on it."""
        return Layout.of(networks.sizes, self.widths, device)

    def own(self, layout: Layout) -> Int64[Tensor, " n"]:
        """Returns the place of each node's count of its own updates among the versions; -1: not tracked."""
        column = torch.as_tensor(self.column, device=layout.place.device)
        return torch.where(column >= 0, layout.place + column, -1)

    def audience(self, networks: Networks) -> Float64[np.ndarray, " n"]:
        """Returns how many nodes fall behind when a node updates: n - 1 of its network, or 0 if it is not tracked."""
        return np.where(self.column >= 0, np.repeat(networks.sizes - 1, networks.sizes), 0).astype(np.float64)


def choose(networks: Networks, tracks: Sequence[Track]) -> Sources:
    """Returns the sources to track of each network: all nodes, none, or a fixed sample drawn by address."""
    nodes, column = [], np.full(networks.n, -1, np.int64)
    for g, track in enumerate(tracks):
        first, size = int(networks.offsets[g]), int(networks.sizes[g])
        kept = {"all": size, "none": 0}.get(track, track) if isinstance(track, str) else min(track, size)
        chosen = first + sample(int(networks.seeds[g]), rng.SOURCES, size, int(kept))
        column[chosen] = np.arange(chosen.size)
        nodes.append(chosen)
    return Sources(tuple(nodes), column)


def sample(seed: int, stream: int, n: int, size: int) -> Int64[np.ndarray, " size"]:
    """Returns `size` of n nodes in increasing order, uniformly without replacement, by the address of each node."""
    if size >= n:
        return np.arange(n)
    draws = rng.uniforms(seed, stream, np.arange(n), 1)[:, 0]
    return np.sort(np.argsort(draws, kind="stable")[:size])


def count_(versions: Int[Tensor, " numbers"], own: Int64[Tensor, " w"]) -> None:
    """Adds one at the places of the nodes that have just been updated; place -1, not tracked, adds nothing."""
    versions.index_put_((own.clamp(min=0),), (own >= 0).to(versions.dtype), accumulate=True)


@dataclass(frozen=True)
class Staleness:
    """Staleness of one network at one instant."""

    mean: float
    """Mean of S over all pairs of a source and another node; dimensionless (updates)."""
    integral: float
    """Integral of that mean from time 0 until now, exact between events too [updates s]."""
    max: int
    """Largest S."""
    of_node: Float64[Tensor, " n"]
    """Mean of S over the sources other than the node itself, for each node."""


def measure(
    versions: Int[Tensor, " numbers"],
    layout: Layout,
    moment: Float64[Tensor, " n"],
    time: float,
    sources: Sources,
    networks: Networks,
    g: int,
) -> Staleness | None:
    r"""Returns the staleness of network g; None where nothing is tracked or the network is a lone node.

    The sum A of S over all pairs jumps at events only, so its integral from 0 to t is

        t A(t) - sum over the jumps of (jump) (its time),

    and `moment` holds the second term. All is computed from sums and minima of columns, so that nothing of the size of
    the table is allocated.
    """
    nodes, table = sources.nodes[g], layout.block(versions, g)
    n, t = table.shape[0], nodes.size
    if n < 2 or t == 0:
        return None
    rows = torch.as_tensor(nodes - networks.offsets[g], device=versions.device)
    own = table[rows, torch.arange(t, device=versions.device)].long()
    total = n * own - table.sum(0, dtype=torch.int64)
    others = torch.full((n,), float(t), dtype=torch.float64, device=versions.device)
    others[rows] -= 1
    of_node = (own.sum() - table.sum(1, dtype=torch.int64)) / others.clamp(min=1)
    largest = (own - table.amin(0)).max()
    pairs, now = t * (n - 1), float(total.sum())
    integral = time * now - float(moment[networks.slice(g)].sum())
    return Staleness(now / pairs, integral / pairs, int(largest), of_node)
