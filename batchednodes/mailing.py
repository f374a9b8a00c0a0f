r"""Mailing: from the settings of some networks to the laws of what passes between their nodes.

Letters: n nodes of all networks, p parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchednodes.config import Config
from batchednodes.mail import ASKING, LAW, PUSHED, REQUEST, Laws
from batchednodes.messages import RECEIPTS, Calendar, Delays, Presence, Rounds, Traffic, Weighing
from batchednodes.timeline import Timeline
from batchednodes.values import per_node, shown

_KINDS = {"push": PUSHED, "pull": REQUEST, "push_pull": ASKING, "meet": -1}
"""What a contact sends; -1: nothing, both are there at once."""

_TURNOVER = 8
"""Slots beyond those that hold messages under way: one for so many nodes. An event waits for an older one only if a
slot comes to its turn again meanwhile."""

LONGEST = 16
"""Times that the sender of a message may be busy with others, at most, if all links are busy."""


@dataclass(frozen=True)
class _Network:
    """The laws of one network."""

    delays: Delays
    losses: np.ndarray
    presence: Presence
    times: np.ndarray
    weighing: Weighing


def traffic(configs: Sequence[Config], base: Timeline, model: int) -> Traffic:
    """Returns the timeline of networks whose messages are under way.

    Args:
        configs: settings of each network.
        base: what their nodes do by themselves.
        model: bytes of a model [B].

    Raises:
        ValueError: settings do not fit each other, or a link has more to carry than it can.
    """
    some = [_network(c, model) for c in configs]
    _check_alike([one.weighing for one in some])
    sizes, networks, first = base.networks.sizes, base.networks, configs[0]
    traces = [np.zeros(0) if one.delays.trace is None else one.delays.trace for one in some]
    begins, turns = _changes([one.presence for one in some], sizes.tolist())
    accounts = [c.gossip.flow.accounts() for c in configs]

    def each(values: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.array(values), sizes)

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.ascontiguousarray(np.concatenate(parts, axis=-1))

    nodes = np.zeros(networks.n, LAW)
    columns = {
        "seed": networks.seeds[networks.network_of()],
        "local": networks.local(),
        "network": networks.network_of(),
        "receipt": each([RECEIPTS[c.gossip.on_receipt] for c in configs]),
        "fifo": each([c.gossip.fifo for c in configs]),
        "delay": each([one.delays.law for one in some]),
        "delay_a": joined([one.delays.a for one in some]),
        "delay_b": joined([one.delays.b for one in some]),
        "transfer": joined([one.delays.transfer for one in some]),
        "spread": each([one.delays.spread for one in some]),
        **dict(zip(("good", "bad", "good_to_bad", "bad_to_good"), joined([o.losses for o in some]), strict=True)),
        "law": each([one.presence.law for one in some]),
        "on_a": joined([one.presence.a for one in some]),
        "on_b": joined([one.presence.b for one in some]),
        **dict(zip(("join", "leave"), joined([one.times for one in some]), strict=True)),
        "weigh": each([one.weighing.law for one in some]),
        "weigh_a": joined([one.weighing.a for one in some]),
        "weigh_b": joined([one.weighing.b for one in some]),
        "whole": each([one.weighing.parts == 1 and one.weighing.share == 1 for one in some]),
        "flow": each([a.law for a in accounts]),
        "capacity": each([a.capacity for a in accounts]),
        "spend": each([a.spend for a in accounts]),
        "by_age": each([a.usefulness == "age" for a in accounts]),
        "steps": each([c.local.steps for c in configs]),
    }
    for name in LAW.names or ():
        nodes[name] = columns[name]
    exchange, before, rounds = (
        _KINDS[first.gossip.exchange],
        first.gossip.reply == "before",
        isinstance(first.timing, Rounds),
    )
    starts = np.cumsum([0, *(trace.size for trace in traces)])
    laws = Laws(networks.n, exchange, before, rounds, nodes, joined(traces), starts, begins, turns)
    timings = [c.timing for c in configs]
    rounds = tuple(timing for timing in timings if isinstance(timing, Rounds))
    gossip = base.gossip.silence(np.ones(networks.n, bool)) if rounds else base.gossip
    found = Traffic(
        networks,
        base.contacts,
        base.update,
        gossip,
        base.exchange,
        base.schemes,
        laws,
        first.update.while_off == "pause",
        first.network.churn.start == "neighbour",
        Calendar(networks, rounds) if rounds else None,
        joined([one.delays.mean for one in some]),
        joined([one.presence.share for one in some]),
        0,
        some[0].weighing.parts,
    )
    return replace(found, slots=_slots(found, first.run.until))


def _network(config: Config, model: int) -> _Network:
    n, seed, gossip = config.network.nodes, config.seed, config.gossip
    weight = per_node(gossip.weight, n, seed, "gossip.weight", high=1.0, open_high=False)
    weighing = gossip.merge.weighing(weight)
    size = round(model * weighing.share / weighing.parts)
    return _Network(
        gossip.delay.delays(n, seed, "gossip.delay", n, size),
        gossip.loss.losses(n, seed, "gossip.loss", n),
        config.network.availability.presence(n, seed, "network.availability", n),
        config.network.churn.times(n, seed, "network.churn", n),
        weighing,
    )


def _check_alike(rules: Sequence[Weighing]) -> None:
    for rule in rules:
        if (rule.parts, rule.share) != (rules[0].parts, rules[0].share):
            raise ValueError(
                "sweep.gossip.merge must keep which part of a model a message brings, got networks of "
                f"{shown([(r.parts, r.share) for r in rules[:3]])} (parts, share); run separate commands for them"
            )


def _changes(presences: Sequence[Presence], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the changes of each node begin, and all changes [s]."""
    counts, turns = [np.zeros(1, np.int64)], [np.zeros(0)]
    for one, size in zip(presences, sizes, strict=True):
        known = one.begins is not None and one.changes is not None
        counts.append(np.diff(one.begins) if known else np.zeros(size, np.int64))
        turns.append(one.changes if known else np.zeros(0))
    return np.cumsum(np.concatenate(counts)), np.concatenate(turns)


def _slots(found: Traffic, until: float) -> int:
    """Returns the rows of x for snapshots that a run needs, but for less than one chance in a million.

    Messages under way are about a Poisson count. A run that needs more gets more, at the end of a window.

    Raises:
        ValueError: messages pile up at their senders without end.
    """
    contacts = found.expected(1.0)[1] / found.networks.n  # of one node, per second
    transfer = float(found.laws.nodes["transfer"].max(initial=0))
    messages = contacts * found.networks.n * (2 if found.exchange == "push_pull" else 1)
    if transfer and contacts * transfer >= 1 and contacts * until > LONGEST:
        raise ValueError(
            f"gossip.delay.rate must let a link carry what its node sends, got {contacts:.3g} models a second that "
            f"take {transfer:.3g} s each; raise the rate, or lower gossip.clock.rate"
        )
    waits = transfer / (1 - contacts * transfer) if transfer and contacts * transfer < 1 else 0.0
    flying = min(messages * until, messages * (float(found.late.mean()) + waits + (1.0 if found.laws.rounds else 0.0)))
    return math.ceil(flying + 6 * math.sqrt(flying)) + found.networks.n // _TURNOVER + 8
