r"""An algorithm's methods on rows: gathered from the state, given to the method with their context, and written back.

Serial is the same with one row: what a method does to a row depends on that row and on numbers with addresses.

Notation: w rows, p parameters, e lines of a wave, i sender, j receiver, x models, W gossip matrix.
"""

import functools
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms import over_ranks
from batchednodes.algorithms.base import Algorithm, Context, Rows
from batchednodes.algorithms.contacts import Contacts, copied
from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.edge_rows import EdgeRows
from batchednodes.algorithms.fields import Field, columns
from batchednodes.algorithms.known import Contact, Nodes, Update
from batchednodes.algorithms.mixing import Kernel, mix_, split
from batchednodes.algorithms.mixing.personal import Personal, SharedColumns
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.robust import Robust
from batchednodes.algorithms.state import State
from batchednodes.numerics.memory import send
from batchednodes.numerics.rows import write_


@dataclass(frozen=True, eq=False)
class Rowwise(Nodes):
    """An algorithm, and what its methods may know of nodes."""

    algorithm: Algorithm
    edges: EdgeRows | None = None
    """Where fields lie that live on edges; None: there are none."""
    robust: Robust | None = None
    """Who attacks, and how robustly models are merged; None: nobody, and they are averaged."""
    personal: Personal | None = None
    """Which entries nodes mix; None: all."""
    fused: "dict[bool, Callable[[State, Contacts], None]]" = field(default_factory=dict)
    """What makes pushes, or meetings (True), in one compiled loop, where there is such; see `fused`."""
    fused_update: "list[Callable[[State, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]]" = field(
        default_factory=list
    )
    """What updates rows in one, as `updated` does, where they lie; see `fused_update`."""
    cut: Cut | None = None
    """How tensors are cut over ranks; None: this process has all."""

    # ------------------------------------------------------------------------------------------------------- updates

    def updated(
        self,
        state: State,
        rows: Int64[Tensor, " w"],
        nodes: Int64[Tensor, " w"],
        times: Float64[Tensor, " w"],
        counts: Int64[Tensor, " w"],
        examples: Int64[Tensor, "w s b"],
    ) -> tuple[Rows, Float[Tensor, " w"]]:
        """Returns what an update makes of some rows, which stay as they are, and the losses that it saw."""
        hidden = {name for name, one in self.declared.items() if not one.seen}
        r, here, weights = self.rows(state, rows, hidden=hidden), None, None
        r |= {name: state.fields[name].index_select(0, rows) for name in self.algorithm.living("inbox")}
        if self.edges is not None and state.on_edges - hidden:
            index, here = self.edges.around(nodes)
            r |= around(state, self.edges.lie(index), None if self.edges.even else here, hidden)
            weights = None if self.edges.weights is None else torch.where(here, self.edges.weights[index], 0)
        before = dict(r)
        k = Update(self, r, nodes, times.unsqueeze(1), counts.unsqueeze(1), examples, (here, weights))
        self.flow_(r, k)
        self.algorithm.update_(r, k)
        self.check(r, before, "update_")
        r = self.changed(r, before)
        r |= {name: torch.zeros_like(before[name]) for name in self.algorithm.living("inbox")}
        self.note(r, times)
        return r, k.losses

    # -------------------------------------------------------------------------------------------------------- mixing

    def mix_(self, state: State, phase: GossipPhase, kernel: Kernel) -> None:
        """Applies a phase of gossip."""
        if not self.by_columns:
            here = phase.here
            all_live = phase.sent is None and not bool((here.contacted == here.receivers).any())
            if all_live and phase.idle is None and phase.pairs in self.fused and self.cut is None:
                self.fused[phase.pairs](state, Contacts.of(phase, slice(None), all_live, self.edges))
                return
            for a, b in phase.spans():
                self._wave_(state, phase, slice(a, b), all_live)
        elif self.algorithm.mixing == "column":
            split.mix_(state.x, phase)
        else:
            for some in self.shared:
                among = phase if some.nodes is None else phase.among(some.nodes)
                for run in some.runs:
                    mix_(state.x[:, run], among, kernel)
            self._copy_(state, phase)

    def _wave_(self, state: State, phase: GossipPhase, part: slice, all_live: bool) -> None:
        """Applies one wave: copies, once its contacts have read, and contacts; over ranks, those that each is dealt."""

        def copy_() -> None:
            if not all_live and phase.sent is not None:
                self._copies_(state, *copied(phase, part))  # a slot may be taken again in the wave that empties it

        contacts = Contacts.of(phase, part, all_live, self.edges)
        if self.cut is None or not contacts.nodes.numel():
            self._meet_(state, contacts, copy_)
            return
        fused = self.fused.get(phase.pairs) if all_live and phase.idle is None else None
        meet_ = fused or (lambda state, some: self._meet_(state, some, lambda: None))
        inboxes, both = self.algorithm.living("inbox"), self.algorithm.writes_sender
        over_ranks.meet_(self.cut, state, contacts, inboxes, both, (copy_, meet_))

    def _meet_(self, state: State, c: Contacts, copy_: Callable[[], None]) -> None:
        """Makes contacts: emissions of both sides, their mean, and what receivers make of it.

        Nodes that are cut off, the device knows which, do all that too; then they keep what they had.

        Args:
            state: changed.
            c: the contacts.
            copy_: called once rows are read.
        """
        j, times, w, idle = c.nodes, c.times, c.weights.unsqueeze(1), c.idle
        ji, ij = (None, None) if c.edges is None else c.edges
        mine = self.rows(state, c.rows, ji)
        theirs = {} if c.pairs else self.rows(state, c.senders, ij)
        copy_()
        if j.numel() == 0:
            return
        self.flow_(mine, self.contact(mine, j, times))
        own = self.emitted(mine, self.contact(mine, j, times))
        if c.pairs:  # what one side of a meeting sends is what the other one makes of itself
            sent = {name: value.unflatten(0, (-1, 2)).flip(1).flatten(0, 1) for name, value in own.items()}
        else:
            self.flow_(theirs, self.contact(theirs, c.others, times))
            sent = self.emitted(theirs, self.contact(theirs, c.others, times))
        for name in self.algorithm.living("inbox"):
            state.fields[name].index_add_(0, c.rows, _but(idle, sent.pop(name), 0).to(state.fields[name].dtype))
            del own[name]
        if self.robust is None:
            mixed = self.algorithm.combine(own, sent, w)
        else:
            sent = self.robust.sent(sent, c.others, self.contact(theirs, c.others, times))
            mixed = self.robust.combine(self.algorithm, own, sent, w, j)
        gathered = dict(mine)
        self.algorithm.absorb_(mine, mixed, self.contact(mine, j, times))
        self.check(mine, gathered, "absorb_")
        if self.personal is not None:
            mine = self.personal.kept(mine, gathered, self.personal.both(j, c.others))
        self.note(mine, times)
        kept = {} if idle is None else self.rows(state, c.rows, ji)
        if self.algorithm.writes_sender and not c.pairs:  # of a meeting each side is a receiver, too
            self.note(theirs, times)
            before = {} if idle is None else self.rows(state, c.senders, ij)
            given = {name: _but(idle, value, before.get(name, 0)) for name, value in theirs.items()}
            self.write_(state, c.senders, given, ij)
        self.write_(state, c.rows, {name: _but(idle, value, kept.get(name, 0)) for name, value in mine.items()}, ji)

    def _copy_(self, state: State, phase: GossipPhase) -> None:
        """Lets fields that are not mixed follow their models into slots."""
        if phase.sent is not None:
            copies = phase.here.copies()
            for a, b in phase.spans() if state.fields else ():  # in a phase a slot may be taken more than once
                some = send(copies[a:b].nonzero().flatten(), state.x.device)
                self._copies_(state, phase.senders[a:b][some], phase.receivers[a:b][some], models=False)

    def _copies_(self, state: State, i: Tensor, j: Tensor, models: bool = True) -> None:
        if models:
            write_(state.x, j, state.x.index_select(0, i))
        for name, one in self.declared.items():
            if one.travels and name in state.fields:
                write_(state.fields[name], j, state.fields[name].index_select(0, i))

    # ---------------------------------------------------------------------------------------------------------- rows

    def rows(
        self, state: State, rows: Int64[Tensor, " w"], edges: Int64[Tensor, " w"] | None = None,
        hidden: Set[str] = frozenset(),
    ) -> Rows:  # fmt: skip
        """Returns the fields of some rows but hidden ones, as copies; of those on edges, the rows of numbered edges."""
        x = state.x.index_select(0, rows)
        found: Rows = {"x": x[:, : self.p]}
        found |= {name: x[:, columns] for name, columns in self.columns.items()}
        for name in state.fields.keys() - state.on_edges - {*self.algorithm.living("inbox")} - hidden:
            found[name] = state.fields[name].index_select(0, rows)
        if edges is not None:
            found |= {name: state.fields[name].index_select(0, edges) for name in state.on_edges}
        return found

    def held(self, state: State) -> Rows:
        """Returns the fields that laws are about: of all nodes and, where messages take what they bring, those too."""
        return self.all_rows(state, slice(None if self.algorithm.mixing == "column" else state.nodes))

    def all_rows(self, state: State, rows: slice = slice(None)) -> Rows:
        """Returns the fields of rows that lie one after the other, as views."""
        x = state.x[rows]
        found: Rows = {"x": x[:, : self.p]} | {name: x[:, columns] for name, columns in self.columns.items()}
        return found | {name: f if name in state.on_edges else f[rows] for name, f in state.fields.items()}

    def write_(
        self, state: State, rows: Int64[Tensor, " w"], r: Mapping[str, Tensor],
        edges: Int64[Tensor, " w"] | None = None, updated: Int64[np.ndarray, " w"] | None = None,
    ) -> None:  # fmt: skip
        """Writes fields of some rows.

        Args:
            state: changed.
            rows: of x.
            r: their fields.
            edges: numbers of those that the rows of fields on edges belong to, after a contact.
            updated: the nodes, on the host, after an update: they have those of all their neighbours.
        """
        mixed = [r["x"], *(r[name] for name in self.columns)]
        write_(state.x, rows, mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1))
        for name, all_ in state.fields.items():
            if name not in state.on_edges and name in r:
                write_(all_, rows, r[name].to(all_.dtype))
        kept = {name: r[name].to(state.fields[name].dtype) for name in state.on_edges & r.keys()}
        if kept and self.edges is not None and updated is not None:
            number, here = self.edges.here.around(torch.from_numpy(updated))
            number = self.edges.here.lie(number)
            kept = {name: value.flatten(0, 1) for name, value in kept.items()}
            if self.edges.even:
                edges = send(number.flatten(), rows.device)
            else:
                edges, taken = (send(a, rows.device) for a in (number[here], here.flatten().nonzero().flatten()))
                kept = {name: value.index_select(0, taken) for name, value in kept.items()}
        if edges is not None:
            for name, value in kept.items():
                write_(state.fields[name], edges, value)

    @property
    def by_columns(self) -> bool:
        """Whether mixing acts on each column of x by itself."""
        return self.robust is None and self.algorithm.linear()

    @property
    def mixes_together(self) -> bool:
        """Whether rounds of several networks may be mixed as one whose W is block-diagonal."""
        return self.robust is None and not self.algorithm.asks_some()

    @functools.cached_property
    def width(self) -> int:
        """Numbers of what a round mixes of a row at once: its model, and those of its edges."""
        return self.p * (1 + (0 if self.edges is None else self.edges.most))

    @property
    def p(self) -> int:
        """Number of parameters of a model."""
        return self.gradient.problem.stack.p

    @functools.cached_property
    def declared(self) -> dict[str, Field]:
        """What the algorithm keeps."""
        return self.algorithm.declared()

    @functools.cached_property
    def columns(self) -> dict[str, slice]:
        """Where the mixed fields lie in a row, behind the model."""
        return columns(self.declared, self.p)

    @functools.cached_property
    def shared(self) -> tuple[SharedColumns, ...]:
        """The columns of x that are mixed, by who mixes them; over ranks, of those that this one has."""
        if self.personal is None and self.cut is None:
            return (SharedColumns((slice(None),), None),)
        whole = max((part.stop for part in self.columns.values()), default=self.p)
        all_ = (SharedColumns((slice(whole),), None),)
        found = all_ if self.personal is None else self.personal.shared(self.columns.values())
        return found if self.cut is None else tuple(some.within(self.cut.columns(whole)) for some in found)

    @functools.cached_property
    def whole(self) -> "Rowwise":
        """The same, on whole rows that lie apart, as `over_ranks` takes them."""
        return replace(self, cut=None, edges=None if self.edges is None else self.edges.apart())

    def changed(self, r: Rows, before: Rows) -> Rows:
        """Returns the fields of some rows that a method replaced or wrote into, and those that lie in the rows of x."""
        return {name: value for name, value in r.items()
                if value is not before.get(name) or value._version or name == "x" or name in self.columns}  # fmt: skip

    def models(self, state: State, time: float | None = None) -> Float[Tensor, "n p"]:
        """Returns the models of the nodes that are scored; as a view where they are the rows themselves.

        Args:
            state: stays as it is.
            time: up to which they flow [s]; None: they are those after the last event of each node.
        """
        flows = self.algorithm.flows() and time is not None
        if type(self.algorithm).model is Algorithm.model and not flows:
            return state.models
        r = self.all_rows(state, slice(0, state.nodes))
        if flows:
            nodes = torch.arange(state.nodes, device=state.x.device)
            now = r["last_event"].flatten().clamp(min=time)  # events of a run that pauses are ahead of its clocks
            self.flow_(r, self.contact(r, nodes, now))
        return self.algorithm.model(r)

    def emitted(self, r: Rows, k: Context) -> Rows:
        """Returns what some rows emit.

        Raises:
            ValueError: it is not a row of each of them, or lacks what goes into an inbox.
        """
        found, w = self.algorithm.emit_(r, k), r["x"].shape[0]
        for name in {*found, *self.algorithm.living("inbox")}:
            value = found.get(name)
            if not isinstance(value, Tensor) or value.shape[:1] != (w,):
                got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{self._said('emit_')} return {name} with a row of each of {w} nodes, got {got}")
        return found

    def check(self, r: Rows, before: Rows, method: str) -> None:
        """Raises ValueError where a method of an algorithm left fields that are no rows of their width."""
        for name, old in before.items():
            found, shape = r.get(name), old.shape
            if not isinstance(found, Tensor) or found.shape != shape:
                got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"{self._said(method)} leave {name} of shape {list(shape)}, got {got}")

    def _said(self, method: str) -> str:
        cls = type(self.algorithm)
        return f"algorithm must be a kind that works, got {cls.__module__}:{cls.__qualname__}, {method}() of which must"

    def contact(self, r: Rows, nodes: Tensor, times: Tensor) -> "Contact":
        """Returns what emissions and absorptions of some nodes may know."""
        return Contact(self, r, nodes, times.unsqueeze(1))

    def flow_(self, r: Rows, k: "Contact") -> None:
        """Lets rows flow, where they do, up to an event."""
        if self.algorithm.flows():
            self.algorithm.flow_(r, k)

    def note(self, r: Rows, times: Tensor) -> None:
        """Takes note of the instant, where an algorithm asks how much time has passed."""
        if self.algorithm.elapses:
            r["last_event"] = times.unsqueeze(1)


def _but(idle: Bool[Tensor, " w"] | None, value: Tensor, kept: Tensor | int) -> Tensor:
    """Returns what rows become, with what they had in those that do nothing."""
    return value if idle is None else torch.where(idle.unsqueeze(1), kept, value)


def around(
    state: State, index: Int64[Tensor, "w d"], here: Bool[Tensor, "w d"] | None, hidden: Set[str] = frozenset()
) -> Rows:
    """Returns the fields on edges [w, d, width], but hidden ones, of all edges of some nodes.

    Args:
        state: stays as it is.
        index: numbers of the edges.
        here: which there are, in place of others comes 0; None: all.
        hidden: fields that are left out.
    """
    found = {name: state.fields[name][index] for name in sorted(state.on_edges - hidden)}
    return found if here is None else {name: torch.where(here.unsqueeze(2), value, 0) for name, value in found.items()}
