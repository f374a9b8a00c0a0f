r"""Fixed duration: a node transmits for a fixed time after its own update, and needs to know of nobody else.

Contacts are a Poisson process while the node speaks. It has no memory, so each update of the node draws the time of
its next contact anew.

Notation: n nodes, d duration, m contacts.

References:
    P. Mitra, S. Ulukus, "Timely Opportunistic Gossiping in Dense Networks", arXiv 2301.00798, 2023: its fully
    distributed scheme.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import no_type_check

import numpy as np
from numba import njit, uint64

from batchednodes.events.gaps import Gaps, gap
from batchednodes.events.schemes.base import ContactList, Scheme, SchemeState, SchemeWindow, gather, refuse_pull
from batchednodes.numerics import rng
from batchednodes.numerics.values import number
from batchednodes.topology import peer


@dataclass(frozen=True)
class FixedDuration(Scheme):
    """A node transmits for a fixed time after its own update.

    Example:
        >>> from batchednodes.events.clocks import Exponential, Poisson
        >>> from batchednodes.events.schemes import FixedDuration
        >>> capacity, update = Poisson(2.0).gaps(10, 0, "gossip.clock"), Exponential(1.0).gaps(10, 0, "update.clock")
        >>> [round(FixedDuration(d).expected(capacity, update), 2) for d in ("1/n", 1.0, 100.0)]  # contacts in a second
        [1.9, 12.64, 20.0]
    """

    duration: float | str = "1/n"
    """How long [s]; positive and finite; a number or an expression in n."""

    def begin_(self, window: SchemeWindow, state: SchemeState) -> None:
        pass

    def contacts_(self, window: SchemeWindow, state: SchemeState) -> ContactList:
        d = self._duration(window.last - window.first)
        laws = (window.first, window.last, window.seed, window.waits(), d)
        speak = partial(_contacts, laws, window.contacts.lists(), window.updates(), window.until, state)
        return gather((window.updater.size + window.last - window.first) * d * float(window.rates().mean()), speak)

    def expected(self, capacity: Gaps, update: Gaps) -> float:
        """Returns the rate of contacts; between two updates a node speaks for E[min(gap, d)] in the mean."""
        never = ~np.isfinite(update.shift)
        shift, scale = np.where(never, 0.0, update.shift), np.where(update.scale > 0, update.scale, 1.0)
        d = self._duration(capacity.rate.size)
        spoken = np.minimum(d, shift) + update.scale * -np.expm1(-np.maximum(0.0, d - shift) / scale)
        return float((capacity.rate * np.where(never, 0.0, spoken * update.rate)).sum())

    def peak(self, capacity: Gaps) -> float:
        return float(capacity.rate.max())

    def check(self, n: int, exchange: str) -> None:
        refuse_pull("fixed_duration", exchange)
        self._duration(n)

    def _duration(self, n: int) -> float:
        return number(self.duration, n, "gossip.scheme.duration", open_low=True, unit="s")


@njit(nogil=True, cache=True)
@no_type_check
def _contacts(laws, contacts, updates, until, state, place, out):  # noqa: ANN001, ANN202  (numba infers the types)
    """Writes, for each update in time order, its node's contacts before it; then each node's up to the end."""
    m, (update_time, updater), first, last = 0, updates, laws[0], laws[1]
    for step in range(place, updater.size + last - first):
        ends = step >= updater.size
        i, end = (first + step - updater.size, until) if ends else (updater[step], update_time[step])
        while state.next[i] < end or (ends and state.next[i] == end):
            if m == out.time.size:
                return m, step
            t, low = state.next[i], _wait(i, state.next[i], laws, state)
            out.time[m], out.actor[m], out.peer[m] = t, i, peer(i, low, contacts)
            state.made[i] += 1
            m += 1
        if not ends:
            state.stamp[i] = end
            _wait(i, end, laws, state)
    return m, -1


@njit(nogil=True, cache=True)
@no_type_check
def _wait(i, now, laws, state):  # noqa: ANN001, ANN202
    """Draws the next contact of node i, from now, if it comes in time; returns the bits for a peer of a contact now."""
    first, _, seed, scale, d = laws
    high, low = rng.block(seed, rng.GOSSIP, i - first, uint64(state.draws[i]))
    state.draws[i] += 1
    t = now + gap(0.0, scale[i], high)
    state.next[i] = t if t <= state.stamp[i] + d else math.inf
    return low
