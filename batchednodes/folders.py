"""Folders of runs: where a new one goes, and what makes files in them last.

Letters: none.
"""

import itertools
import os
from pathlib import Path

from batchednodes.values import shown


def next_folder(name: str) -> Path:
    """Returns the first of runs/<name>-1, runs/<name>-2, ... that does not exist."""
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
    above = next((path for path in Path(folder).absolute().parents if os.path.lexists(path)), Path("/"))
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise ValueError(
            f"--out must be a folder that can be made, got {shown(str(folder))}: {shown(str(above))} is not a folder "
            "that may be written"
        )


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
