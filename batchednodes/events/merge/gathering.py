r"""Merge rules that take a node's model and those of all its neighbours at once; in synchronous rounds.

Of n rows that a round mixes, each with d neighbours at most, such a rule makes n new ones. What is emitted besides the
models, as a tracker of gradients, is merged in the same way, by itself.

Notation: w rows, d largest number of neighbours, i a node, j its neighbours, W gossip matrix of the round.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from batchednodes.events.merge.base import Merge, MergeLaw

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch


class Gathering(Merge):
    """A rule for whole neighbourhoods, which takes the place of x <- W x.

    What a node makes of its neighbours' rows depends on these and on its own alone. A class may have besides an
    independent form for one node, `alone(own [width], others [d, width], weights [d], attackers [d])`, in plain
    PyTorch, which the serial executor then runs.
    """

    @abstractmethod
    def gather(self, own: Tensor, others: Tensor, weights: Tensor, here: Tensor, attackers: Tensor) -> Tensor:
        """Returns what nodes make of their own rows and those of their neighbours [w, width]; writes into none.

        Args:
            own: [w, width].
            others: of the neighbours [w, d, width]; where there is none, finite numbers that mean nothing.
            weights: W_ij [w, d]; 0 where there is no neighbour.
            here: which neighbours there are, bool [w, d].
            attackers: which of them attack, bool [w, d]: for rules that know, as bounds to hold others against.
        """

    def clips(self) -> float | None:
        """Returns the largest change that one model may make at a single contact; None: the rule is for rounds."""
        return None

    def weighing(self, weight: np.ndarray) -> MergeLaw:
        return MergeLaw(None, weight, 0 * weight)

    def weighs(self) -> bool:
        return True

    def is_fixed(self) -> bool:
        return True
