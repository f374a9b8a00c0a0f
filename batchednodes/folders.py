"""Folders of runs: where a new one goes, and what makes files in them last.

Letters: none.
"""

import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchednodes.values import shown

FINAL = "final.safetensors"
"""File of the final state, inside the folder of a run."""

CHECKPOINTS = "checkpoints"
"""Folder of the states before, inside that of a run."""

_NAME = 240
"""Bytes of the name of a folder, at most: file systems take 255, and files beside it have longer names for a moment."""


@dataclass
class Place:
    """Where a run is to leave its files: a folder of the user's choice, or the next of numbered ones."""

    folder: Path
    name: str | None = None
    """Of numbered folders: where another run takes the folder first, this one gets the next."""

    @staticmethod
    def numbered(name: str) -> "Place":
        """Returns the first of runs/<name>-1, runs/<name>-2, ... that is free now."""
        return Place(_next_folder(name), name)

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
    _check_makeable(Path(folder), Path(folder).absolute().parents)


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
    _check_makeable(folder, [place, *place.parents])


def _check_makeable(out: Path, places: Iterable[Path]) -> None:
    """Checks that the first of some folders that is there, each in the next one, may be written."""
    above = next((path for path in places if os.path.lexists(path)), Path("/"))
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise ValueError(
            f"--out must be a folder that can be made, got {shown(str(out))}: {shown(str(above))} is not a folder "
            "that may be written"
        )


def states(folder: Path) -> Iterator[Path]:
    """Yields the files that hold states of a run; a pipe is none, and whoever reads it waits for ever."""
    paths = [folder / FINAL, *(folder / CHECKPOINTS).glob("*.safetensors")]
    yield from (path for path in paths if path.is_file())


def check_origin(folder: str | None) -> None:
    """Checks that a folder holds a state of a run, from whose models another may start; None: none starts from it.

    Raises:
        ValueError: it holds none.
    """
    if folder is not None and not any(states(Path(folder))):
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


def sync(path: Path) -> None:
    """Makes a file, and its name in its folder, outlast a loss of power.

    Raises:
        OSError: it is not there, or the disk fails.
    """
    for each in (path, path.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
