"""Checkpoints: the state, the clocks and the journal of a run, in one safetensors file that continues it.

The file's metadata holds a checksum of everything else in it, so that damage is found when it is read.
PyTorch's own checkpoints are pickles, which may run what they hold, and have no checksum that a reader asks for.

Notation: n nodes, t tracked sources.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchednodes.events.timeline import Clocks
from batchednodes.results.checkpoints.file_format import Content, blocks, checksum
from batchednodes.results.checkpoints.header import FORMAT
from batchednodes.results.checkpoints.part import SAME
from batchednodes.results.checkpoints.reading import load
from batchednodes.results.checkpoints.snapshot import CLOCKS, IN_FLIGHT, SLOTS, VERSIONS, Batch, Snapshot
from batchednodes.results.folder.inside import Inside

__all__ = ["Snapshot", "load", "save"]


def save(path: Inside, snapshot: Snapshot, batch: Batch | None = None) -> None:
    """Writes a snapshot under another name, then renames, so that `path` is whole or not there.

    Args:
        path: of the file.
        snapshot: all that there is, or a part.
        batch: what it is a part of; None: it is all.

    Raises:
        OSError: the file cannot be written; nothing of it is left.
    """
    tensors = _tensors(snapshot, batch)
    metadata = {"format": FORMAT, "about": json.dumps(said(snapshot, batch))}
    parts = [*contents(tensors)]
    path.replace(blocks(parts, metadata | {"sha256": checksum(parts, metadata)}))


def said(snapshot: Snapshot, batch: Batch | None) -> dict[str, Any]:
    """Returns what a file says of the state in it, as `Said.read` reads it."""
    layout, state = snapshot.layout, snapshot.state
    found: dict[str, Any] = {"time": snapshot.clocks.time, "nodes": layout.sizes.tolist()}
    found |= {"tracked": layout.widths.tolist(), "journal": asdict(snapshot.journal), "state": sorted(state.tensors())}
    beside = tuple(state.columns) if snapshot.beside is None else snapshot.beside
    found |= {"edges": sorted(state.on_edges), "beside": beside, "on_edges": snapshot.edges}
    if batch is not None:
        found |= {"nodes": batch.nodes, "tracked": batch.tracked, "on_edges": batch.edges, "part": batch.part.plain()}
    return found


def _tensors(snapshot: Snapshot, batch: Batch | None) -> dict[str, Tensor]:
    """Returns everything of a snapshot by its name in a file; of a part, no more than its file is to hold."""
    state, first = snapshot.state, batch is None or batch.part.first
    named = {name: t for name, t in state.tensors().items() if name != VERSIONS and (first or name not in SAME)}
    named |= {name: named[name][: state.nodes] for name in state.travelling() if name in named}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (named | _tables(snapshot)).items()}
    slots = {name: t for name, t in _slots(snapshot).items() if first or name.removeprefix(SLOTS) not in SAME}
    tensors |= {name: t.detach().cpu().contiguous().clone() for name, t in slots.items()}
    arrays = snapshot.arrays if batch is None or batch.part.number == 0 else {}
    if first:
        arrays = clocks_of(snapshot.clocks) | {**arrays}
    return tensors | {name: tensor(array) for name, array in arrays.items()}


def clocks_of(clocks: Clocks) -> dict[str, np.ndarray]:
    """Returns clocks, and what is in flight, by their names in a file."""
    found = {CLOCKS + f.name: getattr(clocks, f.name) for f in fields(clocks) if f.name not in ("time", "in_flight")}
    if clocks.in_flight is not None:
        found |= {IN_FLIGHT + name: _plain(array) for name, array in clocks.in_flight._asdict().items()}
    return found


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns records as rows of bytes, other arrays as they are."""
    return array if array.dtype.names is None else array.view(np.uint8).reshape(array.size, -1)


def _slots(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns the rows of messages under way under the names that they have in a file; none where there are none."""
    state, layout = snapshot.state, snapshot.layout
    if snapshot.clocks.in_flight is None:
        return {}
    named = state.tensors()
    rows = {SLOTS + name: named[name][state.nodes :] for name in state.travelling()}
    return rows | {SLOTS + VERSIONS: state.versions[layout.numbers :]}


def tensor(array: np.ndarray) -> Tensor:
    """Returns a copy of an array."""
    return torch.from_numpy(np.ascontiguousarray(array).copy())


def _tables(snapshot: Snapshot) -> dict[str, Tensor]:
    """Returns the versions under the names that they have in a file."""
    layout, versions = snapshot.layout, snapshot.state.versions
    if layout.kinds.size == 1:
        return {VERSIONS: layout.joined(versions)}
    return {f"{VERSIONS}.{g}": layout.block(versions, g) for g in range(layout.sizes.size)}


def contents(tensors: Mapping[str, Tensor]) -> Iterator[Content]:
    """Yields what a checksum takes of tensors on the host, which are contiguous, in the order of their names."""
    for name, tensor in sorted(tensors.items()):
        yield name, str(tensor.dtype)[6:], tuple(tensor.shape), [raw(tensor)]


def raw(tensor: Tensor) -> memoryview:
    """Returns the bytes of a tensor on the host, which is contiguous."""
    return tensor.flatten().view(torch.uint8).numpy().data
