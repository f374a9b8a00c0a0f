r"""What a merge rule says.

Ages are model-wide counts of minibatch steps: a merge takes the larger of the two, and local SGD adds its steps.

Letters: n nodes, a own age, b age of the model received.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

WEIGHT, AGES, LAG, LIMITED = range(4)
"""Laws of the weight of a model received, as the compiled loop knows them."""


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
    """A rule for the weight of a model received in x <- (1 - w) x + w x_received."""

    @abstractmethod
    def weighing(self, weight: Float64[np.ndarray, " n"]) -> Weighing:
        """Returns the rule of a network whose `gossip.weight` is given."""
