r"""Flow control by token accounts; one law, one file.

Notation: a tokens, C capacity, A aggressiveness.
"""

import math
from typing import no_type_check

from numba import njit

from batchednodes.events.token_accounts.base import GENERALIZED, OWN, PROACTIVE, RANDOMIZED, SIMPLE, Flow, TokenLaw
from batchednodes.events.token_accounts.generalized import Generalized, reacts_by_steps
from batchednodes.events.token_accounts.randomized import Randomized, reacts_by_chance, sends_by_chance
from batchednodes.events.token_accounts.simple import Simple, Unlimited, sends_when_full
from batchednodes.numerics.functions import of_four, of_three

__all__ = [
    "PROACTIVE",
    "Flow",
    "Generalized",
    "Randomized",
    "Simple",
    "TokenLaw",
    "Unlimited",
    "proactive",
    "reactive",
]


@njit(nogil=True, cache=True)
@no_type_check
def proactive(node, tokens):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the probability of sending at a contact; node: its laws, see `records.LAW`."""
    if node.flow == PROACTIVE:
        return 1.0
    if node.flow == OWN:
        return 1.0 if tokens >= node.capacity else of_three(node.sends, float(tokens), node.flow_a, node.flow_b)
    if node.flow == RANDOMIZED:
        return sends_by_chance(tokens, node.capacity, node.spend)
    return sends_when_full(tokens, node.capacity)


@njit(nogil=True, cache=True)
@no_type_check
def reactive(node, tokens, news, u):  # noqa: ANN001, ANN201
    """Returns the number of messages to send for a model that came; at most all tokens."""
    if node.flow == OWN:
        mean = of_four(node.reacts, float(tokens), 1.0 if news else 0.0, node.flow_a, node.flow_b)
        return min(tokens, math.floor(min(mean, float(tokens)) + u))
    if node.flow == GENERALIZED:
        return min(tokens, reacts_by_steps(tokens, node.spend, news))
    if node.flow == RANDOMIZED:
        return min(tokens, reacts_by_chance(tokens, node.spend, news, u))
    return 1 if node.flow == SIMPLE and tokens > 0 else 0
