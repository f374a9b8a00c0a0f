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

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from scipy import integrate
else:
    integrate = deferred("scipy.integrate")

_PIECE = 5.0
"""Meetings of a node after which S is scaled, centred and made symmetric again: what rounding leaves beside S does not
decay with it."""


def accelerated_consensus(
    meet: Float64[np.ndarray, "n n"],
    start: Float64[np.ndarray, " n"],
    times: Sequence[float],
    eta: float = 0.0,
    alpha: float = 0.0,
) -> Float64[np.ndarray, " k"]:
    """Returns the mean over nodes of E (x_i - mean of x)^2 at some times, of numbers that meet and are not trained.

    It is right to eleven digits, however small it has become.

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
    n, kinds = len(meet), 2 if eta else 1  # models never see copies to which they do not flow
    flow, move = np.array([[-eta, eta], [eta, -eta]])[:kinds, :kinds], np.array([0.5, alpha])[:kinds]
    laplacian = np.diag(meet.sum(1)) - meet
    drift = np.kron(flow, np.eye(n)) - np.kron(np.outer(move, np.eye(kinds)[0]), laplacian)
    moves = np.outer(move, move)

    def change(_: float, flat: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        s = flat.reshape(kinds * n, kinds * n)
        own = np.diag(s)[:n]
        rates = meet * (own[:, None] + own - 2 * s[:n, :n])
        flows = drift @ s
        return (flows + flows.T + np.kron(moves, np.diag(rates.sum(1)) - rates)).ravel()

    centre = np.kron(np.eye(kinds), np.eye(n) - 1 / n)
    deviation = centre @ np.tile(start, kinds)
    found, s, now = list[float](), np.outer(deviation, deviation), 0.0
    for time in times:
        pieces = math.ceil((time - now) * laplacian.diagonal().max() / _PIECE)
        for end in np.linspace(now, time, 1 + pieces)[1:]:
            scale = float(np.abs(s).max()) or 1.0
            solved = integrate.solve_ivp(change, (now, end), (s / scale).ravel(), "DOP853", rtol=1e-13, atol=1e-16)
            s = scale * centre @ solved.y[:, -1].reshape(s.shape) @ centre
            s, now = (s + s.T) / 2, float(end)
        found.append(float(np.trace(s[:n, :n])) / n)
    return np.array(found)
