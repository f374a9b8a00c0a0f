r"""The mixing of a synchronous round: what all nodes emit, what comes to each of it, and what each makes of that.

What is emitted under the name of a field on edges goes to the neighbour of each edge; under that of a field in an
inbox, to all whom W lets take it; everything else is mixed by W, or by `Algorithm.gather`, or handed to those who ask.
A second exchange mixes what `mixes_after` names, as it then is.

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
from batchednodes.algorithms.robust import NUMBERS, Robust
from batchednodes.algorithms.rowwise import Rowwise, around
from batchednodes.algorithms.state import State
from batchednodes.numerics import devices


def mix_round_(
    rowwise: Rowwise, state: State, nodes: slice, matrix: RoundMatrix, at: tuple[int, float], apart: bool = False
) -> Int64[Tensor, "n s"] | None:
    """Mixes all rows of a network in place.

    Args:
        rowwise: the algorithm.
        state: changed.
        nodes: of the network.
        matrix: W of the round.
        at: number of the round, and the time at its end [s].
        apart: whether methods get one row after the other, which gives the same.

    Returns:
        Whom each node has asked, by their numbers in the network, its own for nobody; None: that is what W says.
    """
    if rowwise.robust is not None:
        _gather_(rowwise, rowwise.robust, state, nodes, matrix, at[1])
        return None
    if rowwise.algorithm.linear():
        for some in rowwise.shared:
            some.round_(state.x, nodes, matrix)
        return None
    step, r = _Step.begin(rowwise, state, nodes, matrix, at, apart)
    before = dict(r)

    def emit(some: Rows, _: slice, k: Contact) -> Rows:
        rowwise.flow_(some, k)
        return rowwise.emitted(some, k)

    emitted, r = step.each(r, emit)
    asks = step.asks(r)
    mixed = _delivered(rowwise.algorithm, state, nodes, emitted, matrix, step.edges) if asks is None else {}

    def absorb(some: Rows, part: slice, k: Contact) -> Rows:
        came = {name: value[part] for name, value in mixed.items()}
        if asks is not None:
            came = {name: value[asks["who"][part]] for name, value in emitted.items()} | {"asked": asks["asked"][part]}
        rowwise.algorithm.absorb_(some, came, k)
        rowwise.check(some, {name: value[part] for name, value in before.items()}, "absorb_")
        rowwise.note(some, step.times[part])
        return {}

    _, r = step.each(r, absorb, None if asks is None else asks["who"].shape[1])
    r |= {name: matrix.times(r[name]) for name in rowwise.algorithm.mixes_after}
    if rowwise.personal is not None:
        r = rowwise.personal.kept(r, before, rowwise.personal.both(step.rows, step.rows))
    rowwise.write_(state, step.rows, r, updated=np.arange(nodes.start, nodes.stop))
    return None if asks is None else asks["who"]


def asked_by(
    rowwise: Rowwise, state: State, nodes: slice, matrix: RoundMatrix, at: tuple[int, float]
) -> Int64[Tensor, "n s"] | None:
    """Returns whom each node asks in a round, which changes nothing; arguments and result: see `mix_round_`."""
    if not rowwise.algorithm.asks_some():
        return None
    step, r = _Step.begin(rowwise, state, nodes, matrix, at, apart=True)
    asks = step.asks(r)
    assert asks is not None
    return asks["who"]


def newest_(
    state: State, versions: Tensor, nodes: slice, heard: tuple[RoundMatrix, Int64[Tensor, "n s"] | None], time: float
) -> None:
    """Gives the versions of a network, a view, those that a round mixes into them, and takes note of the gains.

    Args:
        state: changed.
        versions: changed.
        nodes: of the network.
        heard: W of the round, and whom each node asks; None: all whom W mixes into its row.
        time: at its end [s].
    """
    matrix, asked = heard
    new = matrix.newest(versions) if asked is None else versions.clone()
    for others in () if asked is None else asked.T:
        new = torch.maximum(new, versions.index_select(0, others))
    state.gained[nodes] += time * (new.sum(1, dtype=torch.int64) - versions.sum(1, dtype=torch.int64))
    versions.copy_(new)


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
    number: int
    time: float
    apart: bool

    @staticmethod
    def begin(
        rowwise: Rowwise, state: State, nodes: slice, matrix: RoundMatrix, at: tuple[int, float], apart: bool
    ) -> "tuple[_Step, Rows]":
        """Returns the step of a round, and all rows before it; arguments: see `mix_round_`."""
        rows = torch.arange(nodes.start, nodes.stop, device=state.x.device)
        edges = None if rowwise.edges is None else rowwise.edges.in_round(nodes, matrix)
        r = rowwise.rows(state, rows)
        if edges is not None:
            r |= around(state, edges.index, edges.here)
        return _Step(rowwise, rows, edges, *at, apart), r

    def asks(self, r: Rows) -> Rows | None:
        """Returns whom each row asks, as places ("asked") and as in `mix_round_` ("who"); None: W says it."""
        if not self.rowwise.algorithm.asks_some():
            return None

        def ask(some: Rows, part: slice, k: Contact) -> Rows:
            places = self.rowwise.algorithm.asks(some, k)
            assert self.edges is not None  # the settings were checked
            others = self.edges.others[part].gather(1, places.clamp(min=0))
            own = torch.arange(self.rows.numel(), device=places.device)[part].unsqueeze(1)
            return {"asked": places, "who": torch.where(places >= 0, others, own)}

        return self.each(r, ask)[0]

    @property
    def times(self) -> Tensor:
        """The instant, for each row [s]."""
        return torch.full((self.rows.numel(),), self.time, dtype=torch.float64, device=self.rows.device)

    def each(
        self, r: Rows, act: Callable[[Rows, slice, Contact], Rows], models: int | None = None
    ) -> tuple[Rows, Rows]:
        """Returns what a method makes of all rows, and these as it leaves them.

        Args:
            r: all rows.
            act: the method.
            models: how many it is given for each row, which bounds the rows it gets at once; None: it gets all.
        """
        found, left, n = list[Rows](), list[Rows](), self.rows.numel()
        bound = (
            n if models is None else max(1, NUMBERS[devices.kind(self.rows.device)] // max(1, models * self.rowwise.p))
        )
        size = 1 if self.apart else bound
        for part in [slice(first, first + size) for first in range(0, n, size)]:
            some = {name: value[part] for name, value in r.items()}
            edges = None if self.edges is None else self.edges.of(part)
            k = _Round(self.rowwise, some, (self.rows[part], self.times[part]), edges, self.number)
            found.append(act(some, part, k))
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

    def __init__(
        self, all_: Rowwise, r: Rows, who: tuple[Tensor, Tensor], edges: RoundEdges | None, number: int
    ) -> None:
        nodes, times = who
        super().__init__(all_, r, nodes, times.unsqueeze(1))
        self.edges, self.turn = edges, number

    @property
    def round(self) -> int:
        return self.turn

    @property
    def neighbours(self) -> Tensor:
        return self._edges.here

    @property
    def others(self) -> Tensor:
        return self._edges.others

    @property
    def weights(self) -> Tensor:
        return self._edges.weights

    @property
    def _edges(self) -> RoundEdges:
        if self.edges is None:
            raise ValueError("neighbours are known to algorithms with fields that live on edges")
        return self.edges
