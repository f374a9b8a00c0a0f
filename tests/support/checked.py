"""Checked signatures: of functions within functions, the first that is defined of each.

Those are defined anew at each call of what they are in, and what checks one takes a millisecond to make.
"""

from collections.abc import Callable
from typing import Any

_SEEN = set[Any]()


def sparing(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `jaxtyping.jaxtyped`, which the import hook decorates all functions with, as one that spares others."""

    def options(**given: Any) -> Callable[[Any], Any]:
        decorate = jaxtyped(**given)

        def decorated(function: Any) -> Any:
            inner = "<locals>" in getattr(function, "__qualname__", "")
            code = getattr(function, "__code__", None) if inner else None  # None: a class
            if code in _SEEN:
                return function
            if code is not None:
                _SEEN.add(code)
            return decorate(function)

        return decorated

    return options
