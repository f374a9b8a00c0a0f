r"""The Base-(k+1) graph: a short cycle of sparse graphs after which all nodes hold the mean, exactly.

A round is a list of edges {i, j} with weights w: the symmetric gossip matrix with W[i, j] = w and rows of sum 1. No
node has more than k neighbours in a round. The product of the matrices of one cycle is J = 11^T / n.

Notation: n nodes, k the most neighbours in a round, i j ends of an edge, w its weight.

Reference:
    Y. Takezawa, R. Sato, H. Bao, K. Niwa, M. Yamada, "Beyond exponential graph: communication-efficient topologies for
    decentralized learning via finite-time convergence", NeurIPS 2023: algorithms 1 to 3.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64


class Edges(NamedTuple):
    """The edges of a round."""

    i: Int64[np.ndarray, " e"]
    """One end of each edge."""
    j: Int64[np.ndarray, " e"]
    """The other."""
    weight: Float64[np.ndarray, " e"]
    """Weight of each; dimensionless, in (0, 1]."""


def base_graph(n: int, k: int) -> list[Edges]:
    """Returns the rounds of the Base-(k+1) graph of n nodes (algorithm 3); none for one node.

    With n = p q, p the largest factor with prime factors of at most k + 1, either q nodes at a time come to their mean,
    then p of different means; or all nodes by the simple graph, if that is shorter.

    Example:
        >>> from batchednodes.topology.base_k_plus_1 import base_graph
        >>> [len(base_graph(n, 1)) for n in (4, 5, 6)]  # rounds in which pairs bring all nodes to their mean
        [2, 5, 4]
    """
    simple = simple_base_graph(n, k)
    p = _smooth(n, k)
    q = n // p
    within, across = simple_base_graph(q, k), hyper_hypercube(p, k)
    if len(simple) <= len(within) + len(across):
        return simple
    return [_copies(edges, p, q, 1) for edges in within] + [_copies(edges, q, 1, q) for edges in across]


def hyper_hypercube(n: int, k: int) -> list[Edges]:
    """Returns the rounds of the k-peer hyper-hypercube (algorithm 1): one for each of the fewest factors of n.

    Numbers of nodes are written with these factors as bases. In a round, those that differ in one digit only are
    neighbours, with weight 1 / base.

    Args:
        n: has prime factors of at most k + 1 only.
        k: at least 1.
    """
    found, stride = [], 1
    for base in _fewest(n, k):
        place = np.arange(n).reshape(-1, base, stride)
        one, two = np.triu_indices(base, 1)
        i, j = place[:, one].ravel(), place[:, two].ravel()
        found.append(Edges(i, j, np.full(i.size, 1 / base)))
        stride *= base
    return found


def simple_base_graph(n: int, k: int) -> list[Edges]:
    """Returns the rounds of the simple Base-(k+1) graph (algorithm 2, without its optional averages of idle nodes).

    Let n = sum_l a_l (k+1)^p_l with falling powers, and V_l be as many nodes, in a_l parts of (k+1)^p_l.

    1. Each V_l comes to its mean, all at once.
    2. Round after round, for l = 1, 2, ...: each node of the later V's takes from one node of each part of V_l, so that
       the mean of every part, and that of all later V's, is the mean of all nodes.
    3. From then on, the parts of V_l come to their means.
    """
    if _smooth(n, k) == n:
        return hyper_hypercube(n, k)
    digits = _digits(n, k + 1)
    starts = np.cumsum([0] + [a * (k + 1) ** power for a, power in digits])
    parts: list[list[Edges]] = []  # by round

    def put(turn: int, edges: Edges) -> None:
        while len(parts) <= turn:
            parts.append([])
        parts[turn].append(edges)

    for (a, power), start in zip(digits, starts, strict=False):
        for turn, edges in enumerate(hyper_hypercube(a * (k + 1) ** power, k)):
            put(turn, _copies(edges, 1, 0, 1, int(start)))
    begin = len(parts)
    for stage, ((a, power), start) in enumerate(zip(digits[:-1], starts, strict=False)):
        size, later = (k + 1) ** power, np.arange(starts[stage + 1], n)
        taken = int(start) + np.arange(a)[:, None] * size + np.arange(later.size)
        put(begin + stage, Edges(np.tile(later, a), taken.ravel(), np.full(taken.size, size / (n - int(start)))))
        for turn, edges in enumerate(hyper_hypercube(size, k)):
            put(begin + stage + 1 + turn, _copies(edges, a, size, 1, int(start)))
    return [Edges(*(np.concatenate(column) for column in zip(*some, strict=True))) for some in parts]


def _copies(edges: Edges, many: int, apart: int, stride: int, start: int = 0) -> Edges:
    """Returns the edges over and over: copy c moves node x to start + c apart + x stride."""
    moved = start + np.arange(many)[:, None] * apart
    i, j = ((moved + end * stride).ravel() for end in (edges.i, edges.j))
    return Edges(i, j, np.tile(edges.weight, many))


def _digits(n: int, base: int) -> list[tuple[int, int]]:
    """Returns the digits of n that are not 0, and their powers, the largest first."""
    digits, power = [], 0
    while n:
        n, digit = divmod(n, base)
        if digit:
            digits.append((digit, power))
        power += 1
    return digits[::-1]


def _smooth(n: int, k: int) -> int:
    """Returns the largest factor of n whose prime factors are at most k + 1."""
    found = 1
    for d in range(2, min(k + 1, math.isqrt(n)) + 1):
        while n % d == 0:
            n, found = n // d, found * d
    return found * n if n <= k + 1 else found


def _fewest(n: int, k: int) -> list[int]:
    """Returns the fewest factors of at most k + 1 with product n, which has such factors."""
    low = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    divisors = sorted({*low, *(n // d for d in low)})
    best: dict[int, list[int]] = {1: []}
    for m in divisors[1:]:
        options = [[*best[m // d], d] for d in divisors[1:] if d <= k + 1 and m % d == 0 and m // d in best]
        if options:
            best[m] = min(options, key=len)
    return best[n]
