r"""The directed edges of all networks, for what nodes keep of each of their neighbours.

Edge (i, j) is what node i keeps of j: its rows belong to i, as the row of its model does. There is one in each
direction for all that may be in contact, whichever of them makes it.

Notation: n nodes of all networks, m directed edges, w rows of a wave, d largest number of neighbours.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from batchednodes.algorithms.mixing.rounds import RoundMatrix
from batchednodes.numerics import devices
from batchednodes.numerics.memory import send
from batchednodes.topology import Networks, PeerLists, RoundWeights


@dataclass(frozen=True, eq=False)
class EdgeRows:
    """Where the rows of each directed edge lie in fields that live on edges: node by node, then by neighbour."""

    begins: Int64[Tensor, " n1"]
    """Number of the first edge of each node, and m."""
    keys: Int64[Tensor, " m"]
    """i n + j of each edge, in increasing order."""
    most: int
    """d."""
    weights: Float[Tensor, " m"] | None = None
    """W of the other node of each edge, where contacts are with all neighbours; None: elsewhere."""
    host: "EdgeRows | None" = None
    """The same on the host, where these are on another device."""
    rounds: "dict[tuple[int, bool], tuple[RoundMatrix, RoundEdges]]" = field(default_factory=dict)
    """What rounds have made of them for the W they had last, by the first node and whether W is of several networks."""
    place: Int64[Tensor, " m"] | None = None
    """Where the row of each edge lies, of those that `settle_` was given last; None: edge k has row k."""

    @staticmethod
    def of(contacts: PeerLists, networks: Networks, device: torch.device) -> "EdgeRows":
        """Returns the edges of graphs that do not change, on a device."""
        n, parts = networks.n, list[np.ndarray]()
        for g in range(networks.count):
            nodes = networks.slice(g)
            graph, size = contacts.graph(nodes), nodes.stop - nodes.start
            if graph is None:
                i, j = np.divmod(np.arange(size * size), size)
                i, j = i[i != j], j[i != j]
            else:
                i, j = np.repeat(np.arange(size), graph.degrees), graph.indices.astype(np.int64)
            i, j = i + nodes.start, j + nodes.start
            parts += [i * n + j, j * n + i]
        keys = np.unique(np.concatenate(parts))
        begins = np.searchsorted(keys, np.arange(n + 1) * n)
        most = int(np.diff(begins).max(initial=0))
        made = EdgeRows(torch.from_numpy(begins), torch.from_numpy(keys), most)
        return EdgeRows(send(begins, device), send(keys, device), most, host=made) if devices.is_cuda(device) else made

    @property
    def here(self) -> "EdgeRows":
        """The same on the host: what is asked of them waits for no device."""
        return self if self.host is None else self.host

    def weighed(
        self, shares: Sequence[RoundWeights | None], networks: Networks, like: Float[Tensor, " _"]
    ) -> "EdgeRows":
        """Returns the same edges with their weights, as the numbers of a tensor are.

        Args:
            shares: how much each neighbour counts in each network; None: nothing.
            networks: the networks.
            like: a tensor of the type of the models, on their device.
        """
        i, j = np.divmod(self.here.keys.numpy(), networks.n)
        found, network = np.zeros(i.size), networks.network_of()[i]
        for g, one in enumerate(shares):
            if one is not None:
                some, first = network == g, int(networks.offsets[g])
                w = one.matrix(0)
                found[some] = 1 / one.n if w is None else np.asarray(w[i[some] - first, j[some] - first]).ravel()
        return replace(self, weights=torch.from_numpy(found).to(like))

    @property
    def count(self) -> int:
        """M."""
        return self.keys.numel()

    def counts(self, networks: Networks) -> tuple[int, ...]:
        """Returns the directed edges of each network."""
        return tuple(np.diff(self.here.begins.numpy()[networks.offsets]).tolist())

    @functools.cached_property
    def even(self) -> bool:
        """Whether all nodes have d neighbours."""
        return bool((self.here.begins.diff() == self.most).all())

    def number(self, nodes: Int64[Tensor, "*w"], others: Int64[Tensor, "*w"]) -> Int64[Tensor, "*w"]:
        """Returns the numbers of edges (i, j), which there are."""
        return torch.searchsorted(self.keys, nodes * (self.begins.numel() - 1) + others)

    def around(self, nodes: Int64[Tensor, " w"]) -> tuple[Int64[Tensor, "w d"], Bool[Tensor, "w d"]]:
        """Returns the numbers of all edges of some nodes, and which of them there are; the others are 0."""
        places = torch.arange(self.most, device=nodes.device)
        here = places < (self.begins[nodes + 1] - self.begins[nodes]).unsqueeze(1)
        return torch.where(here, self.begins[nodes].unsqueeze(1) + places, 0), here

    def lie(self, numbers: Int64[Tensor, "*w"]) -> Int64[Tensor, "*w"]:
        """Returns where the rows of some edges lie."""
        return numbers if self.place is None else self.place[numbers]

    def apart(self) -> "EdgeRows":
        """Returns the same edges with rows elsewhere, see `settle_`."""
        host = None if self.host is None else self.host.apart()
        return replace(self, place=torch.zeros_like(self.keys), host=host)

    def settle_(self, numbers: Int64[Tensor, " k"]) -> None:
        """Says that the rows of some edges, given on the host, lie one after the other, from 0 on."""
        for edges in (self,) if self.host is None else (self, self.host):
            assert edges.place is not None
            device = edges.keys.device
            edges.place.index_copy_(0, send(numbers, device), torch.arange(numbers.numel(), device=device))

    def in_round(self, nodes: slice, matrix: RoundMatrix) -> "RoundEdges":
        """Returns the edges of the nodes of one network in a round, or of several side by side."""
        key = nodes.start, bool(matrix.blocks)
        known = self.rounds.get(key)
        if known is not None and known[0] is matrix:
            return known[1]
        made = self._of_several(nodes.start, matrix) if matrix.blocks else self._of_one(nodes, matrix)
        self.rounds[key] = matrix, made
        return made

    def _of_several(self, first: int, matrix: RoundMatrix) -> "RoundEdges":
        """Returns those of the networks of a block-diagonal W, the first of which begins at some node."""
        parts = list[RoundEdges]()
        for block in matrix.blocks:
            assert block.matrix is not None
            nodes = slice(first, first + block.matrix.shape[0])
            one, before = self.in_round(nodes, block), sum(len(part.index) for part in parts)
            parts.append(replace(one, back=torch.where(one.here, one.back + before * self.most, 0)))
            first = nodes.stop
        return RoundEdges(*(torch.cat([getattr(part, name.name) for part in parts]) for name in fields(RoundEdges)))

    def _of_one(self, nodes: slice, matrix: RoundMatrix) -> "RoundEdges":
        """Returns those of one network."""
        at, rows = self.here, torch.arange(nodes.start, nodes.stop)
        index, here = at.around(rows)
        other = torch.where(here, at.keys[index] % (at.begins.numel() - 1), rows.unsqueeze(1))
        place = at.number(other, rows.unsqueeze(1).expand_as(other)) - at.begins[other]
        back = torch.where(here, (other - nodes.start) * self.most + place, 0)
        weights = matrix.of_edges(other - nodes.start, here)
        index, here, back, others = (send(a, self.keys.device) for a in (index, here, back, other - nodes.start))
        return RoundEdges(index, here, back, others, weights)


@dataclass(frozen=True, eq=False)
class RoundEdges:
    """The edges of all nodes of a network in a round: [n, d], node by node, then by neighbour."""

    index: Int64[Tensor, "n d"]
    """Where the row of each lies."""
    here: Bool[Tensor, "n d"]
    """Which of them there are."""
    back: Int64[Tensor, "n d"]
    """Place of the edge in the other direction, among all n d."""
    others: Int64[Tensor, "n d"]
    """Number of the neighbour in its network; of one that is not there, of the node."""
    weights: Float[Tensor, "n d"]
    """W of the neighbour; 0: nothing comes from it."""

    def delivered(self, sent: Float[Tensor, "n d width"]) -> Float[Tensor, "n d width"]:
        """Returns what comes to each node from each neighbour, given what each sends to each; 0 if nothing does."""
        came = sent.flatten(0, 1)[self.back.flatten()].view_as(sent)
        return torch.where((self.weights != 0).unsqueeze(2), came, 0)

    def of(self, rows: slice) -> "RoundEdges":
        """Returns those of some nodes."""
        parts = (self.index, self.here, self.back, self.others, self.weights)
        return RoundEdges(*(part[rows] for part in parts))
