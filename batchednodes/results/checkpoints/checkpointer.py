"""Checkpoints of a run in its folder, when they are due, written beside the run; and the way back to them."""

import math
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.state import OWN, State
from batchednodes.config import Every
from batchednodes.numerics import devices
from batchednodes.numerics.memory import BackgroundWorker, exhausted, reason
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.header import DamageError, newest_first, number
from batchednodes.results.folder.inside import PARTIAL, BorderError, Inside
from batchednodes.results.folder.paths import FINAL, METRICS, NODE_ROWS, made_checkpoints, unmade_checkpoints

_FAILURES = (OSError, BorderError, MemoryError, RuntimeError)
"""What leaves a run as it is, where nothing more can be written; some RuntimeErrors are of another kind."""

_NUMBERED = re.compile(r"\d{6,}\.safetensors")
"""Name of a checkpoint."""


class Checkpointer:
    """Writes checkpoints of one run and keeps the newest."""

    def __init__(
        self,
        folder: Inside,
        every: Every,
        keep: int,
        now: float,
        beside: bool,
        rotate: bool = True,
        elsewhere: str | None = None,
    ) -> None:
        """Makes the folder of the checkpoints, and removes what a killed process left half written.

        Args:
            folder: of the run.
            every: when checkpoints are due.
            keep: how many stay.
            now: simulated time [s].
            beside: whether a thread writes a copy of the state while the run goes on; else the run waits.
            rotate: whether checkpoints that are there already count among those that stay; else they all stay.
            elsewhere: run.checkpoint_folder.

        Raises:
            ValueError: something in the folder leads out of it, or the checkpoints lie elsewhere.
            OSError: the folder cannot be made.
        """
        self.run, self.every, self.keep, self.beside = folder, every, keep, beside
        self.folder = made_checkpoints(folder, elsewhere)
        for name in self.folder.names():
            if name.endswith(PARTIAL) and _NUMBERED.fullmatch(name.removesuffix(PARTIAL)):
                (self.folder / name).remove()
        self.number = max(map(number, self.folder.names()), default=0)
        self.others = 0 if rotate else self.number
        self.copies: dict[str, Tensor] = {}
        self.writer = BackgroundWorker(_yield_to_others)
        self.writing: Callable[[], None] | None = None
        self.wait(now)

    @property
    def path(self) -> Path:
        """Of the latest checkpoint, or of the one that is being written."""
        return (self.folder / f"{self.number:06}.safetensors").path

    def wait(self, now: float) -> None:
        """Lets the next checkpoint be due after a whole interval; now is the simulated time [s]."""
        self.wall = time.monotonic()
        step = self.every.time
        self.simulated = math.inf if step is None else (math.floor(now / step) + 1) * step

    def overdue(self) -> bool:
        """Returns whether a checkpoint is due by the clock on the wall."""
        return self._waited(1.0)

    def _waited(self, share: float) -> bool:
        """Returns whether some share of the wait by the clock on the wall is over."""
        return self.every.minutes is not None and time.monotonic() - self.wall >= 60 * share * self.every.minutes

    def due(self, now: float) -> bool:
        """Returns whether a checkpoint is due by either clock; now is the simulated time [s]."""
        return now >= self.simulated or self.overdue()

    def prepare(self, state: State, now: float) -> None:
        """Gets memory for a copy of the state, beside the run, once half of the first wait is over."""
        half = self.simulated - (self.every.time or 0.0) / 2
        if (
            self.beside
            and not self.copies
            and self.writing is None
            and (now >= half or self._waited(0.5))
            and self.writer.has_thread()
        ):
            self.writing = self.writer.submit(self._reserve, state)

    def write(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, after the one before; on return the state may change again."""
        self.settle()
        self.wait(snapshot.clocks.time)
        self.number += 1
        path = self.folder / f"{self.number:06}.safetensors"
        try:
            copy = self._copy(snapshot.state) if self.beside and self.writer.has_thread() else None
            if copy is None:
                self._write(path, snapshot)
            else:
                copied = devices.Moment(snapshot.state.x.device)  # the writer waits for it, and the run goes on
                self.writing = self.writer.submit(self._write, path, replace(snapshot, state=copy), copied)
        except _FAILURES as error:
            self._warn_of(error)

    def settle(self) -> None:
        """Waits until nothing is being written; a failure becomes a warning, since the run can go on."""
        writing, self.writing = self.writing, None
        try:
            if writing is not None:
                writing()
        except _FAILURES as error:
            self._warn_of(error)

    def write_now(self, snapshot: Snapshot) -> Inside:
        """Writes a checkpoint before it returns.

        Raises:
            OSError: it cannot be written; older ones are untouched.
        """
        self.settle()
        self.number += 1
        path = self.folder / f"{self.number:06}.safetensors"
        self._write(path, snapshot)
        return path

    def write_final(self, snapshot: Snapshot) -> None:
        """Writes the final state before it returns.

        Raises:
            OSError: it cannot be written; checkpoints are untouched.
        """
        self.settle()
        self._save(self.run / FINAL, snapshot)

    def close(self) -> None:
        """Waits until nothing is being written; a folder without checkpoints goes away."""
        self.settle()
        self.writer.close()
        unmade_checkpoints(self.run, self.folder)

    def _save(self, path: Inside, snapshot: Snapshot) -> None:
        """Writes a state after the rows of metrics and nodes that it refers to: no loss of power takes those alone."""
        journal = snapshot.journal
        for name, (size, _) in ((METRICS, journal.metrics), (NODE_ROWS, journal.nodes)):
            try:
                if size:
                    (self.run / name).sync()
            except OSError as error:
                raise OSError(f"{path} cannot be written: {name}: {error.strerror}") from error
        checkpoint.save(path, snapshot)

    def _write(self, path: Inside, snapshot: Snapshot, copied: devices.Moment | None = None) -> None:
        if copied is not None:
            copied.wait()
        self._save(path, snapshot)
        named = [name for name in self.folder.names() if _NUMBERED.fullmatch(name) and number(name) > self.others]
        ours = [name for name in named if (self.folder / name).is_file()]
        for old in sorted(ours, key=number)[: -self.keep]:
            (self.folder / old).remove()

    def _warn_of(self, error: Exception) -> None:
        """Warns of what leaves the run as it is.

        Raises:
            RuntimeError: the error is another one.
        """
        if not isinstance(error, OSError | BorderError) and not exhausted(error):
            raise error
        why = error if isinstance(error, OSError | BorderError) else f"memory does not hold it ({reason(error)})"
        warnings.warn(f"no checkpoint: {why}; the run goes on, and tries again when the next is due", stacklevel=3)

    def _reserve(self, state: State) -> None:
        """Gets memory for a copy of each tensor of the state that has none; else the run waits for each checkpoint."""
        try:
            for name, tensor in state.tensors().items():
                old = self.copies.get(name)
                if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
                    self.copies[name] = _memory(tensor)
        except (MemoryError, RuntimeError) as error:
            if not exhausted(error):
                raise
            self.beside, self.copies = False, {}

    def _copy(self, state: State) -> State | None:
        """Returns a copy of the state on the host, in memory that the next one will reuse; None: there is no memory.

        A device has made it when it has done all that came before.
        """
        self._reserve(state)
        if not self.beside:
            return None
        for name, tensor in state.tensors().items():
            self.copies[name].copy_(tensor, non_blocking=True)
        own = [self.copies[name] for name in OWN]
        apart = {name: copy for name, copy in self.copies.items() if name not in OWN}
        travels = frozenset(state.travelling())
        return State(*own, fields=apart, travels=travels, on_edges=state.on_edges)


def _memory(tensor: Tensor) -> Tensor:
    """Returns memory on the host for a copy of a tensor."""
    if devices.is_cuda(tensor.device):
        return devices.pinned(tuple(tensor.shape), tensor.dtype)
    if tensor.numel() == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    raw = np.empty(tensor.numel() * tensor.element_size(), np.uint8)  # NumPy asks for huge pages
    raw.fill(0)  # the system gives memory when it is first written, which takes longer than to copy
    return torch.from_numpy(raw).view(tensor.dtype).view(tensor.shape)


def _yield_to_others() -> None:
    """Lets this thread compute only where a core would be idle: a run of as many threads as cores stays undisturbed.

    Linux counts threads as processes here; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def newest(folder: Inside, device: torch.device, check: Callable[[Snapshot], object]) -> Snapshot | None:
    """Returns the latest state of a run that is whole and passes a check; None where there is none.

    A damaged file is named in a warning, and renamed, so that it does not count as a checkpoint any more. What does not
    pass the check is named too, and left.

    Args:
        folder: of the run.
        device: where the state goes.
        check: raises ValueError if the run cannot go on from a snapshot.

    Raises:
        ValueError: another version of batchednodes wrote a file; nothing has changed.
        OSError: a file cannot be read, which may pass; nothing has changed.
    """
    paths = newest_first(folder)
    for path in paths:
        try:
            snapshot = checkpoint.load(path, device)
        except DamageError as error:
            path.rename(f"{path.name}.unusable")
            warnings.warn(f"{error}; renamed to {path.name}.unusable, going on from the one before", stacklevel=2)
            continue
        try:
            check(snapshot)
            return snapshot
        except ValueError as error:
            warnings.warn(f"{error}, so {path.name} is of no use; going on from the one before", stacklevel=2)
    if paths:
        warnings.warn("there is no one before: the run begins again at t = 0; what is left of it stays", stacklevel=2)
    return None


def latest(folder: Inside, device: torch.device) -> Snapshot:
    """Returns the latest state of a run that can be read and is finite; changes nothing.

    Example:
        >>> import torch
        >>> import batchednodes
        >>> from batchednodes.results.checkpoints.checkpointer import latest
        >>> from batchednodes.results.folder.inside import Inside
        >>> run = batchednodes.train({"network.nodes": 3, "run": {"until": 2, "mark_every": 1}}, out="run")
        >>> snapshot = latest(Inside(run.folder), torch.device("cpu"))
        >>> snapshot.clocks.time, bool((snapshot.state.x == run.x).all())
        (2.0, True)

    Raises:
        ValueError: there is none.
    """
    reasons = []
    for path in newest_first(folder):
        try:
            snapshot = checkpoint.load(path, device)
        except (ValueError, OSError) as error:  # a run that goes on may have removed it
            reasons.append(str(error))
            continue
        if snapshot.journal.status != "diverged":
            return snapshot
        reasons.append(f"{path} diverged")
    raise ValueError(f"got {str(folder)!r} without a state to start from{': ' if reasons else ''}{'; '.join(reasons)}")
