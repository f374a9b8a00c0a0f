r"""Asynchronous decentralized local SGD with randomized gossip, on whole waves at once.

At an update of node i:      x_i <- LocalSGD(x_i),               N[i, i] <- N[i, i] + 1;
at a write of j from i:      x_j <- (1 - w) x_j + w x_i,         N[j, :] <- max(N[j, :], N[i, :]).

With `applies: delta`, the update is computed from the model r_i that the node had when it began to compute, at its
previous completion: x_i <- x_i + (LocalSGD(r_i) - r_i), then r_i <- x_i (AD-PSGD's stale gradient).

Letters: n nodes, w rows of a wave, p parameters, s steps, b examples, x models, v momentum buffers, r = read.

References:
    P. Mitra, S. Ulukus, "Scale-Robust Timely Asynchronous Decentralized Learning", arXiv 2404.19749, 2024.
    X. Lian, W. Zhang, C. Zhang, J. Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML 2018.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.state import State
from batchednodes.gossip import Mixing
from batchednodes.local import Descent, Rates
from batchednodes.mixing import Kernel, merge_, mix_
from batchednodes.staleness import count_
from batchednodes.tasks import Problem
from batchednodes.versions import Layout


@dataclass(frozen=True)
class UpdateWave:
    """Updates of different nodes, none of which depends on another."""

    nodes: Int64[np.ndarray, " w"]
    """Rows of x, on the host."""
    counts: Int64[np.ndarray, " w"]
    """Number of the update among those of its node: 0, 1, 2, ..."""
    times: Float64[np.ndarray, " w"]
    """Completion times [s]."""


@dataclass(frozen=True)
class GossipSGD:
    """The algorithm's choices for a batch of networks; all that changes is in `State`."""

    problem: Problem
    descent: Descent
    rates: Rates
    weight: Float[Tensor, " n"]
    """w of each node, that of the contacts it makes; dimensionless."""
    layout: Layout
    """Where the versions of each node lie."""
    own: Int64[Tensor, " n"]
    """Place of each node's count of its own updates among the versions; -1: not tracked."""
    chunk: int
    """Rows that descend at once, at most."""
    kernel: Kernel
    """How phases of gossip are applied."""

    def update_(self, state: State, wave: UpdateWave, rows: Int64[Tensor, " w"], times: Float64[Tensor, " w"]) -> None:
        """Runs local SGD for the nodes of a wave, in chunks; rows and times are the wave's own, on the device."""
        for first in range(0, rows.numel(), self.chunk):
            part = slice(first, first + self.chunk)
            loss = self._descend_(state, rows[part], self.problem.draw(wave.nodes[part], wave.counts[part]))
            since = torch.where(loss.isfinite(), torch.inf, times[part])
            state.diverged_at[rows[part]] = torch.minimum(state.diverged_at[rows[part]], since)
        if state.versions.numel():
            count_(state.versions, self.own[rows])
            state.updated.index_add_(0, rows, torch.where(self.own[rows] >= 0, times, 0.0))

    def _descend_(self, state: State, rows: Tensor, index: Int64[Tensor, "w s b"]) -> Float[Tensor, " w"]:
        x = (state.x if state.read is None else state.read).index_select(0, rows)  # r_i, or x_i itself
        v = None if state.v is None else state.v.index_select(0, rows)
        start = None if state.read is None else x.clone()
        loss = self.descent.run_(x, v, index, self.rates.of(rows))
        if start is not None and state.read is not None:
            x = state.x[rows] + (x - start)
            state.read.index_copy_(0, rows, x)
        state.x.index_copy_(0, rows, x)
        if state.v is not None and v is not None:
            state.v.index_copy_(0, rows, v)
        return loss

    def mix_(self, state: State, phase: Mixing) -> None:
        """Applies a phase of gossip to models and versions."""
        mix_(state.x, phase, self.kernel)
        if state.versions.numel():
            merge_(state.versions, state.gained, phase, self.layout, self.kernel)
