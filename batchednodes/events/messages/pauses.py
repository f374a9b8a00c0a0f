r"""Updates of nodes that pause while they are off, or are not there for all of the time.

A gap of the update clock is time at work. A node begins to work when it joins the network, ends when it leaves, and,
where updates pause, works while it is on.

Notation: n nodes, k number of an update among those of its node's clock.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.events.availability import change_after
from batchednodes.events.gaps import next_gap
from batchednodes.events.messages.records import bits
from batchednodes.numerics import rng


@njit(nogil=True, cache=True)
@no_type_check
def begin(gaps, pauses, laws, s):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns when each node's first update comes [s]."""
    following = np.empty(laws.n)
    for i in range(laws.n):
        high, _ = bits(i, rng.UPDATE, 0, laws)
        following[i] = _through(i, laws.nodes[i].join, next_gap(i, gaps, high), pauses, laws, s)
    return following


@njit(nogil=True, cache=True)
@no_type_check
def emit(gaps, until, pauses, laws, s, following, time, actor):  # noqa: ANN001, ANN201
    """Writes the updates of all nodes up to `until`; returns their number, or more than fit."""
    m = 0
    for i in range(laws.n):
        while following[i] <= until:
            if m == time.size:
                return m + 1
            time[m], actor[m] = following[i], i
            m += 1
            s.nodes[i].ticks += 1
            high, _ = bits(i, rng.UPDATE, s.nodes[i].ticks, laws)
            following[i] = _through(i, following[i], next_gap(i, gaps, high), pauses, laws, s)
    return m


@njit(nogil=True, cache=True)
@no_type_check
def _through(i, now, work, pauses, laws, s):  # noqa: ANN001, ANN202
    """Returns when node i has worked for some time [s] from now on; inf: never."""
    while pauses and work < np.inf:
        off = s.nodes[i].worked & 1 == 1
        if not off and now + work < s.nodes[i].work:
            break
        if s.nodes[i].work == np.inf:
            return np.inf
        if not off:
            work -= max(0.0, s.nodes[i].work - now)
        now = max(now, s.nodes[i].work)
        s.nodes[i].worked += 1
        s.nodes[i].work = change_after(i, s.nodes[i].worked, s.nodes[i].work, laws)
    return now + work if now + work < laws.nodes[i].leave else np.inf
