"""Laws of random quadratics and of accelerated gossip, against simulations of a few nodes by hand."""

import math

import numpy as np
import pytest
from scipy.linalg import expm

from batchednodes.results.theory import (
    accelerated_consensus,
    effective_neighbours,
    quadratic_rate,
    worst_node_rate,
)

LINE = np.array([[0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]])
SWAP = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("scheme", [[LINE], [SWAP, SWAP[::-1, ::-1]]], ids=["fixed", "in turn"])
def test_variances_of_a_walk_are_what_its_recursion_comes_to(scheme):
    gamma, c = 0.7, np.zeros((3, 3))
    for _ in range(200):
        for w in scheme:
            c = w @ (gamma * c + np.eye(3)) @ w.T
    assert np.allclose(effective_neighbours(scheme, gamma), 1 / (1 - gamma) / np.diag(c), rtol=1e-9)


def test_descent_is_as_fast_as_random_hessians_make_it():
    """Two directions, each the whole Hessian of a step with probability 1/2, so zeta = 2; four standard errors."""
    rng, lr, many = np.random.default_rng(0), 0.5, 200_000
    x = np.ones((many, 3, 2))
    for _ in range(3):
        h = 2 * np.eye(2)[rng.integers(2, size=(many, 3))]
        x = np.einsum("ij,mjd->mid", LINE, x - lr * h * x)
    c = np.full((3, 3), 2.0)
    for _ in range(3):
        c = LINE @ ((1 - lr) ** 2 * c + lr**2 * np.diag(np.diag(c))) @ LINE.T
    each = (x**2).sum(2)
    assert np.all(np.abs(each.mean(0) - np.diag(c)) < 4 * each.std(0) / math.sqrt(many))


def test_rates_are_those_of_one_node_and_of_regular_graphs_whichever_way_they_are_found():
    alone = [np.eye(1)]
    assert quadratic_rate(alone, 50.0, 0.01) == pytest.approx(0.02 - 50 * 0.01**2, rel=1e-12)
    assert worst_node_rate(alone, 50.0, 0.01) == pytest.approx(0.02 - 50 * 0.01**2, rel=1e-12)
    assert math.isnan(quadratic_rate(alone, 50.0, 0.05))
    assert math.isnan(worst_node_rate(alone, 50.0, 0.05))
    ring = [np.eye(8) / 3 + sum(np.roll(np.eye(8), k, 0) for k in (1, -1)) / 3]
    assert quadratic_rate(ring, 20.0, 0.05) == pytest.approx(worst_node_rate(ring, 20.0, 0.05), abs=1e-8)


def test_acceleration_without_flow_or_move_is_plain_gossip():
    meet = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    start, times = np.array([1.0, -2.0, 0.5]), [0.0, 0.5, 3.0]
    plain = accelerated_consensus(meet, start, times)
    assert plain[0] == pytest.approx(start.var(), rel=1e-12)
    walk = np.zeros((9, 9))
    for i, j in ((0, 1), (0, 2)):
        mix = np.eye(3)
        mix[np.ix_([i, j], [i, j])] = 0.5
        walk += meet[i, j] * (np.kron(mix, mix) - np.eye(9))
    values, vectors = np.linalg.eigh(walk)
    apart = start - start.mean()
    moment = vectors @ (np.exp(3.0 * values) * (vectors.T @ np.outer(apart, apart).ravel()))
    assert plain[2] == pytest.approx(np.trace(moment.reshape(3, 3)) / 3, rel=1e-9)
    assert not np.allclose(accelerated_consensus(meet, start, times, 0.3, 0.6)[1:], plain[1:], rtol=1e-3)


@pytest.mark.parametrize(("eta", "alpha"), [(0.0, 0.0), (0.4, 0.8)], ids=["plain", "accelerated"])
def test_consensus_is_known_to_eleven_digits_however_small_it_has_become(eta, alpha):
    """Where all pairs meet alike, traces of second moments have a law of their own."""
    n, times = 6, [0, 3, 70]
    meet, pull = (1 - np.eye(n)) / (n - 1), n / (n - 1)
    one = eta * np.array([[-1, 1], [1, -1]]) - pull * np.outer([0.5, alpha], [1, 0])
    law = np.kron(one, np.eye(2)) + np.kron(np.eye(2), one)  # of the traces of xx, xy, yx and yy
    law[:, 0] += 2 * pull * np.outer([0.5, alpha], [0.5, alpha]).ravel()  # sum_e r_e s_e |e_i - e_j|^2
    begin = np.full(4, (1 - 1 / n) / n)
    exact = [(np.linalg.matrix_power(expm(law), t) @ begin)[0] for t in times]
    assert 0 < exact[2] < 1e-17
    found = accelerated_consensus(meet, np.eye(n)[0], [float(t) for t in times], eta, alpha)
    assert found == pytest.approx(exact, rel=1e-11, abs=0.0)
