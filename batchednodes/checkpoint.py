"""Checkpoints: the state, the clocks and the journal of a run, in one safetensors file that continues it.

The file's metadata holds a checksum of everything else in it, so that damage is found when it is read.

Letters: n nodes, t tracked sources.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from batchednodes.algorithms.state import State
from batchednodes.folders import sync
from batchednodes.mail import MESSAGE, NODE, Mail
from batchednodes.memory import exhausted
from batchednodes.timeline import Clocks
from batchednodes.values import shown
from batchednodes.versions import Layout

_FORMAT = "batchednodes-3"

_CLOCKS = "clocks."
"""Prefix of the clocks' arrays among the tensors of a file."""

_MAIL, _SLOTS = "clocks.mail.", "messages."
"""Prefixes of what is under way, and of the rows that it refers to."""

_ROWS = ("x", "v", "age")
"""Tensors with rows for nodes and slots."""

_VERSIONS = "versions"
"""Name of the versions [n, t] among the tensors of a file; where networks differ in their numbers of tracked sources,
each has its own, "versions.0", "versions.1", and so on."""


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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a checkpoint holds."""

    state: State
    """Where the models lie; a copy, if it is written while the run goes on."""
    clocks: Clocks
    layout: Layout
    """Of the versions."""
    journal: Journal
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Results to keep beside them, on the host."""


def save(path: Path, snapshot: Snapshot) -> None:
    """Writes a snapshot under another name, then renames, so that `path` is whole or not there.

    Raises:
        OSError: the file cannot be written; nothing of it is left.
    """
    tensors = _tensors(snapshot)
    layout = snapshot.layout
    about = {"time": snapshot.clocks.time, "nodes": layout.sizes.tolist(), "tracked": layout.widths.tolist()}
    about |= {"journal": asdict(snapshot.journal), "state": sorted(snapshot.state.tensors())}
    metadata = {"format": _FORMAT, "about": json.dumps(about)}
    temporary = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, temporary, metadata=metadata | {"sha256": _checksum(tensors, metadata)})
        sync(temporary)
        temporary.replace(path)
        sync(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # there is one only after an error


def load(path: Path, device: torch.device) -> Snapshot:
    """Reads what `save` wrote.

    Raises:
        DamageError: the file is not what was written.
        ValueError: another version of batchednodes wrote it.
        OSError: it cannot be read; that says nothing of what is in it.
    """
    tensors, metadata = _read(path)
    try:
        return _snapshot(tensors, json.loads(metadata["about"]), device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and exhausted(error):
            raise
        raise DamageError(f"checkpoint must hold all that a run needs, got {path}: {error}") from error


def _snapshot(tensors: dict[str, Tensor], about: dict[str, Any], device: torch.device) -> Snapshot:
    """Returns what the tensors of a file, and what it says about them, were made of."""
    mail, clocks, slots = (_taken(tensors, prefix) for prefix in (_MAIL, _CLOCKS, _SLOTS))
    layout = Layout.of(about["nodes"], about["tracked"], device)
    parts = [_flat(tensors, layout), *([slots[_VERSIONS]] if slots else [])]
    versions = torch.cat(parts).to(device)
    kept = {name: tensors.pop(name).to(device) for name in about["state"] if name != _VERSIONS}
    kept |= {name: torch.cat([kept[name], slots[name].to(device)]) for name in _ROWS if name in slots}
    named = {f.name for f in fields(Journal)}
    journal = {key: _frozen(value) for key, value in about["journal"].items() if key in named}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(_VERSIONS)}
    state = State(versions=versions, **kept)
    here = {name: array.numpy() for name, array in clocks.items()}
    post = Mail(**{name: _records(name, array.numpy()) for name, array in mail.items()}) if mail else None
    return Snapshot(state, Clocks(time=about["time"], **here, mail=post), layout, Journal(**journal), arrays)


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes the tensors with a prefix away; returns them without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in [*tensors] if name.startswith(prefix)}


def age(path: Path) -> tuple[float, int, int]:
    """Returns simulated time, steps of the window begun and marks of a checkpoint: the larger, the later.

    Raises:
        DamageError: the file is not what was written, where that shows.
        OSError: it cannot be read.
    """
    try:
        with _open(path) as file:
            about = json.loads((file.metadata() or {})["about"])
        return about["time"], about["journal"]["done"], about["journal"]["marks"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"checkpoint must be a readable safetensors file, got {path}: {error}") from error


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Opens a file of tensors, and says of which file an error is."""
    try:
        path.open("rb").close()  # safetensors takes whatever may not be read for a file that is not there
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DamageError(f"checkpoint must be a readable safetensors file, got {path}: {error}") from error
    except OSError as error:
        raise OSError(f"checkpoint must be a file that can be read, got {path}: {error.strerror or error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a file, in memory of their own, and its metadata."""
    with _open(path) as file:
        metadata = file.metadata() or {}
        # clones: a tensor of a file may begin at any byte, and vector instructions round by where rows begin
        tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    given, name = metadata.pop("sha256", None), metadata.get("format", "")
    if not name.startswith(_FORMAT.rstrip("0123456789")):
        raise DamageError(f"checkpoint must be one that batchednodes wrote, got {path}")
    if name != _FORMAT:
        raise ValueError(
            f"checkpoint must be one that this version of batchednodes can read, {_FORMAT}, got {path}, {shown(name)}; "
            "go on with the version that wrote it"
        )
    if given != _checksum(tensors, metadata):
        raise DamageError(f"checkpoint must be as it was written, got {path} with another checksum: it is damaged")
    return tensors, metadata


def _tensors(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns everything of a snapshot by its name in a file."""
    state, clocks = snapshot.state, snapshot.clocks
    named = {name: t for name, t in state.tensors().items() if name != _VERSIONS}
    named |= {name: named[name][: state.nodes] for name in _ROWS if name in named}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (named | _tables(snapshot)).items()}
    tensors |= {name: t.detach().cpu().contiguous().clone() for name, t in _slots(snapshot).items()}
    kept = [f.name for f in fields(clocks) if f.name not in ("time", "mail")]
    tensors |= {_CLOCKS + name: _tensor(getattr(clocks, name)) for name in kept}
    if clocks.mail is not None:
        tensors |= {_MAIL + name: _tensor(_plain(array)) for name, array in clocks.mail._asdict().items()}
    return tensors | {name: _tensor(array) for name, array in snapshot.arrays.items()}


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns records as rows of bytes, other arrays as they are."""
    return array if array.dtype.names is None else array.view(np.uint8).reshape(array.size, -1)


def _records(name: str, array: np.ndarray) -> np.ndarray:
    """Returns what `_plain` made of an array of the mail as it was."""
    dtype = {"nodes": NODE, "messages": MESSAGE}.get(name)
    return array if dtype is None else array.reshape(-1).view(dtype)


def _slots(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns the rows of messages under way under the names that they have in a file; none where there are none."""
    state, layout = snapshot.state, snapshot.layout
    if snapshot.clocks.mail is None:
        return {}
    rows = {_SLOTS + name: t[state.nodes :] for name, t in state.tensors().items() if name in _ROWS}
    return rows | {_SLOTS + _VERSIONS: state.versions[layout.numbers :]}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).copy())


def _tables(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns the versions under the names that they have in a file."""
    layout, versions = snapshot.layout, snapshot.state.versions
    if layout.kinds.size == 1:
        return {_VERSIONS: layout.joined(versions)}
    return {f"{_VERSIONS}.{g}": layout.block(versions, g) for g in range(layout.sizes.size)}


def _flat(tensors: dict[str, Tensor], layout: Layout) -> Tensor:
    """Returns the versions as one flat tensor from the names that they have in a file."""
    if _VERSIONS in tensors:
        blocks = list(tensors[_VERSIONS].split(layout.sizes.tolist()))
    else:
        blocks = [tensors[f"{_VERSIONS}.{g}"] for g in range(layout.sizes.size)]
    return torch.cat([blocks[g].flatten() for stack in layout.stacks for g in stack])


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of metadata, and of names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _frozen(value: Any) -> Any:
    """Returns a JSON value with lists as tuples."""
    return tuple(value) if isinstance(value, list) else value
