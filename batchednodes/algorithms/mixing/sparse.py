"""Mixing by sparse matrix products, wave by wave: the reference for every faster kernel.

Notation: n nodes, p parameters, W gossip matrix, x models, N versions.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from batchednodes.algorithms.mixing.matrix import matrices
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.numerics.rows import write_


def mix_(x: Float[Tensor, "n p"], phase: GossipPhase) -> None:
    """Applies a phase of gossip to the models in place: x <- W_k ... W_1 x.

    bfloat16 has no sparse product in torch, on any device; there the same sum is taken row by row. So it is where some
    writes are copies, since 0 times what lies in a slot may be NaN.
    """
    if x.dtype == torch.bfloat16 or phase.sent is not None:
        for a, b in phase.spans():
            j, i, w = phase.receivers[a:b], phase.senders[a:b], phase.weights[a:b].unsqueeze(1)
            mean = (1 - w) * x[j] + w * x[i]
            write_(x, j, torch.where((j >= phase.nodes).unsqueeze(1), x[i], mean))
        return
    for matrix in matrices(phase, x.shape[0]):
        matrix.apply_(x)


def merge_(
    versions: Int[Tensor, " numbers"], gained: Float64[Tensor, " n"], phase: GossipPhase, layout: Layout
) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    It goes wave by wave, and table by table of one width, where lines come in the order of these:

        N[j] <- max(N[j], N[i]),    gained[j] <- gained[j] + t sum_c (gain of N[j, c]).
    """
    if phase.sent is not None or phase.tables != layout.kinds.size:
        _merge_carried_(versions, gained, phase, layout)
        return
    tables, cuts = layout.by_width(versions), phase.cuts.tolist()
    assert phase.cuts.size - 1 == (phase.waves.size - 1) * len(tables)
    receivers, senders = layout.row[phase.receivers], layout.row[phase.senders]
    for k, (a, b) in enumerate(pairwise(cuts)):
        table, j, i = tables[k % len(tables)], receivers[a:b], senders[a:b]
        if b > a and table.shape[1]:
            old = table[j]
            new = torch.maximum(old, table[i])
            write_(table, j, new)
            gain = (new - old).sum(1, dtype=torch.int64)
            gained.index_add_(0, phase.receivers[a:b], gain * phase.times[a:b])


def _merge_carried_(versions: Tensor, gained: Tensor, phase: GossipPhase, layout: Layout) -> None:
    """Does the same with rows that lie anywhere, as where messages are under way; those of slots are copied into."""
    columns = torch.arange(int(layout.kinds.max()), device=versions.device)
    for a, b in phase.spans():
        j, i = phase.receivers[a:b], phase.senders[a:b]
        live = columns < layout.width[phase.actors[a:b]].unsqueeze(1)
        at, source = (torch.where(live, layout.place[rows].unsqueeze(1) + columns, 0) for rows in (j, i))
        old, other = versions[at], versions[source]
        copies = (j >= phase.nodes).unsqueeze(1)
        # Integers are never below 0: places that are not live, all 0, take neither the largest of them nor 0.
        most = torch.iinfo(versions.dtype).max
        versions.scatter_reduce_(0, at.flatten(), torch.where(live & copies, 0, most).to(other.dtype).flatten(), "amin")
        versions.scatter_reduce_(0, at.flatten(), torch.where(live, other, 0).flatten(), "amax")
        gain = ((other - old).clamp(min=0) * (live & ~copies)).sum(1, dtype=torch.int64)
        gained.index_add_(0, j.clamp(max=gained.numel() - 1), gain * phase.times[a:b])
