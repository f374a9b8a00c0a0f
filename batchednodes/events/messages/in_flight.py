r"""Store: snapshots of models, the slots where they lie, and the messages that are under way; in compiled code.

Notation: i a node, h a message, s what is in flight.
"""

from typing import no_type_check

from numba import njit

from batchednodes.events.messages.records import FIRST, HEAP, LAST, MESSAGES, MODELS, MOST, SLOTS, SNAPSHOTS, chain


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def snapshot(i, s):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the snapshot of the row of node i as it is now, with one more reader."""
    at = s.nodes[i].current
    if at < 0:
        s.head[SNAPSHOTS] -= 1
        at = s.messages[s.head[SNAPSHOTS]].spare
        s.messages[at].place, s.messages[at].readers, s.nodes[i].current = i, 0, at
    s.messages[at].readers += 1
    s.head[MODELS] += 1
    s.head[MOST] = max(s.head[MOST], s.head[MODELS])
    return at


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def forget(at, g, laws, s):  # noqa: ANN001, ANN201
    """Takes a reader off a snapshot of network g; what nobody reads any more leaves its place."""
    s.messages[at].readers -= 1
    s.head[MODELS] -= 1
    if s.messages[at].readers:
        return
    if s.messages[at].place < laws.n:
        s.nodes[s.messages[at].place].current = -1
    else:
        give(g, s.messages[at].place - laws.n, s)
    s.messages[s.head[SNAPSHOTS]].spare = at
    s.head[SNAPSHOTS] += 1


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def take(g, s):  # noqa: ANN001, ANN201
    """Returns a free slot of network g, a new one if there is none.

    Networks share no slot, so that the messages of each may be merged without a look at the others.
    """
    slot = s.pools[g, FIRST]
    if slot < 0:
        s.head[SLOTS] += 1
        return s.head[SLOTS] - 1
    s.pools[g, FIRST] = s.link[slot]
    if s.link[slot] < 0:
        s.pools[g, LAST] = -1
    return slot


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def give(g, slot, s):  # noqa: ANN001, ANN201
    """Lets a slot of network g be free; it will be used after all that are free now."""
    last = s.pools[g, LAST]
    s.link[slot], s.pools[g, LAST] = -1, slot
    if last < 0:
        s.pools[g, FIRST] = slot
    else:
        s.link[last] = slot


@njit(nogil=True, cache=True)
@no_type_check
def last(h, s):  # noqa: ANN001, ANN201
    """Returns the last message under way from the sender of message h to its receiver; -1: none."""
    g = s.messages[chain(h, s.messages)].chain
    while g >= 0 and (s.messages[g].sender != s.messages[h].sender or s.messages[g].receiver != s.messages[h].receiver):
        g = s.messages[g].next
    return g


@njit(nogil=True, cache=True)
@no_type_check
def leave(h, s):  # noqa: ANN001, ANN201
    """Takes message h out of the table of the last messages of links, if it is there."""
    k, before = chain(h, s.messages), -1
    g = s.messages[k].chain
    while g >= 0 and g != h:
        before, g = g, s.messages[g].next
    if g < 0:
        return
    if before < 0:
        s.messages[k].chain = s.messages[h].next
    else:
        s.messages[before].next = s.messages[h].next


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def drop(h, laws, s):  # noqa: ANN001, ANN201
    """Lets a message be free."""
    if laws.nodes[s.messages[h].sender].fifo:
        leave(h, s)
    s.messages[s.head[MESSAGES]].free = h
    s.head[MESSAGES] += 1


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def _sooner(g, h, s):  # noqa: ANN001, ANN202
    return s.messages[g].arrive < s.messages[h].arrive or (
        s.messages[g].arrive == s.messages[h].arrive and s.messages[g].order < s.messages[h].order
    )


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def push(h, s):  # noqa: ANN001, ANN201
    """Adds a message to the heap."""
    k = s.head[HEAP]
    s.head[HEAP] = k + 1
    while k > 0 and _sooner(h, s.messages[(k - 1) // 2].heap, s):
        s.messages[k].heap = s.messages[(k - 1) // 2].heap
        k = (k - 1) // 2
    s.messages[k].heap = h


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def popped(s):  # noqa: ANN001, ANN201
    """Takes the next message to arrive off the heap."""
    found, size, k = s.messages[0].heap, s.head[HEAP] - 1, 0
    h = s.messages[size].heap
    s.head[HEAP] = size
    while 2 * k + 1 < size:
        child = 2 * k + 1
        if child + 1 < size and _sooner(s.messages[child + 1].heap, s.messages[child].heap, s):
            child += 1
        if not _sooner(s.messages[child].heap, h, s):
            break
        s.messages[k].heap = s.messages[child].heap
        k = child
    if size > 0:
        s.messages[k].heap = h
    return found
