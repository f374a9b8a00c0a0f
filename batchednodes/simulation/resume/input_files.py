"""Originals: the user's own files and folders that settings name, and whether they are what they were.

A run that goes on reads its data, graph and traces again. Names, sizes and contents of all files tell others apart; of
what is large, a share of the contents that takes no longer to read than to load them.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from batchednodes import config
from batchednodes.config.sweep import NetworkSpec, leaves
from batchednodes.numerics.values import shown

_KEYS = ("path", "test_path", "images", "vocabulary")
"""Last parts of the keys of settings that name files or folders."""

_UNASKED = ("Thumbs.db", "desktop.ini")
"""Files that systems put into folders, as they do hidden ones."""

_WHOLE, _END, _BLOCK = 1 << 25, 1 << 10, 1 << 16
"""Bytes that are read of all files together, if they have more, of each end of a file at least, and at one place."""

_FORM = "2:"
"""Beginning of the checksums that are made here; those of another form cannot be compared with them."""


def checksums(points: Sequence[NetworkSpec]) -> dict[str, str]:
    """Returns path and checksum of each file and folder that the settings of networks name, as far as it is there."""
    found = dict[str, str]()
    for path in {path for path, _ in _named(points) if os.path.exists(path)}:
        with suppress(OSError):  # what needs the file says why it cannot be read
            found[path] = _checksum(path)
    return found


def check(points: Sequence[NetworkSpec], old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Checks that files and folders are what they were when a run began.

    Args:
        points: the networks of the run.
        old: path and checksum of each then; one that it lacks, or of an older form, is not checked.
        new: the same now.

    Raises:
        ValueError: one is not.
    """
    for path, key in _named(points):
        if path not in old or path not in new or old[path] == new[path]:
            continue
        if old[path].startswith(_FORM):
            raise ValueError(
                f"{key} must hold what it held when the run began, got other content in {shown(path)}; put it back, or "
                "start from the run's models: batchednodes train CONFIG --from DIR"
            )
        warnings.warn(
            f"{key} is not compared with what it was: an older version began the run, and noted less of it",
            stacklevel=2,
        )


def _named(points: Sequence[NetworkSpec]) -> Iterator[tuple[str, str]]:
    """Yields path and key of each setting that names a file or a folder."""
    seen: set[int] = set()
    for tree in (config.to_dict(points[0].config), *(p.settings for p in points if p.settings)):
        if id(tree) in seen:  # replicas share it
            continue
        seen.add(id(tree))
        for key, value in leaves(tree):
            if key.rpartition(".")[2] in _KEYS and isinstance(value, str) and not key.startswith("task.model."):
                yield value, key


def _files(folder: str) -> list[tuple[str, int]]:
    """Returns path and size [B] of the files of a folder and of those in it, links followed, in the order of paths.

    Those that systems put there unasked do not count, nor does what is no file.
    """
    waiting, found, seen = [folder], list[tuple[str, int]](), set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        there = os.stat(place)
        if (there.st_dev, there.st_ino) in seen:  # a link to a folder above
            continue
        seen.add((there.st_dev, there.st_ino))
        with suppress(PermissionError), os.scandir(place) as entries:
            for entry in entries:
                with suppress(OSError):  # of a link to itself, or of what is gone again
                    if entry.is_dir():
                        waiting.append(entry.path)
                    elif entry.is_file() and not entry.name.startswith(".") and entry.name not in _UNASKED:
                        found.append((entry.path, entry.stat().st_size))
    return sorted(found)


def _checksum(path: str) -> str:
    """Returns a checksum of the names, sizes and contents of all files of a folder, or of one file.

    Of more than 32 MiB a share is read: of each file both ends, and as many bytes as its size is of all, spread evenly.
    """
    files = [(path, os.stat(path).st_size)] if os.path.isfile(path) else _files(path) if os.path.isdir(path) else []
    digest, total = hashlib.sha256(), sum(size for _, size in files)
    for each, size in files:
        digest.update(os.fsencode(f"{each[len(path) :]}\0{size}\0"))
        share = size if total <= _WHOLE else min(size, max(2 * _END, size * _WHOLE // total))
        try:
            if size:
                _read(each, size, share, digest)
        except OSError as error:  # what needs the file says why it cannot be read
            digest.update(f"{error.errno}".encode())
    return _FORM + digest.hexdigest()


def _read(path: str, size: int, share: int, digest: "hashlib._Hash") -> None:
    """Adds some bytes of a file to a checksum: all, or blocks from the first to the last byte, spread evenly."""
    block = min(_BLOCK, share // 2) if share < size else _BLOCK
    last = share // block - 1 if share < size else -(-size // block) - 1
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for k in range(last + 1):
            digest.update(os.pread(handle, block, k * (size - block) // last if share < size else k * block))
    finally:
        os.close(handle)
