"""Staleness: counting and merging against brute force, and the measured mean against the exact law."""

import numpy as np
import pytest
import torch

from batchednodes import train
from batchednodes.algorithms.versions import count_
from batchednodes.results import theory
from batchednodes.results.checkpoints.finding import latest
from batchednodes.results.folder.inside import Inside
from batchednodes.results.metrics import staleness
from batchednodes.topology import Networks


def two_networks() -> Networks:
    return Networks(np.array([0, 6, 10]), np.array([1, 2], np.uint64))


def test_sources_are_chosen_by_address():
    networks = two_networks()
    everyone = staleness.choose(networks, ["all", "all"])
    assert [s.tolist() for s in everyone.nodes] == [list(range(6)), list(range(6, 10))]
    assert everyone.column.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert everyone.widths.tolist() == [6, 4]
    assert everyone.width == 6
    some = staleness.choose(networks, [3, 3])
    assert [s.size for s in some.nodes] == [3, 3]
    for g, chosen in enumerate(some.nodes):
        assert some.column[chosen].tolist() == [0, 1, 2]
        assert (np.diff(chosen) > 0).all()
        assert ((chosen >= networks.offsets[g]) & (chosen < networks.offsets[g + 1])).all()
    assert (some.column >= 0).sum() == 6
    alone = staleness.choose(Networks(np.array([0, 4]), np.array([2], np.uint64)), [3])
    assert (alone.nodes[0] + 6).tolist() == some.nodes[1].tolist()  # a network's sample does not see its neighbours
    assert staleness.choose(networks, ["none", "none"]).width == 0


def versions_of(tracking: staleness.Tracking, seed: int) -> torch.Tensor:
    """Returns random versions, in which a source has more of its own updates than anyone else."""
    versions = torch.randint(0, 50, (tracking.layout.numbers,), generator=torch.Generator().manual_seed(seed)).short()
    for g, nodes in enumerate(tracking.sources.nodes):
        for c, k in enumerate(nodes - tracking.networks.offsets[g]):
            tracking.layout.block(versions, g)[k, c] = 100 + c
    return versions


@pytest.mark.parametrize("tracks", [("all", "all"), (3, 3), (1, "all"), ("all", "none")])
def test_measure_is_the_definition(tracks):
    networks = two_networks()
    tracking = staleness.Tracking.of(networks, list(tracks), torch.device("cpu"))
    versions = versions_of(tracking, 0)
    measured = tracking.measured(tracking.tally(versions, int(versions.max())), np.zeros(10), 2.0)
    for g, nodes in enumerate(tracking.sources.nodes):
        table, found, first = tracking.layout.block(versions, g), measured[g], networks.offsets[g]
        pairs = {
            (j, k): int(table[k, c] - table[j, c])
            for c, k in enumerate(nodes - first)
            for j in range(table.shape[0])
            if j != k
        }
        if not pairs:
            assert found is None
            continue
        assert found is not None
        values = np.array(list(pairs.values()))
        assert found.mean == pytest.approx(values.mean(), rel=1e-14)
        assert found.integral == pytest.approx(2.0 * values.mean(), rel=1e-14)
        assert found.max == values.max()
        for part, quantile in ((50, found.median), (90, found.p90), (99, found.p99)):
            assert quantile == np.quantile(values, part / 100, method="inverted_cdf")
        assert found.pairs.sum() == values.size
        assert found.pairs.tolist()[: values.max() + 1] == np.bincount(values).tolist()
        for i in range(table.shape[0]):
            for curve, place in ((found.of_node, 0), (found.of_source, 1)):
                own = [s for pair, s in pairs.items() if pair[place] == i]
                assert curve[i] == pytest.approx(np.mean(own) if own else np.nan, rel=1e-14, nan_ok=True)
        assert found.integral_of_node == pytest.approx(2.0 * found.of_node, rel=1e-14, nan_ok=True)


def test_nothing_to_measure():
    lone = Networks(np.array([0, 1]), np.array([0], np.uint64))
    tracking = staleness.Tracking.of(lone, ["all"], torch.device("cpu"))
    assert tracking.tally(tracking.layout.zeros(torch.int32), 0) == []
    assert tracking.measured([], np.zeros(1), 0.0) == [None]


def test_counting_leaves_untracked_nodes_alone():
    networks = Networks(np.array([0, 4, 6]), np.array([0, 0], np.uint64))
    tracking = staleness.Tracking.of(networks, [2, "all"], torch.device("cpu"))
    versions, (a, b) = tracking.layout.zeros(torch.int32), tracking.sources.nodes[0].tolist()
    others = sorted({0, 1, 2, 3} - {a, b})
    count_(versions, tracking.own[torch.tensor([others[0], a, 5, others[1]])])
    count_(versions, tracking.own[torch.tensor([a])])
    assert tracking.layout.block(versions, 0)[a].tolist() == [2, 0]
    assert tracking.layout.block(versions, 0).sum() == 2
    assert tracking.layout.block(versions, 1).tolist() == [[0, 0], [0, 1]]


def test_the_recursion_for_two_and_three_nodes():
    # n = 2: the only other node is refreshed at rate lambda, so it lacks r / lambda updates.
    assert theory.mean_staleness(2, 4.0, 3.0, "push") == pytest.approx(0.75, rel=1e-14)
    # n = 3, by hand: v(2) = r / lambda, v(1) = (r + a v(2)) / (2 a) with a = lambda / 2.
    assert theory.mean_staleness(3, 2.0, 1.0, "push") == pytest.approx((1 + 0.5) / 2, rel=1e-14)
    assert theory.mean_staleness(9, 2.0, 1.0, "pull") == theory.mean_staleness(9, 2.0, 1.0, "push")
    assert theory.mean_staleness(9, 2.0, 1.0, "meet") == theory.mean_staleness(9, 4.0, 1.0, "push")
    # The recursion telescopes to (r / lambda) (1 + 1/2 + ... + 1/(n-1)): it grows like log n at constant capacity.
    for n in (2, 3, 10, 1000):
        harmonic = float((1 / np.arange(1, n)).sum())
        assert theory.mean_staleness(n, 0.7, 1.3, "push") == pytest.approx(
            1.3 / 0.7 * harmonic, rel=1e-12
        )  # rounding of n terms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "capacity", "clock", "exchange"),
    [
        (20, "log(n)", "{kind: shifted_exponential, delay: 0.5, rate: 2}", "push"),
        (10, 1.0, "{kind: shifted_exponential, delay: 0.1, rate: 0.5}", "pull"),
        (8, 2.0, "{kind: deterministic, period: 0.7}", "meet"),
        (20, 1.0, "{kind: deterministic, period: 4}", "push"),  # in step with the marks
        (2, 0.5, "{kind: exponential, rate: [0.5, 3]}", "push"),
        (50, 0.7, "{kind: exponential, rate: {kind: lognormal, median: 1, sigma: 0.5}}", "push"),
    ],
)
def test_measured_staleness_obeys_the_exact_law(n, capacity, clock, exchange):
    result = train(
        {"network": {"nodes": n}, "local": {"lr": 0}, "run": {"until": 1200, "mark_every": 4, "eval_nodes": 1}},
        f"update.clock={clock}", f"gossip.clock.rate={capacity}", f"gossip.exchange={exchange}",
        "task.data.features=1", "task.data.samples_per_node=1", "task.data.test_samples=1", "local.batch_size=1",
    )  # fmt: skip
    samples = result.metrics["staleness_mean"].to_numpy()[50:]  # a warm-up of 200 s, far beyond any memory here
    mean, half = theory.batch_means(samples, 20, 0.999)  # false alarm: 0.1% over seeds; the seed is fixed
    law = result.metrics["staleness_theory"].iloc[0]
    assert half < 0.15 * law  # the interval says something
    assert abs(mean - law) < half


@pytest.mark.parametrize("options", [[], ["staleness.track=3"], ["gossip.exchange=meet"], ["run.mixing=sparse"]])
def test_the_integral_is_exact_between_events(options):
    # Staleness is constant between events, so sampling it every 10 ms misses only the events inside such a step.
    base = {"network": {"nodes": 8}, "local": {"lr": 0}, "run": {"until": 4, "mark_every": 0.01, "eval_nodes": 1}}
    data = ["task.data.samples_per_node=1", "task.data.test_samples=1", "local.batch_size=1"]
    fine = train(base, *options, *data).metrics
    sampled = (fine["staleness_now"].to_numpy()[1:] * 0.01).cumsum()
    exact = fine["staleness_integral"].to_numpy()[1:]
    assert (
        abs(sampled[-1] - exact[-1]) < 0.02 * exact[-1]
    )  # about 100 events, misplaced by 5 ms on average, up and down
    assert (np.diff(exact) >= -1e-12).all()
    coarse = train(base, *options, *data, "run.mark_every=1").metrics
    for k in range(1, 5):
        assert coarse["staleness_integral"][k] == pytest.approx(exact[100 * k - 1], rel=1e-12)
        assert coarse["staleness_mean"][k] == pytest.approx(
            coarse["staleness_integral"][k] - coarse["staleness_integral"][k - 1], rel=1e-12
        )
    kept = [option for option in options if not option.startswith("run.mixing")]  # serial has no kernels to choose
    serial = train(base, *kept, *data, "run.mark_every=4", "executor=serial").metrics
    assert serial["staleness_integral"].iloc[-1] == pytest.approx(exact[-1], rel=1e-12)


def test_what_adds_up_to_the_integral_does_not_grow_with_the_square_of_time(tmp_path):
    # Otherwise staleness between two late marks is a small difference of two sums of all times, and mostly rounding.
    base = {"network": {"nodes": 8}, "local": {"lr": 0}, "run": {"until": 400, "mark_every": 50, "eval_nodes": 1}}
    train(
        base, "task.data.samples_per_node=1", "task.data.test_samples=1", "local.batch_size=1",
        "run.checkpoint_every.time=100", out=tmp_path / "run",
    )  # fmt: skip
    state = latest(Inside(tmp_path / "run"), torch.device("cpu")).state
    assert (state.updated == 0).all()
    assert float(state.gained.abs().max()) < 0.02 * 8 * 400**2 / 2  # of the sum of all times, at rate 1


@pytest.mark.parametrize(
    ("options", "lawful"),
    [
        ([], True),
        (["update.clock.rate=[1, 2, 3, 4, 5]"], True),
        (["staleness.track=2"], True),
        (["network.topology.kind=ring"], False),
        (["network.topology.kind=star"], False),
        (["gossip.clock.rate=[1, 1, 1, 1, 2]"], False),
        (["gossip.clock.rate=0"], False),
        (["gossip.clock.kind=never"], False),
        (["network.nodes=1"], False),
        (["staleness.track=none"], False),
    ],
    ids=str,
)
def test_the_law_is_shown_only_where_it_holds(options, lawful):
    found = train({"network": {"nodes": 5}, "run": {"until": 1}}, *options).metrics["staleness_theory"]
    assert found.notna().all() if lawful else found.isna().all()


def test_batch_means_cover_the_truth_of_a_dependent_series():
    # AR(1) with mean 3: of 400 intervals of 90%, between 85% and 95% must hold it (binomial, 3.3 standard deviations).
    draw, held = np.random.default_rng(0), 0
    for _ in range(400):
        noise, series = draw.normal(size=2000), np.empty(2000)
        value = 0.0
        for k in range(2000):
            value = 0.8 * value + noise[k]
            series[k] = 3 + value
        mean, half = theory.batch_means(series, 10, 0.9)
        held += abs(mean - 3) < half
    assert 0.85 < held / 400 < 0.95
