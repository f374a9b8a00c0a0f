"""Settings from YAML files and overrides, and back.

    YAML file -> key=value overrides -> interpolations -> Config

Letters: none.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from batchednodes.config.kinds import READER
from batchednodes.config.settings import Config


def load(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Returns the settings of a YAML file, a mapping or a config, with overrides merged into them.

    Overriding a `kind` drops those settings of the older kind, in the source, that the new kind does not have; what
    both kinds have stays, and what another override gives must fit the new kind.

    Args:
        source: path of a YAML file, relative to the working directory; or a nested mapping; or a config.
        overrides: texts key=value, as "gossip.clock.rate=2*log(n)"; the value is read as YAML; the last one counts.

    Raises:
        ValueError: the file cannot be read, or a key or a value is wrong; the message begins with its path.
    """
    try:
        tree = _source(source)
        changes = [_override(text) for text in overrides]
        READER.forget_(tree, _plain(OmegaConf.from_dotlist(list(overrides))), Config, "")
        merged = OmegaConf.create(tree)
        for key, value in changes:
            _change_(merged, key, value)
        resolved = _plain(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(_unresolved(error)) from None
    except RecursionError:
        raise ValueError("a config must not contain itself, or be nested hundreds of levels deep") from None
    return READER.build(Config, resolved, "")


def _plain(tree: DictConfig, resolve: bool = False) -> dict[Any, Any]:
    """Returns a mapping of OmegaConf as plain data, with its interpolations as they are or resolved."""
    plain = OmegaConf.to_container(tree, resolve=resolve, throw_on_missing=resolve)
    assert isinstance(plain, dict)
    return plain


def _change_(tree: DictConfig, key: str, value: Any) -> None:
    try:
        OmegaConf.update(tree, key, value, merge=True)
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{key} cannot be set: part of it is a list, whose keys are positions 0, 1, ...") from None


def _unresolved(error: OmegaConfBaseException) -> str:
    key, reason = getattr(error, "full_key", None) or "config", str(error).partition("\n")[0]
    seen = "; interpolations see what the source and the overrides set, not defaults"
    return f"{key} cannot be read: {reason}{seen if isinstance(error, InterpolationKeyError) else ''}"


def _source(source: str | Path | Mapping[str, Any] | Config) -> dict:
    if isinstance(source, Config):
        return _escape(to_dict(source))
    if isinstance(source, DictConfig):
        return _plain(source)
    if isinstance(source, Mapping):
        return READER.plain(source, "")
    if not isinstance(source, str | Path):
        raise ValueError(f"a config must be a path, a mapping or a Config, got {source!r}")
    text = _text(source)
    try:
        tree = OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise ValueError(f"config file {str(source)!r} is not valid YAML: {error}") from None
    if not isinstance(tree, DictConfig):
        raise ValueError(f"config file {str(source)!r} must hold keys and values (nodes: 50), got a list")
    return _plain(tree)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"no config file {str(path)!r}; paths are relative to the working directory") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"config file {str(path)!r} must be UTF-8 text, byte {error.start} is not") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"config file {str(path)!r} cannot be read: {reason}") from None


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise ValueError(f"overrides are key=value, as network.nodes=50, got {text!r}")
    try:
        return key, _plain(OmegaConf.from_dotlist([f"value={value}"]))["value"]
    except (yaml.YAMLError, OmegaConfBaseException):
        raise ValueError(f"overrides are key=value, value is YAML, got {text!r}") from None


def _escape(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _escape(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_escape(value) for value in tree]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def to_dict(config: Config) -> dict[str, Any]:
    """Returns every setting as nested plain data; `kind` comes first in its section."""
    return READER.plain(config, "")


def dump(config: Config) -> str:
    """Returns every setting as YAML, such that reading it gives an equal config."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(to_dict(config))))
