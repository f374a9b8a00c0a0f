r"""Randomized token accounts: the more tokens, the likelier is a message.

P(a) = 0 if a < A - 1, (a - A + 1) / (C - A + 1) up to C, then 1; R(a) = a / A, rounded at random to a whole number of
the same mean, for news, and else 0.

Notation: a tokens, C capacity, A aggressiveness.

Reference:
    G. Danner, M. Jelasity, "Token account algorithms: The best of the proactive and reactive worlds", ICDCS 2018.
"""

import math
from dataclasses import dataclass
from typing import no_type_check

from numba import njit

from batchednodes.events.token_accounts.base import RANDOMIZED, Flow, TokenLaw, Usefulness
from batchednodes.events.token_accounts.generalized import check


@dataclass(frozen=True)
class Randomized(Flow):
    """Nodes send at their own contacts with a probability that grows with their tokens, and react to news only.

    Example:
        >>> from batchednodes.events.token_accounts.randomized import Randomized, sends_by_chance
        >>> law = Randomized(capacity=20, spend=10).accounts()
        >>> [round(sends_by_chance(tokens, law.capacity, law.spend), 2) for tokens in (9, 15, 20)]  # of sending
        [0.0, 0.55, 1.0]
    """

    capacity: int = 20
    """Largest number of tokens C of an account; at least `spend`."""

    spend: int = 10
    """Aggressiveness A: tokens for each message; at least 1."""

    usefulness: Usefulness = "age"
    """Which models are news: `age`, those at least as old in minibatch steps as one's own; `always`, all."""

    def __post_init__(self) -> None:
        check(self.capacity, self.spend)

    def accounts(self) -> TokenLaw:
        return TokenLaw(RANDOMIZED, self.capacity, self.spend, self.usefulness)


@njit(nogil=True, cache=True)
@no_type_check
def sends_by_chance(tokens, capacity, spend):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the probability of sending at a contact."""
    return min(1.0, max(0.0, (tokens - spend + 1) / (capacity - spend + 1)))


@njit(nogil=True, cache=True)
@no_type_check
def reacts_by_chance(tokens, spend, news, u):  # noqa: ANN001, ANN201
    """Returns the number of messages for a model that came, for a uniform number u of (0, 1)."""
    return math.floor(tokens / spend + u) if news else 0
