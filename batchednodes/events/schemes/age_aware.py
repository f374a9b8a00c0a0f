r"""Age-aware gossip in the manner of ASUMAN: who is old keeps silent, and the young share the capacity of all.

A node's age is the time since the newest update of the network that its model contains (since t = 0 before any). At
each update of anyone, at time s, all nodes fall silent, and node i waits for c times its age, until s + c a_i. Those
that have waited share the capacity of the whole network in equal parts until the next update: contacts are a Poisson
process of rate B, the sum of all gossip capacities, and each is made by a random one of them. Being told of a newer
update makes a node younger, and may end its wait. So the updater begins alone; a large c leaves the whole capacity to
holders of the newest update, and c = 0 gives each node an equal part.

ASUMAN has one source outside of the network and silences the others by a signal; here every node is a source, the
updater is always the youngest, and the wait alone keeps the older silent.

Notation: n nodes, a awake nodes, B capacity of the network, c wait, m contacts.

References:
    P. Mitra, S. Ulukus, "ASUMAN: Age Sense Updating Multiple Access in Networks", arXiv 2207.07094, 2022.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import numpy as np
from numba import njit, uint64

from batchednodes.events.gaps import Gaps
from batchednodes.events.schemes.base import ContactList, Scheme, SchemeState, SchemeWindow, gather, refuse_pull
from batchednodes.numerics import rng
from batchednodes.numerics.logarithm import log
from batchednodes.numerics.values import number
from batchednodes.topology import peer


@dataclass(frozen=True)
class AgeAware(Scheme):
    """After each update nodes wait in proportion to their age; those that have waited share the network's capacity.

    Example:
        >>> from batchednodes.events.clocks import Exponential, Poisson
        >>> from batchednodes.events.schemes import AgeAware
        >>> capacity, update = Poisson(2.0).gaps(10, 0, "gossip.clock"), Exponential(1.0).gaps(10, 0, "update.clock")
        >>> AgeAware(wait="n").peak(capacity)  # a node that speaks alone has the capacity of all ten
        20.0
    """

    wait: float | str = "n"
    """Silence per age c [dimensionless]; non-negative and finite; a number or an expression in n; 0: nobody waits."""

    def begin_(self, window: SchemeWindow, state: SchemeState) -> None:
        state.order[window.first : window.last] = np.arange(window.first, window.last)
        bits, _ = rng.block(window.seed, rng.SHARED, 0, 0)
        state.next[window.first] = -log(rng.unit(np.uint64(bits))) * self._mean_gap(window)

    def contacts_(self, window: SchemeWindow, state: SchemeState) -> ContactList:
        wait = self._wait(window.last - window.first)
        laws = (window.first, window.last, window.seed, self._mean_gap(window), wait, window.meet)
        speak = partial(_contacts, laws, window.contacts.lists(), window.updates(), window.until, state)
        return gather((window.until - window.start) * float(window.rates().sum()), speak)

    def expected(self, capacity: Gaps, update: Gaps) -> float:
        return float(capacity.rate.sum()) if update.rate.any() else 0.0

    def peak(self, capacity: Gaps) -> float:
        """Returns the capacity of the network, that of an updater alone; of its equal part if nobody ever waits."""
        n, total = capacity.rate.size, float(capacity.rate.sum())
        return total if self._wait(n) > 0 else total / n

    def check(self, n: int, exchange: str) -> None:
        refuse_pull("age_aware", exchange)
        self._wait(n)

    def _wait(self, n: int) -> float:
        return number(self.wait, n, "gossip.scheme.wait")

    @staticmethod
    def _mean_gap(window: SchemeWindow) -> float:
        total = float(window.rates().sum())
        return 1.0 / total if total else math.inf


@njit(nogil=True, cache=True)
@no_type_check
def _contacts(laws, contacts, updates, until, state, place, out):  # noqa: ANN001, ANN202  (numba infers the types)
    """Writes contacts in time order. The nodes lie in a list, the youngest first; those awake are the first of it."""
    (first, last, seed, mean_gap, wait, meet), (update_time, updater) = laws, updates
    stamp, awake, (after, before) = state.stamp, state.awake, _link(state.order, first, last)
    m, a, asleep, now = 0, 0, after[last - first], stamp[after[last - first]]
    while a < last - first and awake[first + a] >= 0:
        a, asleep = a + 1, after[asleep - first]
    while True:
        t = state.next[first]
        if place < updater.size and update_time[place] <= t:
            now, k = update_time[place], updater[place]
            stamp[k] = now
            _move(k, last, after, before, first)
            awake[first : first + a] = -1
            awake[first], a, asleep = k, 1, after[k - first]
            place += 1
            continue
        if t > until or m == out.time.size:
            _store(state.order, after, first, last)
            return m, place if t <= until else -1
        state.draws[first] += 1
        high, low = rng.block(seed, rng.SHARED, 0, uint64(state.draws[first]))
        state.next[first] = t - log(rng.unit(high)) * mean_gap
        while a > 0 and asleep != last and t >= now + wait * (now - stamp[asleep]):
            awake[first + a], a, asleep = asleep, a + 1, after[asleep - first]
        if a == 0:
            continue
        i, (bits, _) = awake[first + rng.below(low, a)], rng.block(seed, rng.SHARED, 1, uint64(state.draws[first]))
        j = peer(i, bits, contacts)
        if j < 0:
            continue
        out.time[m], out.actor[m], out.peer[m] = t, i, j
        state.made[i] += 1
        m += 1
        young, old = (i, j) if stamp[i] > stamp[j] else (j, i)
        if stamp[young] > stamp[old] and (meet or young == i):
            if t < now + wait * (now - stamp[old]):
                asleep = after[old - first] if asleep == old else asleep
                awake[first + a], a = old, a + 1
            stamp[old] = stamp[young]
            _move(old, young, after, before, first)


@njit(nogil=True, cache=True)
@no_type_check
def _link(order, first, last):  # noqa: ANN001, ANN202
    """Returns the next and the previous node of each in a closed list, in which `last` is both ends."""
    after, before = np.empty(last - first + 1, np.int64), np.empty(last - first + 1, np.int64)
    i = last
    for k in range(first, last):
        after[i - first], before[order[k] - first] = order[k], i
        i = order[k]
    after[i - first], before[last - first] = last, i
    return after, before


@njit(nogil=True, cache=True)
@no_type_check
def _store(order, after, first, last):  # noqa: ANN001, ANN202
    i = last
    for k in range(first, last):
        i = after[i - first]
        order[k] = i


@njit(nogil=True, cache=True)
@no_type_check
def _move(k, i, after, before, first):  # noqa: ANN001, ANN202
    """Takes node k out of the list and puts it in after i."""
    after[before[k - first] - first], before[after[k - first] - first] = after[k - first], before[k - first]
    j = after[i - first]
    after[i - first], before[k - first], after[k - first], before[j - first] = k, i, j, k
