"""Laws of gaps: their rates, and the samples that the timeline draws from them."""

import math

import numpy as np
import pytest
from scipy import stats

from batchednodes.events.clocks import Clock, Deterministic, Exponential, Never, Poisson, ShiftedExponential
from batchednodes.events.gaps import Gaps, Quantiles
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import UPDATE, Timeline
from batchednodes.numerics import rng
from batchednodes.numerics.functions import called
from batchednodes.topology import Networks, stack
from tests.support import users_kinds


def times(clock: Clock, n: int, until: float) -> list[np.ndarray]:
    """Returns the update times of each node."""
    networks = Networks(np.array([0, n]), np.array([3], np.uint64))
    laws = Timeline(
        networks, stack(networks, [None]), clock.gaps(n, 3, "c"), Never().gaps(n, 3, "c"), "push", (Uniform(),)
    )
    events, _ = laws.window(laws.begin(), until)
    assert (events.kind == UPDATE).all()
    return [events.time[events.actor == i] for i in range(n)]


@pytest.mark.parametrize(
    ("clock", "law"),
    [
        (Poisson(2.0), stats.expon(scale=0.5)),
        (Exponential(0.25), stats.expon(scale=4.0)),
        (ShiftedExponential(0.3, 4.0), stats.expon(loc=0.3, scale=0.25)),
    ],
)
def test_gaps_follow_the_law(clock, law):
    gaps = np.concatenate([np.diff(t, prepend=0.0)[:200] for t in times(clock, 20, 2000.0)])
    assert gaps.size == 4000
    assert stats.kstest(gaps, law.cdf).pvalue > 1e-3  # false alarm: 0.1% over seeds; the seed is fixed
    assert clock.gaps(1, 0, "c").rate[0] == pytest.approx(1 / law.mean(), rel=1e-12)  # rounding of one division


def test_deterministic_clocks_tick_exactly():
    ticks = times(Deterministic([0.5, 2.0]), 2, 4.0)
    assert ticks[0].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]  # the end belongs to the window
    assert ticks[1].tolist() == [2.0, 4.0]


def test_never_and_rate_zero_are_silent():
    for clock in (Never(), Poisson(0.0), Exponential(0.0)):
        assert all(t.size == 0 for t in times(clock, 3, 1e6))
        assert (clock.gaps(3, 0, "c").rate == 0).all()


@pytest.mark.parametrize("law", [Poisson, Exponential, ShiftedExponential])
def test_a_rate_whose_mean_gap_is_not_finite_is_silent(law):
    assert law(rate=5e-324).gaps(3, 0, "clock").rate.tolist() == [0.0] * 3


def test_nodes_may_differ():
    gaps = ShiftedExponential([0.0, 1.0], "n").gaps(2, 0, "c")
    assert gaps.shift.tolist() == [0.0, 1.0]
    assert gaps.scale.tolist() == [0.5, 0.5]
    silenced = gaps.silence(np.array([True, False]))
    assert silenced.rate.tolist() == [0.0, 1 / 1.5]
    assert math.isinf(silenced.shift[0])


@pytest.mark.parametrize(
    ("clock", "message"),
    [
        (Poisson(-1.0), r"gossip\.clock\.rate must be .*1/s.*got -1"),
        (ShiftedExponential(rate=0.0), r"gossip\.clock\.rate must be .*1/s.*got 0"),
        (ShiftedExponential(delay=-2.0), r"gossip\.clock\.delay must be .*s.*got -2"),
        (Deterministic(0.0), r"gossip\.clock\.period must be .*got 0"),
        (Poisson([1.0, 2.0, 3.0]), r"gossip\.clock\.rate must be .*2 numbers, got a list of 3"),
    ],
)
def test_errors_name_key_rule_and_value(clock, message):
    with pytest.raises(ValueError, match=message):
        clock.gaps(2, 0, "gossip.clock")


def test_laws_of_ours_are_drawn_from_addressed_numbers_where_nodes_of_one_network_have_different_ones():
    n, seed, until = 7, 5, 30.0
    laws = (users_kinds.weibull, np.linspace(0.5, 1, n), np.full(n, 2.0)), (users_kinds.pareto, np.ones(n), np.zeros(n))
    both, second = [Gaps.by(law, np.ones(n), a, b, "k") for law, a, b in laws], np.arange(n) % 3 == 1
    columns = [[getattr(gaps.quantiles, name) for gaps in both] for name in ("where", "a", "b")]
    mixed = Gaps(np.zeros(n), np.ones(n), Quantiles(*(np.where(second, b, a) for a, b in columns)))
    networks = Networks(np.array([0, n]), np.array([seed], np.uint64))
    line = Timeline(networks, stack(networks, [None]), mixed, Never().gaps(n, seed, "k"), "push", (Uniform(),))
    events, _ = line.window(line.begin(), until)
    for i in range(n):
        law, a, b = laws[int(second[i])]
        bits = [rng.draws(seed, rng.UPDATE, np.array([i]), k)[0] for k in range(200)]
        times = np.cumsum([law(float(rng.units(one)[0]), a[i], b[i]) for one in bits])
        found = events.time[events.actor == i]
        assert found.size > 10
        np.testing.assert_allclose(found, times[times <= until], rtol=1e-14)  # Python's logarithm may round otherwise


def test_a_law_of_more_parameters_looks_them_up_by_the_number_of_the_node():
    rates = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [0.25, 0.5, 0.75]])

    def hyperexponential(u, i, _):
        k = int(i)
        return -math.log(u) / (rates[0, k] if u < rates[2, k] else rates[1, k])

    gaps = Gaps.by(hyperexponential, np.ones(3), np.arange(3.0), 0.0, "update.clock")
    assert gaps.quantiles is not None
    for k in range(3):
        for u in (0.1, 0.9):
            assert called(int(gaps.quantiles.where[k]), u, float(k), 0.0) == pytest.approx(
                hyperexponential(u, k, 0.0), rel=1e-15
            )
