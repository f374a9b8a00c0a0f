r"""Rehearsal: how much will be under way, found by following the messages of a run before it begins.

Messages do not depend on models, so their whole way may be followed in advance. Of a long run it is the first part that
is followed, and the laws say about what comes after it.

Notation: n nodes, g networks.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from batchednodes.events.messages.link_load import LinkLoad
from batchednodes.events.messages.records import MOST, SENT, SLOTS
from batchednodes.events.messages.timeline import InFlightEstimate, MessageTimeline, kept

_WORK = 1 << 19
"""What clocks bring, messages, and changes between on and off that are followed: about a second's work."""

_PIECE = 1 << 14
"""What clocks bring, or events, that are made at once; one for each node, at least, since clocks look at all nodes."""

_TURNOVER, _SPARE = 8, 0.5
"""Slots beyond those that are needed: one for so many nodes; and as many more as there are models under way, which may
share one, up to this part. An event waits for an older one only if a slot comes to its turn again meanwhile."""

_DEVIATIONS = 6
"""Standard deviations above a mean that are planned."""

_SETTLED, _MARGIN = 10, 1.25
"""Delays that a run must be followed for before what is under way has settled; how much more may be so later on."""


def forecast(law: MessageTimeline, load: LinkLoad, turnover: float, until: float, known: bool) -> InFlightEstimate:
    """Returns what will be under way, at most.

    Args:
        law: of all events; its own forecast does not matter.
        load: of its links.
        turnover: changes between on and off of all nodes [1/s].
        until: end of the run [s].
        known: whether updates have as many steps as the law says.
    """
    networks = law.networks
    if law.laws.exchange < 0:  # nodes meet, and nothing is under way
        seen = _Seen.nothing(networks.count, until, True)
    else:
        needed = min(until, max(_SETTLED * load.settling(), _filled(law)))
        seen = _follow(law, turnover, until, needed)
    exact = seen.whole and (known or not _age_matters(law.laws.nodes))
    pools, flying = (seen.pools, seen.flying) if exact else _estimated(law, load, seen)
    room = seen.room if exact else max(seen.room, 2 * flying + networks.n)  # requests, too, and it doubles
    shared = max(0.0, flying / max(1.0, pools.sum()) - 1)
    spare = np.diff((networks.n // _TURNOVER + 8) * networks.offsets // networks.n)
    return InFlightEstimate(float(flying), (pools * (1 + min(_SPARE, shared))).astype(np.int64) + spare, room, exact)


@dataclass(frozen=True)
class _Seen:
    """What was seen of the messages of a run up to some time."""

    time: float
    """That time [s]."""
    whole: bool
    """Whether it is the end."""
    pools: Int64[np.ndarray, " g"]
    """Rows for snapshots in use at once in each network, at most."""
    flying: int
    """Models under way at once, at most."""
    room: int
    """Messages that there is room for at the end."""

    @classmethod
    def nothing(cls, count: int, time: float, whole: bool) -> "_Seen":
        """Returns that of some networks nothing was under way."""
        return cls(time, whole, np.zeros(count, np.int64), 0, 0)


def _follow(law: MessageTimeline, turnover: float, until: float, needed: float) -> _Seen:
    """Returns what is seen of a run that begins without slots, so that it makes as many as it needs.

    Nothing is, where it would not even be followed for as long as is needed [s].
    """
    networks, most, work = law.networks, _WORK // law.parts, 0.0
    rate = sum(law.expected(1.0)) + turnover
    if not (rate * needed <= most and networks.n <= most):
        return _Seen.nothing(networks.count, 0.0, False)
    span = min(until, max(_PIECE, networks.n) / rate) if rate > 0 else until
    network = networks.network_of()
    clocks, owner, more = law.begin(), np.zeros(0, np.int64), True
    in_flight = clocks.in_flight
    assert in_flight is not None
    while more and clocks.time < until:
        end = min(until, clocks.time + span)
        acts, after = law.acts(clocks, in_flight, end)
        work += len(acts) + turnover * span
        for events, now in law.run_events(acts, in_flight, end, _PIECE):
            in_flight, taken = now, events[events["actor"] >= networks.n]
            owner = np.concatenate([owner, np.zeros(in_flight.head[SLOTS] - owner.size, np.int64)])
            owner[taken["actor"] - networks.n] = network[taken["node"]]
            more = clocks.time < end and work + int(in_flight.accounts[:, SENT].sum()) < most
            if not more:
                break
        else:
            clocks = kept(after, in_flight)
    pools = np.bincount(owner, minlength=networks.count)
    return _Seen(clocks.time, more, pools, int(in_flight.head[MOST]), in_flight.messages.size)


def _estimated(law: MessageTimeline, load: LinkLoad, seen: _Seen) -> tuple[Float64[np.ndarray, " g"], int]:
    """Returns about how many rows each network will need, and how many models will be under way.

    It is what the laws say, at most; or about what was seen, where that was long enough for what is under way to have
    settled.
    """
    networks, filling = law.networks, seen.time < _filled(law)
    mean, variance = (np.bincount(networks.network_of(), one, networks.count) for one in load.under_way(filling))
    most, total = (a + _DEVIATIONS * np.sqrt(b) for a, b in ((mean, variance), (mean.sum(), variance.sum())))
    if seen.whole or (not filling and seen.time >= _SETTLED * load.settling()):
        most, total = np.minimum(most, _more(seen.pools)), min(total, float(_more(np.array([seen.flying]))[0]))
    return np.ceil(np.maximum(seen.pools, most)), math.ceil(max(seen.flying, total))


def _filled(law: MessageTimeline) -> float:
    """Returns when the accounts of all nodes are full [s]; 0 without accounts."""
    nodes, speed = law.laws.nodes, law.speed()
    return float((nodes["capacity"] / np.where(speed > 0, speed, np.inf))[nodes["flow"] > 0].max(initial=0.0))


def _more(count: np.ndarray) -> np.ndarray:
    """Returns how many there may be where some were seen, at most."""
    return _MARGIN * count + _DEVIATIONS * np.sqrt(count)


def _age_matters(nodes: np.ndarray) -> bool:
    """Returns whether messages, or which of them are merged, depend on the ages of models."""
    return bool(((nodes["flow"] > 0) & (nodes["by_age"] > 0)).any() or (nodes["weigh"] != 0).any())
