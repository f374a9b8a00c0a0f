r"""Any algorithm, one event at a time: by its own independent `event_`, or by its methods on one row.

Notation: i the node that acts or sends, j the one that receives, w weight of what it receives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from batchednodes.algorithms import robust_reference
from batchednodes.algorithms.base import Context, Rows, Step
from batchednodes.algorithms.edge_rows import EdgeRows
from batchednodes.algorithms.known import Nodes
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.mixing.rounds import RoundMatrices
from batchednodes.algorithms.reference import Reference
from batchednodes.algorithms.round_step import asked_by, mix_round_, newest_
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.events.timeline import MEET, PULL, PUSH, ROUND, SPLIT, UPDATE, Events


@dataclass(frozen=True)
class Event:
    """One event, as the independent form of an algorithm sees it."""

    kind: int
    """UPDATE; PUSH or SPLIT, from the actor to the peer; MEET; or ROUND."""
    actor: int
    """Row that is updated, or sends."""
    peer: int
    """Row that receives; of a meeting, the other one."""
    weight: Tensor
    """w of a contact; dimensionless."""
    time: float
    """Instant [s]."""
    copies: bool = False
    """Whether the row that receives stands for a message under way, and is overwritten."""
    nodes: slice = field(default_factory=lambda: slice(0, 0))
    """Rows that a round mixes."""
    matrix: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """W of a round [n, n]."""
    edges: EdgeRows | None = None
    """Where fields lie that live on edges."""
    known: Nodes | None = None
    """What does not change of all nodes: their numbers, the size of each one's network, ..."""
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """What the algorithm's `constants` says of each node's network [n], by name."""
    origin: int = -1
    """Of a contact the node whose model the actor's row is, or was when it was sent: that row may be a slot."""
    draws: Callable[[Tensor, int, int], Tensor] = field(default=lambda *_: torch.zeros(0))
    """Returns numbers in (0, 1) for some nodes, given stream and size, as `Context.uniform` does."""
    number: int = -1
    """Number of a round."""
    loss: Callable[[int, Tensor], Tensor] = field(default=lambda *_: torch.zeros(()))
    """Returns the mean loss of a model over all examples of a node, as `Context.loss` does."""


@dataclass(frozen=True)
class OneByOne:
    """An algorithm's choices, executed event by event in time order."""

    reference: Reference
    rowwise: Rowwise
    rounds: RoundMatrices | None
    independent: bool
    """Whether independent forms, the algorithm's own `event_` for one, say what an event does; else its methods on one
    row do."""

    @property
    def layout(self) -> Any:
        """Where the versions of each node lie."""
        return self.reference.layout

    def event_(self, state: State, events: Events, k: int) -> None:
        """Runs event k of a window."""
        kind, actor, peer = (int(column[k]) for column in (events.kind, events.actor, events.peer))
        time = float(events.time[k])
        if kind == UPDATE:
            self._update_(state, actor, actor if peer < 0 else peer, int(events.count[k]), time)
        elif kind == ROUND:
            self._round_(state, actor, int(events.count[k]), time)
        else:
            self._contact_(state, events, k, kind, actor, peer, time)

    def _update_(self, state: State, r: int, i: int, count: int, time: float) -> None:
        if self.independent and hasattr(self.rowwise.algorithm, "event_"):
            one = _One(self.reference, state, r, i, count, time)
            self._event_(state, Event(UPDATE, r, r, torch.ones(()), time), one)
            loss = one.loss
        else:
            examples = self.reference.problem.draw(np.array([i]), np.array([count]))
            row, node, number = (torch.tensor([a], device=state.x.device) for a in (r, i, count))
            at = torch.tensor([time], dtype=torch.float64, device=state.x.device)
            made, losses = self.rowwise.updated(state, row, node, at, number, examples)
            self.rowwise.write_(state, row, made, updated=np.array([i]))
            loss = losses[0]
        if self.reference.quarantine and not state.x[r].isfinite().all():
            loss = loss * torch.nan
        self.reference.note_(state, i, loss, time)

    def _contact_(self, state: State, events: Events, k: int, kind: int, actor: int, peer: int, time: float) -> None:
        i, j = (peer, actor) if kind == PULL else (actor, peer)
        message, copies = events.message, j >= state.nodes
        w = self.reference.weight[actor] if message is None else torch.tensor(message.weight[k]).to(state.x)
        if not copies and self._cut(state, events, k, kind, i, j):
            return
        origin = i if kind == MEET or message is None else int(message.node[k])
        silent = self.reference.silent
        if one_sided := kind == MEET and (i in silent or j in silent):
            (i, j), kind = ((j, i) if i in silent else (i, j)), PUSH  # what is left of it
            origin = i
        if not copies and origin in silent:
            return
        if copies and kind != SPLIT:
            state.x[j] = state.x[i]
            for name in state.travels & state.fields.keys():
                state.fields[name][j] = state.fields[name][i]
        elif self.independent and self.rowwise.robust is not None:
            sides = ((i, i, j), (j, j, i)) if kind == MEET else ((i, origin, j),)
            robust_reference.contact_(self.rowwise, self.rowwise.robust, state, sides, w, time)
        elif self.independent and one_sided:  # a form of meetings need not know of it; nothing but means is let silent
            mixed, mean = self.reference.mixed(j, i), (1 - w) * state.x[j] + w * state.x[i]
            state.x[j] = mean if mixed is None else torch.where(mixed.to(mean.device), mean, state.x[j])
        elif self.independent:
            event = Event(PUSH if kind == PULL else kind, i, j, w, time, copies, origin=origin)
            before = self._rows(state, [i, j])
            self._event_(state, event, None)
            mixed = None if copies else self.reference.mixed(j, origin)
            if mixed is not None and self.rowwise.personal is not None:
                made = self.rowwise.personal.kept(self._rows(state, [i, j]), before, mixed.expand(2, -1))
                self._put_(state, [i, j], made)
        else:
            self.rowwise.mix_(state, self._line(state, events, k, kind, (i, j, origin), w), "sparse")
        width = self.reference.width_of(events, k, actor)
        before = self.reference.row(state, j, width).clone()
        self.reference.merge_(state, j, i, width, time)
        if kind == MEET:
            self.reference.merge_(state, i, j, width, time, before)

    def _cut(self, state: State, events: Events, k: int, kind: int, i: int, j: int) -> bool:
        """Returns whether a contact does nothing, since one of its nodes is cut off, or was when it sent."""
        if not self.reference.quarantine:
            return False
        if events.message is None:
            return bool(state.diverged_at[[i, j]].isfinite().any())
        origin = i if kind == MEET else int(events.message.node[k])
        return self.reference.cut(state, j, origin, float(events.message.sent[k]))

    def _line(
        self, state: State, events: Events, k: int, kind: int, rows: tuple[int, int, int], w: Tensor
    ) -> GossipPhase:
        """Returns one contact as a phase of its own; rows: the one that is read, the one that changes, the origin."""
        i, j, origin = rows
        receivers, senders = ([i, j], [j, i]) if kind == MEET else ([j], [i])
        size, message, sent, part = len(receivers), events.message, None, None

        def column(values: list[int] | list[float], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=state.x.device)

        actors = senders
        if message is not None:
            actors = senders if kind == MEET else [origin]
            sent = column([float(message.sent[k])] * size, torch.float64)
            part = column([int(message.part[k])] * size)
        nodes = (column(receivers), column(senders), column(actors))
        times = column([float(events.time[k])] * size, torch.float64)
        return GossipPhase(*nodes, w.expand(size), times, np.array([0, size]), state.nodes, kind == MEET, sent, part)

    def _round_(self, state: State, first: int, k: int, time: float) -> None:
        assert self.rounds is not None
        g = int(self.layout.network[first])
        matrix, nodes, asked = self.rounds.of(g, k), slice(first, first + int(self.layout.sizes[g])), None
        dense = matrix.dense(nodes.stop - nodes.start).to(state.x.dtype) if self.independent else torch.zeros(0, 0)
        if self.independent and self.rowwise.robust is not None:
            robust_reference.round_(self.rowwise, self.rowwise.robust, state, nodes, dense, time)
        elif self.independent:
            at = torch.tensor([time], dtype=torch.float64, device=state.x.device)
            k_ = self.rowwise.contact({}, torch.tensor([first], device=state.x.device), at)
            asked = asked_by(self.rowwise, state, nodes, matrix, (k, time))
            event = Event(ROUND, first, first, torch.ones(()), time, nodes=nodes, matrix=dense, number=k)
            self._apart_(state, event, k_)
        else:
            asked = mix_round_(self.rowwise, state, nodes, matrix, (k, time), apart=True)
        if self.layout.widths[g]:
            newest_(state, self.layout.block(state.versions, g), nodes, (matrix, asked), time)

    def _apart_(self, state: State, event: Event, one: Context) -> None:
        """Makes a round as often as there are entries that other nodes mix, each time by the W of these nodes."""
        personal, rows = self.rowwise.personal, [*range(event.nodes.start, event.nodes.stop)]
        if personal is None:
            self._event_(state, event, one)
            return
        before, made = self._rows(state, rows), self._rows(state, rows)
        for kinds in np.unique(personal.mixes[:, personal.mixes.any(0)], axis=1).T:
            some = torch.from_numpy(kinds[personal.kind[rows]]).to(event.matrix)
            among = some.unsqueeze(1) * event.matrix * some
            among = event.matrix if some.all() else among + torch.diag(1 - among.sum(1))
            self._event_(state, replace(event, matrix=among), one)
            theirs = torch.from_numpy(np.repeat((kinds == personal.mixes.T).all(1), personal.sizes))
            made = personal.kept(self._rows(state, rows), made, theirs.to(personal.where).expand(len(rows), -1))
            self._put_(state, rows, before)
        self._put_(state, rows, made)

    def _rows(self, state: State, rows: list[int]) -> Rows:
        """Returns what lies in some rows, as copies; nothing where all entries are mixed."""
        found = {} if self.rowwise.personal is None else self.rowwise.all_rows(state)
        return {name: value[rows] for name, value in found.items() if len(value) > max(rows)}

    def _put_(self, state: State, rows: list[int], made: Rows) -> None:
        """Writes the fields of some rows."""
        found = self.rowwise.all_rows(state)
        for name, value in made.items():
            found[name][rows] = value

    def _event_(self, state: State, event: Event, one: "_One | Context | None") -> None:
        at = torch.tensor([event.time], dtype=torch.float64, device=state.x.device)

        def draws(nodes: Tensor, stream: int, size: int) -> Tensor:
            return self.rowwise.contact({}, nodes, at.expand(nodes.shape)).uniform(stream, size)

        known = {"edges": self.rowwise.edges, "known": self.rowwise, "constants": self.rowwise.constants}
        known["loss"] = self.reference.own_loss
        event = replace(event, draws=draws, **known)
        act = getattr(self.rowwise.algorithm, "event_")  # noqa: B009  (not all algorithms have it)
        act(self.rowwise.all_rows(state), event, one)


@dataclass
class _One:
    """What the independent form of an update may ask for."""

    reference: Reference
    state: State
    row: int
    node: int
    count: int
    time: float
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def lr(self) -> Tensor:
        """Step size of the node."""
        return self.reference.rates.lr.new_tensor(self.reference.step_size(self.node, self.count, self.time))

    @property
    def steps(self) -> int:
        """Minibatch steps of the update."""
        examples = self.reference.problem.draw(np.array([self.node]), np.array([self.count]))
        random = self.reference.problem.sampler.expected is not None  # then a minibatch may be empty
        return examples.shape[1] if random else int((examples[0, :, 0] >= 0).sum())

    def descend(self, x: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Returns what local SGD makes of a model."""
        made, self.loss = self.reference.trained(self.state, x.clone(), self.row, self.node, self.count, self.time)
        return made

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the fields that `descend` keeps."""
        return self.reference.rates.keeps

    @property
    def owned(self) -> int:
        """Examples that the node owns."""
        return int(self.reference.problem.sampler.sizes[self.node])

    def grad(self, x: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Returns the gradient of the mean loss of all minibatches at a model."""
        g, self.loss = self.reference.gradient(x, self.node, self.count)
        return g

    def descend_by(self, x: Float[Tensor, " p"], step: Step) -> Float[Tensor, " p"]:
        """Returns what the minibatches make of a model by steps of the algorithm's own, see `Context.descend_by`."""
        for s in range(self.steps):

            def grad(y: Tensor, s: int = s) -> Tensor:
                g, self.loss = self.reference.gradient(y, self.node, self.count, slice(s, s + 1))
                return g

            x = step(x, grad)
        return x
