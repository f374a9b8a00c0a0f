"""The door for users' kinds: classes by target, registered from Python, or found as entry points of packages.

In settings, `{kind: python, target: "module:Class", args: {...}}` may stand wherever kinds do. A class that is
registered, or that an installed package names under the entry points `batchednodes.kinds` as
"network.topology.petersen" = "mine.graphs:Petersen", has a kind of its own, `{kind: petersen, ...}`.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from batchednodes.numerics.values import shown

GROUP = "batchednodes.kinds"
"""Entry points of installed packages."""

PYTHON = "python"
"""The kind of a class that is named by its target."""

_TARGET = re.compile(r"([^:]+):([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Target:
    """A class by where it is found."""

    text: str
    """"package.module:Class", or "path/to/file.py:Class"; relative paths are from the working directory."""

    def load(self, path: str) -> Any:
        """Returns what stands there; the working directory counts as one of the places where modules are.

        Args:
            path: of the section, for messages.

        Raises:
            ValueError: nothing is there, or the module cannot be imported.
        """
        found = _TARGET.fullmatch(self.text)
        if found is None:
            rule = '"package.module:Class" or "path/to/file.py:Class"'
            raise ValueError(f"{path}.target must be {rule}, got {shown(self.text)}")
        where, name = found.groups()
        try:
            module = _file(where) if where.endswith(".py") else _module(where)
            return getattr(module, name)
        except (Exception, SystemExit) as error:  # whatever the user's module raises when it is imported
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}.target must be importable, got {shown(self.text)}: {reason}") from error


def _module(name: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _file(path: str) -> Any:
    """Returns the module in a file, which is run once; it is known by its absolute path."""
    place = str(Path(path).resolve())
    name = f"batchednodes_file:{place}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"no Python file at {path}")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def target_of(cls: type, path: str) -> str:
    """Returns the target by which a class is found again.

    Raises:
        ValueError: it is not found so: it was made inside a function, or in a session.
    """
    if cls.__module__.startswith("batchednodes_file:"):
        place = Path(cls.__module__.partition(":")[2])
        here = Path.cwd()
        text = f"{place.relative_to(here) if place.is_relative_to(here) else place}:{cls.__qualname__}"
    else:
        text = f"{cls.__module__}:{cls.__qualname__}"
    module = sys.modules.get(cls.__module__)
    if cls.__module__ == "__main__" or getattr(module, cls.__name__, None) is not cls:
        raise ValueError(
            f"{path} must be of a class that settings can name, got {cls.__module__}.{cls.__qualname__}; put it at the "
            "top of a module, or register it"
        )
    return text


def check_class(cls: Any, base: type, path: str, text: str) -> None:
    """Checks that a user's class may stand in a section.

    Raises:
        ValueError: it is no frozen dataclass that is derived from the section's interface, or it lacks a method.
    """
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise ValueError(f"{path} must name a class derived from {base.__module__}.{base.__name__}, got {text}")
    if not is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
        raise ValueError(f"{path} must name a frozen dataclass, got {text}; decorate it with @dataclass(frozen=True)")
    lacking = sorted(getattr(cls, "__abstractmethods__", ()))
    if lacking:
        raise ValueError(f"{path} must name a class with {', '.join(lacking)}, got {text} without")


class Registry(Mapping[str, Mapping[str, type]]):
    """The table of kinds, and what users add to it: section -> kind -> class."""

    def __init__(self, built_in: Mapping[str, Mapping[str, type]], bases: Mapping[str, type]) -> None:
        """Begins with the built-in kinds, and what their classes are derived from, section by section."""
        self._kinds = {section: dict(kinds) for section, kinds in built_in.items()}
        self.bases, self.added = bases, dict[tuple[str, str], str]()

    def __getitem__(self, section: str) -> Mapping[str, type]:
        return self._kinds[section]

    def __iter__(self) -> Any:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def register(self, section: str, kind: str, cls: type) -> None:
        """Lets a class be a kind of a section, as ("network.topology", "petersen", Petersen).

        Raises:
            ValueError: there is no such section, the kind is taken, or the class cannot stand there.
        """
        if section not in self.bases:
            raise ValueError(f"section must be one of {', '.join(self.bases)}, got {shown(section)}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind) or kind == PYTHON:
            raise ValueError(f"kind must be a word of small letters, digits and _, got {shown(kind)}")
        old = self._kinds[section].get(kind)
        if old is not None and (section, kind) not in self.added:
            raise ValueError(f"kind must be a new one, got {shown(kind)}, which {section} has")
        check_class(cls, self.bases[section], f"{section}.{kind}", f"{cls.__module__}:{cls.__qualname__}")
        self._kinds[section][kind] = cls
        self.added[section, kind] = f"{cls.__module__}:{cls.__qualname__}"

    def find(self, section: str, kind: str) -> None:
        """Registers a kind that an installed package names, if one does."""
        for name, text in _points().items():
            if name == f"{section}.{kind}" and (section, kind) not in self.added:
                self.register(section, kind, Target(text).load(section))

    def find_all(self) -> None:
        """Registers all kinds that installed packages name."""
        for name in _points():
            section, _, kind = name.rpartition(".")
            if section in self.bases:
                self.find(section, kind)


def _points() -> dict[str, str]:
    """Returns the entry points of installed packages: name -> target."""
    return {point.name: point.value for point in entry_points(group=GROUP)}
