"""Checkpoints: the state, the clocks and the journal of a run, in one safetensors file that continues it.

The file's metadata holds a checksum of everything else in it, so that damage is found when it is read.
PyTorch's own checkpoints are pickles, which may run what they hold, and have no checksum that a reader asks for.

Notation: n nodes, t tracked sources.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.state import OWN, State
from batchednodes.algorithms.versions import Layout
from batchednodes.events.messages.records import MESSAGE, NODE, InFlight
from batchednodes.events.timeline import Clocks
from batchednodes.numerics.memory import exhausted
from batchednodes.results.checkpoints.header import (
    FORMAT,
    Header,
    Part,
    about,
    blocks,
    check_whole,
    checksum,
    lacking,
    opened,
)
from batchednodes.results.checkpoints.journal import RunJournal, Said
from batchednodes.results.folder.inside import Inside

_CLOCKS = "clocks."
"""Prefix of the clocks' arrays among the tensors of a file."""

_IN_FLIGHT, _SLOTS = "clocks.in_flight.", "messages."
"""Prefixes of what is under way, and of the rows that it refers to."""

_VERSIONS = "versions"
"""Name of the versions [n, t] among the tensors of a file; where networks differ in their numbers of tracked sources,
each has its own, "versions.0", "versions.1", and so on."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a checkpoint holds."""

    state: State
    """Where the models lie; a copy, if it is written while the run goes on."""
    clocks: Clocks
    layout: Layout
    """Of the versions."""
    journal: RunJournal
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Results to keep beside them, on the host."""

    @property
    def header(self) -> Header:
        """What it is, as the header of its file says."""
        return Header(self.clocks.time, tuple(self.layout.sizes.tolist()), self.state.p, self.journal)


def save(path: Inside, snapshot: Snapshot) -> None:
    """Writes a snapshot under another name, then renames, so that `path` is whole or not there.

    Raises:
        OSError: the file cannot be written; nothing of it is left.
    """
    tensors = _tensors(snapshot)
    layout = snapshot.layout
    said = {"time": snapshot.clocks.time, "nodes": layout.sizes.tolist(), "tracked": layout.widths.tolist()}
    said |= {"journal": asdict(snapshot.journal), "state": sorted(snapshot.state.tensors())}
    said |= {"edges": sorted(snapshot.state.on_edges)}
    metadata = {"format": FORMAT, "about": json.dumps(said)}
    parts = [*_parts(tensors)]
    path.replace(blocks(parts, metadata | {"sha256": checksum(parts, metadata)}))


def load(path: Inside, device: torch.device) -> Snapshot:
    """Reads what `save` wrote.

    Raises:
        DamageError: the file is not what was written.
        ValueError: another version of batchednodes wrote it.
        OSError: it cannot be read; that says nothing of what is in it.
    """
    tensors, said = _read(path)
    try:
        return _snapshot(tensors, said, device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and exhausted(error):
            raise
        raise lacking(path, error) from error


def _snapshot(tensors: dict[str, Tensor], said: Said, device: torch.device) -> Snapshot:
    """Returns what the tensors of a file, and what it says about them, were made of."""
    in_flight, clocks, slots = (_taken(tensors, prefix) for prefix in (_IN_FLIGHT, _CLOCKS, _SLOTS))
    layout = Layout.of(said.nodes, said.tracked, device)
    parts = [_flat(tensors, layout), *([slots[_VERSIONS]] if slots else [])]
    versions = torch.cat(parts)
    if versions.numel() and int(versions.min()) < 0:
        raise ValueError(f"versions are {int(versions.min())}")
    versions = versions.to(device)
    kept = {name: tensors.pop(name).to(device) for name in said.state if name != _VERSIONS}
    kept |= {name: torch.cat([kept[name], slots[name].to(device)]) for name in kept if name in slots}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(_VERSIONS)}
    own = {name: kept.pop(name) for name in OWN if name != _VERSIONS}
    own[_VERSIONS] = versions
    state = State(*(own[name] for name in OWN), fields=kept)
    here = {name: array.numpy() for name, array in clocks.items()}
    post = InFlight(**{name: _records(name, array.numpy()) for name, array in in_flight.items()}) if in_flight else None
    clock = Clocks(time=said.time, **here, in_flight=post)
    clock.check(layout.network)
    return Snapshot(state, clock, layout, said.journal, arrays)


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes the tensors with a prefix away; returns them without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in [*tensors] if name.startswith(prefix)}


def _read(path: Inside) -> tuple[dict[str, Tensor], Said]:
    """Returns the tensors of a file, in memory of their own, and what it says about them."""
    with opened(path, "pt") as file:
        said = about(path, file)
        check_whole(path)
        # clones: a tensor of a file may begin at any byte, and vector instructions round by where rows begin
        return {name: file.get_tensor(name).clone() for name in file.keys()}, said  # noqa: SIM118


def _tensors(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns everything of a snapshot by its name in a file."""
    state, clocks = snapshot.state, snapshot.clocks
    named = {name: t for name, t in state.tensors().items() if name != _VERSIONS}
    named |= {name: named[name][: state.nodes] for name in state.travelling()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (named | _tables(snapshot)).items()}
    tensors |= {name: t.detach().cpu().contiguous().clone() for name, t in _slots(snapshot).items()}
    kept = [f.name for f in fields(clocks) if f.name not in ("time", "in_flight")]
    tensors |= {_CLOCKS + name: _tensor(getattr(clocks, name)) for name in kept}
    if clocks.in_flight is not None:
        tensors |= {_IN_FLIGHT + name: _tensor(_plain(array)) for name, array in clocks.in_flight._asdict().items()}
    return tensors | {name: _tensor(array) for name, array in snapshot.arrays.items()}


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns records as rows of bytes, other arrays as they are."""
    return array if array.dtype.names is None else array.view(np.uint8).reshape(array.size, -1)


def _records(name: str, array: np.ndarray) -> np.ndarray:
    """Returns what `_plain` made of an array of what was in flight."""
    dtype = {"nodes": NODE, "messages": MESSAGE}.get(name)
    return array if dtype is None else array.reshape(-1).view(dtype)


def _slots(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns the rows of messages under way under the names that they have in a file; none where there are none."""
    state, layout = snapshot.state, snapshot.layout
    if snapshot.clocks.in_flight is None:
        return {}
    named = state.tensors()
    rows = {_SLOTS + name: named[name][state.nodes :] for name in state.travelling()}
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


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[Part]:
    """Yields what a checksum takes of tensors on the host, which are contiguous."""
    for name, tensor in sorted(tensors.items()):
        yield name, str(tensor.dtype)[6:], tuple(tensor.shape), [tensor.flatten().view(torch.uint8).numpy().data]
