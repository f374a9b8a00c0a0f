r"""Final models and versions of a run, wherever they lie.

Notation: n nodes, p parameters, t tracked sources.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchednodes.algorithms.share import Share
from batchednodes.simulation.build.assembly import Simulation

Final = tuple[Float[Tensor, "n p"], tuple[Int[Tensor, "_ _"], ...]]
"""Models of all nodes, and versions of each network: a row for each of its nodes, a column for each tracked source."""


def final_of(run: Simulation, time: float, share: Share | None) -> Final:
    """Returns models and versions at a time [s]; of a run over ranks to the first of them, and nothing to others."""
    layout, versions = run.evaluator.tracking.layout, run.state.versions
    models = run.evaluator.models(run.state, time)
    tables = tuple(layout.block(versions, g) for g in range(layout.sizes.size))
    if share is None:
        return models, tables
    parts = models.cpu().split(layout.sizes.tolist())
    found = share.world.all.collected([*zip(share.networks, parts, tables, strict=True)])
    if found is None:
        return nothing_of(run)
    whole = sorted((one for some in found for one in some), key=lambda one: one[0])
    return torch.cat([x for _, x, _ in whole]), tuple(table for *_, table in whole)


def nothing_of(run: Simulation) -> Final:
    """Returns models and versions of no rows."""
    x, versions = run.state.x[:0, : run.problem.stack.p].clone(), run.state.versions[:0]
    return x, tuple(versions.view(0, 0) for _ in range(run.evaluator.networks.count))
