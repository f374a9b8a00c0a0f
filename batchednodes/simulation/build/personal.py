"""Parameters that stay at their node, from patterns of their names: which each node mixes, and how much it sends.

Notation: n nodes, k kinds of nodes, q parameters (tensors) of a model, p their entries.
"""

import fnmatch
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64

from batchednodes.algorithms.mixing.personal import Personal
from batchednodes.config import Config
from batchednodes.config.personal import patterns
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import Timeline
from batchednodes.models.stacked import Stack
from batchednodes.numerics.values import shown
from batchednodes.simulation.build.fields import message

_NAMED = 12
"""Names of parameters that a message says."""


def personal(configs: Sequence[Config], stack: Stack, where: torch.device) -> Personal | None:
    """Returns which entries the nodes of some networks mix; None: all mix all.

    Raises:
        ValueError: a pattern names nothing, or nothing is left to be mixed.
    """
    if not any(c.gossip.personal for c in configs) and not _counts(stack).any():
        return None
    tables, kinds, first = list[np.ndarray](), list[np.ndarray](), 0
    for c in configs:
        table, kind = _kinds(c, stack)
        tables.append(table)
        kinds.append(first + kind)
        first += len(table)
    mixes, number = np.unique(np.concatenate(tables), axis=0, return_inverse=True)
    kind, whole = number.reshape(-1)[np.concatenate(kinds)], mixes[:, ~_counts(stack)].all(axis=1)
    return Personal(_sizes(stack), mixes, kind, where, bool(whole.all()))


def sent(config: Config, stack: Stack) -> int:
    """Returns how many entries of its model a node sends, the mean over the nodes of a network."""
    if not config.gossip.personal and not _counts(stack).any():
        return stack.p
    table, kind = _kinds(config, stack)
    return round(float((table @ _sizes(stack))[kind].mean()))


def contact_bytes(configs: Sequence[Config], events: Timeline, stack: Stack) -> tuple[int, ...]:
    """Returns the bytes that a contact of each network sends, or a message, where there are such [B].

    A meeting sends both ways, and so does a model whose round's mean comes back, as from a server to each that takes
    part, or by an all-reduce.
    """
    rounds = isinstance(events, Barriers)
    both = [law.answered for law in events.weights] if rounds else [events.exchange == "meet"] * len(configs)
    return tuple((1 + two) * message(c, sent(c, stack)) for c, two in zip(configs, both, strict=True))


def _sizes(stack: Stack) -> Int64[np.ndarray, " q"]:
    return np.array([math.prod(shape) for shape in stack.shapes.values()], np.int64)


def _counts(stack: Stack) -> Bool[np.ndarray, " q"]:
    """Returns which parameters are counts that a model keeps of its own calls, which stay at their node."""
    return np.array([name in stack.kept and not stack.kept[name].is_floating_point for name in stack.shapes])


def _kinds(config: Config, stack: Stack) -> tuple[Bool[np.ndarray, "k q"], Int64[np.ndarray, " n"]]:
    """Returns which parameters the nodes of each kind of a network mix, and the kind of each node.

    Raises:
        ValueError: a pattern names nothing, or nothing is left to be mixed.
    """
    n, names, given = config.network.nodes, [*stack.shapes], [*patterns(config.gossip.personal)]
    apart = any(nodes is not None for *_, nodes in given)
    mixes = np.ones((n if apart else 1, len(names)), bool)
    for pattern, stays, nodes in given:
        found = [fnmatch.fnmatchcase(name, pattern) for name in names]
        if not any(found):
            some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            raise ValueError(f"gossip.personal must name parameters of the model, {some}, got {shown(pattern)}")
        mixes[np.ix_(range(len(mixes)) if nodes is None else nodes, found)] = not stays
    mixes[:, _counts(stack)] = False
    if not mixes.any():
        raise ValueError(
            f"gossip.personal must leave something to be mixed, got {shown(config.gossip.personal)}; "
            "run.baseline=isolated trains nodes that mix nothing"
        )
    table, kind = np.unique(mixes, axis=0, return_inverse=True)
    return table, kind.reshape(-1) if apart else np.zeros(n, np.int64)
