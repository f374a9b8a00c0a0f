"""Closed forms, recursions and bounds to hold measurements against.

`version_age`: mean staleness under uniform gossip; `opportunistic`: under opportunistic gossip; `renewal`: counts at a
finite time; `consensus`: distances between models; `accelerated`: those of accelerated gossip; `quadratics`: what
averaging is worth on random quadratics; `batch_means`: confidence intervals of what is measured.
"""

from batchednodes.results.theory.accelerated import accelerated_consensus
from batchednodes.results.theory.batch_means import batch_means
from batchednodes.results.theory.consensus import (
    Stationary,
    complete_consensus,
    contact_consensus,
    contraction,
    expected_consensus,
    meeting_consensus,
    sparse_walk_gap,
    stationary_consensus,
    walk_gap,
)
from batchednodes.results.theory.opportunistic import freshest_reach, freshest_staleness
from batchednodes.results.theory.quadratics import effective_neighbours, quadratic_rate, worst_node_rate
from batchednodes.results.theory.renewal import expected_updates
from batchednodes.results.theory.version_age import (
    harmonic,
    mean_staleness,
    mean_staleness_expansion,
    mean_staleness_graph,
    mean_staleness_ring,
    staleness_bound,
)

__all__ = [
    "Stationary",
    "accelerated_consensus",
    "batch_means",
    "complete_consensus",
    "contact_consensus",
    "contraction",
    "effective_neighbours",
    "expected_consensus",
    "expected_updates",
    "freshest_reach",
    "freshest_staleness",
    "harmonic",
    "mean_staleness",
    "mean_staleness_expansion",
    "mean_staleness_graph",
    "mean_staleness_ring",
    "meeting_consensus",
    "quadratic_rate",
    "sparse_walk_gap",
    "staleness_bound",
    "stationary_consensus",
    "walk_gap",
    "worst_node_rate",
]
