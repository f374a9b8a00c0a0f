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
from batchednodes.simulation.build.fields import message

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


def traffic(configs: Sequence[Config], base: Timeline, sent: Sequence[int]) -> MessageTimeline:
    """Returns the timeline of networks whose messages are under way.

    Args:
        configs: settings of each network.
        base: what their nodes do by themselves.
        sent: parameters of a model that a message of each brings.

    Raises:
        ValueError: settings do not fit each other, or a link has more to carry than it can.
    """
    some = [_network(c, p) for c, p in zip(configs, sent, strict=True)]
    _check_alike([one.weighing for one in some])
    _check_schemes(configs)
    laws, networks, first = _laws(configs, some, base), base.networks, configs[0]
    rounds = tuple(c.timing for c in configs if isinstance(c.timing, Rounds))
    late = np.repeat([c.network.churn.start == "neighbour" for c in configs], networks.sizes) & (laws.nodes["join"] > 0)
    found = MessageTimeline(
        networks,
        base.contacts,
        base.update,
        base.gossip.silence(np.ones(networks.n, bool)) if rounds else base.gossip,
        base.exchange,
        base.schemes,
        laws,
        pauses=first.update.while_off == "pause",
        joiners=np.flatnonzero(late),
        calendar=Calendar(networks, rounds) if rounds else None,
        parts=some[0].weighing.parts,
        forecast=InFlightEstimate(0.0, np.zeros(networks.count, np.int64), 0, False),
        at_update=base.at_update,
        to_all=base.to_all,
    )
    return _with_forecast(found, configs, some)


def _with_forecast(found: MessageTimeline, configs: Sequence[Config], some: Sequence[_Network]) -> MessageTimeline:
    """Returns the timeline with what will be under way at most, once no node or link has too much to do."""
    until = configs[0].run.until
    turnover = sum(float(one.presence.turnover.sum()) for one in some)
    _check_changes(turnover, until, sum(found.expected(until)))
    load = LinkLoad.of(found, np.concatenate([one.delays.latency for one in some]), until)
    load.check()
    known = all(c.local.epochs is None for c in configs)
    return replace(found, forecast=forecast(found, load, turnover, until, known))


def _laws(configs: Sequence[Config], some: Sequence[_Network], base: Timeline) -> MessageLaws:
    """Returns the laws of the messages of all networks."""
    first, networks = configs[0], base.networks
    begins, turns = _changes([one.presence for one in some], networks.sizes.tolist())
    begun, links = _timetable(configs, [one.delays.links for one in some], base)
    traces = [np.zeros(0) if one.delays.trace is None else one.delays.trace for one in some]
    return MessageLaws(
        n=networks.n,
        exchange=_KINDS[first.gossip.exchange],
        before=first.gossip.reply == "before",
        rounds=isinstance(first.timing, Rounds),
        splits=first.method.mixing == "column",
        nodes=np.concatenate([_nodes(g, *pair, base) for g, pair in enumerate(zip(configs, some, strict=True))]),
        trace=np.concatenate(traces),
        traces=np.cumsum([0, *(trace.size for trace in traces)]),
        begun=begun,
        links=links,
        begins=begins,
        turns=turns,
    )


def _nodes(g: int, config: Config, one: _Network, base: Timeline) -> np.ndarray:
    """Returns the LAW of each node of network g [n]."""
    nodes = np.zeros(config.network.nodes, LAW)
    columns = {
        "seed": base.networks.seeds[g],
        "index": np.arange(nodes.size),
        "network": g,
        **_sending(config, one),
        **_being_there(one),
        **_receiving(config, one.weighing),
    }
    for name in LAW.names or ():
        nodes[name] = columns[name]
    return nodes


def _sending(config: Config, one: _Network) -> dict[str, Any]:
    """Returns the columns of LAW about what becomes of messages that nodes send, and about how many they may send."""
    flow, delays = config.gossip.flow, one.delays
    accounts = returned(flow.accounts(), (TokenLaw,), flow, "accounts", "gossip.flow")
    return {
        "fifo": config.gossip.fifo,
        "delay": delays.law,
        "delay_a": delays.a,
        "delay_b": delays.b,
        "delay_by": 0 if delays.where is None else delays.where,
        "transfer": delays.transfer,
        "spread": delays.spread,
        **dict(zip(("good", "bad", "good_to_bad", "bad_to_good"), one.losses, strict=True)),
        "flow": accounts.law,
        "capacity": accounts.capacity,
        "spend": accounts.spend,
        "sends": accounts.sends,
        "reacts": accounts.reacts,
        "flow_a": accounts.a,
        "flow_b": accounts.b,
        "by_age": accounts.usefulness == "age",
    }


def _being_there(one: _Network) -> dict[str, Any]:
    """Returns the columns of LAW about when nodes are on, and in the network."""
    presence, (join, leave) = one.presence, one.times
    return {
        "law": presence.law,
        "on_by": presence.where,
        "on_a": presence.a,
        "on_b": presence.b,
        "join": join,
        "leave": leave,
    }


def _receiving(config: Config, weighing: MergeLaw) -> dict[str, Any]:
    """Returns the columns of LAW about what nodes do with a model that comes, and how old they grow by an update."""
    return {
        "receipt": RECEIPTS[config.gossip.on_receipt],
        "weigh": weighing.where,
        "weigh_a": weighing.a,
        "weigh_b": weighing.b,
        "whole": weighing.parts == 1 and weighing.share == 1,
        "steps": config.local.steps if isinstance(config.local.steps, int) else 1,  # until those of all are known
    }


def _network(config: Config, p: int) -> _Network:
    n, seed, gossip = config.network.nodes, config.seed, config.gossip
    weight = per_node(gossip.weight, n, seed, "gossip.weight", high=1.0, open_high=False)
    weighing = gossip.merge.weighing(weight)
    return _Network(
        gossip.delay.delays(n, seed, "gossip.delay", n, message(config, p)),
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
