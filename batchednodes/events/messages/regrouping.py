r"""Messages under way of some networks, put together or taken apart: for checkpoints that other ranks go on from.

Networks share no message, snapshot or slot, but the tables in which these lie. Here each table is opened into plain
lists, which are put one after the other, cut down to some networks, and closed into tables again. What is numbered
anew are nodes, messages, snapshots and slots; in which order they are used again is kept within each network.

Notation: n nodes, g networks, m messages under way, k snapshots, s slots, q parts of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Int64
from numba import njit

from batchednodes.events.messages.records import (
    HEAP,
    JOINING,
    MESSAGE,
    MESSAGES,
    MODELS,
    MOST,
    SEQUENCE,
    SLOTS,
    SNAPSHOTS,
    InFlight,
    rehash,
)

_ROOM = 256
"""Messages that there is room for, at least, beside those under way."""


@dataclass(frozen=True, eq=False)
class _Lists:
    """What is in flight, as plain lists."""

    network: Int64[np.ndarray, " n"]
    """Network of each node, in increasing order."""
    nodes: np.ndarray
    """NODE of each [n]; the snapshot in its row is one of the list below."""
    age: Int64[np.ndarray, "n q"]
    accounts: Int64[np.ndarray, "g 4"]
    messages: np.ndarray
    """MESSAGE of those under way [m]."""
    message_age: Int64[np.ndarray, "m q"]
    is_last: Bool[np.ndarray, " m"]
    """Whether it is in the table of the last messages of links."""
    place: Int64[np.ndarray, " k"]
    """Row of x where each snapshot lies."""
    readers: Int64[np.ndarray, " k"]
    owner: Int64[np.ndarray, " s"]
    """Network of each slot."""
    free: Int64[np.ndarray, " _"]
    """Free slots, in the order in which those of each network will be used."""
    sequence: int
    """Messages so far."""


class Slots(NamedTuple):
    """Slots of messages, of networks that have been regrouped."""

    number: Int64[np.ndarray, " s"]
    """Of each among those of all parts, one part after the other."""
    network: Int64[np.ndarray, " s"]
    """Whose it is, among those that were wanted."""


def regrouped(
    parts: Sequence[tuple[InFlight, Int64[np.ndarray, " _"]]], wanted: Int64[np.ndarray, " g"]
) -> tuple[InFlight, Slots]:
    """Returns what is in flight of some networks, and where its slots were.

    Args:
        parts: what is in flight of some networks, and the nodes of each of these; as `records.check` wants it.
        wanted: numbers of networks, among those of all parts one after the other; in the order that they are to have.

    Raises:
        ValueError: the tables of a part contradict each other.
    """
    whole = _joined([_opened(in_flight, sizes) for in_flight, sizes in parts])
    some, slots = _chosen(whole, wanted)
    return _closed(some), Slots(slots, some.owner)


def owners(in_flight: InFlight, sizes: Int64[np.ndarray, " g"]) -> Int64[np.ndarray, " s"]:
    """Returns the network of each slot; errors as of `regrouped`.

    Args:
        in_flight: as `records.check` wants it.
        sizes: nodes of each network.
    """
    return _opened(in_flight, sizes).owner


def _opened(in_flight: InFlight, sizes: Int64[np.ndarray, " g"]) -> _Lists:
    """Returns tables as lists.

    Raises:
        ValueError: they contradict each other.
    """
    head, table, n = in_flight.head, in_flight.messages, in_flight.nodes.size
    network = np.repeat(np.arange(sizes.size), sizes)
    under_way = table["heap"][: head[HEAP]]
    messages, is_last = table[under_way], np.zeros(table.size, bool)
    _check(_find_last(table, is_last), "messages.chain")
    used = np.ones(table.size, bool)
    used[table["spare"][: head[SNAPSHOTS]]] = False
    number = np.where(used, np.cumsum(used) - 1, -1)
    nodes = in_flight.nodes.copy()
    for told, name in ((nodes["current"], "nodes.current"), (messages["snapshot"], "messages.snapshot")):
        _check(used[told[told >= 0]].all(), name)
        told[told >= 0] = number[told[told >= 0]]
    place, owner = table["place"][used].astype(np.int64), np.full(int(head[SLOTS]), -1, np.int64)
    _check((place < n + owner.size).all(), "messages.place")
    free = np.empty(owner.size, np.int64)
    size = _find_free(in_flight.pools, in_flight.link, owner, free)
    _check(size >= 0, "link")
    read = messages[(messages["snapshot"] >= 0) & (place[messages["snapshot"]] >= n)]
    taken = place[read["snapshot"]] - n
    owners = network[read["sender"]]
    _check(bool((owner[taken] < 0).all()), "pools")
    owner[taken] = owners
    _check(bool((owner >= 0).all() and (owner[taken] == owners).all()), "pools")
    ages = in_flight.age, in_flight.accounts, messages, in_flight.message_age[under_way]
    lists = is_last[under_way], place, table["readers"][used].astype(np.int64), owner, free[:size]
    return _Lists(network, nodes, *ages, *lists, int(head[SEQUENCE]))


def _check(holds: object, name: str) -> None:
    if not holds:
        raise ValueError(f"clocks.in_flight.{name} must agree with the other tables")


@njit(nogil=True, cache=True)
@no_type_check
def _find_last(messages, found):  # noqa: ANN001, ANN202  (numba infers the types)
    """Notes which messages are in the table of links; returns whether each is there once."""
    for k in range(messages.size):
        h = messages[k].chain
        while h >= 0:
            if found[h]:
                return False
            found[h] = True
            h = messages[h].next
    return True


@njit(nogil=True, cache=True)
@no_type_check
def _find_free(pools, link, owner, free):  # noqa: ANN001, ANN202
    """Writes the free slots of each network in their order; returns their number, -1 where one is there twice."""
    size = 0
    for g in range(pools.shape[0]):
        slot = pools[g, 0]
        while slot >= 0:
            if slot >= owner.size or owner[slot] >= 0:
                return -1
            owner[slot], free[size] = g, slot
            size += 1
            slot = link[slot]
    return size


def _joined(parts: Sequence[_Lists]) -> _Lists:
    """Returns the lists of some parts, one after the other."""
    sizes = np.array([[p.accounts.shape[0], p.nodes.size, p.place.size, p.owner.size] for p in parts])
    first, n = np.cumsum(sizes, 0) - sizes, int(sizes[:, 1].sum())
    found = list[_Lists]()
    for part, (g, i, k, s) in zip(parts, first.tolist(), strict=True):
        nodes, messages, in_slot = part.nodes.copy(), part.messages.copy(), part.place >= part.nodes.size
        nodes["current"] += np.where(nodes["current"] >= 0, k, 0)
        messages["snapshot"] += np.where(messages["snapshot"] >= 0, k, 0)
        _numbered(messages, messages["sender"] + i, messages["receiver"] + i)
        place = np.where(in_slot, part.place - part.nodes.size + n + s, part.place + i)
        told = {"network": part.network + g, "owner": part.owner + g, "free": part.free + s}
        found.append(replace(part, nodes=nodes, messages=messages, place=place, **told))
    names = [f.name for f in fields(_Lists) if f.name != "sequence"]
    columns = [[getattr(part, name) for part in found] for name in names]
    return _Lists(*(np.concatenate(column) for column in columns), max(part.sequence for part in parts))


def _numbered(messages: np.ndarray, sender: np.ndarray, receiver: np.ndarray) -> None:
    """Gives the nodes of messages other numbers; those that join come in the order of theirs."""
    joins = messages["kind"] == JOINING
    messages["order"][joins] += messages["receiver"][joins] - receiver[joins]
    messages["sender"], messages["receiver"] = sender, receiver


def _chosen(whole: _Lists, wanted: Int64[np.ndarray, " g"]) -> tuple[_Lists, Int64[np.ndarray, " s"]]:
    """Returns the lists of some networks, in some order, and which slots of the whole they have."""
    at, n = np.full(len(whole.accounts), -1), whole.nodes.size
    at[wanted] = np.arange(wanted.size)
    nodes, slots = _by_network(at[whole.network]), _by_network(at[whole.owner])
    some = np.flatnonzero(at[whole.network[whole.messages["sender"]]] >= 0)
    rows = np.full(n + whole.owner.size, -1)
    rows[nodes], rows[n + slots] = np.arange(nodes.size), nodes.size + np.arange(slots.size)
    kept = np.flatnonzero(rows[whole.place] >= 0)
    snapshot = np.full(whole.place.size, -1)
    snapshot[kept] = np.arange(kept.size)
    messages, records = whole.messages[some], whole.nodes[nodes]
    for told in (records["current"], messages["snapshot"]):
        told[told >= 0] = snapshot[told[told >= 0]]
    _numbered(messages, rows[messages["sender"]], rows[messages["receiver"]])
    free = rows[n + whole.free[_by_network(at[whole.owner[whole.free]])]] - nodes.size
    lists = whole.message_age[some], whole.is_last[some], rows[whole.place[kept]], whole.readers[kept]
    network, owner = at[whole.network[nodes]], at[whole.owner[slots]]
    tables = network, records, whole.age[nodes], whole.accounts[wanted], messages, *lists
    return _Lists(*tables, owner, free, whole.sequence), slots


def _by_network(at: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
    """Returns what is of a network that is wanted, in the order of these; at: the place of its network; -1: none."""
    order = np.argsort(at, kind="stable")
    return order[np.searchsorted(at[order], 0) :]


def _closed(lists: _Lists) -> InFlight:
    """Returns lists as tables, with room for more messages."""
    m, k, s = lists.messages.size, lists.place.size, lists.owner.size
    room = max(m, k) + max(m, k, _ROOM)
    table, age = np.zeros(room, MESSAGE), np.zeros((room, lists.age.shape[1]), np.int64)
    by_time = np.lexsort((lists.messages["order"], lists.messages["arrive"]))  # what is sorted is a heap
    table[:m], age[:m] = lists.messages[by_time], lists.message_age[by_time]
    table["place"], table["readers"] = 0, 0
    table["place"][:k], table["readers"][:k] = lists.place, lists.readers
    table["heap"][:m] = np.arange(m)
    table["free"][: room - m], table["spare"][: room - k] = np.arange(m, room), np.arange(k, room)
    linked = np.flatnonzero(lists.is_last[by_time])
    table["next"], table["chain"] = -1, -1
    table["next"][linked[:-1]], table["chain"][0] = linked[1:], linked[0] if linked.size else -1
    rehash(1, table)
    pools, link = np.full((len(lists.accounts), 2), -1), np.full(s + room, -1)
    for g, queue in enumerate(np.split(lists.free, _ends(lists, len(pools)))):
        if queue.size:
            pools[g], link[queue[:-1]] = queue[[0, -1]], queue[1:]
    head = np.zeros(7, np.int64)
    head[[HEAP, MESSAGES, SNAPSHOTS, SLOTS]] = m, room - m, room - k, s
    head[SEQUENCE], head[[MODELS, MOST]] = lists.sequence, lists.readers.sum()
    return InFlight(lists.nodes, lists.age, lists.accounts, table, age, pools, link, head)


def _ends(lists: _Lists, networks: int) -> Int64[np.ndarray, " _"]:
    """Returns where the free slots of each network but the last end; they are in the order of networks."""
    return np.searchsorted(lists.owner[lists.free], np.arange(1, networks))
