"""Folders of runs: where a new one goes, what lies in it, and what makes files in it last."""

import errno
import itertools
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchednodes.numerics.values import shown
from batchednodes.results.folder.inside import PARTIAL, BorderError, Inside

LOCK, CONFIG, METRICS, SUMMARY, FINAL = "lock", "config.yaml", "metrics.jsonl", "summary.json", "final.safetensors"
NODES, ALONE, NODE_ROWS, ALONE_ROWS = "nodes.csv", "isolated.jsonl", "nodes.npy", "isolated.npy"
"""Files inside the folder of a run."""

RACE = "race.yaml"
"""File of what a race is of, inside its folder, beside its config.yaml."""

CHECKPOINTS = "checkpoints"
"""Folder of the states before, inside that of a run; or a file with the path of one that lies elsewhere."""

ISOLATED = "isolated"
"""Folder of the run of isolated nodes, until it is finished, inside that of the checkpoints; then of their curves."""

CHARTS = "summary"
"""Folder of TensorBoard's charts across a sweep, inside that of a run."""

FIGURES = "figures"
"""Folder of pictures, likewise."""

_ELSEWHERE = re.compile(r".+-[0-9a-f]{16}")
"""Name of a folder of checkpoints elsewhere: no other program makes one of this name."""

_LONGEST = 1 << 14
"""The longest file that names such a folder [B]."""

_NAME = 240
"""Bytes of the name of a folder, at most: file systems take 255, and files beside it have longer names for a moment."""


@dataclass
class OutputFolder:
    """Where a run is to leave its files: a folder of the user's choice, or the next of numbered ones."""

    folder: Path
    name: str | None = None
    """Of numbered folders: where another run takes the folder first, this one gets the next."""

    @staticmethod
    def numbered(name: str) -> "OutputFolder":
        """Returns the first of runs/<name>-1, runs/<name>-2, ... that is free now.

        Example:
            >>> from pathlib import Path
            >>> from batchednodes.results.folder.paths import OutputFolder
            >>> Path("runs/mine-1").mkdir(parents=True)
            >>> str(OutputFolder.numbered("mine").folder)
            'runs/mine-2'
        """
        return OutputFolder(_next_folder(name), name)

    def take_(self, made: Path) -> None:
        """Gives a folder that is ready its name, in one step.

        Raises:
            OSError: the place is taken, or cannot be written.
        """
        while True:
            try:
                if os.path.lexists(self.folder):
                    raise FileExistsError(errno.EEXIST, "it is there")
                made.rename(self.folder)
            except OSError:
                if self.name is None or not os.path.lexists(self.folder):
                    raise
                self.folder = _next_folder(self.name)
            else:
                return


def _next_folder(name: str) -> Path:
    numbers = itertools.count(1)
    return next(folder for k in numbers if not os.path.lexists(folder := Path("runs") / f"{name}-{k}"))


def check_new(folder: str | Path | None) -> None:
    """Checks that nothing is where a run would leave its files, and that they can be made; None: it leaves none.

    Raises:
        ValueError: there is something, or its place may not be written.
    """
    if folder is None:
        return
    if os.path.lexists(folder):
        raise ValueError(f"--out must not exist yet, got {shown(str(folder))}; nothing is ever overwritten")
    if len(os.fsencode(Path(folder).name)) > _NAME:
        raise ValueError(
            f"--out, or name with its number, must have at most {_NAME} bytes, got {shown(str(folder))}; shorten it"
        )
    _check_makeable("--out", Path(folder), Path(folder).absolute().parents)


def check_absent(folder: Path, names: Iterable[str]) -> None:
    """Checks that a folder may get some files, and has none of them; it need not be there.

    Raises:
        ValueError: it has one, or cannot be made or written.
    """
    for name in names:
        if os.path.lexists(folder / name):  # False for paths too long
            raise ValueError(
                f"--out must not hold {name} yet, got {shown(str(folder))}; nothing is ever overwritten: choose "
                "another folder, or move the file"
            )
    place = folder.absolute()
    _check_makeable("--out", folder, [place, *place.parents])


def _check_makeable(key: str, out: Path, places: Iterable[Path]) -> None:
    """Checks that the first of some folders that is there, each in the next one, may be written."""
    above = next((path for path in places if os.path.lexists(path)), Path("/"))
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise ValueError(
            f"{key} must be a folder that can be made, got {shown(str(out))}: {shown(str(above))} is not a folder that "
            "may be written"
        )


def states(folder: Inside) -> Iterator[Inside]:
    """Yields the files that hold states of a run.

    Raises:
        BorderError: one of them, or the folder of checkpoints, leads out of the run's folder or is no plain file.
    """
    kept = checkpoints(folder)
    files = [folder / FINAL, *(kept / name for name in kept.names() if name.endswith(".safetensors"))]
    yield from (file for file in files if file.is_file())


def checkpoints(folder: Inside) -> Inside:
    """Returns the folder of a run's checkpoints, which need not be there.

    Example:
        >>> from pathlib import Path
        >>> from batchednodes.results.folder.inside import Inside
        >>> from batchednodes.results.folder.paths import checkpoints
        >>> str(checkpoints(Inside(Path("runs/mine-1"))))
        'runs/mine-1/checkpoints'

    Raises:
        BorderError: it leads out of the run's folder, where no setting says so.
        ValueError: what says where it lies is damaged.
    """
    own = folder / CHECKPOINTS
    try:
        if not own.is_file():
            return own
    except BorderError as error:
        raise BorderError(f"{error} (run.checkpoint_folder puts checkpoints on another disk)") from None
    path = Path(os.fsdecode(own.read(_LONGEST)).strip())
    if not path.is_absolute() or not _ELSEWHERE.fullmatch(path.name):
        raise ValueError(f"{shown(str(own))} must name the folder of the run's checkpoints, got {shown(str(path))}")
    return Inside(path.parent, (path.name,))


def check_elsewhere(setting: str | None, folder: Inside | None = None) -> None:
    """Checks that run.checkpoint_folder can be made, and is where the checkpoints of a run that goes on lie.

    Args:
        setting: None: checkpoints lie in the run's folder.
        folder: of the run; None: it is new.

    Raises:
        ValueError: it cannot, or they lie elsewhere.
    """
    outer = None if setting is None else Path(setting).absolute()
    if folder is not None and (folder / CHECKPOINTS).status() is not None:
        kept = checkpoints(folder)
        there = None if kept == folder / CHECKPOINTS else kept.outer
        if there != outer:
            right = "null" if there is None else shown(str(there))
            got = "null" if setting is None else shown(setting)
            raise ValueError(
                f"run.checkpoint_folder must be {right}, where the run's checkpoints lie, got {got}; where they were "
                f"moved to stands in {folder / CHECKPOINTS}"
            )
    if outer is not None:
        _check_makeable("run.checkpoint_folder", outer, [outer, *outer.parents])


def made_checkpoints(folder: Inside, setting: str | None) -> Inside:
    """Makes the folder of a run's checkpoints, if it is not there, and returns it.

    Raises:
        ValueError: as of `check_elsewhere`.
        OSError: it cannot be made.
    """
    check_elsewhere(setting, folder)
    own = folder / CHECKPOINTS
    if setting is not None:
        outer = Path(setting).absolute()
        outer.mkdir(parents=True, exist_ok=True)
        if own.status() is None:
            name = f"{folder.path.absolute().name[:100]}-{secrets.token_hex(8)}"
            own.replace([os.fsencode(f"{outer / name}\n")])
    kept = checkpoints(folder)
    kept.make()
    return kept


def unmade_checkpoints(folder: Inside, kept: Inside) -> None:
    """Removes the folder of a run's checkpoints if it is empty, and what says where it lies."""
    with suppress(OSError, BorderError):  # of one that is not empty, or not there any more
        kept.remove_folder()
        if kept != folder / CHECKPOINTS:
            (folder / CHECKPOINTS).remove()


def check_own(folder: Inside, labels: Iterable[str]) -> None:
    """Checks that nothing in the folder of a run leads out of it, as far as a run that goes on needs it.

    Args:
        folder: of the run.
        labels: folders in it for the curves of each network, see `sweep.labels`.

    Raises:
        BorderError: something does.
    """
    for name in (*labels, CHARTS):
        (folder / name).status()
    for run in (folder, checkpoints(folder) / ISOLATED):
        for name in (LOCK, METRICS, NODE_ROWS):  # what is written into, not replaced
            (run / name).check_sole()
        for name in (CONFIG, NODES, SUMMARY, FINAL):
            (run / name).status()
            (run / f"{name}{PARTIAL}").status()
        kept = checkpoints(run)
        for name in kept.names():
            if name.endswith((".safetensors", PARTIAL)):
                (kept / name).status()


def check_origin(folder: str | None) -> None:
    """Checks that a folder holds a state of a run, from whose models another may start; None: none starts from it.

    Raises:
        ValueError: it holds none.
    """
    if folder is not None and not any(states(Inside(Path(folder)))):
        raise ValueError(f"run.start_from must be the folder of a run, got {folder!r} without a state to start from")


def check_writable(folder: str | Path) -> None:
    """Checks that files may be made in a folder.

    Raises:
        OSError: they may not.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = "the disk is read-only" if os.statvfs(folder).f_flag & os.ST_RDONLY else "permission denied"
        raise OSError(f"DIR must be a folder that may be written, got {shown(str(folder))}: {reason}")


def make(folder: Path) -> list[Path]:
    """Makes a folder and those above it, or none of them; returns those that were not there, the innermost first.

    Raises:
        ValueError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        unmake(missing)
        raise ValueError(
            f"--out must be a folder that can be made, got {shown(str(folder))}: {error.strerror}"
        ) from error
    return missing


def unmake(folders: list[Path]) -> None:
    """Removes folders, the innermost first, as far as they are there and empty."""
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def sync(folder: Path) -> None:
    """Makes a folder, and its name in the one above, outlast a loss of power.

    Raises:
        OSError: it is not there, or the disk fails.
    """
    for each in (folder, folder.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
