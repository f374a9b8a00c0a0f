r"""Token accounts: a node saves what it may send, and spends it when it has heard news.

At each of its contacts a node sends with probability P(a), at no cost, and else saves a token, a <- a + 1. When a model
comes and asks for no reply, it sends R(a) more messages at once and pays for them, a <- a - R(a).

Notation: n nodes, a tokens of a node, C capacity of an account, A aggressiveness, u whether the model that came is
news.

Reference:
    G. Danner, M. Jelasity, "Token account algorithms: The best of the proactive and reactive worlds", ICDCS 2018.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from batchednodes.numerics.functions import address, called
from batchednodes.numerics.values import count

PROACTIVE, SIMPLE, GENERALIZED, RANDOMIZED, OWN = range(5)
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
    sends: int = 0
    """Address of P; 0: the law is built in."""
    reacts: int = 0
    """Address of R."""
    a: float = 0.0
    """First parameter of both."""
    b: float = 0.0
    """Second parameter."""

    @classmethod
    def by(
        cls,
        sends: Callable[[float, float, float], float],
        reacts: Callable[[float, float, float, float], float],
        capacity: int,
        a: float = 0.0,
        b: float = 0.0,
        usefulness: Usefulness = "always",
    ) -> "TokenLaw":
        """Returns a law of any form.

        Args:
            sends: probability sends(tokens, a, b) of sending at a contact while the account is not full; a node whose
                account is full sends; plain Python that numba can compile.
            reacts: mean number of messages reacts(tokens, news, a, b) for a model that came, news being 1.0 or 0.0; it
                is rounded at random to a whole number of the same mean, at most all tokens.
            capacity: largest number of tokens of an account; at least 0.
            a: first parameter.
            b: second parameter.
            usefulness: which models are news.

        Raises:
            ValueError: the capacity is out of range, numba cannot compile a function, or it returns what cannot be.
        """
        count(capacity, 1, "gossip.flow: capacity", low=0, high=10_000)
        try:
            found = address(sends, "tokens", "a", "b"), address(reacts, "tokens", "news", "a", "b")
        except ValueError as error:
            raise ValueError(f"gossip.flow: sends and reacts {error}") from None
        law = cls(OWN, capacity, 1, usefulness, *found, float(a), float(b))
        for tokens in range(capacity + 1):
            law._check(tokens)
        return law

    def _check(self, tokens: int) -> None:
        """Raises ValueError where an account of some tokens would do what cannot be done."""
        chance = called(self.sends, float(tokens), self.a, self.b)
        if tokens < self.capacity and not 0 <= chance <= 1:
            raise ValueError(
                f"gossip.flow: sends must return a probability in [0, 1], got {chance:g} for {tokens} tokens"
            )
        for news in (0, 1):
            mean = called(self.reacts, float(tokens), float(news), self.a, self.b)
            if not 0 <= mean < math.inf:
                got = f"{mean:g} for {tokens} tokens and news {news}"
                raise ValueError(f"gossip.flow: reacts must return a number of messages, at least 0, got {got}")


class Flow(ABC):
    """A rule for when a node sends besides its own contacts, and when it saves these."""

    unlimited: ClassVar[bool] = False
    """Whether nodes send at each contact of their own, and never besides."""

    @abstractmethod
    def accounts(self) -> TokenLaw:
        """Returns the law."""
