"""Laws of staleness and of clocks against brute force: enumeration of all sets of nodes, or one event at a time.

Simulated means lie in their intervals by batch means. Every interval is at 99.99% and the seeds are fixed; there are
about 50 intervals, so over all seeds the whole file would fail by chance in about 0.5% of cases.
"""

import itertools
import math

import numpy as np
import pytest

from batchednodes.results import theory
from batchednodes.results.theory import opportunistic

EXCHANGES = ("push", "pull", "meet")
ROUNDING = 1e-11
"""Relative: sums of at most 10^5 terms, or small linear systems of condition below 10^4."""


def flows(contacts, exchange):
    """Returns the rate at which i's model flows to j, if i contacts j at the rate contacts[i, j]."""
    return {"push": contacts, "pull": contacts.T, "meet": contacts + contacts.T}[exchange]


def complete(n, capacity):
    return capacity / (n - 1) * (1 - np.eye(n))


def ring(n, capacity):
    hops = (np.arange(n)[:, None] - np.arange(n)) % n
    return capacity / 2 * ((hops == 1) + (hops == n - 1))


def line(n, capacity):
    return np.diag(np.full(n - 1, capacity), 1)


def random_graph(n, draw):
    """Returns random rates of a random directed graph, about half of the ordered pairs."""
    rates = draw.exponential(size=(n, n)) * (draw.random((n, n)) < 0.5)
    return rates * (1 - np.eye(n))


def holds(law, batches):
    """Tells whether a law is in the interval of the measured batches; the first batch, a warm-up, is left out."""
    mean, half = theory.batch_means(np.array(batches[1:]), len(batches) - 1, 0.9999)
    assert half < 0.15 * law  # the interval says something
    return abs(mean - law) < half


def simulate_age(rates, gaps, until, seed, batches=40):
    """Runs updates and pushes one by one; returns the time averages of staleness over each batch, [b, j, k]."""
    n, draw = len(rates), np.random.default_rng(seed)
    events = [(until * (b + 1) / batches, -1, -1) for b in range(batches)]
    for i in range(n):
        events += [(t, i, i) for t in np.cumsum(gaps(i, draw)) if t < until]
        for j in np.flatnonzero(rates[i]):
            events += [(t, i, j) for t in until * draw.random(draw.poisson(until * rates[i, j]))]
    versions, area, out, last = np.zeros((n, n)), np.zeros((n, n)), [], 0.0
    for t, i, j in sorted(events):
        area += (versions.diagonal() - versions) * (t - last)
        last = t
        if i < 0:
            out.append(area * (batches / until))
            area = np.zeros((n, n))
        elif i == j:
            versions[i, i] += 1
        else:
            versions[j] = np.maximum(versions[j], versions[i])
    return np.array(out)


def simulate_freshest(n, capacity, gap, until, seed, batches=40):
    """Runs `freshest` event by event; returns for each batch the mean staleness, and the share of time of each h."""
    draw = np.random.default_rng(seed)
    due, holders, versions = [gap(draw) for _ in range(n)], [], np.zeros((n, n))
    stale, area, last, out, begin = 0.0, np.zeros(n + 1), 0.0, [], 0.0
    while len(out) < batches:
        end = until * (len(out) + 1) / batches
        push = last + draw.exponential() / (capacity * len(holders)) if holders else math.inf
        i = min(range(n), key=due.__getitem__)
        t = min(push, due[i], end)
        area[0] += stale * (t - last)
        area[len(holders)] += t - last if holders else 0.0
        last = t
        if t == end:
            out.append(area / (end - begin))
            area, begin = np.zeros(n + 1), end
        elif t == push:
            sender = holders[draw.integers(len(holders))]
            j = int((sender + 1 + draw.integers(n - 1)) % n)
            versions[j] = np.maximum(versions[j], versions[sender])
            holders = holders if j in holders else [*holders, j]
        else:
            versions[i, i] += 1
            due[i], holders = t + gap(draw), [i]
        stale = (versions.diagonal() - versions).sum() / (n * (n - 1))
    return np.array(out)


# Uniform gossip


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_the_law_of_any_graph_is_that_of_the_complete_graph(n, exchange):
    found = theory.mean_staleness_graph(flows(complete(n, 0.7), exchange), np.full(n, 1.3))
    law = theory.mean_staleness(n, 0.7, 1.3, exchange)
    np.testing.assert_allclose(found[~np.eye(n, dtype=bool)], law, rtol=ROUNDING)
    assert (found.diagonal() == 0).all()


def test_the_law_of_a_graph_by_hand():
    # 0 -> 1 -> 2, and 2 -> 0: what goes over one edge of rate q takes 1/q seconds, in the mean.
    rates = np.array([[0, 2.0, 0], [0, 0, 0.5], [4.0, 0, 0]])
    passage = np.array([[0, 2.25, 0.25], [0.5, 0, 0.75], [2.5, 2.0, 0]])  # [j, k]
    np.testing.assert_allclose(theory.mean_staleness_graph(rates, np.array([1.0, 10.0, 0.0])), passage * [1, 10, 0])


@pytest.mark.parametrize(
    "gaps",
    [
        lambda i, draw: draw.exponential(1 / (1 + i), 60_000),
        lambda i, draw: 0.5 / (1 + i) + draw.exponential(0.5 / (1 + i), 60_000),
        lambda i, draw: np.full(60_000, 1 / (1 + i)),
    ],
    ids=["exponential", "shifted", "deterministic"],
)
def test_the_law_of_a_graph_in_simulation(gaps):
    rates = np.array([[0, 1.0, 0, 0], [0.3, 0, 0.8, 0], [0, 0, 0, 2.0], [0.4, 0.2, 0.5, 0]])
    measured = simulate_age(rates, gaps, 12_000, seed=1)
    law = theory.mean_staleness_graph(rates, np.arange(1.0, 5.0))
    for j, k in itertools.permutations(range(4), 2):
        assert holds(law[j, k], measured[:, j, k])


def test_nodes_that_hear_nothing_fall_behind_for_ever():
    rates = np.array([[0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    found = theory.mean_staleness_graph(rates, np.array([1.0, 0.0, 1.0]))
    assert found.tolist() == [[0, 0, 1], [1, 0, 2], [math.inf, 0, 0]]
    assert theory.staleness_bound(rates, np.array([1.0, 0.0, 1.0])).tolist() == [math.inf, 0, 1.5]


def test_expansion_brackets_the_law():
    for n in (2, 3, 5, 10, 30):  # beyond, the error is below rounding
        value, error = theory.mean_staleness_expansion(n, 0.7, 1.3, "push")
        assert value < theory.mean_staleness(n, 0.7, 1.3, "push") < value + error
    value, error = theory.mean_staleness_expansion(1000, 0.7, 1.3, "meet")
    assert value == pytest.approx(theory.mean_staleness(1000, 0.7, 1.3, "meet"), rel=ROUNDING)
    assert error < 1e-12


def test_harmonic_numbers():
    assert theory.harmonic(0) == pytest.approx(0, abs=1e-15)  # rounding of two terms of size 0.6
    for m in (1, 2, 10, 1000):
        assert theory.harmonic(m) == pytest.approx(math.fsum(1 / k for k in range(1, m + 1)), rel=1e-14)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_law_of_the_ring(exchange):
    for n in (3, 4, 7, 12):
        found = theory.mean_staleness_graph(flows(ring(n, 0.7), exchange), np.full(n, 1.3))
        law = theory.mean_staleness_ring(n, 0.7, 1.3, exchange)
        assert law == pytest.approx(found.sum() / (n * (n - 1)), rel=ROUNDING)


def test_staleness_on_the_ring_is_linear_in_n():
    # The two ends of the arc meet the source after n/2 +- O(sqrt(n)) steps at most, hence a relative 1/sqrt(n).
    for n in (400, 1600):
        assert theory.mean_staleness_ring(n, 2.0, 1.0, "push") == pytest.approx(n / 4, rel=2 / math.sqrt(n))


def test_bound_is_never_below_the_law():
    draw, finite = np.random.default_rng(0), 0
    for n in (2, 3, 5, 8, 8, 8, 8, 8, 8, 8):
        for rates in (random_graph(n, draw), ring(max(n, 3), draw.exponential()), complete(n, draw.exponential())):
            update_rates = draw.exponential(size=len(rates))
            law = theory.mean_staleness_graph(rates, update_rates).sum(0) / (len(rates) - 1)
            bound = theory.staleness_bound(rates, update_rates)
            assert (law <= bound * (1 + ROUNDING)).all()
            assert (np.isfinite(law) == np.isfinite(bound)).all()
            finite += np.isfinite(law).sum()
    assert finite > 100


def test_bound_is_sharp_on_the_complete_graph_and_on_a_line():
    for n in (2, 10, 60):
        bound = theory.staleness_bound(complete(n, 0.7), np.full(n, 1.3))
        np.testing.assert_allclose(bound, theory.mean_staleness(n, 0.7, 1.3, "push"), rtol=ROUNDING)
    bound = theory.staleness_bound(line(5, 2.0), np.ones(5))
    assert bound[0] == pytest.approx((1 + 2 + 3 + 4) / 4 / 2.0, rel=ROUNDING)


# Opportunistic gossip


def subsets(nodes):
    return [frozenset(s) for m in range(1, len(nodes) + 1) for s in itertools.combinations(nodes, m)]


def freshest_events(holders, n, capacity, update_rate):
    """Yields (rate, holders after, node that updates or None, sender and receiver or None)."""
    for i in range(n):
        yield update_rate, frozenset([i]), i, None
    for i, j in itertools.product(holders, range(n)):
        if i != j:
            yield capacity / (n - 1), holders | {j}, None, (i, j)


def enumerate_freshest(n, capacity, update_rate):
    """Returns the law of holders, by set, and E[X_S] of single nodes: all sets of nodes and of holders, source 0."""
    holders, known = subsets(range(n)), subsets(range(1, n))
    row = {h: k for k, h in enumerate(holders)}
    generator = np.zeros((len(holders), len(holders)))
    for h in holders:
        for rate, after, *_ in freshest_events(h, n, capacity, update_rate):
            generator[row[after], row[h]] += rate
            generator[row[h], row[h]] -= rate
    generator[0] = 1  # the sum of probabilities, instead of one equation that follows from the others
    law = np.linalg.solve(generator, np.eye(len(holders))[0])
    place = {pair: k for k, pair in enumerate(itertools.product(known, holders))}
    matrix, drive = np.zeros((len(place), len(place))), np.zeros(len(place))
    for (s, h), k in place.items():
        for rate, after, updates, push in freshest_events(h, n, capacity, update_rate):
            matrix[k, k] -= rate
            told = push is not None and push[1] in s
            if told and push[0] == 0:
                continue  # S knows all that the source knows
            before = (s | {push[0]}) if told else s
            matrix[place[s, after], place[before, h]] += rate
            drive[place[s, after]] -= rate * law[row[h]] * (updates == 0)
    means = np.linalg.solve(matrix, drive)
    single = sum(means[place[frozenset([1]), h]] for h in holders)
    return {h: float(law[row[h]]) for h in holders}, float(single)


@pytest.mark.parametrize("capacity", [0.3, 4.0, 60.0])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_freshest_by_enumeration_of_all_sets(n, capacity):
    law, staleness = enumerate_freshest(n, capacity, 0.8)
    reach = [sum(p for h, p in law.items() if len(h) == m) for m in range(1, n + 1)]
    np.testing.assert_allclose(theory.freshest_reach(n, capacity, 0.8), reach, rtol=0, atol=1e-13)  # rounding of 1
    assert theory.freshest_staleness(n, capacity, 0.8) == pytest.approx(staleness, rel=ROUNDING)


@pytest.mark.parametrize(("n", "capacity", "until"), [(8, 1.0, 8000), (8, 8.0, 4000), (20, 20.0, 250)])
def test_freshest_in_simulation(n, capacity, until):
    measured = simulate_freshest(n, capacity, lambda draw: draw.exponential(), until, seed=3)
    assert holds(theory.freshest_staleness(n, capacity, 1.0), measured[:, 0])
    reach = theory.freshest_reach(n, capacity, 1.0)
    for m in (1, 2):
        assert holds(reach[m - 1], measured[:, m])


def test_staleness_of_freshest_is_stationary_in_time_and_without_bound_in_n():
    # From equal models it rises by at most 1 a second, then stays; 5 mean ages are left out as the warm-up.
    law = theory.freshest_staleness(10, 1.0, 1.0)
    measured = simulate_freshest(10, 1.0, lambda draw: draw.exponential(), 205 * law, seed=4, batches=41)
    assert holds(law, measured[:21, 0])
    assert holds(law, measured[20:, 0])
    means = [theory.freshest_staleness(n, 1.0, 1.0) / (n * theory.harmonic(n - 1)) for n in (10, 30, 100, 300)]
    assert means == sorted(means)
    assert 0.99 < means[-1] < 1  # the newest node pushes in the place of all n: uniform gossip at capacity 1 / n
    logarithmic = [theory.freshest_staleness(n, math.log(n), 1.0) / n for n in (30, 100, 300)]
    assert 0.9 < min(logarithmic) <= max(logarithmic) < 1.1  # linear in n


def test_staleness_of_freshest_at_capacity_n_is_bounded():
    means = [theory.freshest_staleness(n, float(n), 1.0) for n in (10, 30, 100, 300)]
    assert means == sorted(means, reverse=True)
    assert means[0] < 1
    for n in (10, 40):  # a shifted exponential of mean 1, whose law is not known, gives some 5% more
        shifted = simulate_freshest(n, float(n), lambda draw: 0.5 + draw.exponential(0.5), 6000 / n, seed=5, batches=20)
        mean, half = theory.batch_means(shifted[1:, 0], 19, 0.9999)
        assert mean + half < 1.5
        assert mean - half > 0.75


def test_rare_numbers_of_holders_are_left_out_below_rounding():
    for n, capacity in ((60, 0.5), (60, 4.0), (40, 40.0)):
        everything = opportunistic._solve(n, capacity / (n - 1), n)
        assert theory.freshest_staleness(n, capacity, 1.0) == pytest.approx(everything, rel=ROUNDING)


def test_freshest_depends_on_the_ratio_of_rates_only():
    assert theory.freshest_staleness(9, 6.0, 3.0) == theory.freshest_staleness(9, 2.0, 1.0)
    assert theory.freshest_staleness(9, 6.0, 0.0) == 0
    assert theory.freshest_reach(1, 1.0, 1.0).tolist() == [1.0]
    assert theory.freshest_reach(3, 0.0, 1.0).tolist() == [1.0, 0.0, 0.0]


# Renewal counts


def test_expected_updates_of_plain_clocks():
    shift, scale = np.array([0.0, 0.7, math.inf, 3.0]), np.array([0.4, 0.0, 0.0, 1.0])
    assert theory.expected_updates(shift, scale, 2.2).tolist() == pytest.approx([5.5, 3, 0, 0], rel=1e-14)
    assert theory.expected_updates(shift, scale, 0.0).tolist() == [0, 0, 0, 0]
    first = 1 - math.exp(-0.25)  # one action at most: Exp(1) <= 0.5 / 2
    assert theory.expected_updates(np.array([0.5]), np.array([2.0]), 1.0)[0] == pytest.approx(first, rel=1e-14)


def test_expected_updates_by_simulation():
    draw, shift, scale, t = np.random.default_rng(6), np.array([0.5, 0.1, 1.5]), np.array([0.5, 0.9, 0.2]), 6.3
    counts = (np.cumsum(shift + scale * draw.exponential(size=(20_000, 80, 3)), 1) <= t).sum(1)
    error = counts.std(0) / math.sqrt(len(counts))
    # 4.4 standard errors: over all seeds one of the three is outside with probability 3e-5
    assert (abs(counts.mean(0) - theory.expected_updates(shift, scale, t)) < 4.4 * error).all()


def test_expected_updates_by_all_terms_and_in_the_long_run():
    shift, scale, t = np.array([1e-3, 0.3, 2.0]), np.array([1.0, 0.01, 2.0]), 2000.0
    r = 1 / (shift + scale)
    found = theory.expected_updates(shift, scale, t)
    # The renewal function comes near its asymptote like a damped wave; of these clocks only the second, 0.01 / 0.3 from
    # a deterministic one, still swings.
    np.testing.assert_allclose(found[[0, 2]], (r * t + (r**2 * scale**2 - 1) / 2)[[0, 2]], rtol=1e-12)
    series = theory.renewal._series(shift[:1], scale[:1], 3.0)[0]
    exact = math.fsum(1 - poisson_below(k, (3.0 - k * 1e-3)) for k in range(1, 3000))
    assert series == pytest.approx(exact, rel=1e-12)


def poisson_below(k, mean):
    """Returns P(Poisson(mean) < k) = P(Gamma(k) > mean)."""
    if k > 150:
        return 1.0  # for means below 3 the rest is under 1e-100
    return math.fsum(math.exp(-mean + i * math.log(mean) - math.lgamma(i + 1)) for i in range(k))


# Words


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.mean_staleness_graph(np.zeros((13, 13)), np.ones(13)),
            "rates must be of at most 12 nodes .* got 13",
        ),
        (lambda: theory.mean_staleness_graph(-line(3, 1.0), np.ones(3)), "rates must be non-negative and finite"),
        (lambda: theory.staleness_bound(np.eye(3), np.ones(3)), "rates must be 0 on the diagonal"),
        (lambda: theory.staleness_bound(line(3, 1.0), np.array([1, 1, math.nan])), "update_rates must be non-neg"),
        (lambda: theory.staleness_bound(np.zeros((1, 1)), np.ones(1)), "number of nodes must be .* at least 2, got 1"),
        (lambda: theory.harmonic(-1), "m must be an integer at least 0, got -1"),
        (lambda: theory.mean_staleness_expansion(1, 1.0, 1.0, "push"), "n must be an integer at least 2, got 1"),
        (lambda: theory.mean_staleness_expansion(2, 0.0, 1.0, "push"), "capacity must be positive and finite"),
        (lambda: theory.mean_staleness_ring(2, 1.0, 1.0, "push"), "n must be an integer at least 3, got 2"),
        (lambda: theory.mean_staleness_ring(3, 1.0, -1.0, "push"), "update_rate must be"),
        (lambda: theory.freshest_staleness(1, 1.0, 1.0), "n must be an integer at least 2, got 1"),
        (lambda: theory.freshest_staleness(2, 0.0, 1.0), "capacity must be positive and finite"),
        (lambda: theory.freshest_reach(2, 1.0, 0.0), "update_rate must be positive and finite"),
        (lambda: theory.expected_updates(np.ones(1), np.ones(1), -1.0), "t must be .* got -1"),
        (lambda: theory.expected_updates(np.zeros(1), np.zeros(1), 1.0), "shift and scale must be"),
    ],
)
def test_arguments_out_of_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
