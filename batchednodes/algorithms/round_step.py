r"""The mixing of a synchronous round: what all nodes emit, what comes to each of it, and what each makes of that.

What is emitted under the name of a field on edges goes to the neighbour of each edge; under that of a field in an
inbox, to all whom W lets take it; everything else is mixed by W, or by `Algorithm.gather`.

Notation: n nodes of a network, d places of neighbours, W gossip matrix.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from batchednodes.algorithms.base import Algorithm, Rows
from batchednodes.algorithms.edge_rows import RoundEdges
from batchednodes.algorithms.known import Contact
from batchednodes.algorithms.mixing.rounds import RoundMatrix
from batchednodes.algorithms.robust import Robust
from batchednodes.algorithms.rowwise import Rowwise, around
from batchednodes.algorithms.state import State


def mix_round_(
    rowwise: Rowwise, state: State, nodes: slice, matrix: RoundMatrix, time: float, apart: bool = False
) -> None:
    """Mixes all rows of a network in place.

    Args:
        rowwise: the algorithm.
        state: changed.
        nodes: of the network.
        matrix: W of the round.
        time: at its end [s].
        apart: whether methods get one row after the other, which gives the same.
    """
    if rowwise.robust is not None:
        _gather_(rowwise, rowwise.robust, state, nodes, matrix, time)
        return
    if rowwise.algorithm.linear():
        state.x[nodes].copy_(matrix.times(state.x[nodes]))
        return
    rows = torch.arange(nodes.start, nodes.stop, device=state.x.device)
    edges = None if rowwise.edges is None else rowwise.edges.in_round(nodes, matrix)
    step, r = _Step(rowwise, rows, edges, time, apart), rowwise.rows(state, rows)
    if edges is not None:
        r |= around(state, edges.index, edges.here)
    shapes = {name: value.shape[1:] for name, value in r.items()}

    def emit(some: Rows, _: slice, k: Contact) -> Rows:
        rowwise.flow_(some, k)
        return rowwise.emitted(some, k)

    emitted, r = step.each(r, emit)
    mixed = _delivered(rowwise.algorithm, state, nodes, emitted, matrix, edges)

    def absorb(some: Rows, part: slice, k: Contact) -> Rows:
        rowwise.algorithm.absorb_(some, {name: value[part] for name, value in mixed.items()}, k)
        rowwise.check(
            some, {name: torch.Size((some["x"].shape[0], *shape)) for name, shape in shapes.items()}, "absorb_"
        )
        rowwise.note(some, step.times[part])
        return {}

    _, r = step.each(r, absorb)
    rowwise.write_(state, rows, r, updated=np.arange(nodes.start, nodes.stop))


def _gather_(rowwise: Rowwise, robust: Robust, state: State, nodes: slice, matrix: RoundMatrix, time: float) -> None:
    """Mixes all rows of a network robustly, or where some nodes lie."""
    rows = torch.arange(nodes.start, nodes.stop, device=state.x.device)
    r, times = rowwise.rows(state, rows), torch.full(rows.shape, time, dtype=torch.float64, device=rows.device)
    k = rowwise.contact(r, rows, times)
    rowwise.write_(state, rows, r | robust.gathered(rowwise.algorithm.emit_(r, k), nodes, matrix, k))


@dataclass(frozen=True, eq=False)
class _Step:
    """Who mixes, and when."""

    rowwise: Rowwise
    rows: Int64[Tensor, " n"]
    edges: RoundEdges | None
    time: float
    apart: bool

    @property
    def times(self) -> Tensor:
        """The instant, for each row [s]."""
        return torch.full((self.rows.numel(),), self.time, dtype=torch.float64, device=self.rows.device)

    def each(self, r: Rows, act: Callable[[Rows, slice, Contact], Rows]) -> tuple[Rows, Rows]:
        """Returns what a method makes of all rows, and these as it leaves them."""
        found, left = list[Rows](), list[Rows]()
        for part in [slice(k, k + 1) for k in range(self.rows.numel())] if self.apart else [slice(None)]:
            some = {name: value[part] for name, value in r.items()}
            edges = None if self.edges is None else self.edges.of(part)
            found.append(act(some, part, _Round(self.rowwise, some, self.rows[part], self.times[part], edges)))
            left.append(some)
        return _joined(found), _joined(left)


def _joined(parts: Iterable[Rows]) -> Rows:
    several = list(parts)
    return several[0] if len(several) == 1 else {name: torch.cat([one[name] for one in several]) for name in several[0]}


def _delivered(
    algorithm: Algorithm, state: State, nodes: slice, emitted: Rows, matrix: RoundMatrix, edges: RoundEdges | None
) -> Rows:
    """Returns what comes to each node; what goes into inboxes is added up there."""
    for name in algorithm.living("inbox"):
        inbox = state.fields[name][nodes]
        inbox += matrix.received(emitted.pop(name).to(inbox.dtype))
    mixed: Rows = {}
    if edges is not None:
        sent = [name for name in algorithm.living("edge") if name in emitted]
        mixed = {name: edges.delivered(emitted.pop(name)) for name in sent}
    if type(algorithm).gather is Algorithm.gather:
        return mixed | {name: matrix.times(value) for name, value in emitted.items()}
    others, weights, here = matrix.around(nodes.stop - nodes.start)
    return mixed | algorithm.gather(emitted, {name: value[others] for name, value in emitted.items()}, weights, here)


class _Round(Contact):
    """What a round may know of its rows."""

    def __init__(self, all_: Rowwise, r: Rows, nodes: Tensor, times: Tensor, edges: RoundEdges | None) -> None:
        super().__init__(all_, r, nodes, times.unsqueeze(1))
        self.edges = edges

    @property
    def neighbours(self) -> Tensor:
        return self._edges.here

    @property
    def weights(self) -> Tensor:
        return self._edges.weights

    @property
    def _edges(self) -> RoundEdges:
        if self.edges is None:
            raise ValueError("neighbours are known to algorithms with fields that live on edges")
        return self.edges
