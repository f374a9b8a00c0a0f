"""Rules about several settings together; of those that are broken, the first is said.

Settings are `Any` in the modules that hold rules, since the schema, which they are part of, checks itself by them.
"""

from collections.abc import Iterable
from typing import Any

Rule = tuple[str, Any, str]
"""What must hold, whether it is broken, and what to do about it."""


def refuse(rules: Iterable[Rule]) -> None:
    """Raises ValueError for the first rule that is broken."""
    for rule, broken, remedy in rules:
        if broken:
            raise ValueError(f"{rule}; {remedy}")


def given(section: Any, name: str) -> bool:
    """Returns whether a setting of a section is another than that of a run which says nothing."""
    return getattr(section, name) != getattr(type(section)(), name)
