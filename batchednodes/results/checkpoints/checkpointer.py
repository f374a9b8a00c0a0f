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
from typing import TypeVar

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.share import Share
from batchednodes.algorithms.state import State
from batchednodes.config import Every
from batchednodes.numerics import devices
from batchednodes.numerics.memory import BackgroundWorker, exhausted, reason
from batchednodes.results.checkpoints import checkpoint, final_file, part
from batchednodes.results.checkpoints.copies import Copies
from batchednodes.results.checkpoints.header import number
from batchednodes.results.checkpoints.snapshot import Batch, Snapshot
from batchednodes.results.checkpoints.together import Together
from batchednodes.results.folder.inside import PARTIAL, BorderError, Inside
from batchednodes.results.folder.paths import (
    FINAL,
    METRICS,
    NODE_ROWS,
    is_checkpoint,
    made_checkpoints,
    unmade_checkpoints,
)

T = TypeVar("T")

_FAILURES = (OSError, BorderError, MemoryError, RuntimeError)
"""What leaves a run as it is, where nothing more can be written; some RuntimeErrors are of another kind."""

_NUMBERED = re.compile(r"\d{6,}(\.safetensors)?")
"""Name of a checkpoint: of a file, or of the folder of those that ranks leave."""

_DONE, _WRITING, _FAILED = range(3)
"""What a rank does with its part of a checkpoint."""


class Checkpointer:
    """Writes checkpoints of one run and keeps the newest.

    Over ranks each has one, and calls each of its methods that says so in the same order as the others do. Each writes
    its part into a folder that has its name once all parts are on disk: at the next call of `tend` that finds so, or
    before anything else is written.
    """

    def __init__(
        self,
        folder: Inside,
        every: Every,
        keep: int,
        now: float,
        beside: bool,
        rotate: bool = True,
        elsewhere: str | None = None,
        share: Share | None = None,
        cut: Cut | None = None,
    ) -> None:
        """Makes the folder of the checkpoints, and removes what a killed process left half written. On all ranks.

        Args:
            folder: of the run; all ranks reach it, and the first has made it.
            every: when checkpoints are due.
            keep: how many stay.
            now: simulated time [s].
            beside: whether a thread writes a copy of the state while the run goes on; else the run waits.
            rotate: whether checkpoints that are there already count among those that stay; else they all stay.
            elsewhere: run.checkpoint_folder.
            share: what this rank holds; None: there are no others.
            cut: how that is cut over ranks; None: it is whole.

        Raises:
            ValueError: something in the folder leads out of it, or the checkpoints lie elsewhere.
            OSError: the folder cannot be made.
        """
        self.run, self.every, self.keep, self.copies = folder, every, keep, Copies(beside)
        self.together = None if share is None else Together(share, cut)
        outer, parts, self.number = self._told(lambda: self._made(folder, elsewhere))
        self.folder = Inside(Path(outer), tuple(parts))
        self.others = 0 if rotate else self.number
        self.writer = BackgroundWorker(_yield_to_others)
        self.writing: Callable[[], None] | None = None
        self.written, self.open = threading.Event(), False
        self.why: str | None = None
        self.wait(now)

    def _told(self, found: Callable[[], T]) -> T:
        """Returns what this process finds, over ranks what the first does; errors likewise."""
        return found() if self.together is None else self.together.told(found)

    def _made(self, folder: Inside, elsewhere: str | None) -> tuple[str, tuple[str, ...], int]:
        """Returns where the checkpoints lie, which is made ready, and the number of the last one there."""
        made = made_checkpoints(folder, elsewhere)
        for name in made.names():
            if name.endswith(PARTIAL) and _NUMBERED.fullmatch(name.removesuffix(PARTIAL)):
                _remove(made / name)
        return str(made.outer), made.parts, max(map(number, made.names()), default=0)

    @property
    def first(self) -> bool:
        """Whether this process holds the folder of the run."""
        return self.together is None or self.together.first

    @property
    def path(self) -> Path:
        """Of the latest checkpoint, or of the one that is being written."""
        return self._path.path

    @property
    def _path(self) -> Inside:
        return self.folder / (f"{self.number:06}.safetensors" if self.together is None else f"{self.number:06}")

    @property
    def _part(self) -> Inside:
        """The file that this process writes."""
        if self.together is None:
            return self._path
        return self.folder / f"{self.number:06}{PARTIAL}" / part.name(self.together.all.rank)

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
            self.copies.wanted
            and not self.copies.tensors
            and self.writing is None
            and (now >= half or self._waited(0.5))
            and self.writer.has_thread()
        ):
            self.writing = self.writer.submit(self.copies.reserve, state)

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, after the one before; on return the state may change again. On all ranks."""
        self.settle()
        self.wait(snapshot.clocks.time)
        try:
            snapshot, batch = self._begun(snapshot)
        except OSError as error:  # of the first rank, which all know
            if self.first:
                _warn(str(error))
            return
        try:
            copy = self.copies.of(snapshot.state) if self.copies.wanted and self.writer.has_thread() else None
            if copy is None:
                self._write(snapshot, batch)
            else:
                copied = devices.Moment(snapshot.state.x.device)  # the writer waits for it, and the run goes on
                self.writing = self.writer.submit(self._write, replace(snapshot, state=copy), batch, copied)
        except _FAILURES as error:
            self._note(error)

    def _begun(self, snapshot: Snapshot) -> tuple[Snapshot, Batch | None]:
        """Returns what this process is to write as the next checkpoint, and of what it is a part.

        Raises:
            OSError: there can be no folder for the parts.
        """
        self.number += 1
        snapshot = replace(snapshot, beside=snapshot.beside or tuple(snapshot.state.columns))
        if self.together is None:
            return snapshot, None
        self._told((self.folder / f"{self.number:06}{PARTIAL}").make)
        self.open, self.why = True, None
        self.written.clear()
        self.together.begin()
        return self.together.summed(snapshot), self.together.of(snapshot)

    def tend(self) -> None:
        """Gives a checkpoint its name if all ranks have written their parts; waits for none. On all ranks, often."""
        if self.together is None or not self.open:
            return
        if self.written.is_set():
            self._join()
        code = _WRITING if not self.written.is_set() else _DONE if self.why is None else _FAILED
        found = self.together.progress(code)
        if found == _DONE:
            self._end(None)
        elif found == _FAILED:
            self._join()
            self._end(self.together.failure(self.why))

    def settle(self) -> None:
        """Waits until nothing is being written; a failure becomes a warning, since the run can go on. On all ranks."""
        self._join()
        if self.together is not None and self.open:
            self._end(self.together.failure(self.why))

    def _join(self) -> None:
        """Waits until this process writes nothing."""
        writing, self.writing = self.writing, None
        try:
            if writing is not None:
                writing()
        except _FAILURES as error:
            self._note(error)

    def _end(self, why: str | None) -> str | None:
        """Gives the folder of parts its name, or removes it where a rank failed; returns why there is none, if so."""
        self.open, folder = False, self.folder / f"{self.number:06}{PARTIAL}"
        if not self.first:
            return why
        try:
            if why is None:
                folder.rename(self._path.name, lasting=True)
                self._rotate()
            else:
                _remove(folder)
        except (OSError, BorderError) as error:
            why = why or str(error)
        if why is not None:
            _warn(why)
        return why

    def write_now(self, snapshot: Snapshot) -> Inside:
        """Writes a checkpoint before it returns. On all ranks.

        Raises:
            OSError: it cannot be written; older ones are untouched.
        """
        self.settle()
        snapshot, batch = self._begun(snapshot)
        if self.together is None:
            self._write(snapshot, batch)
            return self._path
        try:
            self._write(snapshot, batch)
        except _FAILURES as error:
            self._note(error)
        with warnings.catch_warnings(action="ignore"):
            why = self._end(self.together.failure(self.why))
        why = self.together.told(lambda: why)
        if why is not None:
            raise OSError(why)
        return self._path

    def write_final(self, snapshot: Snapshot) -> None:
        """Writes the final state before it returns. On all ranks.

        Raises:
            OSError: it cannot be written; checkpoints are untouched.
        """
        self.settle()
        if self.together is None:
            self._sync(self.run / FINAL, snapshot)
            checkpoint.save(self.run / FINAL, snapshot)
            return
        self._told(lambda: self._sync(self.run / FINAL, snapshot))
        final_file.write(self.run / FINAL, self.together.summed(snapshot), self.together)

    def close(self, alone: bool = False) -> None:
        """Waits until nothing is being written; a folder without checkpoints goes away. On all ranks.

        Args:
            alone: whether other ranks cannot be asked any more: what is not whole yet stays without a name.
        """
        if self.together is None or not alone:
            self.settle()
        if self.together is not None and not alone:
            self.together.close()
        self.writer.close()
        if self.first:
            unmade_checkpoints(self.run, self.folder)

    def _sync(self, path: Inside, snapshot: Snapshot) -> None:
        """Makes the rows of metrics and nodes that a state refers to last: no loss of power takes those alone."""
        journal = snapshot.journal
        for name, (size, _) in ((METRICS, journal.metrics), (NODE_ROWS, journal.nodes)):
            try:
                if size:
                    (self.run / name).sync()
            except OSError as error:
                raise OSError(f"{path} cannot be written: {name}: {error.strerror}") from error

    def _write(self, snapshot: Snapshot, batch: Batch | None, copied: devices.Moment | None = None) -> None:
        try:
            if copied is not None:
                copied.wait()
            if self.first:
                self._sync(self._part, snapshot)
            checkpoint.save(self._part, snapshot, batch)
            if self.together is None:
                self._rotate()
        finally:
            self.written.set()

    def _rotate(self) -> None:
        """Removes the oldest checkpoints, of those that do not all stay."""
        named = [name for name in self.folder.names() if _NUMBERED.fullmatch(name) and number(name) > self.others]
        ours = [name for name in named if is_checkpoint(self.folder / name)]
        for old in sorted(ours, key=number)[: -self.keep]:
            _remove(self.folder / old)

    def _note(self, error: Exception) -> None:
        """Notes what leaves the run as it is: a warning, or over ranks what others are told.

        Raises:
            RuntimeError: the error is another one.
        """
        if not isinstance(error, OSError | BorderError) and not exhausted(error):
            raise error
        known = isinstance(error, OSError | BorderError)
        why = str(error) if known else f"memory does not hold it ({reason(error)})"
        if self.together is None:
            _warn(why)
        else:
            self.why = why
            self.written.set()


def _warn(why: str) -> None:
    warnings.warn(f"no checkpoint: {why}; the run goes on, and tries again when the next is due", stacklevel=4)


def _remove(path: Inside) -> None:
    """Removes a file, or a folder with all that is in it: one that has a name loses it first."""
    if not path.is_folder():
        path.remove()
        return
    if not path.name.endswith(PARTIAL):
        path.rename(f"{path.name}{PARTIAL}")
        path = Inside(path.outer, (*path.parts[:-1], f"{path.name}{PARTIAL}"))
    path.remove_folder(whole=True)


def _yield_to_others() -> None:
    """Lets this thread compute only where a core would be idle: a run of as many threads as cores stays undisturbed.

    Linux counts threads as processes here; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
