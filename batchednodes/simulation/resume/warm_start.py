"""Branch: a run that starts from another run's models, or goes on with other settings; what may change, and what did.

Notation: g networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.state import State
from batchednodes.config import READER, Config
from batchednodes.results.checkpoints.checkpoint import Snapshot
from batchednodes.results.checkpoints.finding import latest
from batchednodes.results.folder.inside import Inside
from batchednodes.results.metrics.consensus import quarantine_
from batchednodes.simulation.resume.rules import check_start


@dataclass(frozen=True)
class Origin:
    """Whose models a run starts from."""

    folder: str
    """Of that run."""
    time: float
    """Simulated time of that run then [s]."""
    changed: dict[str, list[Any]]
    """Settings that differ: the other run's value, and the new one."""


def start_(state: State, declared: Mapping[str, Field], sizes: Int64[np.ndarray, " g"], settings: Config) -> Origin:
    """Writes the latest models of the run that the settings start from into a state at t = 0.

    Args:
        state: of the new run; changed.
        declared: its fields, of which those that begin as models do.
        sizes: nodes of its networks.
        settings: of the new run.

    Raises:
        ValueError: there is no such run, or its models or networks are of another kind or size.
    """
    folder = settings.run.start_from
    assert folder is not None
    try:
        found = latest(Inside(Path(folder)), torch.device("cpu"))
    except ValueError as error:
        raise ValueError(f"run.start_from must be the folder of a run, {error}") from None
    changed, begun = check_start(settings, sizes.tolist(), state.p, found.header), models(found)
    if np.array_equal(sizes, found.layout.sizes):
        state.models.copy_(begun)
    else:
        state.models.view(sizes.size, *begun.shape).copy_(begun)
    for name in (name for name, one in declared.items() if one.start == "model"):
        rows = state.x[:, state.columns[name]] if name in state.columns else state.fields[name]
        rows[: state.nodes] = state.models
    if settings.run.on_divergence == "quarantine":
        quarantine_(state)
    return Origin(folder, found.clocks.time, changed)


def models(found: Snapshot) -> Float[Tensor, "n p"]:
    """Returns the models of a run as its algorithm scores them: of push-sum the numerators over the weights."""
    state, said = found.state, found.journal.config.get("algorithm", {})
    algorithm = READER.read(said, Algorithm, "algorithm", next(f for f in fields(Config) if f.name == "algorithm"))
    kept = {name: tensor[: state.nodes] for name, tensor in state.fields.items()}
    return algorithm.model({"x": state.models} | kept)
