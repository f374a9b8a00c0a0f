r"""Opportunistic gossip `freshest`, with memoryless updates on the complete graph: exact laws.

A node that completes an update holds the newest update of the network. The nodes that hold it (the holders) push, each
at rate lambda, to uniform peers, who become holders; the next update, of anyone, makes its node the only holder. Models
carry all versions, merged by max, so a push also tells of older updates that the sender knows.

Notation: n nodes, mu updates per second of a node, lambda gossip capacity, H set of holders and h their number, k the
source, S a set of s nodes other than k, X_S fewest updates of k that any node of S lacks.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float64
from numba import njit

from batchednodes.events.schemes import reach
from batchednodes.numerics.values import count, number

NEVER = 1e-20
"""Probability of so many holders that `freshest_staleness` leaves them out: far below rounding; dimensionless."""


def freshest_reach(n: int, capacity: float, update_rate: float) -> Float64[np.ndarray, " n"]:
    r"""Returns the law of the number of nodes that hold an update when the next one replaces it.

    The number of holders is a birth chain that updates reset: with m of them,

        m -> m + 1 at rate b(m) = lambda m (n - m) / (n - 1),    m -> 1 at rate n mu,

        P(m) = n mu / (b(m) + n mu)  prod_{l < m} b(l) / (b(l) + n mu).

    Updates are Poisson, so this is also the law of the number of holders at any time. Hence a node makes
    lambda E[m] / n pushes per second in the mean, and an update of one node gets to another, before the next update of
    anyone, with probability (E[m] - 1) / (n - 1). That does not give the staleness yet, since later pushes carry older
    versions too: see `freshest_staleness`.

    Example:
        >>> from batchednodes.results.theory import freshest_reach
        >>> holders = freshest_reach(4, capacity=4.0, update_rate=1.0)
        >>> holders.round(3).tolist()  # that 1, 2, 3, 4 nodes hold an update when the next one comes
        [0.5, 0.214, 0.143, 0.143]

    Args:
        n: number of nodes; n >= 1.
        capacity: lambda, pushes per second of a node while it holds the newest update [1/s]; non-negative and finite.
        update_rate: mu of each node, memoryless [1/s]; positive and finite.

    Returns:
        Probability of 1, ..., n holders; dimensionless.

    Raises:
        ValueError: an argument is out of range.

    Reference:
        Derived here; the scheme is that of P. Mitra, S. Ulukus, arXiv 2404.19749, in the words of DESIGN.md.
    """
    count(n, n, "n")
    number(capacity, n, "capacity", unit="1/s")
    number(update_rate, n, "update_rate", open_low=True, unit="1/s")
    m = np.arange(1, n + 1)
    birth = capacity / update_rate * m * (n - m) / max(n - 1, 1)
    return reach(n, capacity / update_rate) * n / (birth + n)


def freshest_staleness(n: int, capacity: float, update_rate: float) -> float:
    r"""Returns the exact stationary mean staleness of a source at another node.

    For a fixed source k and set S let F_s(h, q, a) = E[X_S; h holders, a of them in S, q of them k], with q in {0, 1};
    the other c = h - q - a holders are among the o = n - 1 - s remaining nodes. Nodes of one part are exchangeable, so
    with g = lambda / (n - 1), the balance of F_s is

        [ n mu + g (h (n-h) + a (h-a)) ] F_s(h, q, a) =
              g (h-1) (o-c+1) F_s(h-1, q, a) + g (a-1) (s-a+1) F_s(h-1, q, a-1) + q g (h-1) F_s(h-1, 0, a)
            + g o a/(s+1) (s-a+1) F_{s+1}(h-1, q, a) + g o (a+1)/(s+1) a F_{s+1}(h, q, a+1)
            + 1{h=1} mu [ q (v(s) + 1) + (1-q) (a ? s : o) v(s) ]

    with v(s) = E[X_S], the sum of F_s. On the right, first line: a node of the rest, of S, or k becomes a holder by a
    push that tells S nothing new. Second line: a push into S by a holder i of the rest, after which X_S is what X_{S+i}
    was; after a push by k it is 0. Third line: an update, by k (which adds 1), in S, or among the rest. F_s is linear
    in v(s), so the equations are solved by substitution, from s = n-1 down to 1 and from h = 1 up, without subtraction.

    So staleness is stationary, with a finite mean v, for every n and positive capacity: it is bounded in time. From
    equal models it rises at about mu per second at first, and comes near its mean after several v / mu seconds; a run
    shorter than that sees growth only. It is without bound in n: at constant capacity it is about (mu / lambda) n log n
    (one newest node pushes in the place of all n), at capacity log n about n; at capacity n it falls slowly, from 0.99
    for n = 10 to 0.67 for n = 1,000.

    Exact for memoryless updates only. For a shifted exponential of the same rate, half of it fixed, simulation gives 4
    to 7% more at capacity n (n = 10 to 1,000), and at capacity 1 and log n no difference beyond its error of 2 to 5%.

    Example:
        >>> from batchednodes.results.theory import freshest_staleness
        >>> [round(freshest_staleness(n, capacity=1.0, update_rate=1.0), 1) for n in (10, 100)]  # of order n log(n)
        [24.6, 509.4]
        >>> [round(freshest_staleness(n, capacity=float(n), update_rate=1.0), 2) for n in (10, 100)]  # bounded
        [0.99, 0.85]

    Args:
        n: number of nodes; n >= 2; takes time n^3 at most (about 4 s for n = 1,000 on one core) and memory 64 n^2
            bytes; far less where few nodes ever hold one update.
        capacity: lambda, pushes per second of a node while it holds the newest update [1/s]; positive and finite.
        update_rate: mu of each node, memoryless [1/s]; non-negative and finite.

    Returns:
        Mean staleness; dimensionless (updates).

    Raises:
        ValueError: an argument is out of range.

    Reference:
        Derived here, by Yates' method for sets of nodes (ISIT 2021) together with the set of holders.
    """
    count(n, n, "n", low=2)
    number(capacity, n, "capacity", open_low=True, unit="1/s")
    if number(update_rate, n, "update_rate", unit="1/s") == 0:
        return 0.0
    ratio = capacity / update_rate
    return _solve(n, ratio / (n - 1), int((reach(n, ratio) > NEVER).sum()))


@njit(nogil=True, cache=True)
@no_type_check
def _solve(n, g, largest):  # noqa: ANN001, ANN202  (numba infers the types)
    """Returns v(1), with time in units of 1 / mu: F_s = fixed + v(s) slope, for s = n-1, ..., 1, and h <= largest.

    Entry [q, h, a + 1, :] holds fixed and slope; where a < 0 or c < 0 it is never written: it stays 0, as it should.
    """
    f, above, v = np.zeros((2, largest + 1, n + 3, 2)), np.zeros((2, largest + 1, n + 3, 2)), 0.0
    for s in range(n - 1, 0, -1):
        alive, lost = 0.0, 0.0
        for h in range(1, largest + 1):
            for q in range(2):
                first, last = max(0, h - q - (n - 1 - s)), min(s, h - q)
                more, less = _row(f, above, v, n, g, s, h, q, first, last)
                alive, lost = alive + more, lost + less
        v = n * alive / (g * s * lost)
        f, above = above, f
    return v


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
@no_type_check
def _row(f, above, v, n, g, s, h, q, first, last):  # noqa: ANN001, ANN202
    """Writes F_s for a = first, ..., last; returns the sums of its fixed part, and of slope times holders outside S."""
    here, before, before_k = f[q, h, first:], f[q, h - 1, first:], f[0, h - 1, first:]
    above_old, above_new = above[q, h, first:], above[q, h - 1, first:]
    o, alive, lost = n - 1 - s, 0.0, 0.0
    for i in range(last - first + 1):
        a = float(first + i)
        wait = 1.0 / (n + g * (h * (n - h) + a * (h - a)))
        in_s, in_rest, in_k = g * (a - 1) * (s - a + 1), g * (h - 1) * (o - h + q + a + 1), g * q * (h - 1)
        fixed = in_s * before[i, 0] + in_rest * before[i + 1, 0] + in_k * before_k[i + 1, 0]
        slope = in_s * before[i, 1] + in_rest * before[i + 1, 1] + in_k * before_k[i + 1, 1]
        told = (s - a + 1) * (above_new[i + 1, 0] + v * above_new[i + 1, 1])
        told += (a + 1) * (above_old[i + 2, 0] + v * above_old[i + 2, 1])
        begins = 0.0 if h > 1 else 1.0 if q == 1 else a * s + (1 - a) * o
        here[i + 1, 0] = wait * (begins * q + fixed + g * o * a / (s + 1) * told)
        here[i + 1, 1] = wait * (begins + slope)
        alive += here[i + 1, 0]
        lost += (h - a) * here[i + 1, 1]
    return alive, lost
