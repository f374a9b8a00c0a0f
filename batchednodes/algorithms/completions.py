r"""Completions: what is taken note of at each update, whatever it makes of models.

    N[i, i] <- N[i, i] + 1,    updated_i <- updated_i + t    where i is tracked;
    diverged_i <- min(diverged_i, t)                          where the loss is not finite.

Notation: w updates of a wave, i node, t time, N versions.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import count_
from batchednodes.numerics import devices
from batchednodes.numerics.triton_kernels import constexpr, jit, takes, tl

_BLOCK = 128
"""Updates of a program."""


def complete_(
    state: State, nodes: Int64[Tensor, " w"], times: Float64[Tensor, " w"], losses: Float[Tensor, " w"],
    own: Int64[Tensor, " n"],
) -> None:  # fmt: skip
    """Takes note of the updates of some nodes, which must be different ones; on CUDA by one kernel.

    Args:
        state: changed.
        nodes: that are updated.
        times: of their updates [s].
        losses: that they saw; one that is not finite: the node diverges.
        own: place of each node's count of its own updates among the versions; -1: not tracked.
    """
    if takes(losses) and nodes.numel():
        tensors = (nodes, times, losses.contiguous(), own, state.diverged_at, state.versions, state.updated)
        with devices.using(losses.device):
            _COMPLETE[(-(-nodes.numel() // _BLOCK),)](*tensors, nodes.numel(), state.versions.numel() > 0, _BLOCK)
        return
    if devices.is_cuda(losses.device) or not np.isfinite(losses.float().numpy()).all():  # waves are small
        state.diverged_at.scatter_reduce_(0, nodes, torch.where(losses.isfinite(), torch.inf, times), "amin")
    if state.versions.numel():
        places = own.index_select(0, nodes)
        count_(state.versions, places)
        state.updated.index_add_(0, nodes, torch.where(places >= 0, times, 0.0))


@no_type_check
def _complete(nodes, times, losses, own, diverged_at, versions, updated, w, tracked: constexpr, block: constexpr):  # noqa: ANN001, ANN202
    """Takes note of some updates, each of a node of its own."""
    k = tl.program_id(0) * block + tl.arange(0, block)
    live = k < w
    i, t = tl.load(nodes + k, mask=live, other=0), tl.load(times + k, mask=live, other=0.0)
    loss = tl.load(losses + k, mask=live, other=0.0)
    bad = live & ~(tl.abs(loss) < float("inf"))
    tl.store(diverged_at + i, tl.minimum(tl.load(diverged_at + i, mask=bad, other=0.0), t), mask=bad)
    if tracked:
        place = tl.load(own + i, mask=live, other=-1)
        counted = place >= 0
        tl.store(versions + place, tl.load(versions + place, mask=counted, other=0) + 1, mask=counted)
        tl.store(updated + i, tl.load(updated + i, mask=counted, other=0.0) + t, mask=counted)


_COMPLETE = jit(_complete, ("w",), ("nodes", "times", "losses"))
