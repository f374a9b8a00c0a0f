"""Checkpoints: the state and the clocks in one safetensors file, which with the config continues a run.

Letters: n nodes, p parameters, t tracked sources.
"""

import json
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from batchednodes.algorithms.state import State
from batchednodes.timeline import Clocks

_CLOCKS = "clocks."
"""Prefix of the clocks' arrays among the tensors of a file."""


def save(path: Path, state: State, clocks: Clocks) -> None:
    """Writes state and clocks under another name, then renames, so that `path` is never half written."""
    arrays = {f.name: getattr(clocks, f.name) for f in fields(clocks) if f.name != "time"}
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.tensors().items()}
    tensors |= {_CLOCKS + name: torch.from_numpy(a.copy()) for name, a in arrays.items()}
    temporary = path.with_name(path.name + ".partial")
    save_file(tensors, temporary, metadata={"time": json.dumps(clocks.time), "format": "batchednodes-1"})
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
    state = {name: t.to(device) for name, t in tensors.items() if not name.startswith(_CLOCKS)}
    return State(**state), Clocks(time=json.loads(metadata["time"]), **arrays)
