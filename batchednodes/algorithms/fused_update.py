r"""Updates in one compiled loop: what an algorithm makes of a row with its minibatch, recorded once as a tape.

Rows are then changed where they lie, without temporaries for a whole wave, as those of local SGD are.

Notation: w rows, b examples of a minibatch, p parameters, x models.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.base import Rows, Step
from batchednodes.algorithms.fused import LARGEST, Key, Known, ask, overwrite_
from batchednodes.algorithms.known import Update
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.numerics.fx_program import UntraceableError, untraceable
from batchednodes.numerics.tape import Tape, record


@dataclass(frozen=True, eq=False)
class FusedUpdate:
    """An update of one minibatch as a tape."""

    rowwise: Rowwise
    slots: tuple[str, ...]
    """Names of the fields that it sees; the rows of x first."""
    asked: list[Key]
    """What else methods ask of their context."""

    @staticmethod
    def of(rowwise: Rowwise, state: State) -> "FusedUpdate":
        """Returns what an update sees and asks, by a trial of two rows."""
        hidden = {"last_event", *(name for name, one in rowwise.declared.items() if not one.seen)}
        made = FusedUpdate(rowwise, ("x", *(name for name in state.fields if name not in hidden)), [])
        k = KnownUpdate(rowwise, made._whole(2), {}, *made._shared(), made._minibatches(2))
        made._update_(made._examples(state, 2), k)
        made.asked.extend(k.told)
        return made

    def recorded(self, state: State) -> Tape:
        """Returns the tape.

        Raises:
            UntraceableError: there is none that does what the methods do.
        """

        def arguments(w: int) -> list[Tensor]:
            (x, *others), whole = self._examples(state, w), self._whole(w)
            return [x, self._minibatches(w), *self._shared(), *others, *(ask(whole, key) for key in self.asked)]

        def update_(x: Tensor, minibatch: Tensor, features: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
            others, told = rest[: len(self.slots) - 1], rest[len(self.slots) - 1 :]
            known = dict(zip(self.asked, told, strict=True))
            return self._update_((x, *others), KnownUpdate(self.rowwise, None, known, features, targets, minibatch))

        lists = [1, 0, 0, 0, *[1] * (len(self.slots) - 1), *[0] * len(self.asked)]
        return record(update_, arguments, lists)

    def _shared(self) -> tuple[Tensor, Tensor]:
        """Returns inputs and labels of the examples of all nodes."""
        return self.rowwise.descent.features, self.rowwise.descent.targets

    def _minibatches(self, w: int) -> Int64[Tensor, "w b"]:
        b = self.rowwise.gradient.problem.sampler.shape[1]
        return torch.arange(w * b).view(w, b) % len(self.rowwise.descent.features)

    def _whole(self, w: int) -> Update:
        """Returns what updates of w nodes know in a trial."""
        nodes, times = torch.arange(w) % self.rowwise.degree.numel(), torch.arange(1.0, w + 1, dtype=torch.float64)
        last = {"last_event": times.unsqueeze(1) / 2}
        counts, examples = torch.arange(w).unsqueeze(1), self._minibatches(w).unsqueeze(1)
        return Update(self.rowwise, last, nodes, times.unsqueeze(1), counts, examples)

    def _examples(self, state: State, w: int) -> list[Tensor]:
        """Returns numbers in (0, 1) for what w rows hold."""
        draw = torch.Generator().manual_seed(0)
        tensors = [state.x if name == "x" else state.fields[name] for name in self.slots]
        return [torch.rand(w, t.shape[1], generator=draw, dtype=torch.float64).to(t) for t in tensors]

    def _update_(self, held: Sequence[Tensor], k: "KnownUpdate") -> Float[Tensor, " w"]:
        """Updates rows in place; returns losses."""
        rowwise, (x, *others) = self.rowwise, held
        r: Rows = {"x": x[:, : rowwise.p]} | {name: x[:, part] for name, part in rowwise.columns.items()}
        r |= dict(zip(self.slots[1:], others, strict=True))
        before = dict(r)
        rowwise.flow_(r, k)
        rowwise.algorithm.update_(r, k)
        rowwise.check(r, before, "update_")
        r |= {name: torch.zeros_like(before[name]) for name in rowwise.algorithm.living("inbox")}
        overwrite_(before, r, held)
        if k.losses is None:
            raise UntraceableError("an update sees no loss")
        return k.losses

    def run_(
        self, tape: Tape, state: State, rows: Int64[Tensor, " w"], nodes: Int64[Tensor, " w"],
        times: Float64[Tensor, " w"], counts: Int64[Tensor, " w"], examples: Int64[Tensor, "w 1 b"],
    ) -> Float[Tensor, " w"]:  # fmt: skip
        """Updates some rows where they lie; returns the losses that they saw."""
        last = state.fields.get("last_event")
        r = {} if last is None else {"last_event": last.index_select(0, rows)}
        whole = Update(self.rowwise, r, nodes, times.unsqueeze(1), counts.unsqueeze(1), examples)
        x, *others = (state.x if name == "x" else state.fields[name] for name in self.slots)
        told = [ask(whole, key) for key in self.asked]
        losses = tape.run_((x, examples, *self._shared(), *others, *told), rows)
        if last is not None:
            last.index_copy_(0, rows, times.unsqueeze(1))
        return losses


def fuse_updates_(rowwise: Rowwise, state: State) -> None:
    """Lets an algorithm's updates of one minibatch run as a tape, where there is one; changes `rowwise`."""
    sampler, algorithm, rates = rowwise.gradient.problem.sampler, rowwise.algorithm, rowwise.rates
    steps = rowwise.descent if type(algorithm).descends else rowwise.gradient.steps
    others = (rates.momentum, rates.weight_decay, rates.clip, rates.proximal, rates.optimizer, rates.example_clip)
    if algorithm.plain() or steps is None or steps.tape is None or any(one is not None for one in others):
        return
    if sampler.shape[0] != 1 or sampler.padded or sampler.uneven or sampler.keyed or steps.divides:
        return
    if state.on_edges or state.x.shape[1] > LARGEST or steps.tape.cuda:
        return
    with contextlib.suppress(UntraceableError), untraceable():
        fused = FusedUpdate.of(rowwise, state)
        tape = fused.recorded(state)
        rowwise.fused_update.append(lambda *wave: fused.run_(tape, *wave))


class KnownUpdate(Known):
    """What an update of a tape may know: what it is told, and its minibatch."""

    def __init__(
        self, of: Rowwise, whole: Update | None, told: dict[Key, Tensor], features: Tensor, targets: Tensor,
        minibatch: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(of, whole, told)
        self.data, self.losses = (minibatch, features, targets), None

    @property
    def steps(self) -> Tensor:
        return self._of("steps")

    def grad(self, x: Tensor) -> Tensor:
        assert self.of.gradient.steps is not None
        g = x.clone()
        self.losses = self.of.gradient.steps.step_(g, *self.data, x.new_ones(x.shape[0]))
        return g

    def descend(self, x: Tensor) -> Tensor:
        made = x.clone()
        self.losses = self.of.descent.step_(made, *self.data, self.lr.squeeze(1))
        return made

    def descend_by(self, x: Tensor, step: Step) -> Tensor:
        first = list[Tensor]()

        def grad(y: Tensor) -> Tensor:
            g = self.grad(y)
            assert self.losses is not None
            first.append(self.losses)
            return g

        made = step(x, grad)
        self.losses = first[0]
        return made
