"""Originals: the user's own files and folders that settings name, and whether they are what they were.

A run that goes on reads its data, graph and traces again. Sizes and a share of the bytes, spread evenly over all, tell
other contents apart without the time that it takes to read them whole.

Letters: none.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from batchednodes import config
from batchednodes.sweep import Point, leaves
from batchednodes.values import shown

_KEYS = ("path", "test_path")
"""Last parts of the keys of settings that name files or folders."""

_UNASKED = ("Thumbs.db", "desktop.ini")
"""Files that systems put into folders, as they do hidden ones."""

_BLOCK, _BLOCKS = 1 << 16, 1 << 9
"""Bytes that are read at one place, and the most places."""


def checksums(points: Sequence[Point]) -> dict[str, str]:
    """Returns path and checksum of each file and folder that the settings of networks name, as far as it is there."""
    found = dict[str, str]()
    for path in {path for path, _ in _named(points) if os.path.exists(path)}:
        with suppress(OSError):  # what needs the file says why it cannot be read
            found[path] = _checksum(Path(path))
    return found


def check(points: Sequence[Point], old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Checks that files and folders are what they were when a run began.

    Args:
        points: the networks of the run.
        old: path and checksum of each then; one that it lacks is not checked.
        new: the same now.

    Raises:
        ValueError: one is not.
    """
    for path, key in _named(points):
        if path in old and path in new and old[path] != new[path]:
            raise ValueError(
                f"{key} must hold what it held when the run began, got other content in {shown(path)}; put it back, or "
                "start from the run's models: batchednodes train CONFIG --from DIR"
            )


def _named(points: Sequence[Point]) -> Iterator[tuple[str, str]]:
    """Yields path and key of each setting that names a file or a folder."""
    seen: set[int] = set()
    for tree in (config.to_dict(points[0].config), *(p.settings for p in points if p.settings)):
        if id(tree) in seen:  # replicas share it
            continue
        seen.add(id(tree))
        for key, value in leaves(tree):
            if key.rpartition(".")[2] in _KEYS and isinstance(value, str) and not key.startswith("task.model."):
                yield value, key


def _files(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder and of those in it, links followed; not those that systems put there unasked."""
    seen = set[tuple[int, int]]()
    for place, inner, names in os.walk(folder, followlinks=True):
        there = os.stat(place)
        if (there.st_dev, there.st_ino) in seen:  # a link to a folder above
            inner.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        paths = (Path(place, name) for name in names if not name.startswith(".") and name not in _UNASKED)
        yield from (path for path in paths if path.is_file())


def _checksum(path: Path) -> str:
    """Returns a checksum of the names and sizes of all files of a folder, or of one file, and of a share of bytes."""
    files = [path] if path.is_file() else sorted(_files(path))
    sizes = [each.stat().st_size for each in files]
    digest, total, begin, place = hashlib.sha256(), sum(sizes), 0, 0
    step = max(_BLOCK, -(-total // _BLOCKS))
    for each, size in zip(files, sizes, strict=True):
        name = each.relative_to(path) if path.is_dir() else ""
        digest.update(os.fsencode(f"{name}\0{size}\0"))
        if place < begin + size:
            with each.open("rb") as file:
                while place < begin + size:
                    file.seek(place - begin)
                    digest.update(file.read(_BLOCK))
                    place += step
        begin += size
    return digest.hexdigest()
