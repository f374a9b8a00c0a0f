r"""Generalized token accounts: several messages at once for those that have saved.

P(a) = 1 if a >= C, else 0; R(a) = floor((A - 1 + a) / A), or floor((A - 1 + a) / (2 A)) for what is no news.

Notation: a tokens, C capacity, A aggressiveness.

Reference:
    G. Danner, M. Jelasity, "Token account algorithms: The best of the proactive and reactive worlds", ICDCS 2018.
"""

from dataclasses import dataclass
from typing import no_type_check

from numba import njit

from batchednodes.events.token_accounts.base import GENERALIZED, Flow, TokenLaw, Usefulness
from batchednodes.numerics.values import count


@dataclass(frozen=True)
class Generalized(Flow):
    """The more tokens a node has, the more messages it sends for each model that comes.

    Example:
        >>> from batchednodes.events.token_accounts.generalized import Generalized, reacts_by_steps
        >>> law = Generalized(capacity=20, spend=10).accounts()
        >>> [reacts_by_steps(tokens, law.spend, True) for tokens in (0, 1, 11)]  # messages for a model with news
        [0, 1, 2]
    """

    capacity: int = 20
    """Largest number of tokens C of an account; at least `spend`."""

    spend: int = 10
    """Aggressiveness A: tokens for each further message; at least 1; 1: all tokens at once."""

    usefulness: Usefulness = "age"
    """Which models are news: `age`, those at least as old in minibatch steps as one's own; `always`, all."""

    def __post_init__(self) -> None:
        check(self.capacity, self.spend)

    def accounts(self) -> TokenLaw:
        return TokenLaw(GENERALIZED, self.capacity, self.spend, self.usefulness)


def check(capacity: int, spend: int) -> None:
    """Raises ValueError unless 1 <= spend <= capacity <= 10,000."""
    count(spend, 1, "spend", high=10_000)
    count(capacity, 1, "capacity", low=0, high=10_000)
    if capacity < spend:
        raise ValueError(f"capacity must be at least spend = {spend}, got {capacity}")


@njit(nogil=True, cache=True)
@no_type_check
def reacts_by_steps(tokens, spend, news):  # noqa: ANN001, ANN201  (numba infers the types)
    """Returns the number of messages for a model that came."""
    return (spend - 1 + tokens) // (spend if news else 2 * spend)
