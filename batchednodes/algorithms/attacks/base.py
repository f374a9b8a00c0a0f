r"""What an attack says: who attacks, what attackers send, and what they read for that.

    @dataclass(frozen=True)
    class Doubling(OwnRows):
        nodes: int | float | list[int]

        def sent(self, own, k, place):
            return 2 * own

Attackers follow the protocol in what they keep: they train, and merge what comes, as honest nodes do; what they send is
false. In events whatever comes from an attacker is false, however long it was under way.

Notation: w rows, d largest number of neighbours, n nodes of a network.
"""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from batchednodes.algorithms.base import Context
from batchednodes.numerics import rng
from batchednodes.numerics.values import shown

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch


class Attack(ABC):
    """Who deviates from the protocol, and how. Loss, accuracy and consensus of a run are of the other nodes.

    A class has a field `nodes`, as `chosen` takes it, and derives from one of the classes below, which say what its
    attackers read.
    """

    @abstractmethod
    def attackers(self, n: int, seed: int) -> Bool[np.ndarray, " n"]:
        """Returns which nodes of a network attack.

        Raises:
            ValueError: the network has no such nodes, or no others.
        """

    def settled(self, n: int, attackers: int) -> "Attack":
        """Returns the same with settings that depend on the network filled in.

        Args:
            n: nodes of the network.
            attackers: those that attack.

        Raises:
            ValueError: there is no such attack in this network.
        """
        return self


class OnData(Attack):
    """Attackers send what they honestly learned from false data."""

    nodes: Any

    def attackers(self, n: int, seed: int) -> Bool[np.ndarray, " n"]:
        return chosen(self.nodes, n, seed)

    @abstractmethod
    def labels(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Returns the labels that attackers learn instead of some; of the same shape, in 0, ..., classes - 1."""


class OwnRows(Attack):
    """Attackers read their own rows only: such attacks work in events, too."""

    nodes: Any

    def attackers(self, n: int, seed: int) -> Bool[np.ndarray, " n"]:
        return chosen(self.nodes, n, seed)

    @abstractmethod
    def sent(self, own: Tensor, k: Context, place: int) -> Tensor:
        """Returns what attackers send in place of what they ought to [w, width].

        Args:
            own: what they ought to send [w, width]; not written.
            k: of these rows; `k.uniform(place, size)` has numbers for this emission alone.
            place: a stream of uniform numbers, another for each thing that is emitted.
        """


class Omniscient(Attack):
    """Attackers read the rows of their targets and of their targets' neighbours; in synchronous rounds only.

    Each neighbour of an attacker gets a row made for it. What attackers themselves have learned does not matter.
    """

    nodes: Any

    def attackers(self, n: int, seed: int) -> Bool[np.ndarray, " n"]:
        return chosen(self.nodes, n, seed)

    @abstractmethod
    def told(self, target: Tensor, others: Tensor, weights: Tensor, honest: Tensor, attackers: Tensor) -> Tensor:
        """Returns what attackers send to some targets [w, width]; what is said of one without attackers is dropped.

        Args:
            target: rows of the nodes that will get it [w, width]; not written.
            others: what their neighbours emit [w, d, width], attackers honestly; not written.
            weights: W_ij by which the targets weigh their neighbours [w, d].
            honest: which neighbours are there and honest, bool [w, d].
            attackers: which of them attack, bool [w, d].
        """


def chosen(nodes: Any, n: int, seed: int) -> Bool[np.ndarray, " n"]:
    """Returns which of n nodes are chosen, by a number of them, a share in (0, 1), or their numbers.

    A number, or a share, rounded, of nodes is drawn by the address of each node.

    Example:
        >>> from batchednodes.algorithms.attacks.base import chosen
        >>> chosen([0, 3], 4, seed=0).tolist(), int(chosen(2, 10, seed=0).sum()), int(chosen(0.3, 10, seed=0).sum())
        ([True, False, False, True], 2, 3)

    Raises:
        ValueError: they are not among them, or all of them, or none.
    """
    found = np.zeros(n, bool)
    if isinstance(nodes, list | tuple):
        bad = [i for i in nodes if not 0 <= i < n]
        if bad or len({*nodes}) < len(nodes):
            raise ValueError(f"nodes must be different nodes, of 0 to {n - 1}, got {shown(bad[0] if bad else nodes)}")
        found[list(nodes)] = True
    else:
        size = round(nodes * n) if 0 < nodes < 1 else nodes
        if not math.isfinite(nodes) or size != int(size) or not 0 < size < n:
            rule = f"a share in (0, 1) of the n = {n} nodes that rounds to one at least, or a number of them below n"
            raise ValueError(f"nodes must be a list of node numbers, {rule}, got {shown(nodes)}")
        draws = rng.uniforms(seed, rng.ATTACKERS, np.arange(n), 1)[:, 0]
        found[np.argsort(draws, kind="stable")[: int(size)]] = True
    if not 0 < found.sum() < n:
        raise ValueError(f"nodes must leave one that is honest, and name one at least, got {shown(nodes)} of n = {n}")
    return found
