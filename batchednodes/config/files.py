"""Settings from YAML files and overrides, and back.

YAML file -> key=value overrides -> interpolations -> Config
"""

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from batchednodes.config.document import parse, read_file, write
from batchednodes.config.kinds import READER
from batchednodes.config.objects import Implied, fill_, replaced
from batchednodes.config.schema import Config
from batchednodes.numerics import inputs
from batchednodes.numerics.values import shown

EXPANDED = 5_000
"""The most values of a config with interpolations, written out: half a second's work."""

_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
"""A full key."""

_REFERENCE = re.compile(r"(\\*)\$\{([^{}]*\}?)")


Override = str | Mapping[str, Any]
"""A text key=value, or a mapping of nested settings, or of full keys."""


def load(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[Override] = ()) -> Config:
    """Returns the settings of a YAML file, a mapping or a config, with overrides merged into them.

    Overriding a `kind` drops those settings of the older kind, in the source, that the new kind does not have; what
    both kinds have stays, and what another override gives must fit the new kind.

    Example:
        >>> import batchednodes
        >>> config = batchednodes.load({"network": {"nodes": 50}}, ["gossip.clock.rate=2*log(n)", {"seed": 7}])
        >>> config.network.nodes, config.gossip.clock, config.seed
        (50, Poisson(rate='2*log(n)'), 7)
        >>> batchednodes.load({"network": {"nods": 50}})
        Traceback (most recent call last):
            ...
        ValueError: unknown key 'network.nods'; did you mean 'network.nodes'?

    Args:
        source: path of a YAML file, relative to the working directory; or a nested mapping; or a config. Mappings may
            hold objects in place of settings, see `batchednodes.train`.
        overrides: texts key=value, as "gossip.clock.rate=2*log(n)", whose value is read as YAML; or mappings, as
            {"gossip": {"clock": {"rate": 2}}} or {"gossip.clock.rate": 2}; the last one counts.

    Raises:
        ValueError: the file cannot be read, or a key or a value is wrong; the message begins with its path.
    """
    implied: Implied = {}
    try:
        tree = _source(source, implied)
        changes = [change for given in overrides for change in _changes(given, implied)]
        change: dict[str, Any] = {}
        for key, value in changes:
            _change_(change, key, value)
        READER.forget_(tree, change, Config, "")
        for key, value in changes:
            _change_(tree, key, value)
        fill_(tree, implied)
        resolved = _resolved(tree)
    except OmegaConfBaseException as error:
        raise ValueError(_unresolved(error)) from None
    except RecursionError:
        raise ValueError("a config must not contain itself, or be nested hundreds of levels deep") from None
    return READER.build(Config, resolved, "")


# -------------------------------------------------------------------------------------------------- interpolations


def _resolved(tree: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the tree with the value of another key in place of each interpolation ${section.key}."""
    if not any("${" in text for text in _texts(tree)):
        return tree
    _Expansion(tree).check()
    plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    assert isinstance(plain, dict)
    return plain


def _texts(value: Any) -> Iterator[str]:
    """Yields the texts among the values of plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


class _Expansion:
    """Counts the values of a tree with its interpolations written out, without writing them."""

    def __init__(self, tree: dict[Any, Any]) -> None:
        self.tree, self.known, self.open = tree, dict[str, int](), set[str]()

    def check(self) -> None:
        """Refuses interpolations that are none, that form a circle, or that make too many values."""
        total = sum(self.size(value, str(key)) for key, value in self.tree.items())
        if total > EXPANDED:
            raise ValueError(
                f"a config with interpolations (${{...}}) must hold at most {EXPANDED:,} values, got {shown(total)} "
                "when they are written out; write the values themselves"
            )

    def size(self, value: Any, path: str) -> int:
        """Returns the number of values that stand at a path; a long text counts as several."""
        if isinstance(value, dict):
            return 1 + sum(self.size(item, f"{path}.{key}") for key, item in value.items())
        if isinstance(value, list):
            return 1 + sum(self.size(item, f"{path}.{i}") for i, item in enumerate(value))
        total = 1 + (len(value) // 100 if isinstance(value, str) else 0)
        for slashes, name in _REFERENCE.findall(value) if isinstance(value, str) else ():
            if len(slashes) % 2 == 0:  # else it is escaped: text
                total += self.named(name, path)
        return total

    def named(self, name: str, path: str) -> int:
        """Returns the number of values that an interpolation at a path stands for; name: with its closing brace."""
        if not re.fullmatch(r"\s*[\w-]+(\.[\w-]+)*\s*\}", name):
            rule = "${section.key}, the full key of another setting; what comes from the environment is no setting"
            raise ValueError(f"{path} cannot be read: interpolations are {rule}, got {shown('${' + name)}")
        key = name[:-1].strip()
        if key in self.open:
            raise ValueError(f"{path} cannot be read: interpolations must not form a circle, got one through {key!r}")
        if key not in self.known:
            self.open.add(key)
            self.known[key] = self.size(_at(self.tree, key), key)
            self.open.remove(key)
        return self.known[key]


def _at(tree: Any, key: str) -> Any:
    """Returns what stands at a full key; None where there is nothing."""
    for part in key.split("."):
        if isinstance(tree, dict):
            tree = tree.get(part)
        else:
            tree = tree[int(part)] if isinstance(tree, list) and _is_place(part, tree) else None
    return tree


def _is_place(part: str, items: list[Any]) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(items)


def _unresolved(error: OmegaConfBaseException) -> str:
    key, reason = getattr(error, "full_key", None) or "config", str(error).partition("\n")[0]
    seen = "; interpolations see what the source and the overrides set, not defaults"
    return f"{key} cannot be read: {reason}{seen if isinstance(error, InterpolationKeyError) else ''}"


# ----------------------------------------------------------------------------------------------- source, overrides


def _source(source: str | Path | Mapping[str, Any] | Config, implied: Implied) -> dict[Any, Any]:
    if isinstance(source, Config):
        return _escape(to_dict(source))
    if isinstance(source, DictConfig):
        plain = OmegaConf.to_container(source)
        assert isinstance(plain, dict)
        return plain
    if isinstance(source, Mapping):
        return _nested(replaced(source, implied))
    if not isinstance(source, str | Path):
        raise ValueError(f"a config must be a path, a mapping or a Config, got {shown(source)}")
    tree = read_file(path := _shipped(Path(source)))
    inputs.find("\n".join(_texts(tree)), path.parent)
    if tree is not None and not isinstance(tree, dict):
        got = "a list" if isinstance(tree, list) else shown(tree)
        raise ValueError(f"config file {shown(str(source))} must hold keys and values (nodes: 50), got {got}")
    return tree or {}


def _shipped(path: Path) -> Path:
    """Returns the path of a config; where none is at configs/..., that of the one that comes with the package."""
    if path.parts[:1] == ("configs",) and ".." not in path.parts and not os.path.lexists(path):
        for home in Path(__file__).parents[1:3]:  # an installed package; a checkout
            if (home / path).is_file():
                return home / path
    return path


def _changes(given: Override, implied: Implied) -> list[tuple[str, Any]]:
    """Returns the full keys that an override sets, with their values as plain data."""
    if isinstance(given, str):
        return [assigned(given)]
    if not isinstance(given, Mapping):
        raise ValueError(
            f'overrides must be texts as "network.nodes=50" or mappings as {{"network.nodes": 50}}, got {shown(given)}'
        )
    wrong = [key for key in given if not isinstance(key, str) or not _KEY.fullmatch(key)]
    if wrong:
        raise ValueError(f"overrides must have full keys of settings, as network.nodes, got {shown(wrong[0])}")
    return [*_nested(replaced(given, implied)).items()]


def _nested(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns a mapping as plain data, with sections in place of full keys."""
    tree = dict[Any, Any]()
    for key, value in READER.plain(given, "").items():
        if isinstance(key, str) and _KEY.fullmatch(key):
            _change_(tree, key, value)
        else:
            tree[key] = value  # no key of a setting, and refused as that
    return tree


def assigned(text: str) -> tuple[str, Any]:
    """Returns key and value of a text key=value, whose value is YAML.

    Example:
        >>> from batchednodes.config import assigned
        >>> assigned("task.model={kind: mlp, hidden: [64, 32]}")
        ('task.model', {'kind': 'mlp', 'hidden': [64, 32]})

    Raises:
        ValueError: it is none.
    """
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ValueError(f"overrides are key=value, as network.nodes=50, got {shown(text)}")
    try:
        return key, parse(value)
    except ValueError as error:
        raise ValueError(f"overrides are key=value, value is YAML, got {shown(text)}, which {error}") from None


def _change_(tree: dict[Any, Any], key: str, value: Any) -> None:
    """Merges a value into the tree at a full key: mappings key by key; anything else takes the older value's place."""
    *sections, last = key.split(".")
    place: Any = tree
    for part in sections:
        place = _entered_(place, part, key)
    if isinstance(place, list):
        place[_place(place, last, key)] = value
    elif isinstance(place.get(last), dict) and isinstance(value, dict):
        _merge_(place[last], value)
    else:
        place[last] = copy.deepcopy(value)


def _entered_(place: Any, part: str, key: str) -> Any:
    """Returns the section at a part of a key; an empty one is put in the place of what is none."""
    at: Any = _place(place, part, key) if isinstance(place, list) else part
    inner = place[at] if isinstance(place, list) else place.get(at)
    if not isinstance(inner, dict | list):
        inner = place[at] = {}
    return inner


def _place(items: list[Any], part: str, key: str) -> int:
    if not _is_place(part, items):
        raise ValueError(f"{key} cannot be set: part of it is a list, whose keys are positions 0, 1, ...")
    return int(part)


def _merge_(old: dict[Any, Any], new: dict[Any, Any]) -> None:
    for key, value in new.items():
        if isinstance(old.get(key), dict) and isinstance(value, dict):
            _merge_(old[key], value)
        else:
            old[key] = copy.deepcopy(value)


def _escape(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _escape(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_escape(value) for value in tree]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def to_dict(config: Config) -> dict[str, Any]:
    """Returns every setting as nested plain data; `kind` comes first in its section.

    Example:
        >>> import batchednodes
        >>> from batchednodes.config import to_dict
        >>> to_dict(batchednodes.Config())["network"]["topology"]
        {'kind': 'complete'}
    """
    return READER.plain(config, "")


def dump(config: Config) -> str:
    """Returns every setting as YAML, such that reading it gives an equal config.

    Example:
        >>> import batchednodes
        >>> from batchednodes.config import dump
        >>> text = dump(batchednodes.Config(seed=7))
        >>> "seed: 7" in text.splitlines()
        True

    Raises:
        ValueError: it would be too large to be read; the message names the longest setting.
    """
    return write(_escape(to_dict(config)))
