"""Branch: a run that starts from another run's models, or goes on with other settings; what may change, and what did.

Notation: g networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.cut import Cut
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


def start_(
    state: State, declared: Mapping[str, Field], sizes: Int64[np.ndarray, " g"], settings: Config,
    cut: Cut | None = None, held: Sequence[int] | None = None,
) -> Origin:  # fmt: skip
    """Writes the latest models of the run that the settings start from into a state at t = 0.

    Args:
        state: of the new run; changed.
        declared: its fields, of which those that begin as models do.
        sizes: nodes of all networks.
        settings: of the new run.
        cut: how its state is cut over ranks; None: it is whole.
        held: networks that it is of; None: all.

    Raises:
        ValueError: there is no such run, or its models or networks are of another kind or size.
    """
    folder = settings.run.start_from
    assert folder is not None
    try:
        found = latest(Inside(Path(folder)), torch.device("cpu"))
    except ValueError as error:
        raise ValueError(f"run.start_from must be the folder of a run, {error}") from None
    p = state.p if cut is None else cut.p
    changed, begun = check_start(settings, sizes.tolist(), p, found.header), models(found)
    held = range(sizes.size) if held is None else held
    again = len(held)
    if np.array_equal(sizes, found.layout.sizes):
        ends = np.cumsum([0, *sizes]).tolist()
        again, begun = 1, torch.cat([begun[ends[g] : ends[g + 1]] for g in held])
    for name in ("x", *(name for name, one in declared.items() if one.start == "model")):
        rows, part = _begins(state, name, cut)
        rows.unflatten(0, (again, -1)).copy_(begun[:, part])
    if settings.run.on_divergence == "quarantine":
        quarantine_(state, cut)
    return Origin(folder, found.clocks.time, changed)


def _begins(state: State, name: str, cut: Cut | None) -> tuple[Float[Tensor, "n c"], slice]:
    """Returns the rows of nodes in a tensor that begins as models do, and which parameters its columns are."""
    if name == "x":
        return state.models, slice(None) if cut is None else cut.models
    if name not in state.columns:
        return state.fields[name][: state.nodes], slice(None) if cut is None else cut.columns(cut.p)
    rows = state.x[: state.nodes, state.columns[name]]
    if cut is None:
        return rows, slice(None)
    own, first = cut.columns(cut.widths["x"]), cut.whole[name].start
    begin = max(own.start, first) - first
    return rows, slice(begin, begin + rows.shape[1])


def models(found: Snapshot) -> Float[Tensor, "n p"]:
    """Returns the models of a run as its algorithm scores them: of push-sum the numerators over the weights."""
    state, said = found.state, found.journal.config.get("algorithm", {})
    algorithm = READER.read(said, Algorithm, "algorithm", next(f for f in fields(Config) if f.name == "algorithm"))
    kept = {name: tensor[: state.nodes] for name, tensor in state.fields.items()}
    return algorithm.model({"x": state.models} | kept)
