r"""Merging a part of a model: the entries of one of its parts, or of a random sample.

Each write of a node changes the entries that its message brings; copies into slots are whole.

Notation: n nodes, w writes of a wave, p parameters, q parts of a model, x models.

Reference:
    I. Hegedus, G. Danner, M. Jelasity, "Decentralized learning works: An empirical comparison of gossip learning and
    federated learning", J. Parallel Distrib. Comput. 148, 2021.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt64
from torch import Tensor

from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.numerics import rng
from batchednodes.numerics.memory import send
from batchednodes.numerics.rows import write_


@dataclass(frozen=True, eq=False)
class Entries:
    """Which entries of a model a message brings."""

    p: int
    """Parameters of a model."""
    parts: int
    """Parts of which a message brings one; 1: it brings a sample."""
    share: float
    """Probability that an entry is in a sample; dimensionless."""
    seeds: UInt64[np.ndarray, " n"]
    """Seed of the network of each node."""
    index: Int64[np.ndarray, " n"]
    """Number of each node in it."""
    columns: slice = field(default_factory=lambda: slice(None))
    """Those of a row that there are: all, but over ranks."""

    def of(self, receivers: Int64[Tensor, " w"], part: Int64[Tensor, " w"]) -> Bool[Tensor, "w c"]:
        """Returns which entries of its columns each write changes; where no part is given, all.

        Args:
            receivers: rows that change.
            part: the part of the model, or the number of the draw of its entries; -1: all.
        """
        if self.parts > 1:
            own = parts(self.p, self.parts, part.device)[self.columns]
            return (own == part.unsqueeze(1)) | (part < 0).unsqueeze(1)
        found = np.ones((part.numel(), self.p), bool)
        for k, (j, number) in enumerate(zip(receivers.tolist(), part.tolist(), strict=True)):
            if number >= 0:
                high, low = rng.draws(
                    int(self.seeds[j]), rng.ENTRIES, np.full(-(-self.p // 2), self.index[j]),
                    number * (1 << 24) + np.arange(-(-self.p // 2)),
                )  # fmt: skip
                found[k] = np.stack([high, low], 1).flatten()[: self.p] < np.uint64(self.share * 2.0**64 - 1)
        return torch.from_numpy(found[:, self.columns]).to(part.device)


@dataclass(frozen=True, eq=False)
class Ages:
    """What step sizes that are divided by the ages of the parts of models depend on, beside the ages."""

    part: Int64[Tensor, " p"]
    """Part of each entry of a model."""
    steps: Int64[Tensor, " n"]
    """Minibatch steps of an update of each node."""

    def merge_(self, age: Int64[Tensor, "rows q"], phase: GossipPhase) -> None:
        """Gives rows the ages of what they merge: the larger of two for a part that comes, those of a whole copy."""
        assert phase.part is not None
        number = torch.arange(age.shape[1], device=age.device)
        for a, b in phase.spans():
            j, i, part = phase.receivers[a:b], phase.senders[a:b], phase.part[a:b].unsqueeze(1)
            own, other = age[j], age[i]
            merged = torch.where((number == part) | (part < 0), torch.maximum(own, other), own)
            copy = (part < 0) & (phase.weights[a:b] == 1).unsqueeze(1)
            write_(age, j, torch.where(copy, other, merged))


def parts(p: int, q: int, device: torch.device) -> Int64[Tensor, " p"]:
    """Returns the part of each of p entries of a model of q parts.

    Example:
        >>> import torch
        >>> from batchednodes.algorithms.mixing.partial import parts
        >>> parts(7, 3, torch.device("cpu")).tolist()
        [0, 0, 0, 1, 1, 2, 2]
    """
    return torch.arange(p, device=device) * q // p


def mix_(x: Float[Tensor, "rows p"], phase: GossipPhase, entries: Entries) -> None:
    """Applies a phase of gossip to the models in place, wave by wave."""
    assert phase.part is not None
    here = phase.here
    for a, b in phase.spans():
        j, i, w = phase.receivers[a:b], phase.senders[a:b], phase.weights[a:b].unsqueeze(1)
        own, other = x[j], x[i]
        if entries.parts > 1:
            kept = entries.of(j, phase.part[a:b])
        else:  # drawn on the host
            assert here.part is not None
            kept = send(entries.of(here.receivers[a:b], here.part[a:b]), x.device)
        new = torch.where(kept, (1 - w) * own + w * other, own)
        write_(x, j, torch.where((j >= phase.nodes).unsqueeze(1), other, new))
