"""States: the files in which a run keeps what continues it, and what can be said of them without PyTorch.

A safetensors file begins with a header; there, beside names and shapes of tensors, stand a checksum of everything else
in the file, the simulated time, and the journal.

Notation: n nodes, p parameters.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open

from batchednodes.events.messages.records import MESSAGE, NODE
from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.file_format import TYPES, Content, checksum
from batchednodes.results.checkpoints.journal import RunJournal, Said
from batchednodes.results.checkpoints.part import DamageError, files
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.results.folder.node_file import check_nodes
from batchednodes.results.folder.paths import METRICS, states
from batchednodes.results.folder.plain_json import parsed

FORMAT = "batchednodes-4"
"""Of the files that this version writes, and reads."""

_FLOATS, _COUNTS = {"float32", "float64", "bfloat16"}, {"int16", "int32", "int64"}
"""Types of models and of versions."""

_SHAPES = {
    "x": ("model", "n p"),
    "updated gained diverged_at": ("float64", "n"),
    "clocks.next_update clocks.next_gossip clocks.stamp": ("float64", "n"),
    "clocks.updates clocks.gossips clocks.draws": ("int64", "n"),
    "clocks.order clocks.awake": ("int32", "n"),
    "clocks.in_flight.nodes": ("uint8", f"n {NODE.itemsize}"),
    "clocks.in_flight.age": ("int64", "n q"),
    "clocks.in_flight.accounts": ("int64", "g 4"),
    "clocks.in_flight.messages": ("uint8", f"c {MESSAGE.itemsize}"),
    "clocks.in_flight.message_age": ("int64", "c q"),
    "clocks.in_flight.pools": ("int64", "g 2"),
    "clocks.in_flight.link": ("int64", "l"),
    "clocks.in_flight.head": ("int64", "7"),
    "messages.x": ("model", "s p"),
    "curves.before curves.integral curves.of_source": ("float64", "all"),
}
"""Type and shape of each tensor but the versions and fields; a letter is the same size wherever it stands."""

_NEEDED = {"x", "versions", "updated", "gained", "diverged_at"}
"""Tensors of a state that each run has; those that algorithms and optimizers declare are fields."""

_BLOCK = 1 << 24
"""Bytes of a file that are read at once."""


@dataclass(frozen=True)
class Header:
    """What a file says of the state in it."""

    time: float
    """Simulated time [s]."""
    sizes: tuple[int, ...]
    """Nodes of each network."""
    p: int
    """Parameters of a model."""
    journal: RunJournal

    @property
    def reached(self) -> float:
        """Simulated time that the run has come to, with the window that has begun [s]."""
        return max(self.time, self.journal.end or 0.0)

    @property
    def age(self) -> tuple[float, int, int]:
        """Simulated time, steps of the window begun, and marks: the larger, the later."""
        return self.time, self.journal.done, self.journal.marks


@contextmanager
def opened(path: Inside, framework: str) -> Iterator[Any]:
    """Opens a file of tensors, for "np" or "pt", and says of which file an error is.

    Raises:
        BorderError: it leads out of the folder of a run.
        DamageError: the file is not what was written.
        OSError: it cannot be read; that says nothing of what is in it.
    """
    try:
        handle = path.handle()
        try:
            with safe_open(f"/dev/fd/{handle}", framework=framework) as file:  # by its path a link would be followed
                yield file
        finally:
            os.close(handle)
    except SafetensorError as error:
        raise DamageError(f"checkpoint must be a readable safetensors file, got {path}: {error}") from error
    except OSError as error:
        raise OSError(f"checkpoint must be a file that can be read, got {path}: {error.strerror or error}") from error


def about(path: Inside, file: Any) -> Said:
    """Returns what a file that is open says of the state in it, with which the shapes of all tensors agree.

    Raises:
        DamageError: it is no file of ours, or not what was written.
        ValueError: another version of batchednodes wrote it.
    """
    held = file.metadata() or {}
    name = held.get("format", "")
    if not name.startswith(FORMAT.rstrip("0123456789")):
        raise DamageError(f"checkpoint must be one that batchednodes wrote, got {path}")
    if name != FORMAT:
        if _matches(path, {**held, "format": FORMAT}):  # its checksum is of this version: only the name is not
            raise DamageError(
                f"checkpoint must be as it was written, got {path}, which says {shown(name)}: it is damaged"
            )
        raise ValueError(
            f"checkpoint must be one that this version of batchednodes can read, {FORMAT}, got {path}, {shown(name)}; "
            "go on with the version that wrote it"
        )
    try:
        said = Said.read(parsed(held["about"]))
        check_shapes(_shapes(file), said)
    except (KeyError, ValueError) as error:
        raise lacking(path, error) from error
    return said


def _shapes(file: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns type and shape of each tensor of a file that is open."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return {name: (TYPES.get(part.get_dtype(), "unknown"), tuple(part.get_shape())) for name, part in slices.items()}


def is_field(name: str) -> bool:
    """Returns whether a tensor of a state may have a name that an algorithm or optimizer gave it."""
    return name.isascii() and name.isidentifier() and name not in _NEEDED and not name.startswith("versions")


def check_shapes(found: Mapping[str, tuple[str, tuple[int, ...]]], said: Said) -> None:
    """Checks that the tensors of a file are those that a run needs.

    Args:
        found: type and shape of each.
        said: what the file says of them.

    Raises:
        ValueError: one is missing, or of another type or shape.
    """
    sizes, types = {"n": sum(said.sizes), "g": len(said.sizes), "all": sum(said.nodes)}, dict[str, str]()
    known = {"model": {said.journal.config["dtype"]} if "dtype" in said.journal.config else _FLOATS, "counts": _COUNTS}
    known |= {f"field {name}": known["model"] | {"float64", "int64"} for name in said.state}
    for name, (kind, letters) in _expected(found, said).items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        dtype, shape = found[name]
        fits = len(shape) == len(letters.split()) and dtype in known.get(kind, {kind}) & {types.setdefault(kind, dtype)}
        for letter, size in zip(letters.split(), shape, strict=False):
            fits = fits and size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
        first, end = said.span(name, shape[-1] if shape else 0)
        if not fits or (len(shape) > 1 and end - first != shape[1]):
            raise ValueError(f"{name} is {shown(dtype)} {shown(list(shape))}")


def _expected(found: Mapping[str, tuple[str, tuple[int, ...]]], said: Said) -> dict[str, tuple[str, str]]:
    """Returns type and shape, in letters, of each tensor that a file must hold, the models first."""
    own, part = {*said.names} - _NEEDED, said.part
    if not {*said.state} >= _NEEDED or not all(map(is_field, {*said.state} - _NEEDED)):
        raise ValueError(f"state is {shown(said.state)}")
    shapes = {name: shape for names, shape in _SHAPES.items() for name in names.split()}
    shapes |= {name: (f"field {name}", f"{'m' if name in said.edges else 'n'} width_of_{name}") for name in own}
    shapes |= {
        f"messages.{name}": (f"field {name}", f"s width_of_{name}") for name in own if f"messages.{name}" in found
    }
    mailed = any(name.startswith(("clocks.in_flight.", "messages.")) for name in found)
    names = [name for name in shapes if name in said.names]
    if part is None or part.first:
        under_way = "clocks.in_flight."
        names += [name for name in shapes if name.startswith("clocks.") and (mailed or not name.startswith(under_way))]
    names += [name for name in shapes if mailed and name.removeprefix("messages.") in said.names and "." in name]
    if said.journal.curves and (part is None or part.number == 0):
        names += [name for name in shapes if name.startswith("curves.")]
    expected = {name: shapes[name] for name in names}
    if len({*said.widths}) == 1:
        expected["versions"] = ("counts", f"n {said.widths[0]}")
    else:
        pairs = enumerate(zip(said.sizes, said.widths, strict=True))
        expected |= {f"versions.{g}": ("counts", f"{n} {t}") for g, (n, t) in pairs}
    if mailed:
        rows = found.get("messages.x", ("", (0,)))[1][:1]
        expected["messages.versions"] = ("counts", str(max(said.widths) * sum(rows)))
    return expected


def lacking(path: Inside, error: Exception) -> DamageError:
    """Returns the error of a file that does not hold what it should."""
    return DamageError(f"checkpoint must hold all that a run needs, got {path}: {error}")


def header(path: Inside) -> Header:
    """Returns what a file says of the state in it, which is not read.

    Example:
        >>> import batchednodes
        >>> from pathlib import Path
        >>> from batchednodes.results.checkpoints.header import header
        >>> from batchednodes.results.folder.inside import Inside
        >>> run = batchednodes.train({"network.nodes": 3, "run": {"until": 2, "mark_every": 1}}, out="run")
        >>> found = header(Inside(run.folder) / "final.safetensors")
        >>> found.time, found.sizes, found.p, found.journal.status
        (2.0, (3,), 11, 'finished')

    Raises:
        DamageError: the file is not what was written, where that shows.
        ValueError: another version of batchednodes wrote it.
        OSError: it cannot be read.
    """
    file_path = files(path)[0]
    with opened(file_path, "np") as file:
        said = about(file_path, file)
        p = file.get_slice("x").get_shape()[1] if said.part is None else said.part.p
        return Header(said.time, said.nodes, p, said.journal)


def newest_first(folder: Inside) -> list[Inside]:
    """Returns the files that hold states of a run, the latest first; those that cannot be read come before all."""
    return sorted(states(folder), key=_age, reverse=True)


def _age(path: Inside) -> tuple[float, int, int]:
    try:
        return header(path).age
    except BorderError:
        raise
    except (ValueError, OSError):
        return math.inf, 0, number(path.name)


def number(name: str) -> int:
    """Returns the number in the name of a checkpoint; 0 for other files.

    Example:
        >>> from batchednodes.results.checkpoints.header import number
        >>> number("12.safetensors"), number("final.safetensors")
        (12, 0)
    """
    digits = re.match(r"[0-9]+", name)
    return int(digits[0]) if digits else 0


def finite(folder: Inside) -> Iterator[tuple[Inside, Header]]:
    """Yields the files of a run whose states can be read and are finite, as far as headers say so, the latest first."""
    for path in newest_first(folder):
        try:
            found = header(path)
        except (ValueError, OSError):  # a run that goes on may have removed it
            continue
        if found.journal.status != "diverged":
            yield path, found


# --------------------------------------------------------------------------------------------------------- checksums


def check_whole(path: Inside) -> None:
    """Checks that a checkpoint, a file or the files of several ranks, holds what checksums say; reads it to the end.

    Raises:
        DamageError: it does not.
        OSError: it cannot be read.
    """
    found = files(path)
    for file_path in found:
        with opened(file_path, "np") as file:
            metadata = file.metadata() or {}
        if not _matches(file_path, metadata):
            raise DamageError(
                f"checkpoint must be as it was written, got {file_path} with another checksum: it is damaged"
            )
    if path.is_folder():
        with opened(found[0], "np") as file:
            part = about(found[0], file).part
        if part is None or part.files != len(found):
            raise DamageError(f"checkpoint must have all its files, got {path} with {len(found)}")


def _matches(path: Inside, metadata: Mapping[str, str]) -> bool:
    """Whether the tensors of a file, with these metadata, have the checksum that stands among the metadata."""
    rest = {name: text for name, text in metadata.items() if name != "sha256"}
    return metadata.get("sha256") == checksum(_parts(path), rest)


def _parts(path: Inside) -> Iterator[Content]:
    """Yields the tensors of a file; their places are as its header, which safetensors has checked, says."""
    with open(path.handle(), "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        named = json.loads(file.read(size))
        for name in sorted(named.keys() - {"__metadata__"}):
            begin, end = (8 + size + offset for offset in named[name]["data_offsets"])
            file.seek(begin)
            blocks = (file.read(min(_BLOCK, end - place)) for place in range(begin, end, _BLOCK))
            yield name, TYPES.get(named[name]["dtype"], ""), tuple(named[name]["shape"]), blocks


@contextmanager
def believing(path: Inside) -> Iterator[None]:
    """Lets a check of what a header says fail only if the file is whole.

    Raises:
        DamageError: the check failed, but the file is not what was written.
    """
    try:
        yield
    except ValueError:
        check_whole(path)
        raise


def check_metrics(folder: Inside, metrics: tuple[int, str]) -> bytes:
    """Returns the first bytes of metrics.jsonl of a run, which must have some length [B] and checksum.

    Raises:
        ValueError: they do not, or the file cannot be read.
    """
    path, (size, known) = folder / METRICS, metrics
    if not size:
        return b""
    try:
        found = path.read(size)
    except OSError as error:
        raise ValueError(f"{path} must be as the run left it, got none that can be read: {error.strerror}") from error
    if hashlib.sha256(found).hexdigest() != known:
        raise ValueError(f"{path} must begin as the run left it, got another text in its first {size} bytes")
    return found


def check_rows(folder: Inside, found: Header) -> None:
    """Checks that metrics.jsonl and nodes.npy of a run have the rows of all marks that a state has seen.

    Raises:
        ValueError: it has not, or cannot be read.
    """
    path, rows = folder / METRICS, check_metrics(folder, found.journal.metrics)
    check_nodes(folder, found.journal.nodes)
    count, marks = rows.count(b"\n"), found.journal.marks
    last = parsed(rows[rows.rfind(b"\n", 0, -1) + 1 :]) if rows else {"time": 0.0}
    time = last.get("time") if isinstance(last, dict) else None
    if count != marks * len(found.sizes) or not isinstance(time, int | float) or time > found.time:
        got = f"{count} until t = {shown(time)}"
        raise ValueError(f"{path} must hold the rows of {marks} marks until t = {found.time:g} [s], got {got}")
