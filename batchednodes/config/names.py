"""Names: short words for swept settings, the same in tables, legends and the names of folders."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


class Section(dict):
    """A section of settings that was swept: a mapping by which rows can be grouped, since it is never changed."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Returns a number that is the same for equal sections."""
        return hash(json.dumps(self, sort_keys=True))

    def __str__(self) -> str:
        """Returns the section in short words."""
        return words(self)


def words(value: Any) -> str:
    """Returns a value of a setting in short words: of a section, its kind and what else is set.

    Example:
        >>> from batchednodes.config.names import words
        >>> words(0.5), words("log(n)"), words({"kind": "ring"}), words({"kind": "watts_strogatz", "neighbours": 6})
        ('0.5', 'log(n)', 'ring', 'watts_strogatz, neighbours 6')
    """
    if isinstance(value, Mapping):
        rest = [f"{key} {words(part)}" for key, part in value.items() if key != "kind"]
        return ", ".join([str(value["kind"])] * ("kind" in value) + rest) or "default"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(words, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def heads(keys: Sequence[str]) -> list[str]:
    """Returns a short name of each setting, none twice: its last word, that of its section for a kind.

    Example:
        >>> from batchednodes.config.names import heads
        >>> heads(["network.topology.kind", "network.nodes", "gossip.clock.rate", "update.clock.rate"])
        ['topology', 'nodes', 'gossip rate', 'update rate']
    """
    parts = [key.removesuffix(".kind").split(".") for key in keys]
    found = [part[-1] for part in parts]
    for wider in ([f"{part[0]} {part[-1]}" for part in parts], keys):
        count = Counter(found)
        found = [name if count[name] == 1 else wide for name, wide in zip(found, wider, strict=True)]
    return found


def named(settings: Mapping[str, Any]) -> str:
    """Returns settings on one short line; kinds and runs need no name.

    Example:
        >>> from batchednodes.config.names import named
        >>> named({"network.topology": {"kind": "ring"}, "gossip.clock.rate": 0.5})
        'ring, rate 0.5'
    """
    plain = [
        key == "run" or key.endswith(".kind") or (isinstance(value, Mapping) and "kind" in value)
        for key, value in settings.items()
    ]
    pairs = zip(heads([*settings]), plain, settings.values(), strict=True)
    return ", ".join(words(value) if bare else f"{head} {words(value)}" for head, bare, value in pairs)


def in_path(value: Any) -> str:
    """Returns a value as a part of the name of a folder.

    Example:
        >>> from batchednodes.config.names import in_path
        >>> in_path("log(n)"), in_path([1, 2]), in_path({"kind": "torus", "dimensions": 3}), in_path({"args": {"a": 1}})
        ('log(n)', '[1, 2]', 'torus+dimensions=3', 'args=a=1')
    """
    if isinstance(value, Mapping):
        rest = [f"{key}={in_path(part)}" for key, part in value.items() if key != "kind"]
        return "+".join([str(value["kind"]), *rest] if "kind" in value else rest) or "{}"
    return value if isinstance(value, str) else json.dumps(value)
