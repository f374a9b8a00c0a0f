r"""Tape: the instructions of a minibatch step, and the call that runs them.

Notation: w rows of a wave, s steps, b examples of a minibatch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, fx

from batchednodes.numerics import work_queue
from batchednodes.numerics.tape import gpu
from batchednodes.numerics.tape.assembler import Code
from batchednodes.numerics.tape.interpreter import PIECE, kernel

NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}
"""Types of numbers that tapes work on."""

ENTRIES = 1
"""The argument that says which examples are in a minibatch."""

_PAGE = 4096
"""Bytes that the memory of a thread is a multiple of, so that threads share no cache line [B]."""

_WORTH = 50_000
"""Numbers that a call works on above which a second thread pays for its start: some microseconds of one core."""

_PIECES = 8
"""Pieces of work for each thread: whoever is done early takes more."""


class Source(NamedTuple):
    """Where a tape's argument comes from."""

    kind: Literal["argument", "ahead", "constant"]
    """Given at each call; computed from the entries of minibatches, or what rows are told, before the instructions run;
    or always the same."""
    number: int
    """Of the argument, of the result of what is computed ahead, or of the constant."""
    shared: bool
    """Whether all rows have the same."""
    looked_up: int
    """The list of rows, of those that a call is given, by which its own are looked up; 0: it has one for each row."""

    @property
    def lies(self) -> gpu.Way:
        """How the numbers of a row lie in it."""
        if self.kind == "ahead":
            return "steps"
        return "shared" if self.shared else "looked up" if self.looked_up else "whole"


@dataclass(frozen=True, eq=False)
class Tape:
    """A minibatch step as instructions, for any rows and any number of steps."""

    code: Code
    """The instructions."""
    numbers: np.ndarray
    """The numbers of the instructions, of the tape's type."""
    sources: tuple[Source, ...]
    """Where its arguments come from, in order; the losses, which follow them, are left out."""
    ahead: fx.GraphModule | None
    """Maps the entries of minibatches [w s, b], and what rows are told, to what they alone decide; None: entries are
    used as they are."""
    constants: tuple[Tensor, ...]
    """Tensors that the function holds, which depend on no argument."""
    dtype: torch.dtype
    """Type of all real numbers: float32 or float64."""
    work: int
    """Numbers that one step of one row works on."""
    cuda: bool = False
    """Whether a kernel of CUDA devices runs it; else compiled code of the CPU."""
    early: tuple[int, ...] = (ENTRIES,)
    """Numbers of the arguments that what is computed ahead is computed from."""
    _memory: list[Tensor] = field(default_factory=list, repr=False)
    """That of the threads; made at the first call."""

    @cached_property
    def spelled(self) -> gpu.Spelled:
        """The instructions as a GPU's kernel takes them."""
        return gpu.Spelled.of(self.code, self.numbers)

    @cached_property
    def _written(self) -> tuple[int, int, int]:
        """Address of the instructions, and how many; address of their numbers."""
        return self.code.instructions.ctypes.data, len(self.code.instructions), self.numbers.ctypes.data

    @cached_property
    def _lists(self) -> int:
        """How many lists of rows arguments are looked up by."""
        return max(source.looked_up for source in self.sources)

    def step_(self, x: Tensor, entries: Tensor, *more: Tensor) -> Float[Tensor, " w"]:
        """Makes one step of each row in place, like the function that was recorded."""
        return self.run_((x, entries.unsqueeze(1), *more))

    def run_(
        self,
        arguments: Sequence[Tensor],
        rows: Int64[Tensor, "*lists w"] | None = None,
        skip: bool = False,
        alone: bool = False,
    ) -> Float[Tensor, " w"]:
        """Makes all steps of each row in place; returns the mean loss over them.

        Args:
            arguments: of the function that was recorded, but entries [w, s, b].
            rows: of those of its arguments that are looked up, a list or several; None: all, in their order.
            skip: whether rows do not have the steps whose first entry is below 0.
            alone: whether one row may read what another one writes, so that all are run in order, by one thread.
        """
        entries = arguments[ENTRIES].contiguous()
        w, s, b = entries.shape
        found = self._found(arguments, entries)
        if self.cuda:
            lie: list[gpu.Way] = [source.lies for source in self.sources]
            return gpu.run_(self.spelled, found, lie, entries, rows, skip)
        rows = torch.arange(w).expand(self._lists, w).contiguous() if rows is None else rows.contiguous()
        losses = torch.zeros(w, dtype=self.dtype)
        table = self._table(found, (w, s), losses)
        k = torch.get_num_threads() if self.work * w * s > _WORTH else 1
        k = 1 if alone else min(k, w)
        memory, size, before = self._own(k)
        orders = (
            *self._written,
            table.ctypes.data,
            len(table),
            rows.data_ptr(),
            w,
            s,
            memory.data_ptr(),
            size,
            w if alone else max(1, w // (k * _PIECES)),
            entries.data_ptr() if skip else 0,
            b,
            before,
            1,  # all threads take pieces of one part
        )
        work_queue.run(kernel(NUMBERS[self.dtype]).address, orders, k)
        return losses

    def _found(self, arguments: Sequence[Tensor], entries: Tensor) -> list[Tensor]:
        """Returns the tensors that the tape reads and writes."""
        flat = entries.flatten(0, 1)
        given = [flat if number == ENTRIES else arguments[number] for number in self.early]
        early: Sequence[Tensor] = (flat,) if self.ahead is None else self.ahead(*given)
        kinds = {"argument": arguments, "ahead": early, "constant": self.constants}
        tensors = [kinds[source.kind][source.number] for source in self.sources]
        assert all(t.is_contiguous() for t, source in zip(tensors, self.sources, strict=True) if source.looked_up)
        return [t.contiguous() for t in tensors]

    def _table(self, found: list[Tensor], shape: tuple[int, int], losses: Tensor) -> Int64[np.ndarray, "inputs 4"]:
        """Returns where the arguments lie, the losses last; see `interpreter.INPUT`."""
        w, s = shape
        lines: list[tuple[int, int, int, int]] = []
        for tensor, source in zip(found, self.sources, strict=True):
            size, count = tensor.element_size(), tensor.numel()
            if source.kind == "ahead":
                each = size * count // (w * s)
                lines.append((tensor.data_ptr(), s * each, each, 0))
            elif source.shared:
                lines.append((tensor.data_ptr(), 0, 0, 0))
            else:
                lines.append((tensor.data_ptr(), size * (count // max(1, tensor.shape[0])), 0, source.looked_up))
        lines.append((losses.data_ptr(), losses.element_size(), 0, 0))
        return np.array(lines, np.int64)

    def _own(self, k: int) -> tuple[Tensor, int, int]:
        """Returns the memory of some threads, its bytes for each, and those before its integers [B]."""
        before = self.dtype.itemsize * (2 * PIECE + self.code.reals + 16)
        before += -before % 8
        size = -(-(before + 8 * self.code.integers) // _PAGE) * _PAGE
        if not self._memory or self._memory[0].numel() < (k + 1) * size:
            self._memory[:] = [torch.zeros((k + 1) * size, dtype=torch.uint8)]
        return self._memory[0], size, before
