r"""What a merge rule says.

Ages are model-wide counts of minibatch steps: a merge takes the larger of the two, and local SGD adds its steps.

Letters: n nodes, a own age, b age of the model received.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

WEIGHT, AGES, LAG, LIMITED, OPEN = range(5)
"""Laws of the weight of a model received, as the compiled loop knows them; open: a rule's own `weights`."""


@dataclass(frozen=True)
class Weighing:
    """How a node weighs the models that it receives."""

    law: int
    """One of the laws above, the same for all nodes of a network."""
    a: Float64[np.ndarray, " n"]
    """First parameter."""
    b: Float64[np.ndarray, " n"]
    """Second parameter."""
    parts: int = 1
    """Parts of a model, of which a message brings one."""
    share: float = 1.0
    """Part of the entries of a model that a merge changes, drawn anew for each."""
    divides: bool = False
    """Whether the step size of local SGD is divided by the age of the part of the model."""


class Merge(ABC):
    """A rule for the weight of a model received in x <- (1 - w) x + w x_received.

    Built-in rules say their weights to the compiled loop; see `ByAges` for rules of one's own.
    """

    @abstractmethod
    def weighing(self, weight: Float64[np.ndarray, " n"]) -> Weighing:
        """Returns the rule of a network whose `gossip.weight` is given."""


class ByAges(Merge):
    """A rule by ages, for many models at once: a class of one's own has `weights`.

    @dataclass(frozen=True)
    class Softmax(ByAges):
        temperature: float = 10.0

        def weights(self, own, other, base):
            return 1 / (1 + np.exp((own - other) / self.temperature))
    """

    @abstractmethod
    def weights(
        self, own: Float64[np.ndarray, " e"], other: Float64[np.ndarray, " e"], base: Float64[np.ndarray, " e"]
    ) -> Float64[np.ndarray, " e"]:
        """Returns the weight of each model received; in [0, 1].

        Args:
            own: ages of the models that receive, in minibatch steps.
            other: ages of those received.
            base: `gossip.weight` of who sent them.
        """

    def weighing(self, weight: Float64[np.ndarray, " n"]) -> Weighing:
        return Weighing(OPEN, weight, 0 * weight)

    def weighed(
        self, own: Float64[np.ndarray, " e"], other: Float64[np.ndarray, " e"], base: Float64[np.ndarray, " e"]
    ) -> Float64[np.ndarray, " e"]:
        """Returns the weights, checked.

        Raises:
            ValueError: one is not in [0, 1].
        """
        found = np.asarray(self.weights(own, other, base), float)
        bad = np.flatnonzero(~((found >= 0) & (found <= 1))) if found.shape == own.shape else np.zeros(1, int)
        if bad.size:
            raise ValueError(
                f"gossip.merge must give one weight in [0, 1] for each model received, got {found.flat[bad[0]]:g} for "
                f"ages {own[bad[0]]:g} and {other[bad[0]]:g}"
            )
        return found
