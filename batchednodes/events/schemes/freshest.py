r"""Opportunistic gossip among the freshest: only nodes that hold the newest update of the network transmit.

A node that completes an update holds it; whoever is told by a holder becomes one; the next update, of anyone, makes its
node the only holder. Holders contact peers as Poisson processes. These have no memory, so a node that becomes a holder
draws the time of its first contact then, and whatever it had drawn before is void.

Notation: n nodes, h holders, lambda gossip capacity of a node, mu updates per second of a node, m contacts.

References:
    P. Mitra, S. Ulukus, "Scale-Robust Timely Asynchronous Decentralized Learning", arXiv 2404.19749, 2024.
    P. Mitra, S. Ulukus, "Timely Opportunistic Gossiping in Dense Networks", arXiv 2301.00798, 2023.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import numpy as np
from jaxtyping import Float64
from numba import njit, uint64

from batchednodes.events.gaps import Gaps, gap
from batchednodes.events.schemes.base import ContactList, Scheme, SchemeState, SchemeWindow, gather, refuse_pull
from batchednodes.numerics import rng
from batchednodes.topology import peer


@dataclass(frozen=True)
class Freshest(Scheme):
    """Only nodes that hold the newest update of the network transmit, until anyone completes the next update.

    Example:
        >>> from batchednodes.events.clocks import Exponential, Poisson
        >>> from batchednodes.events.schemes import Freshest
        >>> capacity, update = Poisson(2.0).gaps(10, 0, "gossip.clock"), Exponential(1.0).gaps(10, 0, "update.clock")
        >>> round(Freshest().expected(capacity, update), 2)  # contacts of ten nodes in a second; `uniform` makes 20
        2.46
    """

    def begin_(self, window: SchemeWindow, state: SchemeState) -> None:
        pass

    def contacts_(self, window: SchemeWindow, state: SchemeState) -> ContactList:
        laws = (window.first, window.last, window.seed, window.waits())
        speak = partial(_contacts, laws, window.contacts.lists(), window.updates(), window.until, state)
        return gather(4.0 * window.updater.size, speak)

    def expected(self, capacity: Gaps, update: Gaps) -> float:
        """Returns the rate of contacts on the complete graph with equal nodes; in the mean others make no more."""
        n, updates = capacity.rate.size, float(update.rate.sum())
        mean = float(capacity.rate.mean())
        return mean * float(reach(n, n * mean / updates).sum()) if updates else 0.0

    def peak(self, capacity: Gaps) -> float:
        return float(capacity.rate.max())

    def check(self, n: int, exchange: str) -> None:
        refuse_pull("freshest", exchange)


def reach(n: int, ratio: float) -> Float64[np.ndarray, " n"]:
    r"""Returns the probability that at least 1, ..., n nodes of a complete graph hold an update before the next comes.

    With b(l) = lambda l (n - l) / (n - 1), at least m do with probability prod_{l < m} b(l) / (b(l) + n mu).

    Example:
        >>> from batchednodes.events.schemes.freshest import reach
        >>> reach(4, ratio=4.0).round(3).tolist()  # that 1, 2, 3, all 4 nodes hold an update before the next
        [1.0, 0.5, 0.286, 0.143]

    Args:
        n: number of nodes; n >= 1.
        ratio: lambda / mu, gossip capacity over update rate of a node; dimensionless, non-negative.
    """
    m = np.arange(1.0, n)
    birth = ratio * m * (n - m) / max(n - 1, 1)
    return np.cumprod(np.append(1.0, birth / (birth + n)))


@njit(nogil=True, cache=True)
@no_type_check
def _contacts(laws, contacts, updates, until, state, place, out):  # noqa: ANN001, ANN202  (numba infers the types)
    """Writes contacts in time order, update by update; between two updates holders wait in a heap."""
    (first, last, _, _), (update_time, updater), following = laws, updates, state.next
    heap, waiting, m = np.empty(last - first + 1, np.int64), 0, 0
    for i in range(first, last):
        if following[i] < math.inf:
            waiting = _push(heap, waiting, i, following)
    while True:
        ends = place == updater.size
        end = until if ends else update_time[place]
        while waiting and (following[heap[0]] < end or (ends and following[heap[0]] == end)):
            if m == out.time.size:
                return m, place
            i = heap[0]
            t, low = following[i], _wait(i, following[i], laws, state)
            j = peer(i, low, contacts)
            out.time[m], out.actor[m], out.peer[m] = t, i, j
            state.made[i] += 1
            m += 1
            _sink(heap, waiting, following)
            if following[j] == math.inf:
                _wait(j, t, laws, state)
                waiting = _push(heap, waiting, j, following)
        if ends:
            return m, -1
        for k in range(waiting):
            following[heap[k]] = math.inf
        _wait(updater[place], update_time[place], laws, state)
        waiting = _push(heap, 0, updater[place], following)
        place += 1


@njit(nogil=True, cache=True)
@no_type_check
def _wait(i, now, laws, state):  # noqa: ANN001, ANN202
    """Draws the next contact of node i, from now; returns the bits for the peer of the contact that is now."""
    first, _, seed, scale = laws
    high, low = rng.block(seed, rng.GOSSIP, i - first, uint64(state.draws[i]))
    state.draws[i] += 1
    state.next[i] = now + gap(0.0, scale[i], high)
    return low


@njit(nogil=True, cache=True)
@no_type_check
def _earlier(i, j, following):  # noqa: ANN001, ANN202
    return following[i] < following[j] or (following[i] == following[j] and i < j)


@njit(nogil=True, cache=True)
@no_type_check
def _push(heap, waiting, i, following):  # noqa: ANN001, ANN202
    """Adds node i to the heap, if it ever speaks; returns the new size."""
    if following[i] == math.inf:
        return waiting
    k = waiting
    while k > 0 and _earlier(i, heap[(k - 1) // 2], following):
        heap[k] = heap[(k - 1) // 2]
        k = (k - 1) // 2
    heap[k] = i
    return waiting + 1


@njit(nogil=True, cache=True)
@no_type_check
def _sink(heap, waiting, following):  # noqa: ANN001, ANN202
    """Brings the first node of the heap to its place after its time has grown."""
    i, k = heap[0], 0
    while 2 * k + 1 < waiting:
        child = 2 * k + 1
        if child + 1 < waiting and _earlier(heap[child + 1], heap[child], following):
            child += 1
        if not _earlier(heap[child], i, following):
            break
        heap[k] = heap[child]
        k = child
    heap[k] = i
