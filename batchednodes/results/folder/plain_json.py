"""Plain: JSON that may come from anywhere as plain data, or one ValueError.

`json` alone ends deep nesting with an error of Python's own stack, which is none of the text.
"""

import json
from typing import Any

DEPTH = 100
"""The deepest nesting that is read [levels]; what is made here has half of it, and Python gives up near a thousand."""


def parsed(text: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Example:
        >>> from batchednodes.results.folder.plain_json import parsed
        >>> parsed('{"loss_mean": 0.5}')
        {'loss_mean': 0.5}
        >>> parsed("[" * 1000 + "]" * 1000)
        Traceback (most recent call last):
            ...
        ValueError: it must be nested at most 100 levels deep

    Raises:
        ValueError: it is none, or nested too deep.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
        deep = True
    else:
        deep = _is_deeper(found, DEPTH)
    if deep:
        raise ValueError(f"it must be nested at most {DEPTH} levels deep")
    return found


def _is_deeper(value: Any, levels: int) -> bool:
    """Returns whether a value is nested deeper than some levels."""
    if not isinstance(value, dict | list):
        return False
    return levels == 0 or any(
        _is_deeper(part, levels - 1) for part in (value.values() if isinstance(value, dict) else value)
    )


def alike(found: Any, made: Any) -> bool:
    """Returns whether a value has the parts of another one, of the same kinds; a number may be null in either.

    Example:
        >>> from batchednodes.results.folder.plain_json import alike
        >>> alike({"loss": None}, {"loss": 0.5}), alike({"loss": "0.5"}, {"loss": 0.5})
        (True, False)
    """
    if isinstance(made, dict):
        return isinstance(found, dict) and found.keys() == made.keys() and all(alike(found[k], made[k]) for k in made)
    if isinstance(made, list):
        return isinstance(found, list) and len(found) == len(made) and all(map(alike, found, made))
    kind = bool if isinstance(made, bool) else str if isinstance(made, str) else int | float | None
    return isinstance(found, kind) and (isinstance(made, bool) or not isinstance(found, bool))
