"""Parts: a checkpoint of a run over ranks is a folder of files, one a rank, each with its networks and columns.

Of what all ranks of a group know alike, as clocks, the file of the first of them tells. A file that says nothing of
parts holds all.

Notation: n nodes, t tracked sources.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from batchednodes.numerics.values import shown
from batchednodes.results.folder.inside import Inside

SAME = ("updated", "gained", "diverged_at", "age")
"""Tensors of a state that all ranks of a group know alike, once they have added up what each saw."""

Span = tuple[int, int]
"""The first of some columns, and the end."""


class DamageError(ValueError):
    """A file that is not as it was written."""


@dataclass(frozen=True)
class Part:
    """What of a batch a file, or a rank, holds."""

    number: int
    """Of the file among those of a checkpoint."""
    files: int
    """How many there are."""
    networks: tuple[int, ...]
    """Numbers of its networks among those of the batch, in increasing order."""
    first: bool
    """Whether it is the first of those with these networks, and holds what they know alike."""
    columns: Mapping[str, Span]
    """Columns of rows of each tensor of the state, but for those of which it has all."""
    sources: tuple[Span, ...]
    """Tracked sources of each of its networks of which it has versions."""
    p: int
    """Parameters of a whole model."""

    @staticmethod
    def whole(tracked: Sequence[int], p: int) -> "Part":
        """Returns that of a file which holds all; tracked: sources of each network."""
        return Part(0, 1, tuple(range(len(tracked))), True, {}, tuple((0, t) for t in tracked), p)

    def span(self, name: str, width: int) -> Span:
        """Returns the columns of a tensor whose whole rows have some width."""
        return self.columns.get(name, (0, width))

    def plain(self) -> dict[str, Any]:
        """Returns the same as plain data."""
        return asdict(self) | {"columns": dict(self.columns)}

    @staticmethod
    def read(written: Any, networks: int) -> "Part":
        """Returns what `plain` made of a part of some networks.

        Raises:
            ValueError: it is not what a run writes.
        """
        found: Mapping[str, Any] = written if isinstance(written, dict) else {}
        wrong = [name for name, holds in _RULES.items() if not holds(found.get(name))]
        if wrong:
            raise ValueError(f"part.{wrong[0]} is {shown(found.get(wrong[0]))}")
        own, sources = tuple(found["networks"]), tuple(map(tuple, found["sources"]))
        if own != tuple(sorted({*own})) or own[-1] >= networks or len(sources) != len(own):
            raise ValueError(f"part.networks is {shown([*own])} of {networks}, part.sources {shown([*sources])}")
        if found["number"] >= found["files"]:
            raise ValueError(f"part.number is {found['number']} of {found['files']}")
        columns = {name: (span[0], span[1]) for name, span in found["columns"].items()}
        return Part(found["number"], found["files"], own, found["first"], columns, sources, found["p"])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 50


def _is_span(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_count, value)) and value[0] <= value[1]


_RULES = {
    "number": _is_count,
    "files": _is_count,
    "networks": lambda v: isinstance(v, list | tuple) and len(v) > 0 and all(map(_is_count, v)),
    "first": lambda v: isinstance(v, bool),
    "columns": lambda v: isinstance(v, dict) and all(map(_is_span, v.values())),
    "sources": lambda v: isinstance(v, list | tuple) and all(map(_is_span, v)),
    "p": _is_count,
}
"""What must be true of each of a part."""


def groups(parts: Sequence[Part], networks: int) -> list[list[int]]:
    """Returns the places of the parts of each group, those of a group in order; all parts of a checkpoint of a batch.

    Raises:
        ValueError: something of the batch is missing, or there twice.
    """
    found = dict[tuple[int, ...], list[int]]()
    for k, part in enumerate(parts):
        found.setdefault(part.networks, []).append(k)
        if part.first != (len(found[part.networks]) == 1) or part.number != k or part.files != len(parts):
            raise ValueError(f"part {part.number} of {part.files} is in place {k} of {len(parts)}")
    if sorted(g for group in found for g in group) != list(range(networks)):
        raise ValueError(f"parts are of networks {shown([[*group] for group in found])}, of {networks}")
    for places in found.values():
        some = [parts[k] for k in places]
        spans = [
            [part.columns.get(name, (0, 0)) for part in some] for name in {n for part in some for n in part.columns}
        ]
        spans += zip(*(part.sources for part in some), strict=True)
        begun = all(each[0][0] == 0 for each in map(list, spans))
        if not begun or any(a[1] != b[0] for each in spans for a, b in pairwise(each)):
            raise ValueError("parts do not have all columns, one after the other")
    return [*found.values()]


def name(number: int) -> str:
    """Returns the name of the file of a part."""
    return f"{number:05}.safetensors"


def files(path: Inside) -> list[Inside]:
    """Returns the files of a checkpoint, which is one or a folder of some; those of parts in their order.

    Raises:
        DamageError: the folder has none.
    """
    if not path.is_folder():
        return [path]
    found = [file for file in path.names() if file.endswith(".safetensors")]
    if not found:
        raise DamageError(f"checkpoint must be a file, or a folder of those of ranks, got {path} without any")
    return [path / file for file in sorted(found)]
