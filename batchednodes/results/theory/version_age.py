r"""Mean staleness under uniform gossip: exact laws, expansions and bounds.

All laws here hold for Poisson gossip and for every update clock of long-run rate r that is independent of the gossip.
They have one picture behind them. Let j wait until the source k has, seen backwards in time, reached it along contacts:
a first-passage time T over edges with independent Exp(rates[i, j]) lengths. Node j lacks just the updates of the last T
seconds, so its mean staleness is r E[T].

Notation: n nodes, r updates per second of a node in the long run, lambda gossip capacity, v(S) mean version age of a
set S of nodes: the fewest updates of the source that any of them lacks; H_m = 1 + 1/2 + ... + 1/m.

References:
    R. D. Yates, "The age of gossip in networks", ISIT 2021, arXiv 2102.02893.
    T. J. Maranzatto, M. Michelen, "Age of gossip from connective properties via first passage percolation",
    arXiv 2409.12710.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy import sparse
from scipy.sparse import csgraph
from scipy.special import digamma

from batchednodes.numerics.values import count, number

LARGEST_EXACT = 12
"""Largest n of `mean_staleness_graph`, whose work is n^2 2^n."""


def mean_staleness(n: int, capacity: float, update_rate: float, exchange: Literal["push", "pull", "meet"]) -> float:
    r"""Returns the exact long-run mean staleness of a source at another node, on the complete graph.

    It is v(1) of the recursion

        v(n-1) = r / lambda
        v(k)   = [ r + (n-1-k) a v(k+1) ] / [ (n-k) a ],    a = lambda k / (n-1),    k = n-2, ..., 1,

    where v(k) is the mean version age of a fixed set of k nodes other than the source: the fewest updates that any of
    them lacks. It holds for every update clock of long-run rate r whose count is independent of the gossip clocks. Pull
    has the law of push, since each ordered pair is used at the same rate; a meeting uses both directions, so lambda
    counts twice. The recursion telescopes to (r / lambda) (1 + 1/2 + ... + 1/(n-1)).

    Example:
        >>> from batchednodes.results.theory import mean_staleness
        >>> [round(mean_staleness(n, 1.0, 1.0, "push"), 3) for n in (10, 100, 1000)]  # 1 + 1/2 + ... + 1/(n - 1)
        [2.829, 5.177, 7.484]

    Args:
        n: number of nodes; n >= 2.
        capacity: lambda, contacts that a node makes per second [1/s]; positive.
        update_rate: r [1/s]; non-negative.
        exchange: how two nodes exchange models.

    Returns:
        Mean staleness; dimensionless (updates).

    Reference:
        R. D. Yates, "The age of gossip in networks", ISIT 2021.
    """
    assert n >= 2
    assert capacity > 0
    if exchange == "meet":
        capacity = 2 * capacity
    v = update_rate / capacity
    for k in range(n - 2, 0, -1):
        a = capacity * k / (n - 1)
        v = (update_rate + (n - 1 - k) * a * v) / ((n - k) * a)
    return v


def harmonic(m: int) -> float:
    """Returns H_m = 1 + 1/2 + ... + 1/m to rounding, by the digamma function; H_0 = 0.

    Example:
        >>> from batchednodes.results.theory import harmonic
        >>> round(harmonic(4), 4)  # 1 + 1/2 + 1/3 + 1/4
        2.0833
    """
    return float(digamma(count(m, m, "m", low=0) + 1.0) + np.euler_gamma)


def mean_staleness_expansion(
    n: int, capacity: float, update_rate: float, exchange: Literal["push", "pull", "meet"]
) -> tuple[float, float]:
    r"""Returns the expansion of `mean_staleness` for large n, and a bound on its error: it is short by at most that.

    With gamma = 0.5772... (Euler), the mean (r / lambda) H_{n-1} is

        (r / lambda) [ log n + gamma - 1/(2n) - 1/(12 n^2) + e ],    0 < e < 1 / (120 n^4),

    so it grows like log n at constant capacity, and tends to r / c at capacity c log n.

    Example:
        >>> from batchednodes.results.theory import mean_staleness, mean_staleness_expansion
        >>> value, error = mean_staleness_expansion(10, 1.0, 1.0, "push")
        >>> value < mean_staleness(10, 1.0, 1.0, "push") < value + error, error < 1e-6
        (True, True)

    Args:
        n: number of nodes; n >= 2.
        capacity: lambda [1/s]; positive and finite.
        update_rate: r [1/s]; non-negative and finite.
        exchange: how two nodes exchange models; a meeting counts lambda twice.

    Returns:
        (value, error), dimensionless (updates): value < mean staleness < value + error.

    Raises:
        ValueError: an argument is out of range.

    Reference:
        Euler-Maclaurin expansion of H_n: M. Abramowitz, I. A. Stegun, "Handbook of mathematical functions", 6.3.18.
    """
    count(n, n, "n", low=2)
    both = 2.0 if exchange == "meet" else 1.0
    scale = number(update_rate, n, "update_rate", unit="1/s")
    scale /= both * number(capacity, n, "capacity", open_low=True, unit="1/s")
    return scale * (math.log(n) + np.euler_gamma - 1 / (2 * n) - 1 / (12 * n**2)), scale / (120 * n**4)


def mean_staleness_ring(
    n: int, capacity: float, update_rate: float, exchange: Literal["push", "pull", "meet"]
) -> float:
    r"""Returns the exact long-run mean staleness of a source at another node, on a ring with two neighbours a node.

    Seen backwards in time, what node j can hear of is an arc that grows by lambda/2 at each end until one end reaches
    the source, d steps away on one side and n - d on the other. If e(d, n) is the mean number of steps of the arc,

        e(0, m) = e(m, m) = 0,    e(d, m) = 1 + [ e(d-1, m-1) + e(d, m-1) ] / 2,

    the mean staleness is (r / lambda) times the mean of e(d, n) over d = 1, ..., n-1. It grows like r n / (2 lambda).
    (Yates' order sqrt(n) for the ring is for a source outside of it, which sends to every node itself.)

    Example:
        >>> from batchednodes.results.theory import mean_staleness, mean_staleness_ring
        >>> [round(mean_staleness_ring(n, 1.0, 1.0, "push"), 2) for n in (10, 100)]  # of order n / 2
        [5.0, 50.0]
        >>> [round(mean_staleness(n, 1.0, 1.0, "push"), 2) for n in (10, 100)]  # if everyone contacts everyone
        [2.83, 5.18]

    Args:
        n: number of nodes; n >= 3; takes time n^2.
        capacity: lambda, contacts that a node makes per second, half of them to each side [1/s]; positive and finite.
        update_rate: r [1/s]; non-negative and finite.
        exchange: how two nodes exchange models; a meeting counts lambda twice.

    Returns:
        Mean staleness; dimensionless (updates).

    Raises:
        ValueError: an argument is out of range.

    Reference:
        R. D. Yates, "The age of gossip in networks", ISIT 2021, Theorem 1, for arcs of a ring that holds the source.
    """
    steps = np.zeros(count(n, n, "n", low=3) + 1)
    for m in range(2, n + 1):
        steps[1:m] = 1 + (steps[: m - 1] + steps[1:m]) / 2
    both = 2.0 if exchange == "meet" else 1.0
    capacity = both * number(capacity, n, "capacity", open_low=True, unit="1/s")
    return number(update_rate, n, "update_rate", unit="1/s") / capacity * float(steps[1:n].mean())


def mean_staleness_graph(
    rates: Float64[np.ndarray, "n n"], update_rates: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "n n"]:
    r"""Returns the exact long-run mean staleness of every source at every node, on any small graph.

    For each source k and set S of other nodes, from the largest set down to single nodes,

        v(S) = [ r_k + sum_{i not in S, i != k} rates(i -> S) v(S + {i}) ] / [ sum_{i not in S} rates(i -> S) ],

    where rates(i -> S) is the sum of rates[i, j] over j in S. A node that no path of positive rates joins to the source
    falls behind for ever: its staleness is infinite (0 if the source never updates).

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import mean_staleness_graph
        >>> rates = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])  # 0 tells 1, which tells 2
        >>> mean_staleness_graph(rates, np.ones(3)).tolist()  # row j: what node j knows of 0, 1, 2
        [[0.0, inf, inf], [1.0, 0.0, inf], [2.0, 1.0, 0.0]]

    Args:
        rates: rates[i, j] at which i's model flows to j [1/s]: pushes of i to j and pulls of j from i; meetings of i
            and j count in both directions. Non-negative and finite, 0 on the diagonal.
        update_rates: r of each node [1/s]; non-negative and finite.

    Returns:
        [j, k]: mean staleness of source k at node j; dimensionless (updates); 0 for j = k.

    Raises:
        ValueError: n > 12, whose subsets would be too many, or rates are out of range.

    Reference:
        R. D. Yates, "The age of gossip in networks", ISIT 2021, Theorem 1.
    """
    _check(rates, update_rates)
    n = len(rates)
    if n > LARGEST_EXACT:
        raise ValueError(
            f"rates must be of at most {LARGEST_EXACT} nodes (the law needs n^2 2^n steps), got {n}; "
            "use staleness_bound, or mean_staleness for the complete graph"
        )
    out = np.zeros((n, n))
    for k in range(n):
        others = np.delete(np.arange(n), k)
        if update_rates[k] > 0:
            out[others, k] = update_rates[k] * _passage(rates[np.ix_(others, others)], rates[k, others])
    return out


def _check(rates: np.ndarray, update_rates: np.ndarray) -> None:
    for name, values in (("rates", rates), ("update_rates", update_rates)):
        bad = values[~((values >= 0) & (values < math.inf))]
        if bad.size:
            raise ValueError(f"{name} must be non-negative and finite [1/s], got {bad[0]}")
    if rates.diagonal().any():
        raise ValueError(f"rates must be 0 on the diagonal: no node gossips with itself, got {rates.diagonal().max()}")


def _passage(rates: np.ndarray, direct: np.ndarray) -> np.ndarray:
    """Returns v({j}) / r of each of m nodes [s], by the recursion over the 2^m sets of them (bit j: node j is in).

    Args:
        rates: [m, m] among them; direct: [m] from the source; [1/s].
    """
    m = len(direct)
    sets = np.arange(2**m)
    member = sets[:, None] >> np.arange(m) & 1
    into = np.where(member, 0.0, member @ rates.T)
    total = member @ direct + into.sum(1)
    v = np.full(2**m, math.inf)
    size = member.sum(1)
    for s in range(m, 0, -1):
        level = sets[(size == s) & (total > 0)]
        larger = v[level[:, None] | 1 << np.arange(m)]
        terms = np.multiply(into[level], larger, where=into[level] > 0, out=np.zeros((level.size, m)))
        v[level] = (1 + terms.sum(1)) / total[level]
    return v[1 << np.arange(m)]


def staleness_bound(
    rates: Float64[np.ndarray, "n n"], update_rates: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    r"""Returns an upper bound on each source's long-run mean staleness, averaged over the other nodes, on any graph.

    It is r times the smaller of two bounds on the mean first-passage time from the source.

    Path: along any one path the passage takes the sum of the mean times 1 / rates[i, j], so the shortest is a bound;
    sharp on a line.

    Cut: let A be the m nodes that the source's news has reached, L the Laplacian of min(rates[i, j], rates[j, i]) and
    lambda_2 its second eigenvalue. News leaves A at a rate of at least 1_A^T L 1_A >= lambda_2 m (n-m) / n (Fiedler),
    so it stays with m nodes for at most n / (lambda_2 m (n-m)) in the mean, while n - m of n - 1 nodes wait:

        mean over nodes of E[T] <= sum_m n / (lambda_2 m (n-1)) = n H_{n-1} / ((n-1) lambda_2).

    On the complete graph this is an equality: it gives `mean_staleness`. On expanders it is of order log n.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import mean_staleness, staleness_bound
        >>> rates = (1 - np.eye(10)) / 9  # each node contacts a uniform other once in a second
        >>> staleness_bound(rates, np.ones(10))[0].round(3).item(), round(mean_staleness(10, 1.0, 1.0, "push"), 3)
        (2.829, 2.829)

    Args:
        rates: as in `mean_staleness_graph`, n >= 2; takes time n^3.
        update_rates: r of each node [1/s]; non-negative and finite.

    Returns:
        Bound for each source; dimensionless (updates). Infinite if both are: where some node cannot be reached.

    Raises:
        ValueError: rates are out of range.

    Reference:
        The cut inequality: M. Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973. The rest is
        derived above.
    """
    _check(rates, update_rates)
    n = count(len(rates), len(rates), "number of nodes", low=2)
    mutual = np.minimum(rates, rates.T)
    cut = math.inf
    if csgraph.connected_components(sparse.csr_array(mutual), directed=False, return_labels=False) == 1:
        connectivity = np.linalg.eigvalsh(np.diag(mutual.sum(1)) - mutual)[1]
        cut = n * harmonic(n - 1) / ((n - 1) * connectivity)
    times = sparse.csr_array(rates)
    times.data = 1 / times.data
    path = csgraph.shortest_path(times).sum(1) / (n - 1)
    return np.multiply(update_rates, np.minimum(path, cut), where=update_rates > 0, out=np.zeros(n))
