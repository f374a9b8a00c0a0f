r"""Reads plain data (mappings, lists, numbers, text) into frozen dataclasses, and writes these as plain data.

The type of a field says what it accepts; where several kinds of object may stand, `kind` says which one. Every message
begins with the full path of the setting.

It is written by hand: libraries that validate fix what may stand in a field when its class is made, where here kinds of
a user's own join later; and they word messages themselves, where each of these says key, rule, value and fix.
"""

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np

from batchednodes.config.hints import default_of, describe, hints_of, join, members, nearest
from batchednodes.config.registry import PYTHON, Kinds, PythonKind, checked, take_, told
from batchednodes.numerics import targets
from batchednodes.numerics.targets import is_own
from batchednodes.numerics.values import shown


def _number(value: Any, parts: tuple[Any, ...], path: str) -> Any:
    if float in parts:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{path} must be a finite number, got an integer beyond float64") from None
    if int in parts and isinstance(value, int):
        return value
    return int(value) if int in parts and value.is_integer() else MISSING


def _plain_copy(value: Any, path: str) -> Any:
    """Returns a copy of plain data.

    Raises:
        ValueError: the value is, or holds, something else.
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path} must have texts as keys, got {shown(key)}; quote it")
        return {key: _plain_copy(item, join(path, key)) for key, item in value.items()}
    if isinstance(value, list):
        if all(type(item) in (float, int, str) for item in value):  # such lists may be long
            return list(value)
        return [_plain_copy(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{path} must be plain data (numbers, text, lists, mappings), got {shown(value)}")
    return value


@dataclass(frozen=True)
class Reader:
    """Plain data <-> dataclasses, with one table of kinds.

    Example:
        >>> from batchednodes.config import READER
        >>> from batchednodes.topology import Topology
        >>> torus = READER.read({"kind": "torus", "rows": 3}, Topology, "network.topology")
        >>> torus.graph(12, 0).degrees.tolist()
        [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
        >>> READER.plain(torus, "network.topology")
        {'kind': 'torus', 'rows': 3, 'sides': None, 'dimensions': 2}
        >>> READER.read({"kind": "torus", "row": 3}, Topology, "network.topology")
        Traceback (most recent call last):
            ...
        ValueError: unknown key 'network.topology.row'; did you mean 'network.topology.rows'?
    """

    kinds: Kinds
    """Full path of a section, or of a list with [] for its entries -> name of a kind -> its class; "distribution" holds
    those of per-node quantities."""
    synonyms: Mapping[str, str]
    """Word -> the key, or the override, that somebody who writes it for a key may mean."""
    open: Mapping[str, type]
    """Sections without built-in kinds -> what classes of the user's own derive from."""
    closed: Mapping[str, str]
    """Sections where none of the user's own can be registered -> why."""

    def base(self, section: str) -> type:
        """Returns what all kinds of a section derive from.

        Example:
            >>> from batchednodes.config import READER
            >>> READER.base("gossip.merge").__name__, READER.base("distribution").__name__
            ('Merge', 'Distribution')
        """
        return next(base for base, found in self.bases.items() if section in found)

    @cached_property
    def bases(self) -> dict[type, tuple[str, ...]]:
        """What kinds derive from -> the sections where they may stand."""
        found: dict[type, tuple[str, ...]] = {}
        for section, kinds in self.kinds.items():
            classes = [*kinds.values()]
            above = classes[0].__mro__[1:-1] if classes else ()  # what is above all classes says nothing
            shared = [c for c in above if all(issubclass(k, c) for k in classes)]
            base = shared[0] if shared else self.open[section]
            found[base] = (*found.get(base, ()), section)
        return found

    def sections(self, path: str, hint: Any) -> tuple[str, ...]:
        """Returns the sections of the table whose kinds may stand at a path: its own, or those that its type names."""
        for place in (path, re.sub(r"\[\d+\]$", "[]", path)):
            if place in self.kinds:
                return (place,)
        return next((found for base, found in self.bases.items() if base in members(hint)), ())

    def kinds_at(self, path: str, hint: Any) -> Mapping[str, type]:
        """Returns the kinds that may stand at a path; empty where there is nothing to choose, or no built-in kind."""
        return {name: cls for section in self.sections(path, hint) for name, cls in self.kinds[section].items()}

    def build(self, cls: type, data: Mapping[Any, Any], path: str, kind: str = "") -> Any:
        """Returns an object of a dataclass, its fields read from a mapping; fields not given have their defaults.

        Raises:
            ValueError: a key is unknown or missing, a value is of a wrong type, or the class refuses it.
        """
        known = {field.name: field for field in fields(cls)}
        hints = {name: hint for name, hint in hints_of(cls).items() if name in known}  # others are of the class
        for key in data:
            if key not in known:
                raise ValueError(f"unknown key {shown(join(path, key))}" + self._hint(key, hints, path, kind))
        given = {key: self.read(value, hints[key], join(path, key), known[key]) for key, value in data.items()}
        for name, field in known.items():
            if name not in given and default_of(field) is MISSING:
                raise ValueError(f"{join(path, name)} must be given: {describe(hints[name])}")
        try:
            return cls(**given)
        except ValueError as error:
            raise ValueError(join(path, error)) from None
        except Exception as error:  # whatever a class of the user's raises
            if not is_own(cls):
                raise
            got = f"{told(error, cls)}, by {cls.__module__}:{cls.__qualname__}"
            raise ValueError(f"{path} must be settings that the kind takes, got {got}") from error

    def _hint(self, key: Any, hints: dict[str, Any], path: str, kind: str) -> str:
        if "." in str(key):
            return "; keys of a section stand under it, as in {network: {nodes: 50}}"
        inside = [name for name, hint in hints.items() if is_dataclass(hint) and key in {f.name for f in fields(hint)}]
        if inside:
            return f"; did you mean {' or '.join(repr(join(join(path, name), key)) for name in inside)}?"
        owners = [name for name, cls in self.kinds.get(path, {}).items() if key in {f.name for f in fields(cls)}]
        meant = None if owners else self.synonyms.get(str(key).lower().replace("-", "_").replace(" ", "_"))
        near = f"; did you mean {meant!r}?" if meant else nearest(key, hints, path)
        if near:
            return near
        of = f"; it is a setting of kind {', '.join(owners)}" if owners else ""
        place = f"kind {kind} of {path}" if kind else path or "a config"
        return f"; {place} has{': ' + ', '.join(hints) if hints else ' no settings'}{of}"

    def read(self, value: Any, hint: Any, path: str, field: Field | None = None) -> Any:
        """Returns a value as its type asks: whole numbers as floats where floats are due, sections as objects.

        Args:
            value: plain data.
            hint: the type, as written in the dataclass.
            path: of the setting, for messages.
            field: the setting; the kind of its default is meant where a section names none.

        Raises:
            ValueError: the value does not fit the type.
        """
        parts, kinds, sections = members(hint), self.kinds_at(path, hint), self.sections(path, hint)
        if value is None and types.NoneType in parts:
            return None
        if sections and isinstance(value, Mapping):
            return self._kind(value, sections, path, field)
        if path in self.kinds and path not in self.open and int not in parts:
            raise ValueError(f"{path} must be a section such as {{kind: {next(iter(kinds))}}}, got {shown(value)}")
        if isinstance(parts[0], type) and is_dataclass(parts[0]):
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"{path} must be a section of settings (leave it out for its defaults), got {shown(value)}"
                )
            return self.build(parts[0], value, path)
        return self._leaf(value, hint, path)

    def _kind(self, data: Mapping[Any, Any], sections: tuple[str, ...], path: str, field: Field | None) -> Any:
        kinds = {name: cls for section in sections for name, cls in self.kinds[section].items()}
        name = data.get("kind", self._name(kinds, default_of(field) if field else None))
        own = {key: value for key, value in data.items() if key != "kind"}
        opened = [section for section in sections if section not in self.closed]
        if name == PYTHON and PYTHON not in kinds and opened:
            return self._python(own, opened[0], path)
        choices = ", ".join(dict.fromkeys([*kinds, *([PYTHON] if opened else [])]))
        if name is None:
            raise ValueError(f"{path}.kind must be given: one of {choices}")
        if name not in list(kinds):
            for section in opened:
                take_(self.kinds, {section: self.base(section)}, name)
                kinds |= self.kinds[section]
        if name not in list(kinds):
            why = f"; {self.closed[sections[0]]}" if name == PYTHON else nearest(name, kinds)
            raise ValueError(f"{path}.kind must be one of {choices}, got {shown(name)}{why}")
        return self.build(kinds[name], own, path, name)

    def _python(self, data: Mapping[Any, Any], section: str, path: str) -> Any:
        """Returns an object of a class that is given by its name."""
        named = self.build(PythonKind, data, path, PYTHON)
        key = join(path, "target")
        cls = checked(targets.imported(named.target, key), self.base(section), f"{key}={named.target}")
        return self.build(cls, named.args, join(path, "args"))

    @staticmethod
    def _name(kinds: Mapping[str, type], value: Any) -> str | None:
        return next((name for name, cls in kinds.items() if type(value) is cls), None)

    def _leaf(self, value: Any, hint: Any, path: str) -> Any:
        parts, result = members(hint), MISSING
        words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
        lists = [part for part in parts if (get_origin(part) or part) in (list, tuple)]
        if isinstance(value, bool):
            word = "on" if value else "off"  # YAML 1.1 reads these words as truth values
            result = value if bool in parts else word if word in words else MISSING
        elif isinstance(value, int | float):
            result = _number(value, parts, path)
        elif isinstance(value, str):
            result = value if value in words or str in parts else MISSING
        elif isinstance(value, list | tuple) and lists:
            item, *_ = *get_args(lists[0]), float
            if item in (float, int) and all(type(x) is item for x in value):  # lists of n numbers may be long
                result = (get_origin(lists[0]) or list)(value)
            else:
                items = [self.read(x, item, f"{path}[{i}]") for i, x in enumerate(value)]
                result = (get_origin(lists[0]) or list)(items)
        elif isinstance(value, dict) and dict in {get_origin(part) or part for part in parts}:
            result = _plain_copy(value, path)
        if result is MISSING:
            raise ValueError(f"{path} must be {describe(hint)}, got {shown(value)}{self._advice(value, words, parts)}")
        return result

    @staticmethod
    def _advice(value: Any, words: list[str], parts: tuple[Any, ...]) -> str:
        if isinstance(value, str):
            return nearest(value, words)
        return "; quote it" if str in parts and not {int, float} & {*parts} and value is not None else ""

    def plain(self, value: Any, path: str) -> Any:
        """Returns an object as plain data that `read` turns into an equal object; `kind` comes first.

        Raises:
            ValueError: an object that the table of kinds does not know, and that has no name to import it by, stands at
                this path.
        """
        if is_dataclass(value) and not isinstance(value, type):
            hint = next((base for base in self.bases if isinstance(value, base)), type(value))
            kinds = self.kinds_at(path, hint)
            if not self.sections(path, hint):
                return self._fields(value, path)
            name = self._name(kinds, value)
            if name is None:
                target = self._target(value, kinds, self.sections(path, hint)[0], path)
                return {"kind": PYTHON, "target": target, "args": self._fields(value, join(path, "args"))}
            return {"kind": name, **self._fields(value, path)}
        if isinstance(value, Mapping):
            return {key: self.plain(item, join(path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple) and all(type(item) in (float, int, str) for item in value):
            return list(value)
        if isinstance(value, list | tuple):
            return [self.plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, np.generic):
            return value.item()
        return str(value) if isinstance(value, Path) else value

    def _fields(self, value: Any, path: str) -> dict[str, Any]:
        return {one.name: self.plain(getattr(value, one.name), join(path, one.name)) for one in fields(value)}

    def _target(self, value: Any, kinds: Mapping[str, type], section: str, path: str) -> str:
        """Returns the name of the class of an object that stands at a path and is none of the kinds there."""
        cls, why = type(value), self.closed.get(section)
        if why or not isinstance(value, self.base(section)) or not is_own(cls):
            raise ValueError(
                f"{path} must be of kind {', '.join(kinds)}, got a {cls.__name__}" + (f"; {why}" if why else "")
            )
        name = targets.name_of(cls)
        fix = f"batchednodes.register({section!r}, ..., {cls.__name__})"
        if PYTHON in kinds:
            raise ValueError(f"{path} must be of a class that is registered, got {cls.__qualname__}; use {fix}")
        if name is None:
            fix += ", or define it at the top of a module"
            raise ValueError(
                f"{path} must be of a class with a name to import it by, got {cls.__qualname__}; use {fix}"
            )
        return name

    def located(self, config: Any, error: ValueError) -> ValueError:
        """Returns an error that names a setting of a kind as it is written: behind `args` where the kind is python.

        Args:
            config: the whole config.
            error: as of a method of the kind, which knows its section only: "update.clock.shape must be ...".
        """
        message = str(error)
        for section in [one for one in self.kinds if message.startswith(f"{one}.")]:
            value, rest = config, message[len(section) :]
            for name in section.split("."):
                value = getattr(value, name)
            names = {one.name for one in fields(value)} if is_own(type(value)) and is_dataclass(value) else set()
            if re.split(r"\W", rest[1:], maxsplit=1)[0] in names and self.plain(value, section)["kind"] == PYTHON:
                return ValueError(f"{section}.args{rest}").with_traceback(error.__traceback__)
        return error

    def forget_(self, data: dict, change: Mapping, cls: type, path: str) -> None:
        """Removes from `data` the settings of kinds that `change` replaces: those that the new kind does not have.

        Keys that neither kind has stay, so that they are reported.

        Args:
            data: the older plain data; changed in place.
            change: the newer plain data, to be merged into it.
            cls: class of the section at this path.
            path: of the section.
        """
        hints = hints_of(cls)
        for field in fields(cls):
            old, new, at = data.get(field.name), change.get(field.name), join(path, field.name)
            if not isinstance(old, dict) or not isinstance(new, Mapping):
                continue
            kinds = self.kinds_at(at, hints[field.name])
            before, after = members(hints[field.name])[0], None
            if self.sections(at, hints[field.name]):
                name = str(old.get("kind", self._name(kinds, default_of(field))))
                kinds = {PYTHON: PythonKind, **kinds}
                before, after = kinds.get(name), kinds.get(str(new.get("kind", name)))
                if before is after is PythonKind and new.get("target", old.get("target")) != old.get("target"):
                    old.pop("args", None)
            if before and after and before is not after:
                for key in {f.name for f in fields(before)} - {f.name for f in fields(after)}:
                    old.pop(key, None)
            section = after or before
            if isinstance(section, type) and is_dataclass(section):
                self.forget_(old, new, section, at)
