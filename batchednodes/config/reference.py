r"""What can be set, read off the code: every section, kind and setting with its type, default and meaning."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, get_type_hints

from batchednodes.algorithms.base import Algorithm
from batchednodes.config import KINDS, READER, Config
from batchednodes.config.hints import default_of, describe, join, members
from batchednodes.config.registry import PYTHON, PythonKind, take_
from batchednodes.numerics.targets import is_own

_ITEM = 4
"""Bytes of a number of type float32 [B]."""


@dataclass(frozen=True)
class Setting:
    """One key that takes a value."""

    path: str
    """Full key, as in an override: "gossip.clock.rate"."""
    type: str
    """What it accepts, in words."""
    default: str
    """Default, as YAML; "required" where there is none."""
    meaning: str
    """Its docstring: meaning, unit, range."""


@dataclass(frozen=True)
class Kind:
    """One section without kinds, or one kind of a section."""

    section: str
    """Full key of the section; "" is the top level, "distribution" any per-node quantity."""
    name: str
    """The kind; "" where the section has none."""
    summary: str
    """First line of the class's docstring."""
    default: bool
    """Whether a section that names no kind is of this one."""
    settings: tuple[Setting, ...]
    """In the order of the code."""
    facts: tuple[tuple[str, str], ...] = ()
    """What else is known of it, each with its name; of algorithms only."""

    def beginning(self, key: str) -> "Kind | None":
        """Returns the kind with the settings that begin with a key; all, if its section does; None: there are none."""
        if self.section.startswith(key):
            return self
        found = tuple(setting for setting in self.settings if setting.path.startswith(key))
        return replace(self, settings=found) if found else None


def catalogue() -> list[Kind]:
    """Returns every section and kind with its settings, in the order of the config.

    Example:
        >>> from batchednodes.config.reference import catalogue
        >>> ring = next(kind for kind in catalogue() if kind.name == "watts_strogatz")
        >>> [(setting.path, setting.type, setting.default) for setting in ring.settings]
        [('network.topology.neighbours', 'an integer', '4'), ('network.topology.rewire', 'a number', '0.1')]
    """
    take_(KINDS, {section: READER.base(section) for section in KINDS.keys() - READER.closed.keys()})
    return [
        *_section(Config, ""),
        *_kinds("distribution", None),
    ]


def _section(cls: type, path: str) -> Iterator[Kind]:
    yield _kind(path, "", cls, None)
    hints = get_type_hints(cls)
    for field in fields(cls):
        at = join(path, field.name)
        inner = members(hints[field.name])[0]
        if at in KINDS:
            yield from _kinds(at, default_of(field))
        elif f"{at}[]" in KINDS:
            yield from _kinds(f"{at}[]", None)
        elif isinstance(inner, type) and is_dataclass(inner):
            yield from _section(inner, at)


def _kinds(section: str, default: Any) -> Iterator[Kind]:
    """Yields the kinds of a section, each with those of the sections inside it."""
    for name, kind in KINDS[section].items():
        yield _kind(section, name, kind, default)
        for inner in (one for one in fields(kind) if join(section, one.name) in KINDS):
            yield from _kinds(join(section, inner.name), default_of(inner))
    if PYTHON not in KINDS[section] and section not in READER.closed:
        yield _kind(section, PYTHON, PythonKind, None)


def _kind(path: str, name: str, cls: type, default: Any) -> Kind:
    hints, meanings = get_type_hints(cls), docstrings(cls)
    settings = [
        Setting(join(path, f.name), describe(hints[f.name]), _yaml(default_of(f), join(path, f.name)), meanings[f.name])
        for f in fields(cls)
        if (join(path, f.name) not in KINDS.keys() - READER.open.keys() or int in members(hints[f.name]))
        and not is_dataclass(members(hints[f.name])[0])
    ]
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    if is_own(cls):
        summary = f"{summary}  ({cls.__module__}:{cls.__qualname__})".strip()
    return Kind(path, name, summary, type(default) is cls, tuple(settings), tuple(_facts(cls)))


def _facts(cls: type) -> Iterator[tuple[str, str]]:
    """Yields paper, state, size of messages and soundness of an algorithm."""
    if not issubclass(cls, Algorithm):
        return
    text = sys.modules[cls.__module__].__doc__ or ""
    if (paper := _paper(text)) is not None:
        yield "paper", paper
    yield "state", _state(cls)
    if all(default_of(field) is not MISSING for field in fields(cls)):
        made = cls()
        fixed = made.payload(0, _ITEM)
        each, more = made.payload(1000, _ITEM) - fixed, f" + {fixed}" if fixed else ""
        yield "bytes sent a contact", f"{each / 1000:g} p{more}, in one direction, of p parameters in float32"
    where = {"events": "at single contacts", "rounds": "in synchronous rounds"}
    weights = {"row": "means", "double": "doubly stochastic mixing", "column": "column-stochastic mixing"}[cls.mixing]
    graph = {"any": "", "tree": ", on trees", "two_trees": ", on two trees", "star": ", on a star"}[cls.graph]
    yield "sound", f"{' and '.join(where[one] for one in cls.timing)}; {weights}{graph}"


def _paper(text: str) -> str | None:
    """Returns the first reference at the end of a module's docstring, on one line; None: there is none."""
    found = re.search(r"^References?:\n((?: .*\n)*? .*\.)$", text, flags=re.MULTILINE)
    return " ".join(found[1].split()) if found else None


def _state(cls: type[Algorithm]) -> str:
    """Returns how many rows a node keeps: "the model and 2 rows (y, g)"."""
    words = list[str]()
    for place, what in (("node", ""), ("edge", " of each neighbour"), ("inbox", " of what has come")):
        for width, unit in ((None, "row"), (1, "number")):
            names = [name for name in cls.living(place) if (cls.fields[name].width is None) == (width is None)]
            many = sum(cls.fields[name].width or 1 for name in names)
            if names:
                words.append(f"{many} {unit}{'s' if many > 1 else ''}{what} ({', '.join(names)})")
    return " and ".join(["the model", *words])


def _yaml(value: Any, path: str) -> str:
    if value is MISSING:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(READER.plain(value, path)) or '""'


def docstrings(cls: type) -> dict[str, str]:
    """Returns the docstring under each field of a dataclass, on one line; "" where a field has none.

    Example:
        >>> from batchednodes.config.reference import docstrings
        >>> from batchednodes.events.clocks import Exponential
        >>> docstrings(Exponential)["rate"]
        'Mean number of updates of one node per second [1/s]; non-negative and finite; 0: never.'
    """
    found = dict.fromkeys((field.name for field in fields(cls)), "")
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        module = sys.modules.get(base.__module__)
        body = [] if module is None else _bodies(module).get(base.__qualname__, [])
        for line, below in pairwise(body):
            match line, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                    found |= {name: " ".join(text.split())} if name in found else {}
    return found


@cache  # to parse a module again for each of its classes takes longer than all else
def _bodies(module: ModuleType) -> dict[str, list[ast.stmt]]:
    """Returns the statements of each class of a module by its qualified name; none where its source is not at hand."""
    try:
        return dict(_classes(ast.parse(inspect.getsource(module)).body, ""))
    except (OSError, TypeError, SyntaxError):
        return {}


def _classes(statements: list[ast.stmt], before: str) -> Iterator[tuple[str, list[ast.stmt]]]:
    for statement in statements:
        inside = before
        match statement:
            case ast.ClassDef(name=name, body=body):
                yield f"{before}{name}", body
                inside = f"{before}{name}."
            case ast.FunctionDef(name=name):
                inside = f"{before}{name}.<locals>."
        yield from _classes(getattr(statement, "body", []), inside)
