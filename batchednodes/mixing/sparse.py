"""Mixing by sparse matrix products, wave by wave: the reference for every faster kernel.

Letters: n nodes, p parameters, W gossip matrix, x models, N versions.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchednodes.gossip import Mixing


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


def merge_(versions: Int[Tensor, "n t"], phase: Mixing) -> None:
    """Merges versions in place as models are mixed: N[j] <- max(N[j], N[i]), wave by wave."""
    for j, i, _ in _waves(phase):
        versions.index_copy_(0, j, torch.maximum(versions[j], versions[i]))


def _waves(phase: Mixing) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Returns receivers, senders and weights of each wave."""
    sizes = np.diff(phase.waves).tolist()
    return list(zip(*(t.split(sizes) for t in (phase.receivers, phase.senders, phase.weights)), strict=True))
