r"""Mixing where some nodes lie, or where models are merged robustly: what takes the place of averages.

At a contact an attacker's row is replaced by what it sends; then the receiver clips, if its merge rule does:
x_j <- x_j + w clip(x_i - x_j, tau_j). In a round each node is handed the rows of its neighbours, those of attackers
replaced, and its merge rule makes a new one of them. Each thing that is emitted is merged by itself.

Notation: w rows of a wave, n nodes of a network, d most neighbours of one, i sender, j receiver, W gossip matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from batchednodes.algorithms.attacks import Attack, Omniscient, OwnRows
from batchednodes.algorithms.base import Algorithm, Context, Rows
from batchednodes.algorithms.mixing.rounds import RoundMatrix
from batchednodes.events.merge import Gathering, Merge
from batchednodes.events.merge.clipped_gossip import clipped
from batchednodes.numerics import devices

NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Numbers of neighbours' rows that are handled at once."""

STREAM = 1 << 10
"""The first stream of uniform numbers that attackers draw from; those before are the algorithm's own."""


@dataclass(frozen=True, eq=False)
class Robust:
    """Who attacks how, and how neighbourhoods are merged, network by network."""

    firsts: dict[int, int]
    """Number of each network by its first node."""
    merges: tuple[Merge, ...]
    """Rule of each network."""
    attacks: tuple[Attack, ...]
    """Attack in each network."""
    attackers: Bool[Tensor, " n"]
    """Which nodes of all networks attack."""
    liars: tuple[tuple[OwnRows, Bool[Tensor, " n"]], ...]
    """Attacks that read nothing but their own rows, and the nodes that attack so."""
    radius: Float[Tensor, " n"] | None
    """At single contacts the radius to which each node clips; None: they do not."""

    def sent(self, emitted: Rows, nodes: Int64[Tensor, " w"], k: Context) -> Rows:
        """Returns what some nodes send who ought to send their emissions, as far as that is the same to everyone."""
        sent = dict(emitted)
        for attack, who in self.liars:
            lies = who[nodes].unsqueeze(1)
            if lies.device.type == "cpu" and not lies.any():
                continue
            for place, (name, value) in enumerate(emitted.items()):
                sent[name] = torch.where(lies, attack.sent(value, k, STREAM + place), sent[name])
        return sent

    def combine(self, algorithm: Algorithm, own: Rows, sent: Rows, w: Tensor, receivers: Int64[Tensor, " w"]) -> Rows:
        """Returns what contacts make of the rows of receivers, and of what is sent to them."""
        if self.radius is None:
            return algorithm.combine(own, sent, w)
        away = {name: sent[name] - value for name, value in own.items()}
        tau = self.radius[receivers]
        return {name: value + w * clipped(away[name], away[name].norm(dim=1), tau) for name, value in own.items()}

    def gathered(self, emitted: Rows, nodes: slice, matrix: RoundMatrix, k: Context) -> Rows:
        """Returns what a round makes of what all nodes of a network ought to send.

        Args:
            emitted: by all nodes [n, width].
            nodes: of the network.
            matrix: W of the round.
            k: of these nodes.
        """
        g, rows = self.firsts[nodes.start], torch.arange(nodes.start, nodes.stop, device=self.attackers.device)
        sent = self.sent(emitted, rows, k)
        merge, attack, bad = self.merges[g], self.attacks[g], self.attackers[nodes]
        if isinstance(merge, Gathering) or isinstance(attack, Omniscient):
            around = matrix.around(rows.numel())
            return {
                name: torch.cat([*_merged(merge, attack, value, sent[name], around, bad)])
                for name, value in emitted.items()
            }
        mixed = {name: matrix.times(value) for name, value in sent.items()}
        share = torch.where(bad, matrix.own(rows.numel()), 0).unsqueeze(1)  # attackers do not lie to themselves
        return {
            name: value + torch.where(bad.unsqueeze(1), share * (emitted[name] - sent[name]), 0)
            for name, value in mixed.items()
        }


def _merged(
    merge: Merge, attack: Attack, own: Tensor, sent: Tensor, around: tuple[Tensor, Tensor, Tensor], bad: Tensor
) -> Iterator[Tensor]:
    """Yields the new rows of a network, some at a time.

    Args:
        merge: their rule.
        attack: what attackers send.
        own: rows of all nodes.
        sent: what they send, but for attacks that are made for each target.
        around: numbers of the neighbours of each node, their weights, and which there are [n, d].
        bad: which nodes attack.
    """
    index, weights, here = around
    size = max(1, NUMBERS[devices.kind(own.device)] // max(1, index.shape[1] * own.shape[1]))
    for first in range(0, own.shape[0], size):
        part = slice(first, first + size)
        there, w, mine = here[part], weights[part], own[part]
        attackers = bad[index[part]] & there
        others = torch.where(there.unsqueeze(2), sent[index[part]], 0)
        if isinstance(attack, Omniscient):
            told = attack.told(mine, others, w, there & ~attackers, attackers)
            others = torch.where(attackers.unsqueeze(2), told.unsqueeze(1), others)
        if isinstance(merge, Gathering):
            yield merge.gather(mine, others, w, there, attackers)
        else:
            yield (1 - w.sum(1, keepdim=True)) * mine + torch.bmm(w.unsqueeze(1), others).squeeze(1)
