"""Types of settings, in words."""

import difflib
import types
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from batchednodes.numerics.values import Distribution

_WORDS: dict[Any, str] = {
    bool: "true or false",
    float: "a number",
    int: "an integer",
    str: "text",
    dict: "a mapping",
    list: "a list of n numbers",
    types.NoneType: "null",
}


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Returns the type of each field; Python takes as long to find them as all else takes here."""
    hints = get_type_hints(cls)  # those of class variables, which are no settings, too
    return {field.name: hints[field.name] for field in fields(cls)}


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the alternatives of a type: (int, NoneType) of `int | None`, (int,) of `int`."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def describe(hint: Any) -> str:
    """Returns what a type accepts, in words: "an integer", "one of push, pull, meet", "a number or null".

    Example:
        >>> from typing import Literal
        >>> from batchednodes.config.hints import describe
        >>> describe(int | float | str), describe(Literal["push", "pull"] | None)
        ('a number or an expression in n', 'one of push, pull or null')
    """
    parts = members(hint)
    if Distribution in parts:
        return "a number, an expression in n, a list of n numbers or a distribution {kind: ...}"
    if float in parts:
        parts = tuple(part for part in parts if part is not int)
    words = []
    for part in parts:
        if get_origin(part) is Literal:
            words.append("one of " + ", ".join(map(str, get_args(part))))
        elif get_origin(part) in (list, tuple):
            words.append(
                "a list of " + {int: "integers", float: "numbers", str: "texts"}.get(get_args(part)[0], "entries")
            )
        elif part is str and len(parts) > 1 and (float in parts or int in parts):
            words.append("an expression in n")
        else:
            words.append(_WORDS.get(get_origin(part) or part, "a section of settings"))
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def default_of(field: Field) -> Any:
    """Returns the default of a dataclass field, or `dataclasses.MISSING` where it must be given."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def nearest(word: Any, words: Iterable[str], path: str = "") -> str:
    """Returns "; did you mean 'path.word'?" for the word most like the one given, else nothing.

    Example:
        >>> from batchednodes.config.hints import nearest
        >>> nearest("ringe", ["ring", "star", "torus"], "network.topology")
        "; did you mean 'network.topology.ring'?"
    """
    found = difflib.get_close_matches(str(word), list(words), 1)
    return f"; did you mean {join(path, found[0])!r}?" if found else ""


def join(path: str, name: Any) -> str:
    """Returns the path of a setting inside the section at `path`; the whole config is at ""."""
    return f"{path}.{name}" if path else str(name)
