r"""Contacts in one compiled loop: what an algorithm makes of both rows, recorded once as a tape.

Waves of contacts are small, and each costs as many operations of PyTorch as the algorithm's methods have. A tape runs
them for one contact after the other, in the order of waves and of time within a wave, which gives what the waves give,
since no event lands in a wave before an older one that reads what it writes.

Notation: n nodes, w contacts, p parameters, x models, j the row that receives, i the row that sends.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from batchednodes.algorithms.base import Rows
from batchednodes.algorithms.contacts import Contacts
from batchednodes.algorithms.known import Contact
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.numerics import devices
from batchednodes.numerics.fx_program import UntraceableError, untraceable
from batchednodes.numerics.tape import Tape, record

LARGEST = 10_000
"""Numbers of a row above which its arithmetic, for which waves have all threads, takes longer than to launch it."""

Key = tuple[str | int, ...]
"""A name of `Context`, and the arguments of a method."""


@dataclass(frozen=True)
class _Slot:
    """A tensor that contacts see."""

    side: int
    """0: of the row that receives; 1: of the row that sends."""
    name: str
    lives: str
    """Where: node, edge or inbox."""

    @property
    def list(self) -> int:
        """The list of rows by which it is looked up, see `Fused.run_`."""
        return 1 + self.side + 2 * (self.lives == "edge")


@dataclass(frozen=True, eq=False)
class Fused:
    """The contacts of a phase, pushes or meetings, as a tape."""

    rowwise: Rowwise
    pairs: bool
    """Whether contacts are meetings, in which both rows receive."""
    slots: tuple[_Slot, ...]
    """What they see; the models first."""
    asked: tuple[list[Key], list[Key]]
    """What else methods ask of the context of each side."""

    @staticmethod
    def of(rowwise: Rowwise, state: State, pairs: bool) -> "Fused":
        """Returns what contacts see and ask, by a trial of two of them."""
        inbox = rowwise.algorithm.living("inbox")
        kinds = {name: "inbox" if name in inbox else "edge" if name in state.on_edges else "node"
                 for name in state.fields if name != "last_event"}  # fmt: skip
        slots = [
            _Slot(side, name, lives)
            for name, lives in {"x": "node", **kinds}.items()
            for side in (0, 1)
            if lives != "inbox" or side == 0 or pairs
        ]
        made = Fused(rowwise, pairs, tuple(slots), ([], []))
        known = [Known(rowwise, _contact(rowwise, 2), {}) for _ in (0, 1)]
        made._contacts_(made._examples(state, 2), state.x.new_full((2, 1), 0.5), known)
        for keys, one in zip(made.asked, known, strict=True):
            keys += one.told
        return made

    def recorded(self, state: State) -> Tape:
        """Returns the tape.

        Raises:
            UntraceableError: there is none that does what the methods do.
        """
        more = [(side, key) for side in (0, 1) for key in self.asked[side]]

        def arguments(w: int) -> list[Tensor]:
            x, *others = self._examples(state, w)
            k = _contact(self.rowwise, w)
            told = [ask(k, key) for _, key in more]
            return [x, torch.zeros(w, 1, dtype=torch.int64), torch.linspace(0.2, 0.6, w).to(x), *others, *told]

        def contact_(x: Tensor, _: Tensor, w: Tensor, *rest: Tensor) -> Tensor:
            held, told = (x, *rest[: len(self.slots) - 1]), rest[len(self.slots) - 1 :]
            known = [
                Known(self.rowwise, None, {key: one for (of, key), one in zip(more, told, strict=True) if of == side})
                for side in (0, 1)
            ]
            self._contacts_(held, w.unsqueeze(1), known)
            return w

        first, *others = (slot.list for slot in self.slots)
        return record(contact_, arguments, [first, 0, 0, *others, *[0] * len(more)])

    def _examples(self, state: State, w: int) -> list[Tensor]:
        """Returns numbers in (0, 1) for what w contacts see."""
        draw = torch.Generator().manual_seed(0)
        tensors = [state.x if slot.name == "x" else state.fields[slot.name] for slot in self.slots]
        return [torch.rand(w, t.shape[1], generator=draw, dtype=torch.float64).to(t) for t in tensors]

    def _contacts_(self, held: Sequence[Tensor], w: Float[Tensor, "w 1"], known: "Sequence[Known]") -> None:
        """Makes contacts of rows, in place; w: weights of what comes."""
        rowwise, algorithm, inbox = self.rowwise, self.rowwise.algorithm, dict[tuple[int, str], Tensor]()
        rows: tuple[Rows, Rows] = {}, {}
        for slot, tensor in zip(self.slots, held, strict=True):
            if slot.lives == "inbox":
                inbox[slot.side, slot.name] = tensor
            elif slot.name == "x":
                parts = {"x": slice(0, rowwise.p), **rowwise.columns}
                rows[slot.side].update({name: tensor[:, part] for name, part in parts.items()})
            else:
                rows[slot.side][slot.name] = tensor
        before = [dict(r) for r in rows]
        for r, k in zip(rows, known, strict=True):
            rowwise.flow_(r, k)
        emitted = [rowwise.emitted(r, k) for r, k in zip(rows, known, strict=True)]
        for side in (0, 1) if self.pairs else (0,):
            own, sent = dict(emitted[side]), dict(emitted[1 - side])
            for name in algorithm.living("inbox"):
                inbox[side, name].add_(sent.pop(name).to(inbox[side, name].dtype))
                del own[name]
            algorithm.absorb_(rows[side], algorithm.combine(own, sent, w), known[side])
            rowwise.check(rows[side], before[side], "absorb_")
        both = (0, 1) if self.pairs or algorithm.writes_sender else (0,)
        old, new = ({(side, name): value for side in both for name, value in of[side].items()} for of in (before, rows))
        overwrite_(old, new, held)

    def run_(self, tape: Tape, state: State, contacts: Contacts) -> None:
        """Makes contacts, one after the other."""
        step, last = 2 if self.pairs else 1, state.fields.get("last_event")
        j, i, w, times = (c[::step] for c in (contacts.rows, contacts.senders, contacts.weights, contacts.times))
        who = (contacts.nodes[::step], contacts.others[::step])
        lists = [j, i, *([] if contacts.edges is None else [rows[::step] for rows in contacts.edges])]
        before: tuple[Tensor | None, Tensor | None] = None, None
        if last is not None:
            both = torch.empty(2, j.numel(), dtype=torch.float64)
            noted = self.pairs or self.rowwise.algorithm.writes_sender
            _note_(last.numpy(), j.numpy(), i.numpy(), times.numpy(), noted, both.numpy())
            before = both[0].unsqueeze(1), both[1].unsqueeze(1)
        x, *others = (state.x if slot.name == "x" else state.fields[slot.name] for slot in self.slots)
        found = [x, torch.zeros(j.numel(), 1, 1, dtype=torch.int64), w, *others]
        read = {*tape.early, *(source.number for source in tape.sources if source.kind == "argument")}
        for nodes, since, keys in zip(who, before, self.asked, strict=True):
            k = Contact(self.rowwise, {} if since is None else {"last_event": since}, nodes, times.unsqueeze(1))
            for key in keys:
                found.append(ask(k, key) if len(found) in read else w)
        tape.run_(found, torch.stack(lists), alone=True)


def fuse_(rowwise: Rowwise, state: State, pairs: bool) -> None:
    """Lets an algorithm's contacts run as a tape, where there is one, and where it pays.

    Args:
        rowwise: the algorithm; changed.
        state: that contacts will change.
        pairs: whether they are meetings.
    """
    if (
        rowwise.algorithm.linear()
        or rowwise.robust is not None
        or devices.is_cuda(state.x.device)
        or state.x.shape[1] > LARGEST
    ):
        return
    if rowwise.edges is not None and not rowwise.edges.count:
        return
    with contextlib.suppress(UntraceableError), untraceable():
        fused = Fused.of(rowwise, state, pairs)
        tape = fused.recorded(state)
        rowwise.fused[pairs] = lambda state, contacts: fused.run_(tape, state, contacts)


class Known(Contact):
    """What methods may know of one side of contacts: what they are told, or else ask of a context, and note."""

    def __init__(self, of: Rowwise, whole: Contact | None, told: dict[Key, Tensor]) -> None:
        self.of, self.whole, self.told = of, whole, told

    def _of(self, *key: str | int) -> Tensor:
        if key not in self.told:
            if self.whole is None:
                raise UntraceableError(f"a method asks for {key[0]} in some contacts only")
            self.told[key] = ask(self.whole, key)
        return self.told[key]

    @property
    def time(self) -> Tensor:
        return self._of("time")

    @property
    def elapsed(self) -> Tensor:
        return self._of("elapsed")

    @property
    def lr(self) -> Tensor:
        return self._of("lr")

    @property
    def count(self) -> Tensor:
        return self._of("count")

    @property
    def degree(self) -> Tensor:
        return self._of("degree")

    @property
    def size(self) -> Tensor:
        return self._of("size")

    @property
    def owned(self) -> Tensor:
        return self._of("owned")

    def constant(self, name: str) -> Tensor:
        return self._of("constant", name)

    def uniform(self, stream: int, size: int) -> Tensor:
        return self._of("uniform", stream, size)

    def common(self, stream: int, size: int) -> Tensor:
        return self._of("common", stream, size)


def overwrite_(old: Mapping[Any, Tensor], new: Mapping[Any, Tensor], held: Sequence[Tensor]) -> None:
    """Writes rows over old ones, views of what is held, where they are others: all of them as they were before."""
    taken = {tensor.untyped_storage().data_ptr() for tensor in held}
    writes = [
        (value, new[key].clone() if new[key].untyped_storage().data_ptr() in taken else new[key])
        for key, value in old.items()
        if new[key] is not value
    ]
    for value, replaced in writes:
        value.copy_(replaced)


def ask(k: Contact, key: Key) -> Tensor:
    """Returns what a context says, a real number where it is a whole one."""
    name, *arguments = key
    found = getattr(k, str(name))
    found = found(*arguments) if arguments else found
    return found if found.is_floating_point() else found.to(k.of.degree.dtype)


def _contact(rowwise: Rowwise, w: int) -> Contact:
    """Returns what contacts of w nodes know in a trial."""
    nodes, times = torch.arange(w) % rowwise.degree.numel(), torch.arange(1.0, w + 1, dtype=torch.float64).unsqueeze(1)
    return Contact(rowwise, {"last_event": times / 2}, nodes, times)


@njit(nogil=True, cache=True)
@no_type_check
def _note_(last, receivers, senders, times, both, before):  # noqa: ANN001, ANN202
    """Says when the rows of each contact last had an event, and takes note of this one."""
    for e in range(times.size):
        before[0, e], before[1, e] = last[receivers[e], 0], last[senders[e], 0]
        last[receivers[e], 0] = times[e]
        if both:
            last[senders[e], 0] = times[e]
