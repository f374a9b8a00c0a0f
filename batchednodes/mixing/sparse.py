"""Mixing by sparse matrix products, wave by wave: the reference for every faster kernel.

Letters: n nodes, p parameters, W gossip matrix, x models, N versions.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from batchednodes.gossip import Mixing
from batchednodes.versions import Layout


def mix_(x: Float[Tensor, "n p"], phase: Mixing) -> None:
    """Applies a phase of gossip to the models in place: x <- W_k ... W_1 x.

    bfloat16 has no sparse product in torch, on any device; there the same sum is taken row by row.
    """
    if x.dtype == torch.bfloat16:
        for j, i, w in _waves(phase):
            x.index_copy_(0, j, (1 - w.unsqueeze(1)) * x[j] + w.unsqueeze(1) * x[i])
        return
    for matrix in phase.matrices(x.shape[0]):
        matrix.apply_(x)


def merge_(versions: Int[Tensor, " numbers"], gained: Float64[Tensor, " n"], phase: Mixing, layout: Layout) -> None:
    """Merges versions in place as models are mixed, and takes note of when node j gained how much.

    It goes wave by wave, and table by table of one width:

        N[j] <- max(N[j], N[i]),    gained[j] <- gained[j] + t sum_c (gain of N[j, c]).
    """
    tables, cuts = layout.by_width(versions), phase.cuts.tolist()
    assert phase.cuts.size - 1 == (phase.waves.size - 1) * len(tables)
    receivers, senders = layout.row[phase.receivers], layout.row[phase.senders]
    for k, (a, b) in enumerate(pairwise(cuts)):
        table, j, i = tables[k % len(tables)], receivers[a:b], senders[a:b]
        if b > a and table.shape[1]:
            old = table[j]
            new = torch.maximum(old, table[i])
            table.index_copy_(0, j, new)
            gain = (new - old).sum(1, dtype=torch.int64)
            gained.index_add_(0, phase.receivers[a:b], gain * phase.times[a:b])


def _waves(phase: Mixing) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Returns receivers, senders and weights of each wave."""
    sizes = np.diff(phase.waves).tolist()
    return list(zip(*(t.split(sizes) for t in (phase.receivers, phase.senders, phase.weights)), strict=True))
