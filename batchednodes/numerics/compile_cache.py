"""Caches of compiled kernels: those that were compiled from other sources are forgotten.

Numba looks at the file of a kernel only, not at those that it calls functions or takes constants from: after an update
of a few files, a kernel that was cached before would go on with the old ones, without a word.

Reference:
    Numba documentation, "Notes on caching": "cache invalidation fails to recognize changes in functions defined in a
    different file".
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

_IMPORT = re.compile(r"^\s*from batchednodes([\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)

_Stamps = dict[str, list[int]]


def forget_stale(package: Path) -> None:
    """Removes what was compiled from modules that have changed since, or that import such modules.

    Where the folder cannot be written, there is nothing in it that Numba would have written.

    Args:
        package: folder of the package.
    """
    note = package / "__pycache__" / "sources.json"
    now = {str(path.relative_to(package)): _stamp(path) for path in sorted(package.rglob("*.py"))}
    before = _read(note)
    if now == before:
        return
    try:
        for path in _affected(package, {name for name in now if before.get(name) != now[name]}):
            for cache in (path.parent / "__pycache__").glob(f"{path.stem}.*.nb[ic]"):
                cache.unlink(missing_ok=True)
        note.parent.mkdir(exist_ok=True)
        part = note.with_name(f"{note.name}.{os.getpid()}")
        part.write_text(json.dumps(now))
        part.replace(note)
    except OSError:
        return


def _stamp(path: Path) -> list[int]:
    """Returns what differs where a file was written anew."""
    seen = path.stat()
    return [seen.st_mtime_ns, seen.st_size]


def _read(note: Path) -> _Stamps:
    """Returns the stamps that were noted; none where the note is missing or damaged."""
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError, RecursionError):  # the last of what is nested too deep
        return {}
    return found if isinstance(found, dict) else {}


def _affected(package: Path, changed: set[str]) -> Iterator[Path]:
    """Yields the files of a package that have changed, and all that import those, directly or not."""
    imports = {str(path.relative_to(package)): set(_imports(package, path)) for path in package.rglob("*.py")}
    while more := {name for name, used in imports.items() if name not in changed and used & changed}:
        changed |= more
    yield from (package / name for name in changed)


def _imports(package: Path, path: Path) -> Iterator[str]:
    """Yields the files of a package that a file of it imports; of the package itself, what is named only."""
    for base, names in _IMPORT.findall(path.read_text(encoding="utf-8")):
        place = package.joinpath(*base.split("."))
        for module in (place, *(place / name for name in re.findall(r"\w+", names))):
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.is_file() and file != package / "__init__.py":
                    yield str(file.relative_to(package))
