r"""Simple token accounts: P(a) = 1 if a >= C, else 0; R(a) = 1 if a > 0, else 0.

Notation: a tokens, C capacity.

Reference:
    G. Danner, M. Jelasity, "Token account algorithms: The best of the proactive and reactive worlds", ICDCS 2018.
"""

from dataclasses import dataclass
from typing import ClassVar, no_type_check

from numba import njit

from batchednodes.events.token_accounts.base import PROACTIVE, SIMPLE, Flow, TokenLaw
from batchednodes.numerics.values import count


@dataclass(frozen=True)
class Unlimited(Flow):
    """No accounts: every contact is made.

    Example:
        >>> from batchednodes.events.token_accounts import Simple, Unlimited
        >>> Unlimited().unlimited, Simple(capacity=10).unlimited
        (True, False)
    """

    unlimited: ClassVar[bool] = True

    def accounts(self) -> TokenLaw:
        return TokenLaw(PROACTIVE)


@dataclass(frozen=True)
class Simple(Flow):
    """A node sends at its own contacts once its account is full, and one message for each model that comes.

    Example:
        >>> from batchednodes.events.token_accounts.simple import Simple, sends_when_full
        >>> law = Simple(capacity=10).accounts()
        >>> [sends_when_full(tokens, law.capacity) for tokens in (9, 10)]  # that a contact is made
        [0.0, 1.0]
    """

    capacity: int = 10
    """Largest number of tokens C of an account; at least 0."""

    def __post_init__(self) -> None:
        count(self.capacity, 1, "capacity", low=0, high=10_000)

    def accounts(self) -> TokenLaw:
        return TokenLaw(SIMPLE, self.capacity)


@njit(nogil=True, cache=True)
@no_type_check
def sends_when_full(tokens, capacity):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the probability of sending at a contact."""
    return 1.0 if tokens >= capacity else 0.0
