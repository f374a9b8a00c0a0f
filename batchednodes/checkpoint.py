"""Checkpoints: the state and the clocks in one safetensors file, which with the config continues a run.

Letters: n nodes, p parameters, t tracked sources.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from batchednodes.algorithms.state import State
from batchednodes.timeline import Clocks
from batchednodes.versions import Layout

_CLOCKS = "clocks."
"""Prefix of the clocks' arrays among the tensors of a file."""

_VERSIONS = "versions"
"""Name of the versions [n, t] among the tensors of a file; where networks differ in their numbers of tracked sources,
each has its own, "versions.0", "versions.1", and so on."""


def save(
    path: Path, state: State, clocks: Clocks, layout: Layout, extra: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes state and clocks under another name, then renames, so that `path` is never half written.

    Args:
        path: of the file.
        state: of the run.
        clocks: of the run.
        layout: of the versions.
        extra: results to keep beside them, which `load` passes over.
    """
    arrays = {f.name: getattr(clocks, f.name) for f in fields(clocks) if f.name != "time"}
    named = {name: t for name, t in state.tensors().items() if name != _VERSIONS} | _tables(state.versions, layout)
    tensors = {name: t.detach().cpu().contiguous() for name, t in named.items()}
    tensors |= {_CLOCKS + name: torch.from_numpy(a.copy()) for name, a in arrays.items()}
    tensors |= {name: torch.from_numpy(a) for name, a in (extra or {}).items()}
    temporary = path.with_name(path.name + ".partial")
    about = {"time": clocks.time, "nodes": layout.sizes.tolist(), "tracked": layout.widths.tolist()}
    metadata = {key: json.dumps(value) for key, value in about.items()} | {"format": "batchednodes-1"}
    save_file(tensors, temporary, metadata=metadata)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, device: torch.device) -> tuple[State, Clocks]:
    """Reads what `save` wrote.

    Raises:
        ValueError: the file is missing, damaged, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"checkpoint must be a readable safetensors file, got {path}: {error}") from error
    if metadata.get("format") != "batchednodes-1":
        raise ValueError(f"checkpoint must be one that batchednodes wrote, got {path}")
    arrays: dict[str, np.ndarray] = {
        name.removeprefix(_CLOCKS): t.numpy() for name, t in tensors.items() if name.startswith(_CLOCKS)
    }
    time, sizes, widths = (json.loads(metadata[key]) for key in ("time", "nodes", "tracked"))
    kept = {f.name for f in fields(State)} & tensors.keys() - {_VERSIONS}
    state = {name: tensors[name].to(device) for name in kept}
    versions = _flat(tensors, Layout.of(sizes, widths, device))
    return State(versions=versions.to(device), **state), Clocks(time=time, **arrays)


def _tables(versions: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Returns the versions under the names that they have in a file."""
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
