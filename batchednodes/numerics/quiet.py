"""Quiet: what PyTorch says of its own inside is for those who write PyTorch, and does not reach who trains a model."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Literal

_INSIDE = r"(?s).*Triggered internally at"
"""How warnings of PyTorch's core end; those of Python code, the user's above all, do not."""

_SLOW = re.compile(r"There is a performance drop .*?batching rule for aten::(\w+)")
"""How PyTorch says that vmap runs a function one row at a time."""

_LOCK = RLock()
"""Held by who replaces the filters of warnings, which all threads of a process share."""


@contextmanager
def filtered(action: Literal["error", "ignore"]) -> Iterator[None]:
    """Makes errors of all warnings, or drops them, inside; what other threads filter is as it was afterwards."""
    with _LOCK, warnings.catch_warnings(action=action):
        yield


def is_quiet() -> bool:
    """Returns whether warnings of PyTorch's core are dropped."""
    return any(_is_ours(one) for one in warnings.filters)


def set_quiet(on: bool) -> None:
    """Drops warnings of PyTorch's core from now on, in all threads; or shows them again."""
    with _LOCK:
        if on:
            warnings.filterwarnings("ignore", message=_INSIDE)
        else:
            filters: Any = warnings.filters
            filters[:] = [one for one in filters if not _is_ours(one)]


def _is_ours(one: tuple[object, ...]) -> bool:
    return one[0] == "ignore" and getattr(one[1], "pattern", None) == _INSIDE


@contextmanager
def slow_functions() -> Iterator[set[str]]:
    """Drops all warnings, and yields a set that holds, in the end, the functions that vmap ran one row at a time."""
    names = set[str]()
    with _LOCK, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield names
    matches = (_SLOW.search(str(warning.message)) for warning in said)
    names.update(match[1] for match in matches if match)
