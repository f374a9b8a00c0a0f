r"""The same as `robust`, one node and one neighbour at a time, in plain PyTorch: the meaning of correct.

Notation: i the node that acts or sends, j the one that receives, w weight of what it receives.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from batchednodes.algorithms.attacks import Omniscient
from batchednodes.algorithms.base import Rows
from batchednodes.algorithms.robust import STREAM, Robust
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.events.merge import Gathering, Merge


def contact_(
    rowwise: Rowwise, robust: Robust, state: State, senders: tuple[tuple[int, int, int], ...], w: Tensor, time: float
) -> None:
    """Lets nodes take what comes to them at one instant.

    Args:
        rowwise: the algorithm.
        robust: who lies, and who clips.
        state: changed.
        senders: row that is read, node whose row it is or was, and node that receives; two of them where nodes meet.
        w: weight of what is received.
        time: the instant [s].
    """
    rows, names, made = rowwise.all_rows(state), type(rowwise.algorithm).emits, list[tuple[str, int, Tensor]]()
    for i, origin, j in senders:
        came = _sent(rowwise, robust, {name: rows[name][i : i + 1] for name in names}, origin, time)
        for name, x in came.items():
            move = x[0] - rows[name][j]
            if robust.radius is not None:
                length, tau = float(move.norm()), float(robust.radius[j])
                move = move * min(1.0, tau / length) if 0 < length < torch.inf else torch.zeros_like(move)
            made.append((name, j, rows[name][j] + w * move))
    for name, j, value in made:
        rows[name][j] = value


def round_(rowwise: Rowwise, robust: Robust, state: State, nodes: slice, w: Float[Tensor, "n n"], time: float) -> None:
    """Mixes all rows of a network by W, robustly."""
    rows, g = rowwise.all_rows(state, nodes), robust.firsts[nodes.start]
    size, attack, merge, bad = nodes.stop - nodes.start, robust.attacks[g], robust.merges[g], robust.attackers[nodes]
    own = {name: rows[name].clone() for name in type(rowwise.algorithm).emits}
    each = [{name: x[i : i + 1] for name, x in own.items()} for i in range(size)]
    sent = [_sent(rowwise, robust, one, nodes.start + i, time) for i, one in enumerate(each)]
    for name, x in own.items():
        for j in range(size):
            around = [i for i in range(size) if i != j and w[j, i] != 0]
            others = torch.cat([x[:0], *(sent[i][name] for i in around)])
            weights, lies = w[j, around], bad[around]
            if isinstance(attack, Omniscient) and lies.any():
                told = attack.told(x[j : j + 1], others[None], weights[None], ~lies[None], lies[None])
                others = torch.where(lies.unsqueeze(1), told, others)
            rows[name][j] = _merged(merge, x[j], others, weights, lies)


def _merged(merge: Merge, own: Tensor, others: Tensor, weights: Tensor, attackers: Tensor) -> Tensor:
    """Returns what one node makes of its own row and those of its neighbours."""
    if not isinstance(merge, Gathering):
        return (1 - weights.sum()) * own + (weights.unsqueeze(1) * others).sum(0)
    if hasattr(merge, "alone"):
        return getattr(merge, "alone")(own, others, weights, attackers)  # noqa: B009  (not all rules have it)
    here = torch.ones_like(attackers)
    return merge.gather(own[None], others[None], weights[None], here[None], attackers[None])[0]


def _sent(rowwise: Rowwise, robust: Robust, row: Rows, origin: int, time: float) -> Rows:
    """Returns what a node sends who ought to send a row [1, width] of each name."""
    node = torch.tensor([origin], device=robust.attackers.device)
    k = rowwise.contact(row, node, torch.tensor([time], dtype=torch.float64, device=node.device))
    sent = dict(row)
    for attack, who in robust.liars:
        if who[origin]:
            sent = {name: attack.sent(value, k, STREAM + place) for place, (name, value) in enumerate(row.items())}
    return sent
