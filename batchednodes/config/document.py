r"""One YAML document as plain data, read in bounded time and memory whatever it holds; and plain data as a document.

Numbers are decimal, 0x, 0o or 0b; what YAML 1.1 reads as octal (010), base 60 (1:30) or a date stays text, so that it
is refused where a number is due. PyYAML's parser reads it; its loader is not used, for it takes the last of equal keys
without a word, and aliases however much they stand for.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from batchednodes.data.paths import FILE, NOTHING, found
from batchednodes.numerics.values import shown

LARGEST, VALUES, DEPTH = 16 << 20, 120_000, 50
"""The largest file [B], the most values of a document with its aliases written out, and the deepest nesting [levels]:
less than a second's work."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_RESOLVER: Any = yaml.resolver.Resolver()
_WORDS: dict[str, bool | None] = {
    **{form: None for word in ("null", "~", "") for form in (word, word.title(), word.upper())},
    **{form: True for word in ("true", "yes", "on") for form in (word, word.title(), word.upper())},
    **{form: False for word in ("false", "no", "off") for form in (word, word.title(), word.upper())},
}
_INTEGER = re.compile(r"[-+]?(?:[0-9][0-9_]{0,400}|0x[0-9a-fA-F_]{1,300}|0o[0-7_]{1,400}|0b[01_]{1,400})")
_REAL = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|"
                   r"[0-9][0-9_]*[eE][-+]?[0-9]+)")  # fmt: skip
_LIMITS = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")


def read_file(path: str | Path) -> Any:
    """Returns the plain data of a YAML file; None if it holds nothing.

    Raises:
        ValueError: the file is no regular file, too large, or not one valid document; the message begins with its name.
    """
    try:
        return parse(_text(path))
    except ValueError as error:
        raise ValueError(f"config file {shown(str(path))} {error}") from None


def _text(path: str | Path) -> str:
    try:
        kind = found(path)
        content = None
        if kind in (FILE, NOTHING):
            with Path(path).open("rb") as file:
                content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ValueError("does not exist; paths are relative to the working directory") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # a null byte in the path
        raise ValueError(f"cannot be read: {error}") from None
    if content is None:
        raise ValueError(f"must be a file, got {kind}; write the settings to a file")
    if len(content) > LARGEST:
        raise ValueError(f"must be at most {LARGEST >> 20} MiB; keep long lists in data files")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8 text, byte {error.start} is not") from None


def parse(text: str) -> Any:
    r"""Returns the plain data of one YAML document; None if it holds nothing.

    Example:
        >>> from batchednodes.config.document import parse
        >>> parse("network: {nodes: 50}\nseed: 1e3")
        {'network': {'nodes': 50}, 'seed': 1000.0}
        >>> parse("seed: 1\nseed: 2")
        Traceback (most recent call last):
            ...
        ValueError: must give each key once, got 'seed' again at line 2

    Raises:
        ValueError: the text is not valid, too large, too deep, gives a key twice or uses a tag.
    """
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>",', "at")
        raise ValueError(f"is not valid YAML: {reason}") from None
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8 text, got bytes that are not") from None


class _Builder:
    """Makes plain data from the events of a parser, and counts them as it goes."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events, self.values, self.anchors = events, 0, dict[str, tuple[Any, int]]()

    def document(self) -> Any:
        """Returns the only document; None if there is none."""
        found = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.values:
                    raise ValueError(f"must hold one document, another begins at line {event.start_mark.line + 1}")
                found = self.value(next(self.events), 1)
        return found

    def value(self, event: Any, depth: int) -> Any:
        """Returns the value that begins with an event."""
        before = self.values
        self.count(1)
        if depth > DEPTH:
            raise ValueError(f"must be nested at most {DEPTH} levels deep, line {event.start_mark.line + 1} is deeper")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.tag is not None and event.tag not in ("!", "tag:yaml.org,2002:str"):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise ValueError(f"must be plain data without tags, got {tag[:60]!r} at line {event.start_mark.line + 1}")
        if isinstance(event, yaml.ScalarEvent):
            made: Any = scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            made = [self.value(e, depth + 1) for e in self.until(yaml.SequenceEndEvent)]
        else:
            made = self.mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = made, self.values - before
        return made

    def until(self, end: type) -> Iterator[Any]:
        """Yields events up to the end of a list or mapping."""
        for event in self.events:
            if isinstance(event, end):
                return
            yield event

    def mapping(self, depth: int) -> dict[Any, Any]:
        """Returns a mapping, with what `<<` names merged under its own keys."""
        made, merged = dict[Any, Any](), dict[Any, Any]()
        for event in self.until(yaml.MappingEndEvent):
            line, is_merge = event.start_mark.line + 1, isinstance(event, yaml.ScalarEvent) and event.value == "<<"
            key = "<<" if is_merge and event.implicit[0] else self.value(event, depth + 1)
            if isinstance(key, list | dict):
                raise ValueError(f"must have texts as keys, got a list or mapping at line {line}")
            if key in made:
                raise ValueError(f"must give each key once, got {str(key)[:60]!r} again at line {line}")
            value = self.value(next(self.events), depth + 1)
            if is_merge and event.implicit[0]:
                merged = self.merge(value, line) | merged
            else:
                made[key] = value
        return merged | made

    @staticmethod
    def merge(value: Any, line: int) -> dict[Any, Any]:
        """Returns one mapping for what stands after `<<`: a mapping, or a list of them, of which the first counts."""
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"must merge mappings only (<<), got another value at line {line}")
        return {key: item for part in reversed(parts) for key, item in part.items()}

    def alias(self, event: Any) -> Any:
        """Returns a copy of the value that an alias names."""
        if event.anchor not in self.anchors:
            line = event.start_mark.line + 1
            raise ValueError(f"must name complete anchors by its aliases, got *{event.anchor[:60]} at line {line}")
        value, size = self.anchors[event.anchor]
        self.count(size)
        return _copied(value)

    def count(self, more: int) -> None:
        """Counts values, and refuses too many before they are made."""
        self.values += more
        if self.values > VALUES:
            raise ValueError(f"must hold at most {VALUES:,} values, aliases written out; keep long lists in data files")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def scalar(text: str) -> Any:
    """Returns what a plain scalar stands for: null, a truth value, a number, else text.

    Example:
        >>> from batchednodes.config.document import scalar
        >>> [scalar(text) for text in ("1e-3", "no", "null", "log(n)")]
        [0.001, False, None, 'log(n)']
    """
    if text in _WORDS:
        return _WORDS[text]
    try:
        if _INTEGER.fullmatch(text):
            return int(text, 0)
        if _REAL.fullmatch(text):
            return float(text)
    except ValueError:  # 010, 1__0: Python takes them for mistakes too
        return text
    limit = _LIMITS.fullmatch(text)
    return float(limit[1] + limit[2]) if limit else text


# ----------------------------------------------------------------------------------------------------------- writing


def write(data: dict[str, Any]) -> str:
    """Returns plain data as one YAML document, which `parse` reads as equal data.

    Example:
        >>> from batchednodes.config.document import write
        >>> print(write({"network": {"nodes": 50}, "name": "1"}), end="")
        network:
          nodes: 50
        name: '1'

    Raises:
        ValueError: the document could not be read again: it is too large or too deep, or has no UTF-8 text.
    """
    size = _size(data)
    if size.depth > DEPTH:
        raise ValueError(f"a config must be nested at most {DEPTH} levels deep, got {size.depth}")
    if size.values > VALUES or size.letters > LARGEST:
        raise ValueError(_too_large(data, size.values, size.letters))
    try:
        text = yaml.emit(_document(data), Dumper=_DUMPER, allow_unicode=True)
        assert isinstance(text, str)
        length = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("a config must be UTF-8 text, got characters that are not") from None
    if length > LARGEST:
        raise ValueError(_too_large(data, size.values, length))
    return text


class _Size(NamedTuple):
    """What a value takes in a document."""

    values: int
    """As `_Builder` counts them: keys, values, lists and mappings."""
    letters: int
    """Letters and digits [B], at least."""
    depth: int
    """Levels of nesting, itself included."""


def _size(value: Any) -> _Size:
    if not isinstance(value, dict | list):
        return _Size(1, len(value) if isinstance(value, str) else 1, 1)
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):  # it may be long
        return _Size(1 + len(value), sum(len(item) if isinstance(item, str) else 1 for item in value), 2)
    inner = [_size(item) for item in ([*value, *value.values()] if isinstance(value, dict) else value)]
    values, letters = 1 + sum(size.values for size in inner), sum(size.letters for size in inner)
    return _Size(values, letters, 1 + max((size.depth for size in inner), default=0))


def _too_large(data: dict[str, Any], values: int, length: int) -> str:
    """Returns the message about data of too many values, or too many bytes, which names the longest setting."""
    key, place = "", data
    while isinstance(place, dict):
        name = max(place, key=lambda name: _size(place[name])[values <= VALUES])
        key, place = f"{key}.{name}" if key else str(name), place[name]
    return (
        f"{key} must be shorter: a config is a file of at most {VALUES:,} values and {LARGEST >> 20} MiB, got "
        f"{values:,} and {length / 2**20:.1f}; use an expression in n or a distribution, or keep it in a file of its "
        "own, as network.topology.kind=edge_list does"
    )


def _document(data: dict[str, Any]) -> Iterator[yaml.Event]:
    """Yields the events from which a document is written."""
    yield yaml.StreamStartEvent()
    yield yaml.DocumentStartEvent(explicit=False)
    yield from _value(data)
    yield yaml.DocumentEndEvent(explicit=False)
    yield yaml.StreamEndEvent()


def _value(value: Any) -> Iterator[yaml.Event]:
    if isinstance(value, dict):
        yield yaml.MappingStartEvent(None, None, implicit=True, flow_style=False)
        for key, item in value.items():
            yield _word(key)
            yield from _value(item)
        yield yaml.MappingEndEvent()
    elif isinstance(value, list):
        yield yaml.SequenceStartEvent(None, None, implicit=True, flow_style=False)
        for item in value:
            if isinstance(item, dict | list):
                yield from _value(item)
            else:
                yield _word(item)
        yield yaml.SequenceEndEvent()
    else:
        yield _word(value)


def _word(value: Any) -> yaml.ScalarEvent:
    """Returns a scalar; text that `scalar`, or YAML 1.1, would read as something else is quoted."""
    if isinstance(value, str):
        read = _RESOLVER.resolve(yaml.ScalarNode, value, (True, False))
        plain = read == "tag:yaml.org,2002:str" and isinstance(scalar(value), str)
        breaks = any(letter in value for letter in "\x85\u2028\u2029")  # PyYAML without libyaml loses them
        return yaml.ScalarEvent(None, None, (plain, True), value, style='"' if breaks else None if plain else "'")
    return yaml.ScalarEvent(None, None, (True, False), _number(value))


def _number(value: bool | int | float | None) -> str:
    """Returns what stands for a value that is no text, in the forms that YAML 1.1 reads, too."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    digits = repr(value)
    return digits if "." in digits else digits.replace("e", ".0e")
