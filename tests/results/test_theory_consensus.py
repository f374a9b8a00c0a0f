"""Laws of consensus and of gossip SGD against brute force: enumeration of all contacts and moments, or simulation.

Simulated means lie in their intervals by batch means, at 99.99%, with fixed seeds: over all seeds one of the 9
intervals would fail by chance in 0.1% of cases.
"""

import numpy as np
import pytest

from batchednodes.results import theory

EXCHANGES = ("push", "pull", "meet")
ROUNDING = 1e-11
"""Relative: small linear systems of condition below 10^4."""


def contacts_of(adjacency):
    """Returns the (probability, i, j) of each contact: i uniform among nodes with neighbours, j among these."""
    active = adjacency.any(1).sum()
    return [(1 / active / adjacency[i].sum(), i, j) for i, j in np.argwhere(adjacency)]


def gossip_matrix(n, i, j, exchange, weight):
    matrix = np.eye(n)
    for to, source in {"push": [(j, i)], "pull": [(i, j)], "meet": [(i, j), (j, i)]}[exchange]:
        matrix[to, to], matrix[to, source] = 1 - weight, weight
    return matrix


def graphs():
    draw = np.random.default_rng(7)
    star = np.zeros((5, 5), bool)
    star[0, 1:] = star[1:, 0] = True
    hops = abs(np.arange(6)[:, None] - np.arange(6)) % 4  # a ring of six: 0 and 5 are five, that is one, apart
    isolated = np.zeros((4, 4), bool)
    isolated[0, 1] = isolated[1, 0] = isolated[1, 2] = True
    return [~np.eye(4, dtype=bool), hops == 1, star, isolated, (draw.random((7, 7)) < 0.5) & ~np.eye(7, dtype=bool)]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_contraction_of_graphs_by_enumeration_of_contacts(exchange, weight):
    for adjacency in graphs():
        n, contacts = len(adjacency), contacts_of(adjacency)
        chances = np.array([p for p, *_ in contacts])
        matrices = np.array([gossip_matrix(n, i, j, exchange, weight) for _, i, j in contacts])
        rho = theory.contraction(chances, matrices)
        assert theory.expected_consensus(adjacency, exchange, weight) == pytest.approx(rho, rel=1e-12)
        after = worst_of(chances, matrices, np.random.default_rng(8).normal(size=(400, n)))
        assert after <= rho + 1e-12  # rounding
        assert after > 0.8 * rho  # 400 random spreads in at most 6 dimensions come near the worst


def worst_of(chances, matrices, spreads):
    """Returns the largest mean shrinkage of the squared consensus distance over some spreads, from the definition."""
    before = spreads.var(1)
    after = sum(p * (spreads @ w.T).var(1) for p, w in zip(chances, matrices, strict=True))
    return float((after / before).max())


@pytest.mark.parametrize("n", [2, 5, 40])
def test_contraction_on_the_complete_graph(n):
    everyone, w = ~np.eye(n, dtype=bool), 0.3
    found = {exchange: theory.expected_consensus(everyone, exchange, 0.5) for exchange in EXCHANGES}
    assert found["meet"] == pytest.approx(1 - 1 / (n - 1), abs=1e-13)
    assert found["push"] == pytest.approx(1 - (1 + 1 / n) / (2 * (n - 1)), abs=1e-13)
    assert found["pull"] == pytest.approx(found["push"], abs=1e-13)
    pushed = 1 - (2 * w - 2 * w**2 * (1 - 1 / n)) / (n - 1)
    assert theory.expected_consensus(everyone, "push", w) == pytest.approx(pushed, abs=1e-13)


def test_parts_that_never_meet_keep_their_distance():
    parts = np.kron(np.eye(2), 1 - np.eye(3)) > 0
    assert theory.expected_consensus(parts, "meet", 0.5) == pytest.approx(1, abs=1e-13)


# Gossip SGD on quadratics


def enumerate_sgd(b, capacity, update_rate, exchange, weight, lr, curvature, noise):
    """Returns (consensus, error, error of the mean model) from all n^2 second moments of x - mean(b)."""
    n, b = len(b), b - b.mean()
    step, everyone = lr * curvature, []
    for i in range(n):
        node = np.eye(n)[i]
        everyone.append((update_rate, np.eye(n) - step * np.outer(node, node), step * b * node, lr**2 * noise * node))
        for j in set(range(n)) - {i}:
            everyone.append((capacity / (n - 1), gossip_matrix(n, i, j, exchange, weight), 0 * node, 0 * node))
    one, two, first, second = np.zeros((n, n)), np.zeros((n * n, n * n)), np.zeros(n), np.zeros((n, n))
    for rate, a, shift, _ in everyone:
        one += rate * (a - np.eye(n))
        first += rate * shift
    mean = -np.linalg.solve(one, first)
    for rate, a, shift, noises in everyone:
        two += rate * (np.kron(a, a) - np.eye(n * n))
        cross = np.outer(a @ mean, shift)
        second += rate * (cross + cross.T + np.outer(shift, shift) + np.diag(noises))
    moments = -np.linalg.solve(two, second.flatten()).reshape(n, n)
    error, centre = np.trace(moments) / n, moments.mean()
    return error - centre, error, centre


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("n", "capacity", "rate", "weight", "lr", "curvature", "noise"),
    [(2, 1.0, 1.0, 0.5, 0.1, 1.0, 1.0), (4, 0.3, 2.0, 0.2, 0.9, 1.7, 0.5), (5, 6.0, 0.4, 0.7, 0.05, 2.0, 0.0),
     (3, 0.0, 1.0, 0.5, 0.5, 1.0, 2.0), (3, 2.0, 1.0, 1.0, 0.5, 1.0, 2.0)],
)  # fmt: skip
def test_stationary_errors_by_all_second_moments(exchange, n, capacity, rate, weight, lr, curvature, noise):
    b = np.random.default_rng(9).normal(size=n)
    exact = enumerate_sgd(b, capacity, rate, exchange, weight, lr, curvature, noise)
    found = theory.stationary_consensus(
        n, capacity, rate, exchange, weight=weight, lr=lr, curvature=curvature, noise=noise, heterogeneity=b.var()
    )
    np.testing.assert_allclose(found, exact, rtol=ROUNDING, atol=1e-13)  # rounding where noise and coupling are 0
    assert found.error == pytest.approx(found.consensus + found.error_mean_model, rel=1e-13)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_stationary_errors_in_simulation(exchange):
    n, capacity, rate, weight, lr, b = 4, 1.5, 1.0, 0.4, 0.3, [-1.0, -0.5, 0.3, 1.2]
    draw, x, sums, batches, size = np.random.default_rng(10), [0.0] * n, np.zeros(3), [], 4000
    update = (draw.random(41 * size) < rate / (rate + capacity)).tolist()
    actors, peers = draw.integers(n, size=41 * size).tolist(), draw.integers(1, n, size=41 * size).tolist()
    noises = draw.normal(size=41 * size).tolist()
    for e in range(41 * size):  # the gaps are memoryless, so means over events are means over time
        i, j = actors[e], (actors[e] + peers[e]) % n
        if update[e]:
            x[i] -= lr * (x[i] - b[i] + noises[e])
        else:
            old_i, old_j = x[i], x[j]
            if exchange != "push":
                x[i] = (1 - weight) * old_i + weight * old_j
            if exchange != "pull":
                x[j] = (1 - weight) * old_j + weight * old_i
        mean, square = sum(x) / n, sum(v * v for v in x) / n
        sums += (square - mean**2, square, mean**2)
        if (e + 1) % size == 0:
            batches.append(sums / size)
            sums = np.zeros(3)
    found = theory.stationary_consensus(
        n, capacity, rate, exchange, weight=weight, lr=lr, curvature=1.0, noise=1.0, heterogeneity=float(np.var(b))
    )
    for law, measured in zip(found, np.array(batches).T, strict=True):
        centre, half = theory.batch_means(measured[1:], 40, 0.9999)  # the first batch is the warm-up
        assert half < 0.15 * law  # the interval says something
        assert abs(centre - law) < half


# Words


SGD = {"capacity": 1.0, "update_rate": 1.0, "weight": 0.5, "lr": 0.1, "curvature": 1.0, "noise": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.contraction(np.array([0.5]), np.eye(2)[None]), "probabilities must be .* got sum 0.5"),
        (lambda: theory.contraction(np.array([1.0]), 2 * np.eye(2)[None]), "matrices must have rows of sum 1, .* 2"),
        (lambda: theory.expected_consensus(np.eye(2) > 0, "push", 0.5), "adjacency must be False on the diagonal"),
        (lambda: theory.expected_consensus(np.zeros((2, 2), bool), "push", 0.5), "adjacency must have at least one"),
        (lambda: theory.expected_consensus(~np.eye(2, dtype=bool), "push", 1.5), "weight must be .* got 1.5"),
        (
            lambda: theory.stationary_consensus(3, exchange="push", **(SGD | {"lr": 2.0})),
            "lr . curvature must be .* got 2.0",
        ),
        (lambda: theory.stationary_consensus(3, exchange="push", **(SGD | {"noise": -1.0})), "noise must be .* got -1"),
        (
            lambda: theory.stationary_consensus(3, exchange="push", **SGD, heterogeneity=-1.0),
            "heterogeneity must be .* got -1",
        ),
    ],
)
def test_arguments_out_of_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
