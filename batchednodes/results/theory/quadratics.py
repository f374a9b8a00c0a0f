r"""Random quadratics: how many neighbours averaging over a graph is worth, and how fast noisy gradients descend on it.

A scheme is gossip matrices W_1 .. W_T, used in turn, round after round.

    Walk:      x <- W (sqrt(gamma) x + xi), xi a standard normal number for each node;
               alone a node has the variance 1 / (1 - gamma); this over its own is the effective number of neighbours.
    Descent:   x_i <- sum_j W_ij (x_j - eta H_j x_j) with independent, isotropic H, E H = I and E |H x|^2 = zeta |x|^2;
               C_ij = E <x_i, x_j> is linear in itself:
               C <- W ((1 - eta)^2 C + (zeta - 1) eta^2 diag(C)) W^T, by which E |x_i|^2 shrinks by 1 - r a round.

Both are exact on every graph; the rate of irregular graphs needs the whole matrix C, not its worst node.

Notation: n nodes, W gossip matrices, T rounds of a period, eta step size.

Reference:
    T. Vogels, H. Hendrikx, M. Jaggi, "Beyond spectral gap: the role of the topology in decentralized learning",
    NeurIPS 2022.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from scipy import linalg
else:
    linalg = deferred("scipy.linalg")

Matrix = Float64[np.ndarray, "n n"]
"""A gossip matrix W."""


def effective_neighbours(scheme: Sequence[Matrix], gamma: float) -> Float64[np.ndarray, " n"]:
    """Returns for each node how many nodes it would have to average over for the variance that it has in the walk.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory.quadratics import effective_neighbours
        >>> effective_neighbours([np.full((4, 4), 0.25)], 0.9).round(6).tolist()  # the complete graph averages over all
        [4.0, 4.0, 4.0, 4.0]

    Args:
        scheme: gossip matrices of a period, at least one; variances are those after the last.
        gamma: decay of the walk, 0 <= gamma < 1.
    """
    n = len(scheme[0])
    whole, noise = np.eye(n), np.zeros((n, n))
    for w in scheme:  # one period of the walk from a covariance C: whole C whole^T + noise
        whole, noise = math.sqrt(gamma) * w @ whole, w @ (gamma * noise + np.eye(n)) @ w.T
    return 1 / (1 - gamma) / np.diag(linalg.solve_discrete_lyapunov(whole, noise))


def quadratic_rate(scheme: Sequence[Matrix], zeta: float, lr: float) -> float:
    """Returns the rate r of random isotropic quadratics: E of ||x||^2 shrinks by 1 - r a round, in the long run.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory.quadratics import quadratic_rate
        >>> round(quadratic_rate([np.eye(1)], zeta=50.0, lr=0.02), 12)  # a node alone: 2 eta - zeta eta^2
        0.02

    Args:
        scheme: gossip matrices of a period, at least one.
        zeta: E of ||H x||^2 / ||x||^2 of the random Hessians, at least 1; d + 2 for one example of d normal features.
        lr: step size eta.

    Returns:
        The rate; NaN where E of ||x||^2 does not shrink.
    """
    n = len(scheme[0])
    c, factor, before = np.eye(n), 1.0, math.inf
    for _ in range(20_000):  # power iteration: C stays a covariance, and so does its limit
        for w in scheme:
            c = w @ ((1 - lr) ** 2 * c + (zeta - 1) * lr**2 * np.diag(np.diag(c))) @ w.T
        factor = float(np.linalg.norm(c))
        c /= factor
        if abs(factor - before) <= 1e-13 * factor:
            break
        before = factor
    rate = 1 - factor ** (1 / len(scheme))
    return rate if 0 < rate < 1 else math.nan


def worst_node_rate(scheme: Sequence[Matrix], zeta: float, lr: float) -> float:
    """Returns the rate of random isotropic quadratics as the worst node says it, which is exact on regular graphs.

    The published estimate: the r with r = 1 - (1 - eta)^2 - (zeta - 1) eta^2 / m, where m is the effective number of
    neighbours of the worst node at gamma = (1 - eta)^2 / (1 - r).

    Args:
        scheme, zeta, lr: as of `quadratic_rate`.

    Returns:
        The rate; NaN where there is none above 0.
    """
    rate, before = 0.0, math.inf
    for _ in range(100):
        gamma = (1 - lr) ** 2 / (1 - rate)
        if gamma >= 1 or abs(rate - before) < 1e-9:
            break
        worst = float(effective_neighbours(scheme, gamma).min())
        rate, before = 1 - (1 - lr) ** 2 - (zeta - 1) * lr**2 / worst, rate
        if not 0 <= rate < 1:
            return math.nan
    return rate
