r"""Token accounts: a node saves what it may send, and spends it when it has heard news.

At each of its contacts a node sends with probability P(a), at no cost, and else saves a token, a <- a + 1. When a model
comes and asks for no reply, it sends R(a) more messages at once and pays for them, a <- a - R(a).

Notation: n nodes, a tokens of a node, C capacity of an account, A aggressiveness, u whether the model that came is
news.

Reference:
    G. Danner, M. Jelasity, "Token account algorithms: The best of the proactive and reactive worlds", ICDCS 2018.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

PROACTIVE, SIMPLE, GENERALIZED, RANDOMIZED = range(4)
"""Laws, as the compiled loop knows them."""

Usefulness = Literal["age", "always"]


@dataclass(frozen=True)
class TokenLaw:
    """The law of the accounts of a network."""

    law: int
    """One of the laws above."""
    capacity: int = 0
    """C, tokens."""
    spend: int = 1
    """A, tokens for a message that is worth reacting to."""
    usefulness: Usefulness = "always"
    """Which models are news: of all, or those that are at least as old, in steps, as the receiver's own."""


class Flow(ABC):
    """A rule for when a node sends besides its own contacts, and when it saves these."""

    unlimited: ClassVar[bool] = False
    """Whether nodes send at each contact of their own, and never besides."""

    @abstractmethod
    def accounts(self) -> TokenLaw:
        """Returns the law."""
