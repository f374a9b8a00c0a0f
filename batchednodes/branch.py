"""Branch: a run that starts from another run's models, or goes on with other settings; what may change, and what did.

Letters: n nodes, p parameters, q those of another run's models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes import config
from batchednodes.algorithms.state import State
from batchednodes.changes import between, inside
from batchednodes.config import Config
from batchednodes.keeper import latest
from batchednodes.metrics import quarantine_

_KEPT = ("task.model",)
"""Section that must not change when a run starts from another's models."""

_DRAWN = ("task.model.init",)
"""What may change of it all the same: how models would be drawn."""


@dataclass(frozen=True)
class Origin:
    """Whose models a run starts from."""

    folder: str
    """Of that run."""
    time: float
    """Simulated time of that run then [s]."""
    changed: dict[str, list[Any]]
    """Settings that differ: the other run's value, and the new one."""


def start_(state: State, sizes: Int64[np.ndarray, " g"], settings: Config) -> Origin:
    """Writes the latest models of the run that the settings start from into a state at t = 0.

    Args:
        state: of the new run; changed.
        sizes: nodes of its networks.
        settings: of the new run.

    Raises:
        ValueError: there is no such run, or its models or networks are of another kind or size.
    """
    folder = settings.run.start_from
    assert folder is not None
    try:
        found = latest(Path(folder), torch.device("cpu"))
    except ValueError as error:
        raise ValueError(f"run.start_from must be the folder of a run, {error}") from None
    changed = between(found.journal.config, config.to_dict(settings))
    for key, (before, after) in changed.items():
        if inside(key, _KEPT) and key not in _DRAWN:
            raise ValueError(
                f"{key} must be that of the run that run.start_from names, {before!r}, got {after!r}; models of "
                "another kind cannot be taken over"
            )
    _write_(state.models, sizes, found.state.models, found.layout.sizes)
    if state.read is not None:
        state.read.copy_(state.models)
    if settings.run.on_divergence == "quarantine":
        quarantine_(state)
    changed.pop("run.start_from", None)
    return Origin(folder, found.clocks.time, changed)


def _write_(
    x: Float[Tensor, "n p"],
    sizes: Int64[np.ndarray, " g"],
    models: Float[Tensor, "rows q"],
    theirs: Int64[np.ndarray, " h"],
) -> None:
    """Writes the models of another run, whose networks have some sizes, into those of a new one."""
    if models.shape[1] != x.shape[1]:
        raise ValueError(
            f"run.start_from must name a run of models with {x.shape[1]} parameters, got {models.shape[1]}; did the "
            "data's features or classes change?"
        )
    if np.array_equal(sizes, theirs):
        x.copy_(models)
    elif theirs.size == 1 and (sizes == theirs).all():
        x.view(sizes.size, *models.shape).copy_(models)
    else:
        raise ValueError(
            f"run.start_from must name a run of networks with {_listed(sizes)} nodes, got {_listed(theirs)}; or of one "
            "such network, which then serves all"
        )


def _listed(sizes: Int64[np.ndarray, " g"]) -> str:
    return ", ".join(str(n) for n in sizes[:10]) + (", ..." if sizes.size > 10 else "")
