r"""Sends and delivers, event by event, in compiled code.

What a node is to do, by its clocks, comes in the order of time; messages that arrive are merged into it. At one instant
nodes join first, then do what their clocks say, then messages arrive in the order in which they were sent, replies last
(with `gossip.fifo`, what waits for a reply comes after it).

Notation: i sender, j receiver, h message, k number of a message among those of its sender, w weight, x models.
"""

import math
from typing import no_type_check

from numba import njit

from batchednodes.events.availability import ALWAYS, PER_MESSAGE, change_after
from batchednodes.events.merge import weight
from batchednodes.events.messages.arrival import LAST, arrival, queue, transferred
from batchednodes.events.messages.in_flight import drop, forget, give, popped, push, snapshot, take
from batchednodes.events.messages.records import (
    ASKING,
    DELIVERED,
    HEAP,
    JOINED,
    JOINING,
    LOST,
    MESSAGES,
    OFFLINE,
    PUSHED,
    REPLY,
    REQUEST,
    SENT,
    SEQUENCE,
    SLOTS,
    EventBuffer,
    InFlight,
    MessageLaws,
    bits,
)
from batchednodes.events.timeline import MEET, PULL, SPLIT, UPDATE
from batchednodes.events.token_accounts import PROACTIVE, proactive, reactive
from batchednodes.numerics import rng
from batchednodes.numerics.intrinsics import borrowed
from batchednodes.topology import choice, choices, chosen

MERGE, MERGE_UPDATE, UPDATE_MERGE, REPLACE = range(4)
"""What a node does with a model that comes: it merges it; then trains; trains both before; or trains it and takes it
instead of its own."""

_TRIES = 64
"""Neighbours that a node which joins asks at random, before it asks one after the other."""

ROOM = 16
"""Events that one step of the loop writes, at most."""


@njit(nogil=True, cache=True)
@no_type_check
def run(time, kind, actor, other, first, until, peers, laws, s, out, spare):  # noqa: ANN001, ANN201
    """Goes through what clocks bring, from entry `first` on, and what arrives up to `until`.

    Args:
        time, kind, actor, other: what clocks bring: updates, and contacts of a node with another.
        first: entry to begin with.
        until: end of the window, included [s].
        peers: what chooses whom a node contacts.
        laws: constants.
        s: what is in flight; changed.
        out: receives events.
        spare: messages that one step may send.

    Returns:
        The entry to go on with once there is more room for messages or events; -1 at the end.
    """
    laws, s, out = _laws(laws), _borrowed(s), EventBuffer(borrowed(out.events), borrowed(out.size))
    e = first
    while True:
        due = time[e] if e < time.size else math.inf
        arrives = s.messages[s.messages[0].heap].arrive if s.head[HEAP] else math.inf
        if due == math.inf and arrives > until:
            return -1
        if s.head[MESSAGES] < spare or s.head[SLOTS] + ROOM > s.link.size or out.size[0] + ROOM > out.events.size:
            return e
        joins = s.head[HEAP] and s.messages[s.messages[0].heap].kind == JOINING
        if due < arrives or (due == arrives and not joins):
            if kind[e] == UPDATE:
                _update(actor[e], actor[e], due, laws, s, out)
            else:
                _contact(actor[e], other[e], due, laws, s, out)
            e += 1
        else:
            _arrive(popped(s), arrives, peers, laws, s, out)


@njit(nogil=True, cache=True)
@no_type_check
def _borrowed(s):  # noqa: ANN001, ANN202
    """Returns what is in flight as arrays whose owners are not counted, which would take most of the time."""
    nodes, messages, pools = borrowed(s.nodes), borrowed(s.messages), borrowed(s.pools)
    ages = borrowed(s.age), borrowed(s.message_age)
    return InFlight(nodes, ages[0], borrowed(s.accounts), messages, ages[1], pools, borrowed(s.link), borrowed(s.head))


@njit(nogil=True, cache=True)
@no_type_check
def _laws(laws):  # noqa: ANN001, ANN202
    """Returns the constants likewise."""
    traces = borrowed(laws.trace), borrowed(laws.traces), borrowed(laws.begun), borrowed(laws.links)
    changes = borrowed(laws.begins), borrowed(laws.turns)
    return MessageLaws(
        laws.n, laws.exchange, laws.before, laws.rounds, laws.splits, borrowed(laws.nodes), traces[0], traces[1],
        traces[2], traces[3], changes[0], changes[1],
    )  # fmt: skip


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def is_on(i, now, laws, s):  # noqa: ANN001, ANN201
    """Returns whether node i is on now, but for a law of single messages."""
    if now < laws.nodes[i].join or now >= laws.nodes[i].leave:
        return False
    if laws.nodes[i].law == ALWAYS or laws.nodes[i].law == PER_MESSAGE:
        return True
    while s.nodes[i].change <= now:
        s.nodes[i].changes += 1
        s.nodes[i].change = change_after(i, s.nodes[i].changes, s.nodes[i].change, laws)
    return s.nodes[i].changes & 1 == 0


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _finds(j, now, laws, s):  # noqa: ANN001, ANN202
    """Returns whether a message that comes now finds its receiver on."""
    number = s.nodes[j].arrived
    s.nodes[j].arrived += 1
    if not is_on(j, now, laws, s):
        return False
    if laws.nodes[j].law != PER_MESSAGE:
        return True
    high, _ = bits(j, rng.ONLINE, now if laws.rounds else number, laws)
    return rng.unit(high) < laws.nodes[j].on_a


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _contact(i, j, now, laws, s, out):  # noqa: ANN001, ANN202
    """Lets node i contact j, if it is on and its account lets it."""
    if not is_on(i, now, laws, s):
        return
    if laws.nodes[i].flow != PROACTIVE:
        high, _ = bits(i, rng.FLOW, 2 * s.nodes[i].tried, laws)
        s.nodes[i].tried += 1
        if rng.unit(high) >= proactive(laws.nodes[i], s.nodes[i].tokens):
            s.nodes[i].tokens += 1
            return
    s.nodes[i].contacts += 1
    if laws.exchange < 0:
        _meet(i, j, now, laws, s, out)
    else:
        _send(i, j, laws.exchange, now, laws, s, out)


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _lost(i, laws, s):  # noqa: ANN001, ANN202
    """Returns whether the message that node i sends now is lost."""
    high, low = bits(i, rng.LOSS, s.nodes[i].sent, laws)
    s.nodes[i].sent += 1
    s.accounts[laws.nodes[i].network, SENT] += 1
    if rng.unit(low) < (laws.nodes[i].good_to_bad if s.nodes[i].channel == 0 else laws.nodes[i].bad_to_good):
        s.nodes[i].channel = 1 - s.nodes[i].channel
    lost = rng.unit(high) < (laws.nodes[i].good if s.nodes[i].channel == 0 else laws.nodes[i].bad)
    s.accounts[laws.nodes[i].network, LOST] += lost
    return lost


@njit(nogil=True, cache=True)
@no_type_check
def _meet(i, j, now, laws, s, out):  # noqa: ANN001, ANN202
    """Lets two nodes take the average of their models, if they reach each other."""
    if _lost(i, laws, s):
        return
    found = _finds(j, now, laws, s)
    s.accounts[laws.nodes[i].network, DELIVERED if found else OFFLINE] += 1
    if not found:
        return
    _snapshot(i, now, laws, s, out)
    _snapshot(j, now, laws, s, out)
    w = weight(laws.nodes[i].weigh, laws.nodes[i].weigh_a, laws.nodes[i].weigh_b, s.age[i, 0], s.age[j, 0])
    _emit(MEET, i, j, -1, i, now, w, -1, now, out)
    s.age[i, 0] = s.age[j, 0] = max(s.age[i, 0], s.age[j, 0])
    if laws.nodes[i].receipt == MERGE_UPDATE:
        _update(i, i, now, laws, s, out)
        _update(j, j, now, laws, s, out)


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _send(i, j, kind, now, laws, s, out):  # noqa: ANN001, ANN202
    """Sends a message from i to j."""
    k = s.nodes[i].sent
    lost, wait = _lost(i, laws, s), transferred(i, j, now, laws, s) if kind != REQUEST else 0.0
    if lost:
        return
    s.head[MESSAGES] -= 1
    h = s.messages[s.head[MESSAGES]].free
    s.messages[h].kind, s.messages[h].sender, s.messages[h].receiver, s.messages[h].left = kind, i, j, now
    s.messages[h].snapshot, s.messages[h].part = -1, -1
    if laws.splits:
        s.messages[h].snapshot = _split(i, now, laws, s, out)
    elif kind != REQUEST:
        s.messages[h].snapshot = snapshot(i, s)
        s.message_age[h] = s.age[i]
        if s.age.shape[1] > 1:
            high, _ = bits(i, rng.PART, k, laws)
            s.messages[h].part = rng.below(high, s.age.shape[1])
    s.messages[h].arrive = arrival(i, j, k, wait, now, laws)
    s.messages[h].order = s.head[SEQUENCE] + (LAST if kind == REPLY else 0)
    s.head[SEQUENCE] += 1
    if laws.nodes[i].fifo:
        queue(h, s)
    push(h, s)


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _split(i, now, laws, s, out):  # noqa: ANN001, ANN202
    """Moves a share of the row of node i into a slot of its own, where it is under way; returns that snapshot."""
    row, at = laws.n + take(laws.nodes[i].network, s), snapshot(i, s)
    s.messages[at].place, s.nodes[i].current = row, -1
    w = weight(laws.nodes[i].weigh, laws.nodes[i].weigh_a, laws.nodes[i].weigh_b, s.age[i, 0], s.age[i, 0])
    _emit(SPLIT, i, row, -1, i, now, w, -1, now, out)
    return at


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _snapshot(i, now, laws, s, out):  # noqa: ANN001, ANN202
    """Copies the row of node i, which is about to change, if messages refer to it."""
    at = s.nodes[i].current
    if at >= 0:
        row = laws.n + take(laws.nodes[i].network, s)
        _emit(PULL, row, i, -1, i, now, 1.0, -1, now, out)
        s.messages[at].place, s.nodes[i].current = row, -1


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _emit(kind, actor, other, count, node, sent, w, part, now, out):  # noqa: ANN001, ANN202
    """Writes an event."""
    one = out.events[out.size[0]]
    out.size[0] += 1
    one.time, one.kind, one.actor, one.peer, one.count = now, kind, actor, other, count
    one.node, one.sent, one.weight, one.part = node, sent, w, part


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _update(row, i, now, laws, s, out):  # noqa: ANN001, ANN202
    """Lets node i train a row of x: its own, or a slot."""
    if row == i:
        _snapshot(i, now, laws, s, out)
        s.age[i] += laws.nodes[i].steps
    _emit(UPDATE, row, i, s.nodes[i].updates, i, now, 1.0, -1, now, out)
    s.nodes[i].updates += 1


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _arrive(h, now, peers, laws, s, out):  # noqa: ANN001, ANN202
    """Delivers a message, and lets its receiver react."""
    i, j, kind = s.messages[h].sender, s.messages[h].receiver, s.messages[h].kind
    if kind == JOINING:
        _join(j, now, peers, laws, s, out)
        drop(h, laws, s)
        return
    found = _finds(j, now, laws, s)
    s.accounts[laws.nodes[j].network, DELIVERED if found else OFFLINE] += 1
    if found and kind == ASKING and laws.before:
        _send(j, i, REPLY, now, laws, s, out)
    news = not laws.nodes[j].by_age or s.message_age[h].sum() >= s.age[j].sum()
    if laws.splits:  # nothing of what is divided is gone: what finds nobody goes back
        to, row = j if found else i, s.messages[s.messages[h].snapshot].place
        _emit(SPLIT, row, to, -1, i, s.messages[h].left, 1.0, -1, now, out)
    elif found and kind != REQUEST:
        _receive(j, h, now, laws, s, out)
    if s.messages[h].snapshot >= 0:
        forget(s.messages[h].snapshot, laws.nodes[i].network, laws, s)
    drop(h, laws, s)
    if found and (kind == REQUEST or (kind == ASKING and not laws.before)):
        _send(j, i, REPLY, now, laws, s, out)
    if found and kind == PUSHED and laws.nodes[j].flow != PROACTIVE:
        _react(j, news, now, peers, laws, s, out)


@njit(nogil=True, cache=True)
@no_type_check
def _react(j, news, now, peers, laws, s, out):  # noqa: ANN001, ANN202
    """Lets node j spend tokens on messages of its own."""
    high, _ = bits(j, rng.FLOW, 2 * s.nodes[j].arrived + 1, laws)
    count = reactive(laws.nodes[j], s.nodes[j].tokens, news, rng.unit(high))
    for _ in range(count):
        high, _ = bits(j, rng.REACTIVE, s.nodes[j].reacted, laws)
        s.nodes[j].reacted += 1
        to = chosen(j, high, _graph_time(now, laws), peers)
        if to >= 0:  # else the token is kept
            s.nodes[j].tokens -= 1
            _send(j, to, PUSHED, now, laws, s, out)


@njit(nogil=True, cache=True)
@no_type_check
def _join(j, now, peers, laws, s, out):  # noqa: ANN001, ANN202
    """Lets node j, which joins now, take the model of a random neighbour that is on."""
    i = _model(j, now, peers, laws, s)
    if i >= 0:
        _snapshot(j, now, laws, s, out)
        _emit(PULL, j, i, -1, i, now, 1.0, JOINED, now, out)
        s.age[j] = s.age[i]


@njit(nogil=True, cache=True)
@no_type_check
def _model(j, now, peers, laws, s):  # noqa: ANN001, ANN202
    """Returns a random neighbour of node j that is on; -1 if there is none."""
    when = _graph_time(now, laws)
    for k in range(_TRIES):
        high, _ = bits(j, rng.JOIN, k, laws)
        i = chosen(j, high, when, peers)
        if i >= 0 and is_on(i, now, laws, s):
            return i
    count = choices(j, when, peers)
    high, _ = bits(j, rng.JOIN, _TRIES, laws)
    for k in range(count):
        i = choice(j, (rng.below(high, count) + k) % count, when, peers)
        if i >= 0 and is_on(i, now, laws, s):
            return i
    return -1


@njit(nogil=True, cache=True)
@no_type_check
def _graph_time(now, laws):  # noqa: ANN001, ANN202
    """Returns the time that says which graph holds: that of the begin of a step, where time goes by steps."""
    return now - 1.0 if laws.rounds else now


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _receive(j, h, now, laws, s, out):  # noqa: ANN001, ANN202
    """Lets node j do with a model that came what the settings say."""
    receipt, row, q = laws.nodes[j].receipt, s.messages[s.messages[h].snapshot].place, max(s.messages[h].part, 0)
    own = -1
    if receipt == UPDATE_MERGE:
        _update(j, j, now, laws, s, out)
        row = s.messages[s.messages[h].snapshot].place
    if receipt in (UPDATE_MERGE, REPLACE):
        own = take(laws.nodes[j].network, s)
        _emit(PULL, laws.n + own, row, -1, s.messages[h].sender, s.messages[h].left, 1.0, -1, now, out)
        row = laws.n + own
        _update(row, j, now, laws, s, out)
        s.message_age[h] += laws.nodes[j].steps
    maker = j if s.messages[h].kind == REPLY else s.messages[h].sender
    w = weight(
        laws.nodes[j].weigh, laws.nodes[maker].weigh_a, laws.nodes[maker].weigh_b, s.age[j, q], s.message_age[h, q]
    )
    if receipt == REPLACE and laws.nodes[j].whole:
        w, s.age[j, q] = 1.0, s.message_age[h, q]
    if w > 0.0:
        _snapshot(j, now, laws, s, out)
        part = q if s.age.shape[1] > 1 else s.nodes[j].arrived if not laws.nodes[j].whole else -1
        _emit(PULL, j, row, -1, s.messages[h].sender, s.messages[h].left, w, part, now, out)
        s.age[j, q] = max(s.age[j, q], s.message_age[h, q])
    if own >= 0:
        give(laws.nodes[j].network, own, s)
    if receipt == MERGE_UPDATE:
        _update(j, j, now, laws, s, out)


@njit(nogil=True, cache=True)
@no_type_check
def enter(joiners, laws, s):  # noqa: ANN001, ANN201
    """Lets some nodes come that join after t = 0 and begin with a neighbour's model."""
    for j in joiners:
        if laws.nodes[j].join > 0.0:
            s.head[MESSAGES] -= 1
            h = s.messages[s.head[MESSAGES]].free
            s.messages[h].kind, s.messages[h].sender, s.messages[h].receiver = JOINING, j, j
            s.messages[h].arrive, s.messages[h].order = laws.nodes[j].join, -1 - j
            s.messages[h].snapshot = -1
            push(h, s)
