"""Paths of the user's own data: what must be there before anything is opened.

Letters: none.
"""

import os
import stat
from typing import NoReturn

from batchednodes.values import shown


def check_file(path: str, kind: str, key: str) -> None:
    """Checks that a path is that of a regular file; who opens a pipe would wait for its writer.

    Args:
        path: relative to the working directory.
        kind: of file, in words.
        key: the setting that gave the path.

    Raises:
        ValueError: there is no such file.
    """
    if not os.path.isfile(path):  # False, too, for paths too long or with a null byte
        _missing(path, f"{kind} file", key)


def check_folder(path: str, kind: str, key: str) -> None:
    """Checks that a path is that of a folder; arguments as of `check_file`.

    Raises:
        ValueError: there is no such folder.
    """
    if not os.path.isdir(path):
        _missing(path, kind, key)


def _missing(path: str, what: str, key: str) -> NoReturn:
    found = ""
    if os.path.exists(path):
        mode = os.stat(path).st_mode
        found = ", a folder" if stat.S_ISDIR(mode) else ", a file" if stat.S_ISREG(mode) else ", a pipe or a device"
    where = "" if found else " (relative paths start at the working folder; ~ is not expanded)"
    raise ValueError(f"{key} must be an existing {what}, got {shown(path)}{found}{where}")
