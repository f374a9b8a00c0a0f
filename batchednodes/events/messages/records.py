r"""What is under way between nodes, where snapshots of models lie, and the laws of both.

A message carries the model that its sender had when it was sent. Until the sender's row changes, the message refers to
that row; when it is about to change while messages still refer to it, the row is copied into a *slot*, one of the rows
of x beyond those of the nodes, for all of them. A slot is free again once the last of them has arrived. Free slots are
used in turn, the one that has been free for longest first, so that an event seldom waits for an older one because of
the slot.

Notation: n nodes, g networks, c messages that there is room for, q parts of a model.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numba import njit, uint64

from batchednodes.numerics import rng

SENT, DELIVERED, LOST, OFFLINE = range(4)
"""Columns of the accounts of a network."""

PUSHED, REQUEST, ASKING, REPLY, JOINING = range(5)
"""Kinds of message: a model; the request of one; a model that asks for another; the answer to a request, or to what
asks; and the arrival of a node."""

JOINED = -2
"""In place of the part of a model: all of it, which a node that joins takes and begins to compute from."""

HEAP, MESSAGES, SNAPSHOTS, SLOTS, SEQUENCE, MODELS, MOST = range(7)
"""Places in `InFlight.head`: messages under way, free messages, free snapshots, slots, messages so far, and models
under way, now and at most so far."""

FIRST, LAST = range(2)
"""Columns of `InFlight.pools`: the ends of a network's queue of free slots."""


NODE = np.dtype(
    [
        ("ticks", np.int64),  # gaps that its update clock has drawn
        ("made", np.int64),  # contacts that its gossip clock has brought, made or not
        ("updates", np.int64),  # its updates
        ("contacts", np.int64),  # contacts that it has made
        ("tried", np.int64),  # contacts that its account has let through or not
        ("sent", np.int64),  # messages that it has sent
        ("arrived", np.int64),  # messages that have come to it, on or off
        ("reacted", np.int64),  # messages that it has sent for others that came
        ("tokens", np.int64),  # saved
        ("channel", np.int64),  # 1: its channel is bad
        ("busy", np.float64),  # when its link is free [s]
        ("changes", np.int64),  # changes between on and off; it is off if they are odd
        ("change", np.float64),  # when it changes next [s]
        ("worked", np.int64),  # the same two for the update clock, which looks ahead: changes up to the next update
        ("work", np.float64),  # the first change after it [s]
        ("current", np.int64),  # the snapshot that lies in its row; -1: none
    ]
)
"""What changes of a node."""

MESSAGE = np.dtype(
    [
        ("place", np.int64),  # row of x where snapshot number k lies
        ("readers", np.int64),  # messages that refer to it
        ("spare", np.int64),  # free snapshots, a stack
        ("arrive", np.float64),  # when message number k arrives [s]
        ("order", np.int64),  # order of messages that arrive at one instant
        ("kind", np.int64),  # see above
        ("sender", np.int64),  # who sent it
        ("receiver", np.int64),  # to whom
        ("left", np.float64),  # when it was sent [s]
        ("snapshot", np.int64),  # the snapshot that it carries; -1: none
        ("part", np.int64),  # the part of the model that it brings
        ("chain", np.int64),  # with fifo: the first of the messages at place k of a hash table; -1: none
        ("next", np.int64),  # the next one there; they are the last messages of their links that are under way
        ("free", np.int64),  # free messages, a stack
        ("heap", np.int64),  # messages under way, the next to arrive first
    ]
)
"""Tables side by side: snapshots, messages, stacks and the heap of their numbers, and the last message of each link."""

LAW = np.dtype(
    [
        ("seed", np.uint64),  # of the node's network
        ("index", np.int64),  # number of the node in it
        ("network", np.int64),  # number of the network
        ("receipt", np.int64),  # what a node does with a model that comes, see `timeline.RECEIPTS`
        ("fifo", np.int64),  # 1: messages from a node to another arrive in order
        ("delay", np.int64),  # law of delays, see links/delay.py
        ("delay_a", np.float64),
        ("delay_b", np.float64),
        ("delay_by", np.int64),  # address of a delay's inverse CDF; 0: its law is built in
        ("transfer", np.float64),
        ("spread", np.float64),
        ("good", np.float64),  # law of losses, see links/loss.py
        ("bad", np.float64),
        ("good_to_bad", np.float64),
        ("bad_to_good", np.float64),
        ("law", np.int64),  # law of availability, see availability.py
        ("on_by", np.int64),  # address of the inverse CDF of times on and off; 0: the law is built in
        ("on_a", np.float64),
        ("on_b", np.float64),
        ("join", np.float64),  # when the node joins and leaves [s]
        ("leave", np.float64),
        ("weigh", np.int64),  # address of the merge rule's weight; 0: it is weigh_a
        ("weigh_a", np.float64),
        ("weigh_b", np.float64),
        ("whole", np.int64),  # 1: a model that comes is merged as a whole
        ("flow", np.int64),  # law of token accounts, see token_accounts/
        ("capacity", np.int64),
        ("spend", np.int64),
        ("sends", np.int64),  # addresses of the functions of a law of the user's own; 0: it is built in
        ("reacts", np.int64),
        ("flow_a", np.float64),
        ("flow_b", np.float64),
        ("by_age", np.int64),  # 1: only models that are old enough are news
        ("steps", np.int64),  # minibatch steps of an update
    ]
)
"""What is constant of a node."""

EVENT = np.dtype(
    [
        ("time", np.float64),  # as in `timeline.Events`, up to the count
        ("kind", np.int8),
        ("actor", np.int32),
        ("peer", np.int32),
        ("count", np.int64),
        ("node", np.int32),  # as in `MessageColumns`
        ("sent", np.float64),
        ("weight", np.float64),
        ("part", np.int64),
    ]
)
"""What the compiled loop says of an event."""


class InFlight(NamedTuple):
    """All that changes with time, but for the clocks."""

    nodes: np.ndarray
    """NODE of each node [n]."""
    age: Int64[np.ndarray, "n q"]
    """Minibatch steps behind each part of each model."""
    accounts: Int64[np.ndarray, "g 4"]
    """Messages sent, delivered, lost, and come to a node that was off."""
    messages: np.ndarray
    """MESSAGE of each message that there is room for [c]."""
    message_age: Int64[np.ndarray, "c q"]
    """Ages of the parts of its model."""
    pools: Int64[np.ndarray, "g 2"]
    """First and last free slot of each network, in the order in which they will be used; -1: none."""
    link: Int64[np.ndarray, " s"]
    """The free slot after each; -1: none. There may be room for more slots than there are."""
    head: Int64[np.ndarray, "7"]
    """Numbers, see above."""


class MessageLaws(NamedTuple):
    """All that is constant."""

    n: int
    """Nodes of all networks."""
    exchange: int
    """Kind of message of a contact; -1: meetings."""
    before: bool
    """Whether a reply is sent before the model that asked for it is merged."""
    rounds: bool
    """Whether time goes by whole steps."""
    splits: bool
    """Whether a message takes from its sender what it brings."""
    nodes: np.ndarray
    """LAW of each node [n]."""
    trace: Float64[np.ndarray, " d"]
    """Delays of all traces [s]."""
    traces: Int64[np.ndarray, " g1"]
    """Where that of each network begins."""
    begun: Int64[np.ndarray, " n1"]
    """Where the rows of each sender in a trace of links begin."""
    links: np.ndarray
    """These rows [r], see links/traces.py."""
    begins: Int64[np.ndarray, " n1"]
    """Where the changes of each node in a trace of availability begin."""
    turns: Float64[np.ndarray, " t"]
    """These changes [s]."""


class EventBuffer(NamedTuple):
    """Where the compiled loop writes events."""

    events: np.ndarray
    """EVENT [m]."""
    size: Int64[np.ndarray, "1"]
    """Events so far."""


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def bits(i, stream, count, laws):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns 128 random bits, as two uint64, of the address of node i in a stream."""
    return rng.block(laws.nodes[i].seed, stream, laws.nodes[i].index, uint64(count))


@njit(nogil=True, cache=True)
@no_type_check
def chain(h, messages):  # noqa: ANN001, ANN201
    """Returns the place in the hash table of links of message h's link."""
    link = uint64(messages[h].sender) << uint64(32) | uint64(messages[h].receiver)
    return np.int64((link * uint64(0x9E3779B97F4A7C15) >> uint64(32)) % uint64(messages.size))


@njit(nogil=True, cache=True)
@no_type_check
def rehash(size, messages) -> None:  # noqa: ANN001
    """Spreads the hash table of links, which had some size, over all that there is room for."""
    first = -1
    for k in range(size):
        h = messages[k].chain
        while h >= 0:
            following = messages[h].next
            messages[h].next, first = first, h
            h = following
    for k in range(messages.size):
        messages[k].chain = -1
    while first >= 0:
        h, k = first, chain(first, messages)
        first = messages[h].next
        messages[h].next, messages[k].chain = messages[k].chain, h


def opened(n: int, parts: int, slots: Int64[np.ndarray, " g"], room: int) -> InFlight:
    """Returns what is in flight at t = 0: nothing.

    Args:
        n: nodes of all networks.
        parts: of a model.
        slots: rows of x for snapshots of each network.
        room: messages that may be under way before there must be more room; at least 1.
    """
    nodes, head = np.zeros(n, NODE), np.zeros(7, np.int64)
    nodes["current"] = -1
    head[SLOTS] = slots.sum()
    ends = np.cumsum(slots)
    pools = np.where(slots[:, None] > 0, np.stack([ends - slots, ends - 1], 1), -1)
    link = np.arange(1, head[SLOTS] + 1)
    link[ends[slots > 0] - 1] = -1
    counts, none = np.zeros((slots.size, 4), np.int64), np.zeros(0, MESSAGE)
    ages = (np.zeros((rows, parts), np.int64) for rows in (n, 0))
    return widened(InFlight(nodes, next(ages), counts, none, next(ages), pools, link, head), room)


def widened(in_flight: InFlight, room: int) -> InFlight:
    """Returns the same with room for more messages, and as many more slots."""
    old, head = in_flight.messages.size, in_flight.head.copy()
    messages = np.concatenate([in_flight.messages, np.zeros(room, MESSAGE)])
    message_age = np.concatenate([in_flight.message_age, np.zeros((room, in_flight.message_age.shape[1]), np.int64)])
    for stack, count in (("free", MESSAGES), ("spare", SNAPSHOTS)):
        size = int(head[count])
        messages[stack][size : size + room] = np.arange(old, old + room)
    head[[MESSAGES, SNAPSHOTS]] += room
    rehash(old, messages)
    link = np.concatenate([in_flight.link, np.full(room, -1)])
    return in_flight._replace(messages=messages, message_age=message_age, link=link, head=head)


def check(in_flight: InFlight) -> None:
    """Checks that what was read refers to nodes, messages, snapshots and slots that there are.

    Raises:
        ValueError: it does not; the message says where.
    """
    n, c, slots, many = in_flight.nodes.size, in_flight.messages.size, in_flight.link.size, np.iinfo(np.int64).max
    message, one, spare = in_flight.messages, (-1, c), (0, c)
    ranges = {
        "nodes.current": (in_flight.nodes["current"], one),
        "messages.place": (message["place"], (0, n + slots)),
        "messages.readers": (message["readers"], (0, many)),
        "messages.kind": (message["kind"], (0, JOINING + 1)),
        **{f"messages.{name}": (message[name], (0, n)) for name in ("sender", "receiver")},
        **{f"messages.{name}": (message[name], one) for name in ("snapshot", "chain", "next")},
        **{f"messages.{name}": (message[name], spare) for name in ("spare", "free", "heap")},
        "pools": (in_flight.pools, (-1, slots)),
        "link": (in_flight.link, (-1, slots)),
        "head": (in_flight.head[[HEAP, MESSAGES, SNAPSHOTS]], (0, c + 1)),
        "head, slots": (in_flight.head[SLOTS], (0, slots + 1)),
        **{
            f"{name}, counts": (counts, (0, many))
            for name, counts in (("age", in_flight.age), ("accounts", in_flight.accounts))
        },
    }
    for name, (values, (low, high)) in ranges.items():
        if np.size(values) and not (np.min(values) >= low and np.max(values) < high):
            raise ValueError(f"clocks.in_flight.{name} must be from {low} to {high - 1}")
    if np.isnan(message["arrive"]).any():
        raise ValueError("clocks.in_flight.messages.arrive must be times [s]")


def copied(in_flight: InFlight) -> InFlight:
    """Returns a copy, to write into."""
    return InFlight(*(array.copy() for array in in_flight))


def under_way(in_flight: InFlight, network: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " g"]:
    """Returns how many messages of each network are under way."""
    some = in_flight.messages[in_flight.messages["heap"][: in_flight.head[HEAP]]]
    some = some[some["kind"] != JOINING]
    return np.bincount(network[some["sender"]], minlength=len(in_flight.accounts))


class MessageColumns(NamedTuple):
    """What events say besides, where messages are under way; see `timeline.Events`."""

    node: Int32[np.ndarray, " m"]
    """Whose data an update reads; who sent a model that is merged; whose model is copied."""
    sent: Float64[np.ndarray, " m"]
    """When the model that is read was sent [s]; that of the event where it is not from a message."""
    weight: Float64[np.ndarray, " m"]
    """Weight of the model that is read; 1 of a copy; dimensionless."""
    part: Int64[np.ndarray, " m"]
    """What of it is read: the number of a part of the model, or of the draw of its entries; -1: all."""
