"""The folder of a run: made and locked, then the one way in which a run that goes on writes into it."""

import itertools
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchednodes import config
from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.share import Share
from batchednodes.algorithms.state import State
from batchednodes.config import Config
from batchednodes.numerics import inputs
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.checkpointer import Checkpointer
from batchednodes.results.checkpoints.journal import RunJournal
from batchednodes.results.folder.inside import PARTIAL, BorderError, Inside
from batchednodes.results.folder.lock import Lock
from batchednodes.results.folder.logs import RunLogs, write_json
from batchednodes.results.folder.node_file import NodeFile
from batchednodes.results.folder.paths import (
    CHARTS,
    CONFIG,
    FINAL,
    LOCK,
    NODES,
    SUMMARY,
    OutputFolder,
    check_new,
    sync,
    unmake,
)
from batchednodes.results.folder.plain_json import parsed
from batchednodes.results.metrics.catalogue import Metric, renamed
from batchednodes.results.metrics.observed import Observation

if TYPE_CHECKING:
    from batchednodes.results.folder import sweep_charts
else:
    sweep_charts = deferred("batchednodes.results.folder.sweep_charts")

_OLD = 3600.0
"""Age from which a folder that is being made, which takes no second, is nobody's any more [s]."""

_NEW = re.compile(r"\.new-\d+-\d+")
"""Name of such a folder."""


def new_folder(where: OutputFolder, settings: str, nodes: str | None = None) -> Lock:
    """Makes the folder of a run, with its settings in it from the first moment, and locks it.

    Example:
        >>> from pathlib import Path
        >>> from batchednodes.results.folder.paths import OutputFolder
        >>> from batchednodes.results.folder.run_folder import new_folder
        >>> lock = new_folder(OutputFolder(Path("run")), "seed: 1")
        >>> sorted(path.name for path in Path("run").iterdir())
        ['config.yaml', 'lock']
        >>> lock.close()

    Args:
        where: it is to be.
        settings: of the run.
        nodes: names of its nodes; None: they have none.

    Raises:
        ValueError: the folder exists, or cannot be made.
    """
    place, missing = None, [path for path in where.folder.parents if not os.path.lexists(path)]
    try:
        where.folder.parent.mkdir(parents=True, exist_ok=True)
        place = _new_place(where.folder.parent)
        lock = begin(place, settings, nodes)
        where.take_(place.path)
        sync(where.folder)
    except OSError as error:
        if place is not None:
            _unmake(place)
        check_new(where.folder)
        unmake(missing)
        raise ValueError(
            f"--out must be a folder that can be made, got {shown(str(where.folder))}: {error.strerror}"
        ) from error
    lock.moved(Inside(where.folder))
    return lock


def begin(folder: Inside, settings: str, nodes: str | None = None) -> Lock:
    """Locks a folder that is empty, and writes the settings of a run, its inputs, and the names of its nodes into it.

    Raises:
        OSError: they cannot be written.
    """
    lock = Lock(folder)
    try:
        (folder / CONFIG).replace([settings.encode()])
        if nodes is not None:
            (folder / NODES).replace([nodes.encode()])
        if names := inputs.named(settings):
            (folder / inputs.FOLDER).make()
        for name in names:
            (folder / name).replace(inputs.blocks(name))
    except BaseException:
        lock.close()
        raise
    return lock


def _new_place(parent: Path) -> Inside:
    """Makes a folder of this process; those that killed ones left go away."""
    for name in Inside(parent).names():
        if _NEW.fullmatch(name):
            with suppress(OSError, BorderError):
                left = Inside(parent, (name,))
                seen = left.status()
                if seen is not None and seen.st_uid == os.geteuid() and time.time() - seen.st_mtime > _OLD:
                    _unmake(left)
    for k in itertools.count():
        place = Inside(parent, (f".new-{os.getpid()}-{k}",))
        with suppress(FileExistsError):
            place.path.mkdir()
            return place
    raise AssertionError


def _unmake(place: Inside) -> None:
    """Removes a folder that is being made; one that holds anything else stays."""
    if {*place.names()} <= {LOCK, CONFIG, CONFIG + PARTIAL, NODES, NODES + PARTIAL, inputs.FOLDER}:
        with suppress(OSError, BorderError):
            if (place / inputs.FOLDER).is_folder():
                (place / inputs.FOLDER).remove_folder(whole=True)
            for name in place.names():
                (place / name).remove()
            place.remove_folder()


def reopen(folder: Inside, settings: str, ended: bool) -> None:
    """Makes the folder of a run, which is locked, ready to go on.

    Args:
        folder: of the run.
        settings: from now on.
        ended: whether the run is at its end; else its summary, of what it was, goes away.

    Raises:
        OSError: it cannot be written.
    """
    for name in (CONFIG, SUMMARY, FINAL):  # what a killed process left half written
        (folder / f"{name}{PARTIAL}").remove()
    (folder / CONFIG).replace([settings.encode()])
    if not ended:
        (folder / SUMMARY).remove()


class RunFolder:
    """All that one run writes while it goes on: rows of metrics, curves, checkpoints and, at its end, a summary.

    Example:
        >>> import json
        >>> import batchednodes
        >>> from pathlib import Path
        >>> run = batchednodes.train({"network.nodes": 3, "run": {"until": 2, "mark_every": 1}}, out="run")
        >>> rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        >>> [row["time"] for row in rows]
        [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        where: Inside,
        settings: Config,
        journal: RunJournal,
        start: Snapshot | None,
        labels: Sequence[str],
        own: Sequence[Metric],
        beside: bool,
        share: Share | None = None,
        cut: Cut | None = None,
    ) -> None:
        """Opens the files of a run where it left off.

        Args:
            where: the folder, made and locked.
            settings: of the run.
            journal: what is known of the run.
            start: where it goes on; None: at its start.
            labels: folder of each network's curves, see `RunLogs.open`; empty: there are none.
            own: metrics of the user's own.
            beside: whether checkpoints are written while the run goes on.
            share: what this rank holds: it writes its part of checkpoints, the first one all else; None: there are no
                others.
            cut: how that is cut over ranks; None: it is whole.

        Raises:
            ValueError: metrics.jsonl is not what the run left, or something leads out of the folder.
            OSError: the folder of the checkpoints cannot be made.
        """
        self.where, self.labels, run, first = where, [*labels], settings.run, share is None or share.first
        new = start is None or start.journal.config != journal.config
        shown = config.dump(settings) if new else None
        self.record = RunLogs.open(where, self.labels, shown, journal.metrics, own) if first else None
        self.table = NodeFile.open(where, journal.nodes) if run.node_metrics and first else None
        now, every, keep = 0.0 if start is None else start.clocks.time, run.checkpoint_every, run.keep_checkpoints
        held = start is not None, run.checkpoint_folder, share, cut
        self.checkpointer = Checkpointer(where, every, keep, now, beside, *held)

    def rows(self, last: int | None = None) -> list[dict[str, Any]]:
        """Returns the rows of metrics so far, or the last of them; see `RunLogs.rows`."""
        return [] if self.record is None else self.record.rows(last)

    @property
    def metrics(self) -> tuple[int, str]:
        """Length [B] and checksum of metrics.jsonl."""
        return (0, "") if self.record is None else self.record.metrics

    @property
    def nodes(self) -> tuple[int, str]:
        """Number of the rows of nodes.npy, and checksum."""
        return (0, "") if self.table is None else self.table.known

    def log(self, observations: list[Observation], speed: dict[str, float]) -> None:
        """Appends one mark to metrics.jsonl, nodes.npy and TensorBoard; errors as of `RunLogs.observe`."""
        if self.table is not None:
            self.table.append([one.nodes for one in observations if one.nodes is not None])
        if self.record is not None:
            self.record.observe(observations, speed)

    def overdue(self) -> bool:
        """Returns whether a checkpoint is due by the clock on the wall, which is that of the first process."""
        return self.record is not None and self.checkpointer.overdue()

    def due(self, now: float) -> bool:
        """Returns whether a checkpoint is due at a simulated time [s], or by the clock on the wall."""
        return self.record is not None and self.checkpointer.due(now)

    def keep(self, state: State, now: float, due: bool, snapshot: Callable[[], Snapshot | None]) -> bool:
        """Writes a checkpoint, if one is due, at a simulated time [s]; a snapshot of None: older ones are of more use.

        Returns:
            Whether it does.
        """
        if not due:
            self.checkpointer.prepare(state, now)
        elif (made := snapshot()) is None:
            self.checkpointer.wait(now)
        else:
            self.checkpointer.write(made)
            return True
        return False

    def save(self, snapshot: Snapshot) -> None:
        """Writes a state where its status says: a checkpoint, beside the run if it is running; the end in its own file.

        Raises:
            OSError: it cannot be written, and the run is not running, which would go on; older files are untouched.
        """
        match snapshot.journal.status:
            case "running":
                self.checkpointer.write(snapshot)
            case "interrupted":
                self.checkpointer.write_now(snapshot)
            case _:
                self.checkpointer.write_final(snapshot)

    def summary(self) -> dict[str, Any] | None:
        """Returns the summary of a finished run, with the keys of today; None: there is none that is whole."""
        if self.record is None:
            return None
        file = self.where / SUMMARY
        try:
            found: Any = parsed(file.read()) if file.is_file() else None
        except ValueError:  # it is damaged, and will be written again
            return None
        if not isinstance(found, dict) or found.get("status") not in ("finished", "stopped"):
            return None
        for part in ("networks", "isolated"):
            if isinstance(found.get(part), list):
                found[part] = [renamed(row) if isinstance(row, dict) else row for row in found[part]]
        return found

    def finish(self, summary: dict[str, Any], settings: Sequence[Config]) -> None:
        """Writes the summary; at the end of a run also into TensorBoard, with the settings of each network."""
        if self.record is None:
            return
        if summary["status"] != "interrupted":
            self.record.finish(summary, [config.to_dict(one) for one in settings])
            if summary["isolated"] is not None:
                self.record.show_isolated(self.labels)
            if len(self.labels) > 1:
                sweep_charts.write(self.where / CHARTS, summary["networks"], summary["isolated"])
        write_json(self.where / SUMMARY, summary)

    def tend(self) -> None:
        """Gives a checkpoint that ranks have written its name; all must call this often."""
        self.checkpointer.tend()

    def close(self, failed: bool = False) -> None:
        """Closes the files, after what is being written; a folder without checkpoints goes away.

        Args:
            failed: whether the run has, so that other ranks cannot be asked any more.
        """
        if self.record is not None:
            self.record.close()
        self.checkpointer.close(failed)
