"""Inputs: files that stand for Python objects of the user's own, under names that tell their content.

Settings hold the name, `inputs/data-0f3c....npz`, in place of a path: it begins with what the file is for and has a
checksum of the content, so it stays the same wherever the file lies. That is a folder for temporary files until the
process ends, and the folder of each run that is made of the object; whoever moves that folder moves the file along.
"""

import atexit
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from batchednodes.numerics.values import shown

FOLDER = "inputs"
"""Where they lie in the folder of a run, and how their names begin."""

_NAME = re.compile(rf"{FOLDER}/[a-z]+-([0-9a-f]{{16}})\.(?:npz|py|safetensors|txt)")

_PLACES: dict[str, Path] = {}
"""Name -> a file that has the content which the name tells: whatever file that is, it makes no difference."""


def keep(what: str, suffix: str, write: Callable[[Path], object]) -> str:
    """Returns the name of a file, which is written into a folder for temporary files.

    Example:
        >>> from pathlib import Path
        >>> from batchednodes.numerics.inputs import keep, located
        >>> name = keep("notes", ".npz", lambda path: path.write_text("some"))
        >>> name, Path(located(name)).read_text()
        ('inputs/notes-a6b46dd0d1ae5e86.npz', 'some')

    Args:
        what: it is for, in small letters.
        suffix: its form: .npz, .py, .safetensors or .txt.
        write: writes the file at a path.

    Raises:
        OSError: it cannot be written.
    """
    fresh = _stage() / f"new{suffix}"
    write(fresh)
    name = f"{FOLDER}/{what}-{_checksum(fresh)}{suffix}"
    place = _stage() / name.removeprefix(f"{FOLDER}/")
    fresh.replace(place)
    _PLACES[name] = place
    return name


@functools.cache
def _stage() -> Path:
    """Returns the folder for temporary files of this process, which goes away when it ends."""
    made = Path(tempfile.mkdtemp(prefix="batchednodes-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def located(path: str) -> str:
    """Returns where the file of an input lies; a path that is none, or that nothing is known of, as it is."""
    place = _PLACES.get(path)
    return path if place is None else str(place)


def named(text: str) -> list[str]:
    """Returns the names of inputs in a text, each once."""
    return [*dict.fromkeys(found[0] for found in _NAME.finditer(text))]


def find(text: str, folder: Path) -> None:
    """Takes note of the inputs of settings that were read from a folder, as far as they lie there.

    Args:
        text: the settings.
        folder: in which they lie.

    Raises:
        ValueError: a file has another content than its name tells, or is none of the folder's own.
    """
    for name in named(text):
        place = folder.absolute() / name
        if name in _PLACES and _PLACES[name].is_file():
            continue
        if not os.path.lexists(place):
            continue
        if not stat.S_ISREG(os.lstat(place).st_mode) or place.parent.is_symlink():
            raise ValueError(f"{shown(str(place))} must be a file of its folder's own, got something else; put it back")
        if _NAME.sub(r"\1", name) != _checksum(place):
            raise ValueError(f"{shown(str(place))} must hold what its name tells, got other content; put it back")
        _PLACES[name] = place


def blocks(name: str) -> Iterator[bytes]:
    """Yields the content of an input, a part after the other.

    Raises:
        OSError: it cannot be read.
    """
    with open(located(name), "rb") as file:
        while part := file.read(1 << 20):
            yield part
