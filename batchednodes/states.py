"""States: the files in which a run keeps what continues it, and what can be said of them without PyTorch.

A safetensors file begins with a header; there, beside names and shapes of tensors, stand a checksum of everything else
in the file, the simulated time, and the journal.

Letters: n nodes, p parameters.
"""

import errno
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from batchednodes.folders import states
from batchednodes.values import shown

FORMAT = "batchednodes-3"
"""Of the files that this version writes, and reads."""

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "U64": "uint64",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Types of tensors, as headers name them and as PyTorch does."""

_KINDS: dict[str, Any] = {
    "config chunks files": dict,
    "status": str,
    "events waves marks done threads": int,
    "seconds": int | float,
    "end": int | float | None,
    "metrics devices resumed": tuple,
}
"""What must be of which type in a journal, since headers are read before checksums."""

_BLOCK = 1 << 24
"""Bytes of a file that are read at once."""


class DamageError(ValueError):
    """A file that is not as it was written."""


@dataclass(frozen=True)
class Journal:
    """What a run knows beside its state and clocks."""

    config: dict[str, Any]
    """Its settings, resolved, as plain data."""
    status: str = "running"
    """running, interrupted, finished or diverged."""
    events: int = 0
    """Events executed, see `engine.Progress`, as the next four."""
    waves: int = 0
    """Waves that they took."""
    marks: int = 0
    """Marks observed."""
    done: int = 0
    """Steps that the state has seen of a window that has begun."""
    end: float | None = None
    """End of that window [s]."""
    seconds: float = 0.0
    """Wall time that the run has taken so far, evaluation included [s]."""
    metrics: tuple[int, str] = (0, "")
    """Length [B] and SHA-256 of metrics.jsonl."""
    chunks: dict[str, Any] = field(default_factory=dict)
    """Rows handled at once, which rounding depends on."""
    threads: int = 1
    """Threads of the CPU, likewise."""
    curves: tuple[float, float, int] | None = None
    """Scalars of the staleness averaged so far, see `staleness.Curves`."""
    devices: tuple[str, ...] = ()
    """Devices that the run has been on, one after the other."""
    resumed: tuple[dict[str, Any], ...] = ()
    """Simulated time [s] and device of each resumption."""
    start: dict[str, Any] | None = None
    """The run whose models were the initial ones, see `branch.Origin`; None: models were drawn."""
    files: dict[str, str] = field(default_factory=dict)
    """Path and checksum of each file and folder that the settings name, see originals.py."""

    @staticmethod
    def read(written: Mapping[str, Any]) -> "Journal":
        """Returns a journal from JSON, as an older or newer version of this one wrote it."""
        known = {f.name for f in fields(Journal)}
        frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()}
        found = Journal(**{key: value for key, value in frozen.items() if key in known})
        for names, kind in _KINDS.items():
            for name in names.split():
                if not isinstance(getattr(found, name), kind):
                    raise TypeError(f"{name} is {shown(getattr(found, name))}")
        if [type(part) for part in found.metrics] != [int, str]:
            raise TypeError(f"metrics is {shown(found.metrics)}")
        return found


@dataclass(frozen=True)
class Header:
    """What a file says of the state in it."""

    time: float
    """Simulated time [s]."""
    sizes: tuple[int, ...]
    """Nodes of each network."""
    p: int
    """Parameters of a model."""
    journal: Journal

    @property
    def reached(self) -> float:
        """Simulated time that the run has come to, with the window that has begun [s]."""
        return max(self.time, self.journal.end or 0.0)

    @property
    def age(self) -> tuple[float, int, int]:
        """Simulated time, steps of the window begun, and marks: the larger, the later."""
        return self.time, self.journal.done, self.journal.marks


@contextmanager
def opened(path: Path, framework: str) -> Iterator[Any]:
    """Opens a file of tensors, for "np" or "pt", and says of which file an error is.

    Raises:
        DamageError: the file is not what was written.
        OSError: it cannot be read; that says nothing of what is in it.
    """
    try:
        path.open("rb").close()  # safetensors takes whatever may not be read for a file that is not there
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise DamageError(f"checkpoint must be a readable safetensors file, got {path}: {error}") from error
    except OSError as error:
        raise OSError(f"checkpoint must be a file that can be read, got {path}: {error.strerror or error}") from error


def about(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Returns what the metadata of a file say of the state in it.

    Raises:
        DamageError: it is no file of ours, or not what was written.
        ValueError: another version of batchednodes wrote it.
    """
    held = metadata or {}
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
        found = json.loads(held["about"])
        return found if isinstance(found, dict) else {}
    except (KeyError, ValueError) as error:
        raise _lacking(path, error) from error


def _lacking(path: Path, error: Exception) -> DamageError:
    return DamageError(f"checkpoint must hold all that a run needs, got {path}: {error}")


def header(path: Path) -> Header:
    """Returns what a file says of the state in it, which is not read.

    Raises:
        DamageError: the file is not what was written, where that shows.
        ValueError: another version of batchednodes wrote it.
        OSError: it cannot be read.
    """
    with opened(path, "np") as file:
        found = about(path, file.metadata())
        try:
            p = file.get_slice("x").get_shape()[1]
            sizes = tuple(int(n) for n in found["nodes"])
            return Header(float(found["time"]), sizes, p, Journal.read(found["journal"]))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _lacking(path, error) from error


def newest_first(folder: Path) -> list[Path]:
    """Returns the files that hold states of a run, the latest first; those that cannot be read come before all."""
    return sorted(states(folder), key=_age, reverse=True)


def _age(path: Path) -> tuple[float, int, int]:
    try:
        return header(path).age
    except (ValueError, OSError):
        return math.inf, 0, number(path)


def number(path: Path) -> int:
    """Returns the number of a checkpoint; 0 for other files."""
    digits = re.match(r"\d+", path.name)
    return int(digits[0]) if digits else 0


def finite(folder: Path) -> Iterator[tuple[Path, Header]]:
    """Yields the files of a run whose states can be read and are finite, as far as headers say so, the latest first."""
    for path in newest_first(folder):
        try:
            found = header(path)
        except (ValueError, OSError):  # a run that goes on may have removed it
            continue
        if found.journal.status != "diverged":
            yield path, found


# --------------------------------------------------------------------------------------------------------- checksums

Part = tuple[str, str, tuple[int, ...], Iterable[Any]]
"""Name, type and shape of a tensor, and its bytes in blocks."""


def checksum(parts: Iterable[Part], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of metadata, and of names, types, shapes and bytes of tensors in the order of their names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, dtype, shape, blocks in parts:
        digest.update(f"{name} torch.{dtype} {shape}".encode())
        for block in blocks:
            digest.update(block)
    return digest.hexdigest()


def check_whole(path: Path) -> None:
    """Checks that a file holds what its checksum says; reads it to the end.

    Raises:
        DamageError: it does not.
        OSError: it cannot be read.
    """
    with opened(path, "np") as file:
        metadata = file.metadata() or {}
    if not _matches(path, metadata):
        raise DamageError(f"checkpoint must be as it was written, got {path} with another checksum: it is damaged")


def _matches(path: Path, metadata: Mapping[str, str]) -> bool:
    """Whether the tensors of a file, with these metadata, have the checksum that stands among the metadata."""
    rest = {name: text for name, text in metadata.items() if name != "sha256"}
    return metadata.get("sha256") == checksum(_parts(path), rest)


def _parts(path: Path) -> Iterator[Part]:
    """Yields the tensors of a file; their places are as its header, which safetensors has checked, says."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        named = json.loads(file.read(size))
        for name in sorted(named.keys() - {"__metadata__"}):
            begin, end = (8 + size + offset for offset in named[name]["data_offsets"])
            file.seek(begin)
            blocks = (file.read(min(_BLOCK, end - place)) for place in range(begin, end, _BLOCK))
            yield name, _TYPES.get(named[name]["dtype"], ""), tuple(named[name]["shape"]), blocks


@contextmanager
def believing(path: Path) -> Iterator[None]:
    """Lets a check of what a header says fail only if the file is whole.

    Raises:
        DamageError: the check failed, but the file is not what was written.
    """
    try:
        yield
    except ValueError:
        check_whole(path)
        raise


def check_metrics(folder: Path, metrics: tuple[int, str]) -> bytes:
    """Returns the first bytes of metrics.jsonl of a run, which must have some length [B] and checksum.

    Raises:
        ValueError: they do not, or the file cannot be read.
    """
    path, (size, known) = folder / "metrics.jsonl", metrics
    if not size:
        return b""
    try:
        if not path.is_file():  # whoever opens a pipe waits for ever
            raise FileNotFoundError(errno.ENOENT, "No such file")
        with path.open("rb") as file:
            found = file.read(size)
    except OSError as error:
        raise ValueError(f"{path} must be as the run left it, got none that can be read: {error.strerror}") from error
    if hashlib.sha256(found).hexdigest() != known:
        raise ValueError(f"{path} must begin as the run left it, got another text in its first {size} bytes")
    return found
