r"""Flow control by token accounts; one law, one file.

Notation: a tokens, C capacity, A aggressiveness.
"""

from typing import no_type_check

from numba import njit

from batchednodes.events.token_accounts.base import GENERALIZED, PROACTIVE, RANDOMIZED, SIMPLE, Flow, TokenLaw
from batchednodes.events.token_accounts.generalized import Generalized, reacts_by_steps
from batchednodes.events.token_accounts.randomized import Randomized, reacts_by_chance, sends_by_chance
from batchednodes.events.token_accounts.simple import Simple, Unlimited, sends_when_full

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
def proactive(law, tokens, capacity, spend):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the probability of sending at a contact."""
    if law == PROACTIVE:
        return 1.0
    return sends_by_chance(tokens, capacity, spend) if law == RANDOMIZED else sends_when_full(tokens, capacity)


@njit(nogil=True, cache=True)
@no_type_check
def reactive(law, tokens, spend, news, u):  # noqa: ANN001, ANN201
    """Returns the number of messages to send for a model that came; at most all tokens."""
    if law == GENERALIZED:
        return min(tokens, reacts_by_steps(tokens, spend, news))
    if law == RANDOMIZED:
        return min(tokens, reacts_by_chance(tokens, spend, news, u))
    return 1 if law == SIMPLE and tokens > 0 else 0
