r"""Uniform gossip: every node contacts random peers at its own gossip capacity, whatever it holds.

Notation: n nodes, m contacts, k number of a contact among those of its node.

Reference:
    S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52(6), 2006.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, no_type_check

import numpy as np
from numba import njit, uint64

from batchednodes.events.gaps import Gaps, act, due, gaps_by, next_gap, waits
from batchednodes.events.schemes.base import ContactList, Scheme, SchemeState, SchemeWindow, gather
from batchednodes.events.update_times import pieces
from batchednodes.numerics import rng
from batchednodes.topology import peers


@dataclass(frozen=True)
class Uniform(Scheme):
    """Every node transmits all the time, each at its own capacity.

    Example:
        >>> from batchednodes.events.clocks import Exponential, Poisson
        >>> from batchednodes.events.schemes import Uniform
        >>> capacity, update = Poisson(2.0).gaps(10, 0, "gossip.clock"), Exponential(1.0).gaps(10, 0, "update.clock")
        >>> Uniform().expected(capacity, update)  # contacts of ten nodes in a second
        20.0
    """

    independent: ClassVar[bool] = True

    def begin_(self, window: SchemeWindow, state: SchemeState) -> None:
        _begin(window.first, window.last, window.seed, window.capacity.compiled(), state.next)

    def contacts_(self, window: SchemeWindow, state: SchemeState) -> ContactList:
        nodes, laws = (window.first, window.last), window.capacity.compiled()
        expected = (window.until - window.start) * float(window.rates().sum())
        if window.first not in window.contacts.choosers:
            return self._part(window, state, laws, nodes)
        # a clock ticks on where nobody is found, so draws are not as many as contacts
        speak = partial(
            _contacts, *nodes, window.first, window.seed, laws, None, window.until, state._replace(made=state.draws)
        )
        drawn = gather(expected, speak, np.uint64)
        peer = window.contacts.peers(drawn.time, drawn.actor, drawn.peer)
        found = peer >= 0
        node = drawn.actor[found] - np.int32(window.first)
        state.made[window.first : window.last] += np.bincount(node, minlength=window.last - window.first)
        return ContactList(drawn.time[found], drawn.actor[found], peer[found])

    def works_(self, window: SchemeWindow, state: SchemeState, threads: int) -> list[Callable[[], ContactList]]:
        expected = (window.until - window.start) * float(window.rates().sum()) if threads > 1 else 0.0
        cuts, laws = pieces(np.array([window.first, window.last]), expected, threads), window.capacity.compiled()
        return [partial(self._part, window, state, laws, nodes) for nodes in pairwise(cuts.tolist())]

    def _part(self, window: SchemeWindow, state: SchemeState, laws: Any, nodes: tuple[int, int]) -> ContactList:
        """Returns the contacts of some nodes of a network without choosers."""
        expected = (window.until - window.start) * float(window.capacity.part(slice(*nodes)).rate.sum())
        lists, until = window.contacts.lists(), window.until
        return gather(expected, partial(_contacts, *nodes, window.first, window.seed, laws, lists, until, state))

    def expected(self, capacity: Gaps, update: Gaps) -> float:
        return float(capacity.rate.sum())

    def peak(self, capacity: Gaps) -> float:
        return float(capacity.rate.max())

    def check(self, n: int, exchange: str) -> None:
        pass


@njit(nogil=True, cache=True)
@no_type_check
def _begin(first, last, seed, laws, following):  # noqa: ANN001, ANN202  (numba infers the types)
    for i in range(first, last):
        bits, _ = rng.block(seed, rng.GOSSIP, i - first, uint64(0))
        following[i] = next_gap(i, laws, bits)


@njit(nogil=True, cache=True)
@no_type_check
def _contacts(begin, end, first, seed, laws, contacts, until, state, place, out):  # noqa: ANN001, ANN202
    """Writes contacts of nodes begin, ..., end - 1 of a network.

    The k-th gap is from draw k, and the peer of the k-th contact from draw k + 1.

    Without contact lists, the random bits for the peer are written in its place.

    Some nodes at a time make one contact each, again and again, until none of them has another.
    """
    nodes, counts = np.empty(rng.TOGETHER, np.uint64), np.empty(rng.TOGETHER, np.uint64)
    high, low, wait = np.empty(rng.TOGETHER, np.uint64), np.empty(rng.TOGETHER, np.uint64), np.empty(rng.TOGETHER)
    time, actor, other, following, made = out.time, out.actor, out.peer, state.next, state.made
    m = 0
    for i in range(begin + place, end, rng.TOGETHER):
        size = due((i, min(end, i + rng.TOGETHER)), first, following, until, nodes)
        while size > 0:
            new = slice(m, min(time.size, m + size))
            for a in range(size):
                counts[a] = made[uint64(first) + nodes[a]] + 1
            rng.blocks(seed, rng.GOSSIP, nodes[:size], counts, high, low)
            waits(high[:size], wait)
            if laws[2].size > 0:
                gaps_by(nodes[:size], first, high, laws, wait)
            size = act(nodes[:size], first, wait, laws, following, made, until, time[new], actor[new])
            if contacts is None:
                other[new] = low[: new.stop - m]
            else:
                peers(actor[new], low, contacts, other[new])
            m = new.stop
            if m == time.size and size > 0:
                return m, i - begin
    return m, -1
