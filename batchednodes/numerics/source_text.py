"""Source text of classes and functions that no other process can import: those of a notebook's cells, or of a script.

What they refer to is written along: modules are imported, other such classes and functions follow with their own text,
and plain values stand as they are. The text is ordinary Python, and no pickle, for whoever wants to read it first.
"""

import __future__

import ast
import builtins
import inspect
import linecache
import math
import symtable
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

from batchednodes.numerics.targets import name_of
from batchednodes.numerics.values import shown

_PLAIN = (bool, int, float, str, bytes, type(None), tuple, list, dict, set)
"""Types of values that are written as they are."""


def text_of(things: Sequence[Any], key: str) -> str:
    """Returns the text of a module in which some classes or functions stand under their names.

    Args:
        things: classes or functions that were defined at the top of a cell, or of a script.
        key: the setting that they are for, for messages.

    Raises:
        ValueError: one was defined elsewhere, as a lambda is, or refers to something that cannot be written.
    """
    found = _Text(key)
    for thing in things:
        found.add(thing.__name__, thing)
    head = ['"""What a run was made of, in the words of the program that made it."""']
    if found.late:
        head.append("from __future__ import annotations")
    return "\n\n".join([*head, *found.parts.values()]) + "\n"


class _Text:
    """Gathers the parts of a module, each after those that it refers to."""

    def __init__(self, key: str) -> None:
        self.key, self.parts, self.open = key, dict[str, str](), set[str]()
        self.late = False  # whether annotations are never computed, so that they may name what is not there

    def add(self, name: str, value: Any) -> None:
        """Adds what lets a name mean a value."""
        if name in self.parts or name in self.open:
            return
        self.open.add(name)
        self.parts[name] = self.text(name, value)

    def text(self, name: str, value: Any) -> str:
        """Returns a statement that gives a name its value; what it refers to is added before."""
        if isinstance(value, ModuleType) and value.__name__ != "__main__":
            return f"import {value.__name__} as {name}"
        home = _home(name, value)
        if home is not None:
            module, _, path = home.partition(":")
            first, *rest = path.split(".")
            return f"from {module} import {first} as {name}" + (f"\n{name} = {'.'.join([name, *rest])}" if rest else "")
        if isinstance(value, _PLAIN):
            self.check(name, value)
            return f"{name} = {value!r}"
        if not isinstance(value, type | FunctionType):
            self.refuse(f"refer to what can be written down, got {name} = {shown(value)}")
        text = self.definition(value)
        for other in _globals(symtable.symtable(text, "<text>", "exec")):
            scope = _scope(value)
            if other != value.__name__ and other in scope:
                self.add(other, scope[other])
        return text if name == value.__name__ else f"{text}\n\n{name} = {value.__name__}"

    def check(self, name: str, value: Any) -> None:
        """Refuses a value that its text does not give back."""
        if not _plain(value):
            self.refuse(f"refer to what can be written down, got {name} = {shown(value)}")

    def definition(self, value: Any) -> str:
        """Returns the text that defines a class or a function, which is told by the code in it."""
        for code in _codes(value):
            linecache.checkcache(code.co_filename)  # a script may have changed since its lines were last asked for
            lines = linecache.getlines(code.co_filename)
            try:
                body = ast.parse("".join(lines)).body
            except SyntaxError:
                continue
            for node in body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == value.__name__:
                    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    if first <= code.co_firstlineno <= (node.end_lineno or 0):
                        self.late |= bool(code.co_flags & __future__.annotations.compiler_flag)
                        return "".join(lines[first - 1 : node.end_lineno]).rstrip()
        self.refuse(f"be defined by class or def at the top of a module, a script or a cell, got {value.__name__}")

    def refuse(self, rule: str) -> NoReturn:
        """Raises ValueError with what must be so, and was found."""
        raise ValueError(f"{self.key} must {rule}, which no folder of a run could hold; define it in a module of yours")


def _home(name: str, value: Any) -> str | None:
    """Returns by which name a value can be imported in another process; None: by none."""
    own = name_of(value)
    if own is not None:
        return own
    if isinstance(value, _PLAIN) or getattr(value, "__module__", None) == "__main__":
        return None
    word = getattr(value, "__name__", name)
    found = [one for one, module in [*sys.modules.items()] if getattr(module, "__dict__", {}).get(word) is value]
    public = [one for one in found if one != "__main__" and not any(part.startswith("_") for part in one.split("."))]
    return f"{min(public, key=len)}:{word}" if public else None


def _codes(value: Any) -> Iterator[CodeType]:
    """Yields the code of the functions that are part of a definition."""
    for part in vars(value).values() if isinstance(value, type) else [value]:
        whole = inspect.unwrap(part) if isinstance(part, FunctionType) else None
        if isinstance(whole, FunctionType):
            yield whole.__code__


def _scope(value: Any) -> dict[str, Any]:
    """Returns the names that are there where a class or a function was defined."""
    return vars(sys.modules[value.__module__]) if isinstance(value, type) else value.__globals__


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    """Yields the names that a text takes from outside."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        inside = symbol.is_global() or (top and not symbol.is_assigned() and symbol.is_referenced())
        if inside and not hasattr(builtins, symbol.get_name()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)


def _plain(value: Any) -> bool:
    """Returns whether a value is that of its own text."""
    if type(value) is dict:
        return all(map(_plain, [*value, *value.values()]))
    if type(value) in (tuple, list, set):
        return all(map(_plain, value))
    return type(value) in _PLAIN and (type(value) is not float or math.isfinite(value))
