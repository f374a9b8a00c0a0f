r"""Contacts: who receives what from whom in some lines of a phase, and where the rows of both lie.

Notation: w lines, j the node that receives, i the row that is read.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.edge_rows import EdgeRows
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.numerics.memory import send


@dataclass(frozen=True, eq=False)
class Contacts:
    """Lines that are neither copies nor contacts with oneself."""

    nodes: Int64[Tensor, " w"]
    """Node j of each."""
    others: Int64[Tensor, " w"]
    """The node whose row comes."""
    weights: Float[Tensor, " w"]
    """w of each; dimensionless."""
    times: Float64[Tensor, " w"]
    """Instant of each [s]."""
    rows: Int64[Tensor, " w"]
    """Row of x of node j."""
    senders: Int64[Tensor, " w"]
    """Row i of x."""
    edges: tuple[Int64[Tensor, " w"], Int64[Tensor, " w"]] | None
    """Row of what j keeps of the other, and of what the other keeps of j; None: nothing lies on edges."""
    pairs: bool
    """Whether lines 2k and 2k + 1 are the two sides of one meeting."""
    idle: Bool[Tensor, " w"] | None
    """Which do nothing since a node is cut off; None: none."""

    @staticmethod
    def of(phase: GossipPhase, part: slice, all_live: bool, edges: EdgeRows | None) -> "Contacts":
        """Returns the contacts among some lines.

        Args:
            phase: the lines.
            part: which.
            all_live: whether they are all contacts.
            edges: where what lies on edges has its rows.
        """
        i, j, w, times = (column[part] for column in (phase.contacted, phase.receivers, phase.weights, phase.times))
        others, idle = i if phase.sent is None else phase.actors[part], None if phase.idle is None else phase.idle[part]
        if not all_live:
            here = phase.here
            apart = (here.receivers[part] < phase.nodes) & (here.contacted[part] != here.receivers[part])
            live = send(apart.nonzero().flatten(), i.device)
            i, j, w, times, others = (column[live] for column in (i, j, w, times, others))
            idle = None if idle is None else idle[live]
        on = None if edges is None else (edges.number(j, others), edges.number(others, j))
        return Contacts(j, others, w, times, j, i, on, phase.pairs, idle)

    def some(
        self, part: slice, rows: Int64[Tensor, " w"], senders: Int64[Tensor, " w"],
        edges: tuple[Int64[Tensor, " w"], Int64[Tensor, " w"]] | None,
    ) -> "Contacts":  # fmt: skip
        """Returns some of them, whose rows lie elsewhere; arguments: see the fields of the same names."""
        nodes, others, w, times = (column[part] for column in (self.nodes, self.others, self.weights, self.times))
        idle = None if self.idle is None else self.idle[part]
        return Contacts(nodes, others, w, times, rows, senders, edges, self.pairs, idle)


def copied(phase: GossipPhase, part: slice) -> tuple[Tensor, Tensor]:
    """Returns senders and receivers of the copies among some lines, which the host knows."""
    copies = send((phase.here.receivers[part] >= phase.nodes).nonzero().flatten(), phase.senders.device)
    return phase.senders[part][copies], phase.receivers[part][copies]
