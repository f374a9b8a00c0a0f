"""Kinds of the user's own: by the name of a class, by registering it, or by an entry point of an installed package.

All of them stand in one table with the built-in ones, so that whatever reads, writes, sweeps or lists settings knows
them. An entry point of the group `batchednodes.kinds` is named by section and kind, as "network.topology.petersen".
"""

import inspect
import re
import traceback
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from batchednodes.numerics import targets
from batchednodes.numerics.targets import is_own
from batchednodes.numerics.values import shown

PYTHON = "python"
"""The kind that stands for a class given by its name."""

GROUP = "batchednodes.kinds"
"""Entry points under which packages offer kinds."""

Kinds = dict[str, dict[str, type]]


@dataclass(frozen=True)
class PythonKind:
    """A class of your own, a frozen dataclass derived from that of the section. The module is imported and run.

    Example:
        >>> from batchednodes.config.registry import PythonKind
        >>> PythonKind("mine.py:Petersen")
        PythonKind(target='mine.py:Petersen', args={})
        >>> PythonKind("Petersen")
        Traceback (most recent call last):
            ...
        ValueError: target must be "package.module:Class" or "path/to/file.py:Class", got 'Petersen'
    """

    target: str
    """The class, as "package.module:Class", found from the working directory too, or "path/to/file.py:Class"."""

    args: dict[str, Any] = field(default_factory=dict)
    """Its fields: settings that are read and checked as those of a built-in kind."""

    def __post_init__(self) -> None:
        targets.check(self.target, '"package.module:Class" or "path/to/file.py:Class"')


def checked(cls: Any, base: type, key: str) -> type:
    """Returns a class that may stand in a section.

    Example:
        >>> from dataclasses import dataclass
        >>> from batchednodes.config.registry import checked
        >>> from batchednodes.topology import Topology
        >>> class Petersen(Topology):
        ...     def graph(self, n, seed): ...
        ...     def contacts(self, n): ...
        ...
        >>> checked(Petersen, Topology, "network.topology.kind=petersen")
        Traceback (most recent call last):
            ...
        ValueError: network.topology.kind=petersen must be a frozen dataclass derived from ...

    Args:
        cls: the class of a kind.
        base: what kinds of the section derive from.
        key: names it in messages, with the value got.

    Raises:
        ValueError: it is no frozen dataclass derived from the base, or lacks methods.
    """
    if not isinstance(cls, type):
        flaw = f"a {type(cls).__name__}"
    elif not issubclass(cls, base):
        flaw = f"a class derived from {', '.join(one.__name__ for one in cls.__bases__)}"
    elif (
        not is_dataclass(cls) or "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].frozen
    ):
        flaw = "a class without @dataclass(frozen=True)"
    elif inspect.isabstract(cls):
        flaw = f"one without {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}"
    else:
        return cls
    raise ValueError(f"{key} must be a frozen dataclass derived from {base.__module__}:{base.__name__}, got {flaw}")


def offered(sections: Container[str]) -> Iterator[tuple[str, str, EntryPoint]]:
    """Yields section and kind of what installed packages offer for some sections, none of which is imported."""
    for one in entry_points(group=GROUP):
        section, _, kind = one.name.rpartition(".")
        if section in sections and re.fullmatch(r"\w+", kind):
            yield section, kind, one


def take_(kinds: Kinds, bases: Mapping[str, type], name: Any = None) -> None:
    """Adds to the table the kinds that packages offer for sections: those of a name, or all.

    Args:
        kinds: the table.
        bases: what kinds of each section are derived from.
        name: of the kind; None: all.

    Raises:
        ValueError: one of them cannot be imported, or may not stand there.
    """
    for section, kind, entry in offered(bases):
        if kind in kinds[section] or kind == PYTHON or name not in (None, kind):
            continue
        key = f"{section}.kind={kind} (entry point {entry.name} of {entry.dist.name if entry.dist else 'a package'})"
        kinds[section][kind] = checked(targets.imported(entry.value, key), bases[section], f"{key} = {entry.value!r}")


def register_(kinds: Kinds, section: str, base: type, name: str, cls: type) -> None:
    """Adds a class to the table under a name.

    Raises:
        ValueError: the name is none, or is taken, or the class may not stand there.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name) or name == PYTHON:
        raise ValueError(f"kind must be a word of letters, digits and _ other than {PYTHON!r}, got {shown(name)}")
    taken = kinds[section].get(name)
    if taken is not None and targets.name_of(taken) != targets.name_of(cls) and taken is not cls:
        raise ValueError(f"kind must be a new one of {section}, got {name!r}, which is {taken.__qualname__}")
    kinds[section][name] = checked(cls, base, f"{section}.kind={name}")


def told(error: BaseException, cls: type) -> str:
    """Returns what a class of the user's raised, and where: "ValueError: no (line 3 of mine.py)"."""
    try:
        file = inspect.getfile(cls)
    except (OSError, TypeError):
        file = ""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" (line {lines[-1].lineno} of {Path(file).name})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"


def blamed(error: BaseException, bases: Mapping[type, Iterable[str]]) -> str | None:
    """Returns what to say of an error that a kind of the user's own has led to; None: nothing more than it says.

    Args:
        error: with its traceback.
        bases: what kinds derive from, and the sections where they may stand.
    """

    def sections(kind: object) -> list[str]:
        cls = type(kind)
        return [one for base, found in bases.items() if is_own(cls) and issubclass(cls, base) for one in found]

    if isinstance(error, ValueError) and str(error).startswith(tuple(one for found in bases.values() for one in found)):
        return None  # it names a setting
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
    for frame in frames:
        own = frame.f_locals.get("self")
        if places := sections(own):
            said = f"{type(own).__module__}:{type(own).__qualname__}, {frame.f_code.co_name}() of which"
            return f"{' or '.join(places)} must be a kind that works, got {said} raised {told(error, type(own))}"
    if isinstance(error, ValueError | OSError | MemoryError):
        return None
    for frame in frames:  # what handled a kind that is not as it must be
        for own in frame.f_locals.values():
            if places := sections(own):
                said = f"{type(own).__module__}:{type(own).__qualname__}, with which"
                place = f"line {frames[0].f_lineno} of {Path(frames[0].f_code.co_filename).name}"
                raised = f"{type(error).__name__}: {error} ({place}) was raised"
                return f"{' or '.join(places)} must be a kind that works, got {said} {raised}"
    return None
