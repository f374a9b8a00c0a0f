r"""Passage: when messages arrive, in compiled code.

Notation: i sender, j receiver, h message, k number of a message among those of its sender, s what is in flight.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit

from batchednodes.events.links import delay
from batchednodes.events.links.traces import on_link
from batchednodes.events.messages.in_flight import last, leave
from batchednodes.events.messages.records import bits, chain
from batchednodes.numerics import rng
from batchednodes.numerics.functions import of_three
from batchednodes.numerics.logarithm import log

LAST = np.int64(1 << 62)
"""Added to the turn of replies."""


@njit(nogil=True, cache=True)
@no_type_check
def transferred(i, j, now, laws, s):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns how long it takes until node i has sent a model to j, after all that it has sent before [s]."""
    if laws.nodes[i].transfer == 0.0:
        return 0.0
    high, low = bits(i, rng.LINK, laws.nodes[j].index, laws)
    time = laws.nodes[i].transfer * math.exp(-laws.nodes[i].spread * delay.normal(high, low))
    s.nodes[i].busy = max(now, s.nodes[i].busy) + time
    return s.nodes[i].busy - now


@njit(nogil=True, cache=True, forceinline=True)
@no_type_check
def arrival(i, j, k, wait, now, laws):  # noqa: ANN001, ANN201
    """Returns when message k of node i, to j, which its link has sent after some wait [s], arrives [s]."""
    high, low = bits(i, rng.DELAY, k, laws)
    law, a, b, g = laws.nodes[i].delay, laws.nodes[i].delay_a, laws.nodes[i].delay_b, laws.nodes[i].network
    late = wait
    if law == delay.CONSTANT:
        late += a
    elif law == delay.UNIFORM:
        if laws.rounds:
            a, b = math.ceil(a), math.floor(b) + 1.0
        late += a + rng.unit(high) * (b - a)
    elif law == delay.EXPONENTIAL:
        late -= a * log(rng.unit(high))
    elif law == delay.LOGNORMAL:
        late += a * math.exp(b * delay.normal(high, low))
    elif law == delay.TRACE:
        late += laws.trace[laws.traces[g] + rng.below(high, laws.traces[g + 1] - laws.traces[g])]
    elif law == delay.OWN:
        late += of_three(laws.nodes[i].delay_by, rng.unit(high), a, b)
    elif law == delay.LINKS or law == delay.TIMED:
        late += on_link(i, j, now, high, law == delay.TIMED, laws.begun, laws.links)
    return now + (math.floor(late) if laws.rounds else late)


@njit(nogil=True, cache=True)
@no_type_check
def queue(h, s):  # noqa: ANN001, ANN201
    """Lets a new message arrive after the one before from its sender to its receiver, if that is still under way."""
    g = last(h, s)
    if g >= 0:
        leave(g, s)
        if s.messages[g].arrive >= s.messages[h].arrive:
            s.messages[h].arrive = s.messages[g].arrive
            if s.messages[g].order >= LAST > s.messages[h].order:
                s.messages[h].order += LAST
    k = chain(h, s.messages)
    s.messages[h].next, s.messages[k].chain = s.messages[k].chain, h
