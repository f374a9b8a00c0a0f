r"""MATCHA: the graph is cut into matchings, and each round mixes over a random few of them, so that rounds cost less.

With L_k the Laplacian of matching k of K, by an edge colouring, and b the budget, in each round, independently,

    matching k is on with probability p_k,    W = I - alpha sum_{k on} L_k,    where
    p maximises lambda_2(sum_k p_k L_k) over 0 <= p_k <= 1, sum_k p_k <= b K: by a barrier method;
    alpha minimises rho = |E[W^T W] - J|, the largest eigenvalue of I - 2 alpha M + alpha^2 (M^2 + 2 V) - J,
    with M = sum_k p_k L_k and V = sum_k p_k (1 - p_k) L_k.

Nodes make local steps first, as in `gossip_sgd`. W is doubly stochastic, and may have entries below 0 on its diagonal.
On a graph in several components lambda_2 is the least eigenvalue of all of them.

Notation: n nodes, m edges, K matchings, p their probabilities, L Laplacians, J projection on what components share.

Reference:
    J. Wang, A. K. Sahu, Z. Yang, G. Joshi, S. Kar, "MATCHA: speeding up decentralized SGD via matching decomposition
    sampling", Indian Control Conference 2019.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy
from jaxtyping import Float64, Int64

from batchednodes.algorithms.base import Algorithm, Law, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics import rng
from batchednodes.numerics.values import number
from batchednodes.topology import Graph, RoundLaw, RoundWeights
from batchednodes.topology.edge_colouring import matchings

NODES, EDGES = 300, 1000
"""The most of a graph whose probabilities are solved: about ten seconds' work."""

PRECISION = 1e-8
"""How near to its largest value lambda_2 comes, over it."""

STEPS = 50
"""Newton steps for one mu, at most; it takes about ten."""

Matching = Int64[np.ndarray, "_ 2"]


@dataclass(frozen=True)
class Matcha(Algorithm):
    """Local SGD, and mixing over random matchings of `network.topology`.

    Example:
        >>> import batchednodes
        >>> method = {"algorithm": {"kind": "matcha", "budget": 0.5}, "timing": {"kind": "synchronous"}}
        >>> graph = {"nodes": 8, "topology": {"kind": "hypercube"}}  # three matchings, half of them in each round
        >>> run = batchednodes.train({"network": graph, "run.until": 100}, method)
        >>> bool(abs(run.metrics["gossips"].iloc[-1] / (8 * 3 * 100) - 0.5) < 0.1)
        True
    """

    budget: float = 0.5
    """b, edges that are used in a round over all edges, about [dimensionless]; in (0, 1]."""

    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("rounds",)
    laws: ClassVar[dict[str, Law]] = {"sum of x": lambda all_: all_["x"].sum(0)}

    def __post_init__(self) -> None:
        number(self.budget, 1, "budget", high=1.0, open_low=True, open_high=False)

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        n, graph = weights.n, weights.graph
        if graph is None:
            graph = Graph.of(n, *np.triu_indices(n, 1))
        if not isinstance(graph, Graph) or graph.directed:
            what = "is directed" if isinstance(graph, Graph) else "changes"
            raise ValueError(f"kind must be another than matcha where network.topology {what}; use an undirected graph")
        if n > NODES or graph.indices.size > 2 * EDGES:
            got = f"got {n:,} nodes and {graph.indices.size // 2:,} edges"
            raise ValueError(f"kind must be another than matcha beyond {NODES:,} nodes or {EDGES:,} edges, {got}")
        return MatchingRounds(n, seed, graph, self.budget)

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x = rows["x"]
        if e.kind == UPDATE:
            x[e.actor] = k.descend(x[e.actor])
        else:
            x[e.nodes] = e.matrix @ x[e.nodes]


@dataclass(frozen=True, eq=False)
class MatchingRounds(RoundLaw):
    """Rounds of one network in which random matchings of its graph are on."""

    n: int
    """Number of nodes."""
    seed: int
    """Seed of the network."""
    graph: Graph
    """The base graph; undirected."""
    budget: float
    """b."""

    def check(self) -> None:
        _ = self.plan

    def union(self) -> Graph | None:
        return self.graph

    @functools.cached_property
    def plan(self) -> tuple[list[Matching], Float64[np.ndarray, " K"], float]:
        """The matchings, p and alpha."""
        found = matchings(self.graph)
        p = activation(self.n, found, self.budget)
        return found, p, weight(self.n, found, p)[0]

    def on(self, k: int) -> Matching:
        """Returns the edges of the matchings that are on in round k, by the draws at (seed, matching, k)."""
        found, p, _ = self.plan
        draws, _ = rng.draws(self.seed, rng.MATCHED, np.arange(len(found)), k)
        some = np.flatnonzero(rng.units(draws) < p)
        return np.concatenate([np.zeros((0, 2), np.int64), *(found[j] for j in some)])

    def matrix(self, k: int) -> "scipy.sparse.csr_array":
        i, j = self.on(k).T
        alpha = self.plan[2]
        off = scipy.sparse.coo_array((np.full(2 * i.size, alpha), (np.append(i, j), np.append(j, i))), (self.n, self.n))
        w = scipy.sparse.csr_array(off + scipy.sparse.diags_array(1 - alpha * self.sent(k)))
        w.sort_indices()
        return w

    def sent(self, k: int) -> Int64[np.ndarray, " n"]:
        return np.bincount(self.on(k).ravel(), minlength=self.n)


def activation(n: int, found: Sequence[Matching], budget: float) -> Float64[np.ndarray, " K"]:
    """Returns the probabilities p with which each matching of a graph of n nodes is on.

    It maximises t + mu (log det S + sum log p + sum log(1 - p) + log(b K - sum p)), S = sum_k p_k L_k - t I orthogonal
    to J, by Newton's method for ever smaller mu; then t is within (n + 2 K + 1) mu of the largest lambda_2.

    Example:
        >>> from batchednodes.algorithms.matcha import activation
        >>> from batchednodes.topology import Star
        >>> from batchednodes.topology.edge_colouring import matchings
        >>> activation(4, matchings(Star().graph(4, 0)), 0.5).round(6).tolist()  # three edges, all alike
        [0.5, 0.5, 0.5]
    """
    if not found:
        return np.zeros(0)
    barrier = _Barrier(
        n, np.concatenate(found), np.repeat(np.eye(len(found)), [len(some) for some in found], axis=0), budget
    )
    p = np.full(len(found), budget / 2)
    largest = barrier.connectivity(p)
    t, terms = largest / 2, n + 2 * len(found) + 1
    mu = largest / terms
    while mu * terms > PRECISION * largest:
        p, t = barrier.centre(p, t, mu)
        mu /= 30
    return p


@dataclass(frozen=True, eq=False)
class _Barrier:
    """What `activation` maximises."""

    n: int
    """Number of nodes."""
    edges: Matching
    """Those of all matchings."""
    owner: Float64[np.ndarray, "m K"]
    """1 where an edge belongs to a matching."""
    budget: float
    """b."""

    @functools.cached_property
    def alike(self) -> tuple[Float64[np.ndarray, "n n"], int]:
        """J, and the number of components."""
        return _alike(self.n, self.edges)

    def connectivity(self, p: Float64[np.ndarray, " K"]) -> float:
        """Returns lambda_2 of the mean Laplacian."""
        return float(np.linalg.eigvalsh(_laplacian(self.n, self.edges, self.owner @ p) + self.n * self.alike[0])[0])

    def centre(self, p: Float64[np.ndarray, " K"], t: float, mu: float) -> tuple[Float64[np.ndarray, " K"], float]:
        """Returns p and t of the largest value for some mu, from others inside; as near as rounding lets it come."""
        here = self.derivatives(p, t, mu)
        for _ in range(STEPS):
            assert here is not None
            slope, hessian = here
            scale = 1 / np.sqrt(hessian.diagonal())
            step = scale * np.linalg.lstsq(scale[:, None] * hessian * scale, scale * slope)[0]
            size = float(slope @ step)
            step /= 1.0 if size < 0.25 else 1 + size**0.5  # stays inside, as with any self-concordant barrier
            here = self.derivatives(p + step[:-1], t + float(step[-1]), mu)
            if here is None:  # but for rounding
                break
            p, t = p + step[:-1], t + float(step[-1])
            if size < 1e-6:
                break
        return p, t

    def derivatives(self, p: Float64[np.ndarray, " K"], t: float, mu: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the slope over mu, and minus the Hessian over mu, in (p, t); None: they are not inside."""
        (flat, parts), (i, j), k = self.alike, self.edges.T, p.size
        s, rest = (
            _laplacian(self.n, self.edges, self.owner @ p) - t * (np.eye(self.n) - flat) + flat,
            self.budget * k - p.sum(),
        )
        try:
            root = np.linalg.inv(np.linalg.cholesky(s))
        except np.linalg.LinAlgError:
            return None
        if min(p.min(), 1 - p.max(), rest) <= 0:
            return None
        z = root.T @ root
        at = z[:, i] - z[:, j]
        between = at[i] - at[j]
        slope = self.owner.T @ between.diagonal() + 1 / p - 1 / (1 - p) - 1 / rest
        hessian = np.empty((k + 1, k + 1))
        hessian[:k, :k] = self.owner.T @ between**2 @ self.owner + np.diag(1 / p**2 + 1 / (1 - p) ** 2) + 1 / rest**2
        hessian[k, :k] = hessian[:k, k] = -self.owner.T @ (at**2).sum(0)
        hessian[k, k] = (z**2).sum() - parts
        return np.append(slope, 1 / mu - (np.trace(z) - parts)), hessian


def weight(n: int, found: Sequence[Matching], p: Float64[np.ndarray, " K"]) -> tuple[float, float]:
    """Returns alpha, and rho, of matchings that are on with probabilities p."""
    if not found:
        return 0.0, 0.0
    edges, sizes = np.concatenate(found), [len(some) for some in found]
    mean = _laplacian(n, edges, np.repeat(p, sizes))
    square = mean @ mean + 2 * _laplacian(n, edges, np.repeat(p * (1 - p), sizes))
    rest = np.eye(n) - _alike(n, edges)[0]

    def largest(alpha: float) -> float:
        return float(np.linalg.eigvalsh(rest - 2 * alpha * mean + alpha**2 * square)[-1])

    best = scipy.optimize.minimize_scalar(largest, bounds=(0.0, 2.0), method="bounded", options={"xatol": 1e-9})
    return float(best.x), float(best.fun)


def _laplacian(n: int, edges: Matching, w: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, "n n"]:
    """Returns the Laplacian of edges with weights w."""
    found, (i, j) = np.zeros((n, n)), edges.T
    np.add.at(found, (np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i])), np.concatenate([w, w, -w, -w]))
    return found


def _alike(n: int, edges: Matching) -> tuple[Float64[np.ndarray, "n n"], int]:
    """Returns J of a graph, and the number of its components."""
    count, label = Graph.of(n, *edges.T).components()
    same = label[:, None] == label
    return same / same.sum(1), count
