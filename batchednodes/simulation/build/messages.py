r"""Mailing: from the settings of some networks to the laws of what passes between their nodes.

Notation: n nodes of all networks, p parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from batchednodes.config import Config
from batchednodes.events.availability import AvailabilityLaw
from batchednodes.events.links.delay import DelayLaw
from batchednodes.events.links.traces import LINK, Links
from batchednodes.events.merge import MergeLaw
from batchednodes.events.messages.dry_run import forecast
from batchednodes.events.messages.link_load import LinkLoad
from batchednodes.events.messages.records import ASKING, LAW, PUSHED, REQUEST, MessageLaws
from batchednodes.events.messages.timeline import RECEIPTS, InFlightEstimate, MessageTimeline
from batchednodes.events.rounds import Calendar, Rounds
from batchednodes.events.timeline import Timeline
from batchednodes.events.token_accounts import TokenLaw
from batchednodes.numerics.targets import returned
from batchednodes.numerics.values import per_node, shown

_KINDS = {"push": PUSHED, "pull": REQUEST, "push_pull": ASKING, "meet": -1}
"""What a contact sends; -1: nothing, both are there at once."""

_CHANGES, _CHANGES_OF_EVENT = 1e8, 100
"""The most changes between on and off of all nodes in a run, which are drawn one by one: some seconds' work."""


@dataclass(frozen=True)
class _Network:
    """The laws of one network."""

    delays: DelayLaw
    losses: np.ndarray
    presence: AvailabilityLaw
    times: np.ndarray
    weighing: MergeLaw


def traffic(configs: Sequence[Config], base: Timeline, model: int) -> MessageTimeline:
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
    _check_schemes(configs)
    sizes, networks, first = base.networks.sizes, base.networks, configs[0]
    traces = [np.zeros(0) if one.delays.trace is None else one.delays.trace for one in some]
    begins, turns = _changes([one.presence for one in some], sizes.tolist())
    begun, links = _timetable(configs, [one.delays.links for one in some], base)
    accounts = [
        returned(c.gossip.flow.accounts(), (TokenLaw,), c.gossip.flow, "accounts", "gossip.flow") for c in configs
    ]

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
        "delay_by": joined(
            [np.zeros_like(o.delays.a, np.int64) if o.delays.where is None else o.delays.where for o in some]
        ),
        "transfer": joined([one.delays.transfer for one in some]),
        "spread": each([one.delays.spread for one in some]),
        **dict(zip(("good", "bad", "good_to_bad", "bad_to_good"), joined([o.losses for o in some]), strict=True)),
        "law": each([one.presence.law for one in some]),
        "on_by": each([one.presence.where for one in some]),
        "on_a": joined([one.presence.a for one in some]),
        "on_b": joined([one.presence.b for one in some]),
        **dict(zip(("join", "leave"), joined([one.times for one in some]), strict=True)),
        "weigh": each([one.weighing.where for one in some]),
        "weigh_a": joined([one.weighing.a for one in some]),
        "weigh_b": joined([one.weighing.b for one in some]),
        "whole": each([one.weighing.parts == 1 and one.weighing.share == 1 for one in some]),
        "flow": each([a.law for a in accounts]),
        "capacity": each([a.capacity for a in accounts]),
        "spend": each([a.spend for a in accounts]),
        **{name: each([getattr(a, name) for a in accounts]) for name in ("sends", "reacts")},
        "flow_a": each([a.a for a in accounts]),
        "flow_b": each([a.b for a in accounts]),
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
    splits = first.algorithm.mixing == "column"
    laws = MessageLaws(
        networks.n, exchange, before, rounds, splits, nodes, joined(traces), starts, begun, links, begins, turns
    )
    timings = [c.timing for c in configs]
    rounds = tuple(timing for timing in timings if isinstance(timing, Rounds))
    gossip = base.gossip.silence(np.ones(networks.n, bool)) if rounds else base.gossip
    found = MessageTimeline(
        networks,
        base.contacts,
        base.update,
        gossip,
        base.exchange,
        base.schemes,
        laws,
        first.update.while_off == "pause",
        np.flatnonzero(each([c.network.churn.start == "neighbour" for c in configs]) & (nodes["join"] > 0)),
        Calendar(networks, rounds) if rounds else None,
        some[0].weighing.parts,
        InFlightEstimate(0.0, np.zeros(networks.count, np.int64), 0, False),
        at_update=base.at_update,
    )
    until = first.run.until
    turnover = sum(float(one.presence.turnover.sum()) for one in some)
    _check_changes(turnover, until, sum(found.expected(until)))
    load = LinkLoad.of(found, np.concatenate([one.delays.latency for one in some]), until)
    load.check()
    known = all(c.local.epochs is None for c in configs)
    return replace(found, forecast=forecast(found, load, turnover, until, known))


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


def _check_alike(rules: Sequence[MergeLaw]) -> None:
    for rule in rules:
        if (rule.parts, rule.share, rule.divides) != (rules[0].parts, rules[0].share, rules[0].divides):
            raise ValueError(
                "sweep.gossip.merge must keep which part of a model a message brings, and whether its age divides the "
                f"step, got networks of {shown([(r.parts, r.share, r.divides) for r in rules[:3]])} (parts, share, "
                "divided); run separate commands for them"
            )


def _check_schemes(configs: Sequence[Config]) -> None:
    for c in configs:
        if not c.gossip.scheme.independent:
            raise ValueError(
                "sweep.gossip.scheme must be of kind uniform in every network where some have messages under way, got "
                f"{shown(type(c.gossip.scheme).__name__)}; run separate commands for them"
            )


def _changes(presences: Sequence[AvailabilityLaw], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the changes of each node begin, and all changes [s]."""
    counts, turns = [np.zeros(1, np.int64)], [np.zeros(0)]
    for one, size in zip(presences, sizes, strict=True):
        if one.begins is None or one.changes is None:
            counts.append(np.zeros(size, np.int64))
        else:
            counts.append(np.diff(one.begins))
            turns.append(one.changes)
    return np.cumsum(np.concatenate(counts)), np.concatenate(turns)


def _timetable(
    configs: Sequence[Config], some: Sequence[Links | None], base: Timeline
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the rows of each sender begin, and all rows, in node numbers of the batch."""
    counts, rows = [np.zeros(1, np.int64)], [np.zeros(0, LINK)]
    for g, (config, links) in enumerate(zip(configs, some, strict=True)):
        nodes = base.networks.slice(g)
        if links is None:
            counts.append(np.zeros(nodes.stop - nodes.start, np.int64))
            continue
        replies = config.gossip.exchange in ("pull", "push_pull")
        links.check(base.contacts.graph(nodes), replies, "gossip.delay.path")
        counts.append(np.diff(links.begins))
        rows.append(links.rows.copy())
        rows[-1]["receiver"] += nodes.start
    return np.cumsum(np.concatenate(counts)), np.concatenate(rows)


def _check_changes(turnover: float, until: float, events: float) -> None:
    """Refuses nodes that go on and off far more often than anything happens."""
    changes = until * turnover
    if not changes <= max(_CHANGES, _CHANGES_OF_EVENT * events):
        raise ValueError(
            f"network.availability must let nodes change at most {_CHANGES:.0e} times in a run, or "
            f"{_CHANGES_OF_EVENT} times an event, got {changes:.3g} changes; make its times longer [s]"
        )
