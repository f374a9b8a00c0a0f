r"""What looks at whole rows where a batch is cut by columns over ranks: updates, and mixing that is no product.

The rows of a wave are dealt to ranks, taken whole, and put back. So what is done to a row is done as on one rank: to a
state of these rows alone, numbered from 0, while nodes keep their numbers. A round is done by each rank to all rows.

Notation: n nodes, w rows of a wave, m rows that a rank is dealt, x models.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from batchednodes.algorithms.contacts import Contacts
from batchednodes.algorithms.cut import Asked, Cut
from batchednodes.algorithms.edge_rows import EdgeRows
from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics.memory import send
from batchednodes.numerics.rows import write_

SAME = ("age",)
"""Fields that all ranks have whole: they follow from events alone."""


@dataclass(frozen=True)
class Dealt:
    """Rows of a tensor that ranks are dealt."""

    rows: Int64[Tensor, " w"]
    """Those of the first rank, those of the second, and so on."""
    counts: Sequence[int]
    """How many each is dealt."""


@dataclass(frozen=True, eq=False)
class Taken:
    """Rows that this rank has been dealt, whole."""

    cut: Cut
    of: State
    """Whose columns this rank has."""
    state: State
    """That of the rows; it counts no versions, and when nodes diverged is that of all of them."""

    @staticmethod
    def take(cut: Cut, state: State, dealt: Mapping[str, Dealt]) -> "Taken":
        """Returns some rows of some tensors; one exchange.

        Args:
            cut: how tensors are cut.
            state: of this rank's columns.
            dealt: rows of "x", and of fields by name.
        """
        rows = cut.take(_asked(cut, state, dealt))
        found = dict(zip(dealt, rows, strict=True))
        own = (state.versions[:0], state.updated, state.gained, state.diverged_at)
        made = State(found.pop("x"), *own, found, dict(cut.whole), state.travels, state.on_edges & dealt.keys())
        return Taken(cut, state, made)

    def put_(self, dealt: Mapping[str, Dealt], told: Tensor | None = None) -> Tensor | None:
        """Writes rows back, the first ones of each tensor; one exchange.

        Args:
            dealt: those that are written, by the names of their tensors.
            told: a number of each of those of "x", for all ranks.

        Returns:
            The numbers of all of them.
        """
        me = self.cut.ranks.rank
        whole = [_named(self.state, name)[: one.counts[me]] for name, one in dealt.items()]
        return self.cut.put_(_asked(self.cut, self.of, dealt), whole, told)


def update_(
    cut: Cut, state: State, names: Iterable[str], who: tuple[np.ndarray, Tensor, Tensor], edges: EdgeRows | None,
    work_: Callable[[State, slice], None],
) -> None:  # fmt: skip
    """Updates the rows of a wave, each rank those that it is dealt; all ranks learn which nodes diverged.

    Args:
        cut: how tensors are cut.
        state: changed, but for versions.
        names: of the fields that an update sees or changes.
        who: nodes of the wave on the host, and on the device; and their rows.
        edges: where what lies on edges is to have its rows; None: updates see nothing of it.
        work_: updates a state of whole rows, given which of the wave they are.
    """
    updated, nodes, rows = who
    counts = cut.counts(updated.size)
    share, one = cut.share(counts), Dealt(rows, counts)
    dealt = {"x": one} | {name: one for name in names if name not in state.on_edges}
    if edges is not None:
        number, here = edges.here.around(torch.from_numpy(updated))
        sizes = [int(some.sum()) for some in here.split(counts)]
        edges.settle_(number[share][here[share]])
        dealt |= {name: Dealt(send(number[here], rows.device), sizes) for name in names if name in state.on_edges}
    taken = Taken.take(cut, state, dealt)
    same = {name: state.fields[name].index_select(0, rows[share]) for name in SAME if name in state.fields}
    taken.state.fields.update(same)
    if counts[cut.ranks.rank]:
        work_(taken.state, share)
    since = taken.put_(dealt, state.diverged_at.index_select(0, nodes[share]))
    assert since is not None
    write_(state.diverged_at.unsqueeze(1), nodes, since.unsqueeze(1))


def meet_(
    cut: Cut, state: State, contacts: Contacts, inboxes: Iterable[str], both: bool,
    work_: tuple[Callable[[], None], Callable[[State, Contacts], None]],
) -> None:  # fmt: skip
    """Makes the contacts of a wave, each rank those that it is dealt.

    Args:
        cut: how tensors are cut.
        state: changed.
        contacts: of the wave.
        inboxes: names of the fields that add up what comes.
        both: whether rows that are read change, too.
        work_: what is done once rows are read, and what makes contacts of a state of whole rows.
    """
    pairs, me = contacts.pairs, cut.ranks.rank
    counts = cut.counts(contacts.nodes.numel())
    share, m = cut.share(counts), counts[me]
    own = Dealt(contacts.rows, counts)
    all_ = own if pairs else _side_by_side(contacts.rows, contacts.senders, counts)
    fields = state.fields.keys() - state.on_edges - {*SAME}
    read = {"x": all_} | {name: own if name in inboxes else all_ for name in sorted(fields)}
    written = read if both and not pairs else dict.fromkeys(read, own)
    if contacts.edges is not None:
        on = Dealt(contacts.edges[0], counts)
        each = on if pairs else _side_by_side(*contacts.edges, counts)
        read = read | dict.fromkeys(sorted(state.on_edges), each)
        written = written | dict.fromkeys(sorted(state.on_edges), each if both and not pairs else on)
    between_, meet_ = work_
    taken = Taken.take(cut, state, read)
    between_()
    if m:
        mine = torch.arange(m, device=state.x.device)
        theirs = mine.view(-1, 2).flip(1).flatten() if pairs else mine + m
        some = contacts.some(share, mine, theirs, None if contacts.edges is None else (mine, theirs))
        meet_(taken.state, some)
    taken.put_(written)


def round_(cut: Cut, state: State, nodes: slice, edges: EdgeRows | None, work_: Callable[[State], Any]) -> Any:
    """Mixes whole rows of a network, all of them on each rank, which keeps its columns; returns what that gives.

    Args:
        cut: how tensors are cut.
        state: changed, but for versions.
        nodes: of the network.
        edges: where what lies on edges has its rows.
        work_: mixes a state of whole rows, which lie where they do in that of columns.
    """
    found, places = dict[str, Tensor](), dict[str, slice]()
    for name in ("x", *sorted(state.fields.keys() - {*SAME})):
        own, width = _named(state, name), cut.widths[name]
        places[name] = nodes
        if name in state.on_edges:
            assert edges is not None
            places[name] = slice(*(int(edges.here.begins[i]) for i in (nodes.start, nodes.stop)))
        found[name] = own.new_empty(own.shape[0], width)  # of other networks nothing is touched
        found[name][places[name]] = cut.joined(own[places[name]], width)
    x = found.pop("x")
    kept = {name: state.fields[name] for name in SAME if name in state.fields}
    made = replace(state, x=x, versions=state.versions[:0], fields=found | kept, columns=dict(cut.whole))
    result = work_(made)
    for name, part in places.items():
        _named(state, name)[part] = _named(made, name)[part][:, cut.columns(cut.widths[name])]
    return result


def sent_by_update(
    cut: Cut, w: int, items: Mapping[str, int], on_edges: Mapping[str, int] | None = None, edges: Sequence[int] = ()
) -> int:
    """Returns the bytes that this rank sends to others in an update wave, by two exchanges.

    Args:
        cut: how tensors are cut.
        w: rows of the wave.
        items: bytes of a number of "x", and of the fields on nodes that updates see or change.
        on_edges: the same of such fields on edges.
        edges: edges of the nodes that each rank is dealt.
    """
    counts = cut.counts(w)
    shapes = _shapes(cut, items, counts) + _shapes(cut, on_edges or {}, edges)
    return cut.sent(shapes, back=False) + cut.sent(shapes, back=True, told=counts[cut.ranks.rank])


def sent_by_contacts(
    cut: Cut, w: int, items: Mapping[str, int], pairs: bool, both: bool, inboxes: Mapping[str, int] | None = None
) -> int:
    """Returns the bytes that this rank sends to others in a wave of contacts that are no products, likewise.

    Args:
        cut: how tensors are cut.
        w: lines of the wave: one for each contact, two for each meeting.
        items: bytes of a number of "x", and of all fields on nodes and edges.
        pairs: whether they are meetings.
        both: whether rows that are read change, too.
        inboxes: bytes of a number of fields that add up what comes.
    """
    counts = cut.counts(w)
    all_ = counts if pairs else [2 * count for count in counts]
    added = _shapes(cut, inboxes or {}, counts)
    read, written = (_shapes(cut, items, of) + added for of in (all_, all_ if both else counts))
    return cut.sent(read, back=False) + cut.sent(written, back=True)


def _shapes(cut: Cut, items: Mapping[str, int], counts: Sequence[int]) -> list[tuple[Sequence[int], int, int]]:
    return [(counts, cut.widths[name], size) for name, size in items.items()]


def sources(cut: Cut, layout: Layout, own: Int64[Tensor, " n"]) -> tuple[Layout, Int64[Tensor, " n"]]:
    """Returns where this rank's versions lie, and in them each node's count of its own updates; -1: not there.

    Args:
        cut: how tensors are cut: versions by sources.
        layout: of the versions of all sources.
        own: place of each node's count among these; -1: not tracked.
    """
    parts = [cut.columns(int(t)) for t in layout.widths]
    made = Layout.of(layout.sizes, [part.stop - part.start for part in parts], own.device)
    made.reserve(layout.place.numel() - layout.network.size)
    n, network = own.numel(), torch.from_numpy(layout.network).long().to(own.device)
    first = torch.tensor([part.start for part in parts], device=own.device)[network]
    column = own - layout.place[:n] - first
    here = (own >= 0) & (column >= 0) & (column < made.width)
    return made, torch.where(here, made.place[:n] + column, -1)


def _named(state: State, name: str) -> Tensor:
    return state.x if name == "x" else state.fields[name]


def _asked(cut: Cut, state: State, dealt: Mapping[str, Dealt]) -> list[Asked]:
    return [Asked(_named(state, name), one.rows, one.counts, cut.widths[name]) for name, one in dealt.items()]


def _side_by_side(first: Tensor, second: Tensor, counts: Sequence[int]) -> Dealt:
    """Returns two rows of each line that ranks are dealt: the first ones of all of a rank, then the second ones."""
    ends = pairwise(np.cumsum([0, *counts]).tolist())
    parts = [t[a:b] for a, b in ends for t in (first, second)]
    return Dealt(torch.cat(parts), [2 * count for count in counts])
