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
    layout, versions = run.engine.executor.algorithm.layout, run.state.versions
    tables = [layout.block(versions, g) for g in range(layout.sizes.size)]
    if share is None:
        models = run.evaluator.held(run.state, time)
        return models.x, tuple(tables)
    mine = _whole(run, time)
    parts = None if mine is None else mine.cpu().split(layout.sizes.tolist())
    found = share.world.all.collected((share.networks, parts, tables))
    if found is None:
        return nothing_of(run)
    x, columns = dict[int, Tensor](), dict[int, list[Tensor]]()
    for networks, rows, some in found:  # those of a group of ranks one after the other, as their columns are
        x |= dict(zip(networks, rows or (), strict=False))
        for g, table in zip(networks, some, strict=True):
            columns.setdefault(g, []).append(table)
    return torch.cat([x[g] for g in sorted(x)]), tuple(torch.cat(columns[g], 1) for g in sorted(columns))


def _whole(run: Simulation, time: float) -> Float[Tensor, "n p"] | None:
    """Returns the models of the networks of this rank, whole; None where another one of its group has them."""
    kept = list[Tensor]()
    nodes = torch.arange(run.state.nodes, device=run.state.x.device)
    run.evaluator.held(run.state, time).told(nodes, kept.append)
    return kept[0] if kept else None


def nothing_of(run: Simulation) -> Final:
    """Returns models and versions of no rows."""
    x, versions = run.state.x.new_empty(0, run.problem.stack.p), run.state.versions[:0]
    return x, tuple(versions.view(0, 0) for _ in range(run.evaluator.networks.count))
