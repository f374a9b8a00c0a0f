r"""Mass that is divided: a push takes from its sender what it brings, so that W is column-stochastic.

    moved = w x_i,    x_i <- (1 - w) x_i,    x_j <- x_j + moved.

Notation: w weight of a line, i its sender, j its receiver, x rows; rows from n on are what is under way.
"""

import torch
from torch import Tensor

from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.numerics.rows import write_


def mix_(x: Tensor, phase: GossipPhase) -> None:
    """Applies a phase of splits to the rows [rows, p] in place.

    Args:
        x: changed; a row that stands for something under way is overwritten by what comes into it.
        phase: lines whose rows are different ones within each wave.
    """
    for a, b in phase.spans():
        i, j, w = phase.senders[a:b], phase.receivers[a:b], phase.weights[a:b].unsqueeze(1)
        given = x.index_select(0, i)
        moved = w * given
        new = torch.where((j < phase.nodes).unsqueeze(1), x.index_select(0, j) + moved, moved)
        write_(x, i, (1 - w) * given)
        write_(x, j, new)
