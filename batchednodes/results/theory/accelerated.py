r"""Consensus of accelerated gossip: the exact second moments of models that meet in pairs and flow toward their copies.

With S = E z z^T of the deviations z = (x, y) of models and copies from their means, edges e that meet at rates r_e with
Laplacians L_e, and L = sum_e r_e L_e,

    dS/dt = A S + S A^T + K (x) sum_e r_e s_e L_e,    s_e = (e_i - e_j)^T S_xx (e_i - e_j),
    A = eta ((-1, 1), (1, -1)) (x) I - (1/2, alpha)^T (1, 0) (x) L,    K = (1/2, alpha)^T (1/2, alpha).

Without acceleration eta = alpha = 0, and models meet and halve their difference.

Notation: n nodes, x models, y copies, eta rate of flow, alpha move of a copy.

Reference:
    A. Nabli, E. Belilovsky, E. Oyallon, "A2CiD2: accelerating asynchronous communication in decentralized deep
    learning", NeurIPS 2023, whose dynamics these are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from scipy import integrate
else:
    integrate = deferred("scipy.integrate")


def accelerated_consensus(
    meet: Float64[np.ndarray, "n n"],
    start: Float64[np.ndarray, " n"],
    times: Sequence[float],
    eta: float = 0.0,
    alpha: float = 0.0,
) -> Float64[np.ndarray, " k"]:
    """Returns the mean over nodes of E (x_i - mean of x)^2 at some times, of numbers that meet and are not trained.

    Example:
        >>> import numpy as np
        >>> from batchednodes.results.theory.accelerated import accelerated_consensus
        >>> pair = np.array([[0.0, 1.0], [1.0, 0.0]])  # who have not met after 2 s with probability exp(-2)
        >>> found = accelerated_consensus(pair, np.array([1.0, -1.0]), [0.0, 2.0])
        >>> bool(np.allclose(found, [1.0, np.exp(-2)]))
        True

    Args:
        meet: rates at which pairs meet, symmetric, 0 on the diagonal [1/s].
        start: numbers of all nodes at time 0, of models and copies alike.
        times: rising, from 0 [s].
        eta, alpha: as of `acid.ACiD`; 0: plain gossip.
    """
    n = len(meet)
    deviation = np.tile(start - start.mean(), 2)
    laplacian = np.diag(meet.sum(1)) - meet
    drift = np.kron(np.array([[-eta, eta], [eta, -eta]]), np.eye(n)) - np.kron(
        np.array([[0.5, 0.0], [alpha, 0.0]]), laplacian
    )
    moves = np.outer([0.5, alpha], [0.5, alpha])

    def change(_: float, flat: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        s = flat.reshape(2 * n, 2 * n)
        own = np.diag(s)[:n]
        rates = meet * (own[:, None] + own - 2 * s[:n, :n])
        flows = drift @ s
        return (flows + flows.T + np.kron(moves, np.diag(rates.sum(1)) - rates)).ravel()

    found, flat, now = list[float](), np.outer(deviation, deviation).ravel(), 0.0
    for time in times:
        scale = float(np.abs(flat).max()) or 1.0  # what is left is small, and known to as many digits
        if time > now:
            end = integrate.solve_ivp(change, (now, time), flat / scale, "DOP853", rtol=1e-11, atol=1e-14)
            flat, now = scale * end.y[:, -1], time
        found.append(float(np.trace(flat.reshape(2 * n, 2 * n)[:n, :n])) / n)
    return np.array(found)
