r"""Connectivity: what a network's graph says before anything runs, and how fast gossip over it contracts.

Notation: n nodes, P contact probabilities, lambda gossip capacity, rho contraction of one contact.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse
from jaxtyping import Int64

from batchednodes.config import Config, has_messages
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import Timeline
from batchednodes.numerics.values import number
from batchednodes.results.theory import (
    complete_consensus,
    contact_consensus,
    meeting_consensus,
    sparse_walk_gap,
    walk_gap,
)
from batchednodes.topology import Graph, PeerSampler, Weighted

DENSE = 1000
"""Nodes up to which spectra are those of dense matrices, a second's work; of more, the gap is found by sparse ones."""

SPARSE = 5000
"""Nodes up to which the contraction of meetings is found by sparse iterations: some seconds at worst."""


@dataclass(frozen=True)
class Connectivity:
    """Facts about the graph of one network; of a graph that changes, about all its rounds together."""

    components: int
    """Parts that never learn from each other."""
    degrees: tuple[int, float, int]
    """Smallest, mean and largest number of nodes that a node may contact."""
    gap: float | None
    """1 - Re lambda_2 of P, itself included where a contact finds nobody: that of a random walk; dimensionless; of a
    graph that changes, of the mean over rounds; null: one node, or too many for a walk that is slow, not reversible, or
    on a graph that changes."""
    contraction: float | None
    """rho, by which one contact shrinks the expected squared consensus distance at worst; dimensionless; null: too many
    nodes, no contacts, not all alike, or messages that are more than exchanged at once and merged."""
    rate: float | None
    """(1 - rho) times the contacts of all nodes a second [1/s]: that distance shrinks at least as exp(-rate t) while
    nobody updates; of a graph that changes, while rounds are short; null: likewise."""

    def words(self) -> dict[str, str]:
        """Returns the facts in words, by their names."""
        (least, mean, most), unknown = self.degrees, "not computed"
        return {
            "connected": "yes" if self.components == 1 else f"no: {self.components:,} components",
            "degree": f"{least:,}" if least == most else f"{least:,} to {most:,}, mean {mean:,.4g}",
            "spectral gap": unknown if self.gap is None else f"{self.gap:.4g}",
            "contraction per contact": unknown if self.contraction is None else f"1 - {1 - self.contraction:.4g}",
            "contraction per second": unknown if self.rate is None else f"exp(-{self.rate:.4g})",
        }


def connectivity(config: Config, events: Timeline, g: int) -> Connectivity:
    """Returns the facts of network g of a timeline with these settings."""
    nodes, n = events.networks.slice(g), config.network.nodes
    chooser = events.contacts.choosers.get(nodes.start)
    graph = events.contacts.graph(nodes)
    degrees = np.full(n, n - 1) if graph is None else graph.degrees
    components = 1 if graph is None else graph.components()[0]
    facts = (components, (int(degrees.min()), float(degrees.mean()), int(degrees.max())))
    if chooser is not None:
        p = chooser.probabilities() if n <= SPARSE or isinstance(chooser, Weighted) else None
    else:
        p = _uniform(graph, n) if n <= DENSE or graph is not None else None
    gap = _gap(p, degrees, chooser, components)
    rates, weight = events.gossip.rate[nodes], config.gossip.weight
    made = float((rates * events.contacts.share[nodes]).sum())
    exchange, scheme = config.gossip.exchange, config.gossip.scheme
    if exchange == "push_pull" or has_messages(config) or not isinstance(scheme, Uniform):
        return Connectivity(*facts, gap, None, None)
    if not isinstance(weight, int | float | str) or made == 0:
        return Connectivity(*facts, gap, None, None)
    w, alike = number(weight, n, "gossip.weight"), graph is None and chooser is None and (rates == rates[0]).all()
    pairs = None if p is None or n > SPARSE else scipy.sparse.csr_array(scipy.sparse.diags_array(rates / made) @ p)
    rho = _contraction(pairs, n, w, exchange, bool(alike))
    return Connectivity(*facts, gap, rho, None if rho is None else (1 - rho) * made)


def _gap(
    p: scipy.sparse.csr_array | None, degrees: Int64[np.ndarray, " n"], chooser: PeerSampler | None, components: int
) -> float | None:
    """Returns the gap of the walk with these probabilities; of the complete graph where there are none."""
    n = degrees.size
    if p is None:
        return n / (n - 1) if chooser is None else None
    if n <= DENSE:
        return walk_gap(p.toarray()) if n > 1 else None
    if components > 1:
        return 0.0
    return sparse_walk_gap(p, np.ones(n) if chooser is not None else degrees.astype(float))


def _contraction(
    pairs: scipy.sparse.csr_array | None, n: int, w: float, exchange: Literal["push", "pull", "meet"], alike: bool
) -> float | None:
    """Returns rho from the probabilities of all pairs; alike: all are the same; None: it is not known."""
    if pairs is not None and n <= DENSE:
        return contact_consensus(pairs.toarray(), exchange, w)
    if pairs is not None and exchange == "meet":
        return meeting_consensus(pairs, w)
    return complete_consensus(n, exchange, w) if alike else None


def _uniform(graph: Graph | None, n: int) -> scipy.sparse.csr_array:
    """Returns the probabilities of uniform peers."""
    if graph is None:
        return scipy.sparse.csr_array((np.ones((n, n)) - np.eye(n)) / max(1, n - 1))
    weights = np.repeat(1 / np.maximum(graph.degrees, 1), graph.degrees)
    return scipy.sparse.csr_array((weights, graph.indices, graph.indptr), shape=(n, n))
