r"""How fast gossip contracts the distance between models, and where noise and heterogeneity hold it.

Notation: n nodes, e contacts, x models, xbar their mean, W gossip matrix of one contact, J = 11^T / n, w weight of the
other's model, P[i, j] probability that a contact is made by i with j.
"""

from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float64
from scipy.sparse import csgraph

from batchednodes.numerics.values import count, number
from batchednodes.topology.graph import STEPS, second_eigenvalue, second_modulus


def contraction(probabilities: Float64[np.ndarray, " e"], matrices: Float64[np.ndarray, "e n n"]) -> float:
    r"""Returns the factor by which a random contact shrinks the squared consensus distance, at worst, in the mean.

    After x <- W x the squared distances from the new mean sum to x^T W^T (I - J) W x. So for every x

        E sum_i ||x_i - xbar||^2 after <= rho sum_i ||x_i - xbar||^2 before,    rho = lambda_max( E[W^T (I - J) W] ),

    with equality for some x: the bound of one contact is sharp; over many contacts it need not be, unless all mean-zero
    vectors contract alike, as on the complete graph.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import contraction
        >>> meet = np.array([[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])  # of nodes 0 and 1
        >>> [abs(round(contraction(np.ones(1), w), 9)) for w in (meet, np.full((1, 3, 3), 1 / 3))]
        [1.0, 0.0]

    Args:
        probabilities: of each contact; non-negative, sum 1.
        matrices: W of each contact; rows sum to 1.

    Returns:
        rho; dimensionless; 1 where some spread stays as it is, above 1 where one contact can raise it in the mean.

    Raises:
        ValueError: probabilities do not sum to 1, or rows of a matrix do not.

    Reference:
        S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52(6), 2006,
        for contacts that keep the mean; F. Fagnani, S. Zampieri, "Randomized consensus algorithms over large scale
        networks", IEEE J. Sel. Areas Commun. 26(4), 2008, for those that do not.
    """
    if (probabilities < 0).any() or abs(probabilities.sum() - 1) > 1e-9:
        raise ValueError(f"probabilities must be non-negative with sum 1, got sum {probabilities.sum()}")
    sums = matrices.sum(2)
    if (abs(sums - 1) > 1e-9).any():
        raise ValueError(f"matrices must have rows of sum 1, got a row of sum {sums.flat[abs(sums - 1).argmax()]}")
    centred = matrices - matrices.mean(1, keepdims=True)  # (I - J) W
    return float(np.linalg.eigvalsh(np.einsum("e,eki,ekj->ij", probabilities, centred, centred))[-1])


def expected_consensus(
    adjacency: Bool[np.ndarray, "n n"], exchange: Literal["push", "pull", "meet"], weight: float
) -> float:
    r"""Returns `contraction` for a contact on a graph: of a uniform node with one of its neighbours, uniformly.

    With Q[i, j] the probability that j takes from i (P for push, P^T for pull), L_P = diag(P 1 + P^T 1) - P - P^T and
    D = Q^T - diag(Q^T 1), the operator is

        push, pull: (I - J) + w [ (I - J) D + D^T (I - J) ] + w^2 (1 - 1/n) L_P
        meet:       (I - J) - 2 w (1 - w) L_P.

    On the complete graph it is 1 - [2 w - 2 w^2 (1 - 1/n)] / (n-1) for push and pull, and 1 - 4 w (1 - w) / (n-1) for
    meetings: with w = 1/2, 1 - (1 + 1/n) / (2 (n-1)) and 1 - 1 / (n-1). If each of m nodes makes lambda contacts a
    second, the mean shrinks at least as fast as exp(-(1 - rho) m lambda t).

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import expected_consensus
        >>> everyone = ~np.eye(10, dtype=bool)
        >>> round(expected_consensus(everyone, "push", 0.5), 3), round(expected_consensus(everyone, "meet", 0.5), 3)
        (0.939, 0.889)

    Args:
        adjacency: [i, j]: i may contact j; False on the diagonal. Nodes with no neighbour make no contact.
        exchange: how two nodes exchange models.
        weight: w of every contact; 0 <= w <= 1; dimensionless.

    Returns:
        rho; dimensionless. 1 where the graph is in parts that meet only within themselves.

    Raises:
        ValueError: nobody has a neighbour, a node neighbours itself, or the weight is out of range.

    Reference:
        As for `contraction`; Boyd et al. 2006, section II-A, for meetings with w = 1/2.
    """
    w = number(weight, len(adjacency), "weight", high=1.0, open_high=False)
    if adjacency.diagonal().any():
        raise ValueError("adjacency must be False on the diagonal: no node gossips with itself")
    degree = adjacency.sum(1)
    if not degree.any():
        raise ValueError("adjacency must have at least one edge: nobody has a neighbour")
    return contact_consensus(adjacency / np.maximum(degree, 1)[:, None] / (degree > 0).sum(), exchange, w)


def contact_consensus(
    contacts: Float64[np.ndarray, "n n"], exchange: Literal["push", "pull", "meet"], weight: float
) -> float:
    """Returns `expected_consensus` for contacts with given probabilities.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import contact_consensus
        >>> contacts = np.array([[0.0, 0.5], [0.5, 0.0]])  # i, then j: each of two nodes contacts the other
        >>> [round(contact_consensus(contacts, "push", weight), 2) for weight in (0.1, 0.5, 1.0)]
        [0.81, 0.25, 0.0]

    Args:
        contacts: P[i, j], the probability that a contact is made by i with j; non-negative, 0 on the diagonal, sum 1.
        exchange: how two nodes exchange models.
        weight: w of every contact; 0 <= w <= 1; dimensionless.
    """
    n, w = len(contacts), weight
    laplacian = np.diag(contacts.sum(0) + contacts.sum(1)) - contacts - contacts.T
    operator = np.eye(n) - 1 / n
    if exchange == "meet":
        operator -= 2 * w * (1 - w) * laplacian
    else:
        taken = contacts.T if exchange == "push" else contacts
        drift = taken - np.diag(taken.sum(1))
        drift -= drift.mean(0)
        operator += w * (drift + drift.T) + w**2 * (1 - 1 / n) * laplacian
    return float(np.linalg.eigvalsh(operator)[-1])


def complete_consensus(n: int, exchange: Literal["push", "pull", "meet"], weight: float) -> float:
    """Returns `expected_consensus` on the complete graph of n >= 2 nodes, in closed form.

    Example:
        >>> from batchednodes.results.theory import complete_consensus
        >>> [round(complete_consensus(n, "meet", 0.5), 4) for n in (2, 10, 100)]
        [0.0, 0.8889, 0.9899]
    """
    once = 4 * weight * (1 - weight) if exchange == "meet" else 2 * weight - 2 * weight**2 * (1 - 1 / n)
    return 1 - once / (n - 1)


def meeting_consensus(contacts: scipy.sparse.csr_array, weight: float) -> float:
    r"""Returns `contact_consensus` for meetings on a sparse graph: 1 - 2 w (1 - w) l_2.

    l_2 is the second smallest eigenvalue of L_P. With d the largest entry of L_P, all of I - L_P / (2 d) are in [0, 1].

    Example:
        >>> import scipy.sparse
        >>> from batchednodes.results.theory import complete_consensus, meeting_consensus
        >>> from batchednodes.topology import Ring
        >>> contacts = scipy.sparse.csr_array(Ring().graph(10, 0).adjacency() / 20)  # all edges alike, either way
        >>> round(float(meeting_consensus(contacts, 0.5)), 4), round(complete_consensus(10, "meet", 0.5), 4)
        (0.9809, 0.8889)

    Args:
        contacts: P[i, j], the probability that a contact is made by i with j; non-negative, 0 on the diagonal, sum 1.
        weight: w of every contact; 0 <= w <= 1; dimensionless.
    """
    both = contacts + contacts.T
    if csgraph.connected_components(both, directed=False)[0] > 1:
        return 1.0
    degree = both.sum(axis=0)
    top = 2 * degree.max()
    lazy = scipy.sparse.diags_array(1 - degree / top) + both / top
    return 1 - 2 * weight * (1 - weight) * top * (1 - second_modulus(lazy.tocsr(), directed=False))


def walk_gap(contacts: Float64[np.ndarray, "n n"]) -> float:
    """Returns 1 - Re l_2 of P, the spectral gap of a random walk with these probabilities; dimensionless.

    l_2 has the second largest real part. A bipartite graph has a gap too: a walk in continuous time has no parity.

    Example:
        >>> from batchednodes.results.theory import walk_gap
        >>> from batchednodes.topology import Ring
        >>> [round(walk_gap(Ring().graph(n, 0).adjacency().toarray() / 2), 4) for n in (8, 16, 32)]  # of order 1/n^2
        [0.2929, 0.0761, 0.0192]

    Args:
        contacts: P[i, j]; non-negative, rows of sum at most 1: what is left to 1 stays at i. n >= 2.
    """
    p = contacts + np.diag(1 - contacts.sum(axis=1))
    return float(1 - np.sort(np.linalg.eigvals(p).real)[-2])


def sparse_walk_gap(contacts: scipy.sparse.csr_array, weight: Float64[np.ndarray, " n"]) -> float | None:
    r"""Returns `walk_gap` of a reversible walk on a connected graph, to 1e-4 of itself, in about a second.

    With pi the weights, pi_i P[i, j] = pi_j P[j, i], so that diag(pi)^(1/2) P diag(pi)^(-1/2) is symmetric.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory import sparse_walk_gap, walk_gap
        >>> from batchednodes.topology import Ring
        >>> contacts = (Ring().graph(30, 0).adjacency() / 2).tocsr()
        >>> round(sparse_walk_gap(contacts, np.ones(30)), 5), round(walk_gap(contacts.toarray()), 5)
        (0.02185, 0.02185)

    Args:
        contacts: P[i, j]; non-negative, rows of sum at most 1: what is left to 1 stays at i. n >= 2.
        weight: pi_i; positive, up to a factor.

    Returns:
        The gap; None: the walk is not reversible by these weights, or so slow that a second is not enough.
    """
    steps = min(STEPS, int(1e9 / (3 * contacts.nnz + 9 * weight.size)))  # [ns] of a step, about
    if steps < 25:
        return None
    p = (contacts + scipy.sparse.diags_array(1 - contacts.sum(axis=1))).tocsr()
    flow = scipy.sparse.diags_array(weight) @ p
    if abs(flow - flow.T).max() > 1e-9 * weight.max():
        return None
    root = np.sqrt(weight)
    s = (scipy.sparse.diags_array(root) @ p @ scipy.sparse.diags_array(1 / root)).tocsr()
    found = second_eigenvalue(s, root, steps)
    return None if found is None else 1 - found


class Stationary(NamedTuple):
    """Mean squares of gossip SGD on quadratics in the long run, in squared units of x."""

    consensus: float
    """E of the mean over nodes of ||x_i - xbar||^2: the square of the consensus distance."""
    error: float
    """E of the mean over nodes of ||x_i - x*||^2, x* the minimiser of the mean loss."""
    error_mean_model: float
    """E ||xbar - x*||^2; error = consensus + error_mean_model."""


def stationary_consensus(
    n: int, capacity: float, update_rate: float, exchange: Literal["push", "pull", "meet"], *,
    weight: float, lr: float, curvature: float, noise: float, heterogeneity: float = 0.0,
) -> Stationary:  # fmt: skip
    r"""Returns the exact stationary errors of asynchronous gossip SGD on quadratics, on the complete graph.

    Node i has the loss a/2 ||x - b_i||^2 and updates by one step x_i <- x_i - eta (a (x_i - b_i) + noise), at Poisson
    times of rate r; contacts are Poisson, of rate lambda a node. Take the mean of the b_i as origin, let B be their
    mean square, alpha = 1 - eta a, and u = 1 (push, pull) or 2 (meeting). The means are E x_i = rho b_i with

        rho = r eta a / (r eta a + u lambda w n / (n-1)),

    and Q, the mean over nodes of E||x_i||^2, and C, the mean over pairs of E<x_i, x_j>, obey, with
    kappa = 2 u lambda w (1-w),

        0 = r [ (alpha^2 - 1) Q + 2 alpha eta a rho B + eta^2 (a^2 B + s^2) ] - kappa (Q - C)
        0 = 2 r [ (alpha - 1) C - eta a rho B / (n-1) ] + kappa' (Q - C) / (n-1),

    where kappa' = 2 lambda w for push and pull, and kappa for meetings, which keep the mean model. The two equations
    are closed, whatever the b_i, since contacts with third nodes leave the mean over pairs as it is. Then

        consensus = (n-1)/n (Q - C),    error = Q,    error of the mean model = [Q + (n-1) C] / n.

    Example:
        >>> from batchednodes.results.theory import stationary_consensus
        >>> task = {"weight": 0.5, "lr": 0.1, "curvature": 1.0, "noise": 1.0}
        >>> for capacity in (0.0, 1.0, 100.0):  # with much gossip, a tenth of the error of one node
        ...     print(round(stationary_consensus(10, capacity, 1.0, "meet", **task).error, 4))
        ...
        0.0526
        0.012
        0.0051

    Args:
        n: number of nodes; n >= 2.
        capacity: lambda, contacts that a node makes per second [1/s]; non-negative and finite.
        update_rate: r of each node, memoryless [1/s]; positive and finite.
        exchange: how two nodes exchange models.
        weight: w of every contact; 0 <= w <= 1; dimensionless.
        lr: eta [1 / unit of curvature]; positive, lr * curvature < 2.
        curvature: a, of every node's loss; positive and finite.
        noise: s^2 = E||noise||^2 of a gradient, summed over coordinates; non-negative and finite.
        heterogeneity: B, mean over nodes of ||b_i - their mean||^2; non-negative and finite.

    Raises:
        ValueError: an argument is out of range.

    Reference:
        Derived here: second moments of an exchangeable linear system.
    """
    count(n, n, "n", low=2)
    number(capacity, n, "capacity", unit="1/s")
    r = number(update_rate, n, "update_rate", open_low=True, unit="1/s")
    w = number(weight, n, "weight", high=1.0, open_high=False)
    number(curvature, n, "curvature", open_low=True)
    step = number(lr * curvature, n, "lr * curvature", high=2.0, open_low=True)  # eta a
    noise, spread = number(noise, n, "noise"), number(heterogeneity, n, "heterogeneity")
    flow = capacity * (2 if exchange == "meet" else 1)
    follows = r * step / (r * step + flow * w * n / (n - 1))  # rho
    to_q = 2 * flow * w * (1 - w)
    to_c = (to_q if exchange == "meet" else 2 * flow * w) / (n - 1)
    alpha = 1 - step
    matrix = np.array([[r * (1 - alpha**2) + to_q, -to_q], [-to_c, 2 * r * step + to_c]])
    drive = 2 * alpha * step * follows * spread + step**2 * spread + lr**2 * noise
    q, c = np.linalg.solve(matrix, [r * drive, -2 * r * step * follows * spread / (n - 1)])
    consensus = (n - 1) / n * (q - c)
    return Stationary(float(consensus), float(q), float(q - consensus))
