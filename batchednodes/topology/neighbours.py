r"""Whom each node of a batch of disjoint networks may contact, and the draw of one contact.

Node i of network g has the global number offsets[g] + i. The graphs of the networks become one block-diagonal list.

Notation: n nodes of all networks, g networks, e contacts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt64
from numba import int32, njit

from batchednodes.numerics.rng import below, unit
from batchednodes.topology.graph import Graph
from batchednodes.topology.peer_sampler import PeerSampler
from batchednodes.topology.peer_sampling_kernels import COMPLETE, LISTED, PeerRule, PeerTables, joined


@dataclass(frozen=True, eq=False)
class Networks:
    """Disjoint networks that share one batch: nodes offsets[g] .. offsets[g + 1] - 1 belong to network g.

    Example:
        >>> import numpy as np
        >>> from batchednodes.topology import Networks
        >>> batch = Networks(offsets=np.array([0, 2, 5]), seeds=np.array([0, 1], np.uint64))
        >>> batch.network_of().tolist(), batch.index().tolist()
        ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
    """

    offsets: Int64[np.ndarray, " g1"]
    """First node of each network, and the number of nodes of all; g + 1 entries, increasing from 0, below 2^31."""
    seeds: UInt64[np.ndarray, " g"]
    """Seed of each network."""

    def __post_init__(self) -> None:
        assert self.offsets.size == self.seeds.size + 1 >= 2
        assert self.offsets[0] == 0
        assert self.offsets[-1] < 2**31
        assert (np.diff(self.offsets) > 0).all()

    @property
    def n(self) -> int:
        """Number of nodes of all networks."""
        return int(self.offsets[-1])

    @property
    def count(self) -> int:
        """Number of networks."""
        return self.seeds.size

    @property
    def sizes(self) -> Int64[np.ndarray, " g"]:
        """Number of nodes of each network."""
        return np.diff(self.offsets)

    def network_of(self) -> Int32[np.ndarray, " n"]:
        """Returns the network of each node."""
        return np.repeat(np.arange(self.count, dtype=np.int32), self.sizes)

    def index(self) -> Int64[np.ndarray, " n"]:
        """Returns the index of each node in its own network, which addresses its random draws."""
        return np.arange(self.n) - np.repeat(self.offsets[:-1], self.sizes)

    def slice(self, g: int) -> slice:
        """Returns the nodes of network g, 0 <= g < count, as a slice of the batch."""
        assert 0 <= g < self.count
        return slice(int(self.offsets[g]), int(self.offsets[g + 1]))

    def rows(self, nodes: Sequence[Sequence[int]]) -> Int64[np.ndarray, " k"]:
        """Returns the rows of some nodes of each network, which are given by their indices there."""
        pairs = zip(self.offsets[:-1], nodes, strict=True)
        return np.concatenate([first + np.array(some, np.int64) for first, some in pairs])


@dataclass(frozen=True, eq=False)
class PeerLists:
    """Whom each node of a batch may contact, in global node numbers."""

    start: Int64[np.ndarray, " n"]
    """First node of the node's network."""
    size: Int64[np.ndarray, " n"]
    """Number of nodes of the node's network."""
    complete: Bool[np.ndarray, " n"]
    """Whether the node may contact all others of its network; its list is then empty."""
    indptr: Int64[np.ndarray, " n1"]
    """Where the contacts of each node begin, and the end of the last; n + 1 entries."""
    indices: Int32[np.ndarray, " e"]
    """The contacts, sorted within each node."""
    share: Float64[np.ndarray, " n"]
    """Part of its contacts for which the node finds a peer; 0: it has nobody to contact."""
    choosers: Mapping[int, PeerSampler]
    """What chooses peers instead of the lists, which are then empty, by the first node of the network."""

    def lists(self) -> tuple[np.ndarray, ...]:
        """Returns the arrays in the order in which `peer` takes them."""
        return (self.start, self.size, self.complete, self.indptr, self.indices)

    def peers(
        self, time: Float64[np.ndarray, " e"], node: Int32[np.ndarray, " e"], bits: UInt64[np.ndarray, " e"]
    ) -> Int32[np.ndarray, " e"]:
        """Returns whom nodes of one network contact at some times [s], by 64 random bits each; -1: nobody."""
        first = int(self.start[node[0]]) if node.size else 0
        if first in self.choosers:
            other = self.choosers[first].peers(time, node - np.int32(first), bits)
            return np.where(other >= 0, other + np.int32(first), np.int32(-1))
        found, some = np.full(node.size, -1, np.int32), self.share[node] > 0
        if some.all():
            peers(node, bits, self.lists(), found)
        else:
            found[some] = self.peers(time[some], node[some], bits[some])
        return found

    def all_peers(self, node: Int32[np.ndarray, " e"]) -> tuple[Int64[np.ndarray, " m"], Int32[np.ndarray, " m"]]:
        """Returns all that some nodes may contact, entry by entry: the entry of each, and whom; without choosers.

        Example:
            >>> import numpy as np
            >>> from batchednodes.topology import Chain, Complete, Networks, stack
            >>> batch = Networks(offsets=np.array([0, 3, 6]), seeds=np.array([0, 1], np.uint64))
            >>> contacts = stack(batch, [Complete().graph(3, 0), Chain().graph(3, 1)])
            >>> [a.tolist() for a in contacts.all_peers(np.array([1, 4, 5], np.int32))]
            [[0, 0, 1, 1, 2], [0, 2, 3, 5, 4]]
        """
        listed = self.indptr[node + 1] - self.indptr[node]
        degree = np.where(self.complete[node], self.size[node] - 1, listed)
        entry = np.repeat(np.arange(node.size), degree)
        place = np.arange(entry.size) - np.repeat(np.cumsum(degree) - degree, degree)
        i, whole = node[entry], self.complete[node][entry]
        other = self.start[i] + place
        other += other >= i
        other[~whole] = self.indices[(self.indptr[i] + place)[~whole]]
        return entry, other.astype(np.int32)

    def choice(self) -> PeerTables:
        """Returns what chooses peers at any time, for `chosen`."""
        firsts = np.unique(self.start)
        return joined([self._rule(int(first)) for first in firsts], self.size[firsts].tolist())

    def _rule(self, first: int) -> PeerRule:
        if first in self.choosers:
            return self.choosers[first].rule()
        graph = self.graph(slice(first, first + int(self.size[first])))
        return PeerRule(COMPLETE) if graph is None else PeerRule(LISTED, graph.indptr, graph.indices)

    def graph(self, nodes: slice) -> Graph | None:
        """Returns whom each node of a network, given by its nodes in the batch, may ever contact; None: everyone."""
        if nodes.start in self.choosers:
            return self.choosers[nodes.start].union()
        if self.complete[nodes.start]:
            return None
        indptr = self.indptr[nodes.start : nodes.stop + 1]
        indices = self.indices[indptr[0] : indptr[-1]] - np.int32(nodes.start)
        return Graph(nodes.stop - nodes.start, indptr - indptr[0], indices, directed=True)

    def silent(self) -> Bool[np.ndarray, " n"]:
        """Returns the nodes that have nobody to contact."""
        return self.share == 0


def stack(networks: Networks, graphs: Sequence[Graph | PeerSampler | None]) -> PeerLists:
    """Returns the contact lists of all networks, with node numbers of the batch.

    Example:
        >>> import numpy as np
        >>> from batchednodes.topology import Complete, Networks, Ring, stack
        >>> batch = Networks(offsets=np.array([0, 3, 6]), seeds=np.array([0, 1], np.uint64))
        >>> contacts = stack(batch, [Complete().graph(3, 0), Ring().graph(3, 1)])
        >>> contacts.complete.tolist()
        [True, True, True, False, False, False]
        >>> contacts.indices.tolist()  # only the ring is stored, with the numbers of the batch
        [4, 5, 3, 5, 3, 4]

    Args:
        networks: the sizes.
        graphs: that of each network, of its size, or what chooses peers there; None: complete.
    """
    assert len(graphs) == networks.count
    degrees, indices, share = [], [], []
    for graph, size, first in zip(graphs, networks.sizes.tolist(), networks.offsets.tolist(), strict=False):
        degrees.append(graph.degrees if isinstance(graph, Graph) else np.zeros(size, np.int64))
        if isinstance(graph, Graph):
            indices.append(graph.indices + np.int32(first))
        made = (
            graph.share()
            if isinstance(graph, PeerSampler)
            else np.full(size, size > 1)
            if graph is None
            else degrees[-1] > 0
        )
        assert degrees[-1].size == made.size == size
        share.append(made.astype(float))
    indptr = np.zeros(networks.n + 1, np.int64)
    np.cumsum(np.concatenate(degrees), out=indptr[1:])
    start, size = (np.repeat(x, networks.sizes) for x in (networks.offsets[:-1], networks.sizes))
    complete = np.repeat([graph is None for graph in graphs], networks.sizes)
    lists = np.concatenate([np.zeros(0, np.int32), *indices])
    firsts = networks.offsets[:-1].tolist()
    choosers = {first: graph for first, graph in zip(firsts, graphs, strict=True) if isinstance(graph, PeerSampler)}
    return PeerLists(start, size, complete, indptr, lists, np.concatenate(share), choosers)


@njit(nogil=True, cache=True)
@no_type_check
def peer(node, bits, lists):  # noqa: ANN001, ANN201  (numba infers the types)
    """Maps 64 random bits to a uniformly random contact of a node; -1 if it has nobody. See `PeerLists.lists`.

    Example:
        >>> import numpy as np
        >>> from batchednodes.topology import Networks, Ring, peer, stack
        >>> batch = Networks(offsets=np.array([0, 5]), seeds=np.array([0], np.uint64))
        >>> lists = stack(batch, [Ring().graph(5, 0)]).lists()
        >>> [peer(0, np.uint64(bits), lists) for bits in (0, 2**63)]  # bits choose one of 1 and 4
        [1, 4]
    """
    start, size, complete, indptr, indices = lists
    if complete[node]:
        others = size[node] - 1
        j = start[node] + below(bits, others)
        found = j + 1 if j >= node else j  # skips the node itself
    else:
        first = indptr[node]
        others = indptr[node + 1] - first
        found = np.int64(-1)
        if others > 0:
            found = np.int64(indices[first + below(bits, others)])
    return found if others > 0 else np.int64(-1)


@njit(nogil=True, cache=True)
@no_type_check
def peers(nodes, bits, lists, out):  # noqa: ANN001, ANN201
    """Writes a uniformly random contact of each node; all of them are of one network, and have someone to contact."""
    start, size, complete, _, _ = lists
    if nodes.size == 0:
        return
    if not complete[nodes[0]]:
        for e in range(nodes.size):
            out[e] = peer(nodes[e], bits[e], lists)
        return
    first, others = int32(start[nodes[0]]), size[nodes[0]] - 1
    for e in range(nodes.size):  # the same as `peer`, in vector instructions
        j = first + int32(unit(bits[e]) * others)
        out[e] = j + (j >= nodes[e])
