r"""CUDA graphs of a function of the rows of a wave, one for each of a few numbers of rows.

A small model's update is dozens of kernels that each run for less time than their launch takes. A graph launches all of
them at once. It works on tensors of its own, which have the number of rows that it was recorded with: a wave is
copied into those of the next larger number, and back; the rows beyond it hold what an earlier wave left, and
nobody reads them. Graphs of different numbers share these tensors, since one runs at a time.

Notation: w rows of a wave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from batchednodes.numerics import devices
from batchednodes.numerics.fx_program import Function

Capture = Callable[[Function, Sequence[Tensor]], tuple[Callable[[], None], Tensor]]
"""Maps a function and its arguments to what runs it again on them, and the tensor that holds its result then."""


def capture() -> Capture:
    """Returns what records CUDA graphs whose temporaries share their memory: they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def record(function: Function, tensors: Sequence[Tensor]) -> tuple[Callable[[], None], Tensor]:
        with devices.using(tensors[0].device):  # what runs on another device than the current one is not recorded
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                function(*tensors)  # libraries make their workspaces, and kernels are compiled, at the first call
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # the host's thread pins memory
                result = function(*tensors)
        return graph.replay, result

    return record


@dataclass(frozen=True, eq=False)
class CudaGraphs:
    """The graphs of one function, recorded when they are first needed."""

    function: Function
    """Maps tensors with a row for each of a wave to such a tensor; writes into those with two dimensions only: models,
    and what is kept of them."""
    largest: int
    """Rows of a call, at most."""
    record: Capture
    """Makes a graph, as `capture` gives it."""
    _made: dict[int, tuple[list[Tensor], Callable[[], None], Tensor]] = field(default_factory=dict, repr=False)
    _buffers: list[Tensor] = field(default_factory=list, repr=False)
    """Tensors of the graphs that were recorded last, each of which uses their first rows."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Runs the function; the result holds until the next call."""
        made, result = self.of(tensors, [None] * len(tensors))
        for mine, theirs in zip(made, tensors, strict=True):
            if theirs.ndim == 2:
                theirs.copy_(mine)
        return result

    def of(self, tensors: Sequence[Tensor], indices: Sequence[Tensor | None]) -> tuple[list[Tensor], Tensor]:
        """Returns what the function makes of rows of some tensors, which stay as they are, and its result.

        All holds until the next call.

        Args:
            tensors: as the function takes them.
            indices: rows [w] of each, different ones or not; None: it has just those that count.
        """
        w = len(tensors[0] if indices[0] is None else indices[0])
        fixed, replay, result = self._graph(min(padded(w), self.largest), tensors)
        for mine, theirs, rows in zip(fixed, tensors, indices, strict=True):
            if rows is None:
                mine[:w].copy_(theirs)
            else:
                torch.index_select(theirs, 0, rows, out=mine[:w])
        replay()
        return [mine[:w] for mine in fixed], result[:w]

    def _graph(self, rows: int, like: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None], Tensor]:
        if rows not in self._made:
            have = len(self._buffers[0]) if self._buffers else 0
            if have < rows:  # twice as large each time: all together they take twice the largest at most
                size = min(self.largest, max(rows, 2 * have))
                self._buffers[:] = [t.new_zeros(size, *t.shape[1:]) for t in like]
            fixed = [t[:rows] for t in self._buffers]
            self._made[rows] = fixed, *self.record(self.function, fixed)
        return self._made[rows]


def padded(w: int) -> int:
    """Returns the next number with at most three binary digits that count, so at most a quarter above w."""
    step = 1 << max(0, w.bit_length() - 3)
    return -(-w // step) * step
