r"""What a merge rule says.

Ages are model-wide counts of minibatch steps: a merge takes the larger of the two, and local SGD adds its steps.

Notation: n nodes, a own age, b age of the model received.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64
from numba import njit

from batchednodes.numerics.functions import address, each, of_four


@dataclass(frozen=True)
class MergeLaw:
    """How a node weighs the models that it receives."""

    rule: Callable[[float, float, float, float], float] | None
    """Weight rule(own age, other age, a, b) of the model received, in [0, 1], one for all nodes of a network; plain
    Python that numba can compile, or `@njit`; None: the weight is a."""
    a: Float64[np.ndarray, " n"]
    """First parameter, of the node that made the message; that of the receiver where it answers."""
    b: Float64[np.ndarray, " n"]
    """Second parameter."""
    parts: int = 1
    """Parts of a model, of which a message brings one."""
    share: float = 1.0
    """Part of the entries of a model that a merge changes, drawn anew for each."""
    divides: bool = False
    """Whether the step size of local SGD is divided by the age of the part of the model."""

    @property
    def where(self) -> int:
        """Address of the compiled rule; 0: the weight is a.

        Raises:
            ValueError: numba cannot compile the rule, or it returns what is no weight.
        """
        if self.rule is None:
            return 0
        try:
            where = address(self.rule, "own age", "other age", "a", "b")
        except ValueError as error:
            raise ValueError(f"gossip.merge: rule {error}") from None
        weight, own, other = _odd(where, _AGES, *each(self.a.size, self.a, self.b))
        if own >= 0:
            got = f"{weight:g} for ages {own:g} and {other:g}"
            raise ValueError(f"gossip.merge: rule must return weights in [0, 1], got {got}")
        return where


_AGES = np.array([0.0, 1.0, 10.0, 1e6])
"""Ages at which a rule is tried."""


@njit(nogil=True, cache=True)
@no_type_check
def _odd(where, ages, a, b):  # noqa: ANN001, ANN202  (numba infers the types)
    """Returns what a rule says that is no weight, and for which ages; else ages below 0."""
    for i in range(a.size):
        for own in ages:
            for other in ages:
                weight = of_four(where, own, other, a[i], b[i])
                if not 0.0 <= weight <= 1.0:
                    return weight, own, other
    return 0.0, -1.0, -1.0


class Merge(ABC):
    """A rule for the weight of a model received in x <- (1 - w) x + w x_received."""

    @abstractmethod
    def weighing(self, weight: Float64[np.ndarray, " n"]) -> MergeLaw:
        """Returns the rule of a network whose `gossip.weight` is given."""

    def weighs(self) -> bool:
        """Returns whether `gossip.weight` counts."""
        return False

    def is_fixed(self) -> bool:
        """Returns whether two models that meet count alike for both nodes, whatever their ages."""
        return False

    def selects(self) -> bool:
        """Returns whether a message brings a part of a model only."""
        return False

    def divides(self) -> bool:
        """Returns whether the step size of local SGD is divided by the age of the part of the model."""
        return False
