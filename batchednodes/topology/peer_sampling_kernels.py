r"""Whom a node contacts at a time, one draw after the other in compiled code, whatever chooses the peers.

Notation: n nodes, g networks, e contacts, r round, k peers of a node in a round, s number of one of them.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numba import njit, uint64

from batchednodes.numerics import rng

COMPLETE, LISTED, WEIGHTED, CYCLE, MATCHING, NEW_PEERS = range(6)
"""What chooses the peers of a network: nothing, all others are alike; a list for each node; the same with
probabilities; a list for each node and round; a matching, or some peers, drawn anew each round."""

RULE = np.dtype(
    [
        ("kind", np.int64),  # one of the above
        ("first", np.int64),  # first node of the network
        ("size", np.int64),  # number of its nodes
        ("row", np.int64),  # where its lists begin
        ("seed", np.uint64),  # for what is drawn anew
        ("period", np.float64),  # length of a round [s]
        ("count", np.int64),  # rounds of a cycle, or peers of a node in a round
    ]
)
"""What is constant of a network."""


@dataclass(frozen=True)
class PeerRule:
    """What chooses the peers of one network; nodes have their numbers in it."""

    kind: int
    """One of the kinds above."""
    indptr: Int64[np.ndarray, " rows1"] = field(default_factory=lambda: np.zeros(1, np.int64))
    """Where the contacts of each list begin, and the end of the last."""
    indices: Int32[np.ndarray, " e"] = field(default_factory=lambda: np.zeros(0, np.int32))
    """The contacts."""
    upto: Float64[np.ndarray, " e"] | None = None
    """Probability of each contact, added to those before it in its list; None: all are alike."""
    seed: int = 0
    """For what is drawn anew each round."""
    period: float = 1.0
    """Length of a round [s]."""
    count: int = 0
    """Rounds of a cycle, or peers of a node in a round."""


class PeerTables(NamedTuple):
    """What chooses the peers of a batch, in global node numbers."""

    network: Int64[np.ndarray, " n"]
    """Network of each node."""
    rules: np.ndarray
    """RULE of each network [g]."""
    indptr: Int64[np.ndarray, " rows1"]
    """Where the contacts of each list begin, and the end of the last."""
    indices: Int32[np.ndarray, " e"]
    """The contacts."""
    upto: Float64[np.ndarray, " e"]
    """As in `PeerRule`; 0 without probabilities."""
    partner: Int32[np.ndarray, " n"]
    """The matching that was asked for last; changed."""
    turn: Int64[np.ndarray, " g"]
    """Its round; -1: none was; changed."""


def joined(rules: "list[PeerRule]", sizes: list[int]) -> PeerTables:
    """Returns what chooses the peers of networks of some sizes, one after the other."""
    table = np.zeros(len(rules), RULE)
    ends, firsts = np.cumsum([0, *(r.indices.size for r in rules)]), np.cumsum([0, *sizes])
    rows = np.cumsum([0, *(r.indptr.size - 1 for r in rules)])
    for g, rule in enumerate(rules):
        table[g] = (rule.kind, firsts[g], sizes[g], rows[g], rule.seed, rule.period, rule.count)
    indptr = np.concatenate([*(r.indptr[:-1] + end for r, end in zip(rules, ends, strict=False)), ends[-1:]])
    indices = [r.indices + np.int32(first) for r, first in zip(rules, firsts, strict=False)]
    upto = [np.zeros(r.indices.size) if r.upto is None else r.upto for r in rules]
    network, n = np.repeat(np.arange(len(rules)), sizes), int(firsts[-1])
    kept = (np.empty(n, np.int32), np.full(len(rules), -1))
    return PeerTables(network, table, indptr, np.concatenate(indices), np.concatenate(upto), *kept)


@njit(nogil=True, cache=True)
@no_type_check
def chosen(i, bits, now, c):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the peer of a contact of node i at some time [s] from 64 random bits; -1 if there is nobody."""
    rule = c.rules[c.network[i]]
    if rule.kind == WEIGHTED:
        return weighted(bits, _row(i, rule, now), c.indptr, c.indices, c.upto)
    many = choices(i, now, c)
    return choice(i, rng.below(bits, many), now, c) if many > 0 else np.int64(-1)


@njit(nogil=True, cache=True)
@no_type_check
def choices(i, now, c):  # noqa: ANN001, ANN201
    """Returns how many nodes node i may contact at a time now [s]."""
    rule = c.rules[c.network[i]]
    if rule.kind == COMPLETE:
        return rule.size - 1
    if rule.kind == MATCHING:
        return np.int64(_partner(i, now, c) >= 0)
    if rule.kind == NEW_PEERS:
        return rule.count
    row = _row(i, rule, now)
    return c.indptr[row + 1] - c.indptr[row]


@njit(nogil=True, cache=True)
@no_type_check
def choice(i, s, now, c):  # noqa: ANN001, ANN201
    """Returns number s of the nodes that node i may contact at a time now [s]; -1 if its probability is 0."""
    rule = c.rules[c.network[i]]
    if rule.kind == COMPLETE:
        return rule.first + s + (rule.first + s >= i)
    if rule.kind == MATCHING:
        return np.int64(_partner(i, now, c))
    if rule.kind == NEW_PEERS:
        place = np.empty(rule.count, np.int64)
        return rule.first + new_peer(rule.seed, rule.size, turn(now, rule.period), i - rule.first, s, place)
    e = c.indptr[_row(i, rule, now)] + s
    if rule.kind == WEIGHTED and c.upto[e] == (c.upto[e - 1] if s > 0 else 0.0):
        return np.int64(-1)
    return np.int64(c.indices[e])


@njit(nogil=True, cache=True)
@no_type_check
def turn(now, period):  # noqa: ANN001, ANN201
    """Returns the round to which a time now [s] belongs, floor(now / period)."""
    return np.int64(math.floor(now / period))


@njit(nogil=True, cache=True)
@no_type_check
def _row(i, rule, now):  # noqa: ANN001, ANN202
    """Returns the list of a node at some time."""
    row = rule.row + i - rule.first
    return row + turn(now, rule.period) % rule.count * rule.size if rule.kind == CYCLE else row


@njit(nogil=True, cache=True)
@no_type_check
def _partner(i, now, c):  # noqa: ANN001, ANN202
    """Returns the partner of a node in the matching of some time; -1 if it has none."""
    g = c.network[i]
    rule = c.rules[g]
    first, end, asked = rule.first, rule.first + rule.size, turn(now, rule.period)
    if c.turn[g] != asked:
        c.turn[g] = asked
        match(rule.seed, asked, np.empty(rule.size, np.int32), c.partner[first:end])
    found = c.partner[i]
    return first + found if found >= 0 else -1


@njit(nogil=True, cache=True)
@no_type_check
def listed(bits, row, indptr, indices):  # noqa: ANN001, ANN201
    """Returns a uniformly random contact of a list; -1 if it is empty."""
    first = indptr[row]
    many = indptr[row + 1] - first
    return indices[first + rng.below(bits, many)] if many > 0 else -1


@njit(nogil=True, cache=True)
@no_type_check
def weighted(bits, row, indptr, indices, upto):  # noqa: ANN001, ANN201
    """Returns the first contact of a list whose sum of probabilities is above a uniform number; -1 if none is."""
    u, low, high = rng.unit(bits), indptr[row], indptr[row + 1]
    end = high
    while low < high:
        middle = (low + high) // 2
        if upto[middle] > u:
            high = middle
        else:
            low = middle + 1
    return np.int64(indices[low]) if low < end else np.int64(-1)


@njit(nogil=True, cache=True)
@no_type_check
def match(seed, now, row, partner):  # noqa: ANN001, ANN201
    """Writes the partner of each node in a round: neighbours in a shuffled row of all nodes."""
    n = row.size
    for i in range(n):
        row[i] = i
    for i in range(n - 1, 0, -1):  # Fisher and Yates
        j = rng.below(rng.block(seed, rng.GRAPH_ROUND, i, uint64(now))[0], i + 1)
        row[i], row[j] = row[j], row[i]
    partner[row[n - 1]] = -1
    for i in range(1, n, 2):
        partner[row[i - 1]], partner[row[i]] = row[i], row[i - 1]


@njit(nogil=True, cache=True)
@no_type_check
def new_peer(seed, n, now, i, s, chosen):  # noqa: ANN001, ANN201
    """Returns peer s of the k that node i draws in a round; only the first s + 1 are drawn, into a place for k.

    The a-th peer is the b-th of those that are left; to find it, it steps over the chosen ones in their order.
    """
    last = np.int64(0)
    for a in range(s + 1):
        address = uint64(now) * uint64(chosen.size) + uint64(a)
        last = rng.below(rng.block(seed, rng.GRAPH_ROUND, i, address)[0], n - 1 - a)
        place = 0
        while place < a and last >= chosen[place]:
            last, place = last + 1, place + 1
        for b in range(a, place, -1):
            chosen[b] = chosen[b - 1]
        chosen[place] = last
    return last + 1 if last >= i else last  # skips the node itself
