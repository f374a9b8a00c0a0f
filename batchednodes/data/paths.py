"""Paths of the user's own files: what must be there before anything is opened.

To open a pipe waits for its writer, and a device may never end: so what is at a path is asked first, links followed.
"""

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

from batchednodes.numerics.values import shown

FILE, FOLDER, NOTHING = "a file", "a folder", "nothing"
"""What is at a path, in words; else it is a pipe, a socket or a device."""


def found(path: str | Path) -> str:
    """Returns what is at a path, in words, and opens nothing."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: of a null byte
        return NOTHING
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def check_file(path: str, kind: str, key: str, fix: str = "") -> None:
    """Checks that a path is that of a regular file.

    Example:
        >>> from batchednodes.data.paths import check_file
        >>> check_file("nowhere.csv", "CSV", "task.data.path")
        Traceback (most recent call last):
            ...
        ValueError: task.data.path must be an existing CSV file, got 'nowhere.csv' (relative paths start at the ...

    Args:
        path: relative to the working directory.
        kind: of file, in words.
        key: the setting that gave the path.
        fix: how to make such a file; said where there is nothing.

    Raises:
        ValueError: there is no such file.
    """
    if found(path) != FILE:
        _missing(path, f"{kind} file", key, fix)


def check_folder(path: str, kind: str, key: str) -> None:
    """Checks that a path is that of a folder; arguments as of `check_file`.

    Raises:
        ValueError: there is no such folder.
    """
    if found(path) != FOLDER:
        _missing(path, kind, key, "")


def check_member(path: str, key: str) -> None:
    """Checks that what was found in a folder is a regular file; arguments as of `check_file`.

    Raises:
        ValueError: it is none.
    """
    what = found(path)
    if what != FILE:
        got = "a link to nothing" if what == NOTHING else what
        raise ValueError(f"{key} must hold regular files, got {shown(path)}, {got}: remove it")


def read_text(path: str, what: str) -> str:
    """Returns the text of a file.

    Raises:
        ValueError: it cannot be read, or is not UTF-8; the message says what it should hold.
    """
    try:
        kind = found(path)
        if kind not in (FILE, FOLDER, NOTHING):  # the system has words for these two
            raise OSError(errno.EINVAL, f"it is {kind}")
        return Path(path).read_text(encoding="utf-8-sig")  # else a mark of the order of bytes would begin a name
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"path must be a readable text file {what}, got {shown(path)}: {reason}") from None


def _missing(path: str, what: str, key: str, fix: str) -> NoReturn:
    there = found(path)
    got = f", {there}" if there != NOTHING else " (relative paths start at the working folder; ~ is not expanded)"
    hint = f": {fix}" if fix and there == NOTHING else ""
    raise ValueError(f"{key} must be an existing {what}, got {shown(path)}{got}{hint}")
