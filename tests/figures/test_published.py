"""The published figures: what they run, the numbers they leave, and their drawings."""

import functools
import io
import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from batchednodes import load
from batchednodes.config import sweep
from batchednodes.figures import plots
from batchednodes.figures.published import EXPERIMENTS
from batchednodes.figures.published.acid import Acid
from batchednodes.figures.published.base_graph import BaseGraphs
from batchednodes.figures.published.byzantine import Dissensus
from batchednodes.figures.published.choco import Choco
from batchednodes.figures.published.compared import compared, verdict
from batchednodes.figures.published.estimates import growth, interval, over_replicas, time_averages
from batchednodes.figures.published.event_tracking import EventTracking
from batchednodes.figures.published.experiment import publish
from batchednodes.figures.published.matcha import Budgets
from batchednodes.figures.published.quickstart import Quickstart
from batchednodes.figures.published.regression import Regression
from batchednodes.figures.published.relaysgd_cases import case
from batchednodes.figures.published.relaysgd_cifar10 import METHODS, Heterogeneity
from batchednodes.figures.published.relaysgd_quadratics import RelaySGDQuadratics
from batchednodes.figures.published.staleness_criterion import StalenessCriterion, rising
from batchednodes.figures.published.staleness_scaling import StalenessScaling
from batchednodes.figures.published.topologies import Topologies
from batchednodes.figures.published.topology_quadratics import TopologyQuadratics
from batchednodes.figures.published.tuning import Tuned
from batchednodes.results import theory
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import plan

STAR = "fig8/relaysum_model/0"
LINEAR = {"kind": "linear", "bias": False}
MLP = {"kind": "mlp", "hidden": [3], "activation": "tanh"}
TINY = {
    "staleness-scaling": StalenessScaling((5, 10, 20), (5, 10), (5,), 3),
    "linear-regression": Regression("linear_regression", 4, LINEAR, 0.1, 5.0, (4, 8), 2),
    "nonlinear-regression": Regression("nonlinear_regression", 3, MLP, 0.1, 5.0, (4, 8), 2),
    "staleness-criterion": StalenessCriterion((6, 12), ("1",), ("n",), ((0.5, 2.0), (1.0, 1.0)), 2),
    "relaysgd-quadratics": RelaySGDQuadratics((case(STAR),), {STAR: Tuned(8, 0.78125, 1.5625)}),
    "topologies-quadratics": TopologyQuadratics(("Ring", "Solo"), (0.5,), 2),
    "acid": Acid((8,), (1.0, 2.0, 5.0), 40),
    "event-tracking": EventTracking(400, 0.1, 4),
    "quickstart": Quickstart(30.0),
    "topologies": Topologies((9, 12), 2),
    "base-graph": BaseGraphs(9, 4, 1, 12),
    "matcha": Budgets((0.2, 1.0), 2.0, 2),
    "choco": Choco(10, 2, 2, ("ring",), ("top5",), (0.1,), ("random",), ("ecd_qsgd16",)),
    "byzantine": Dissensus(((0.1, 0.267),), ("SCClip", "TM*")),
    "relaysgd-cifar10": Heterogeneity(False, 1.0, 2, ("relaysgd", "d2-momentum")),
}
"""Each figure at a size that takes a second or two."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Returns a function that runs a tiny figure, once, into a new folder of its name."""
    return functools.cache(lambda name: publish(name, TINY[name], tmp_path_factory.mktemp("figures") / name))


def test_each_figure_has_a_tiny_size_to_test():
    assert TINY.keys() == EXPERIMENTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_quick_figures_are_small_enough_and_larger_sizes_load(name):
    for part, batch in EXPERIMENTS[name]("quick").batches().items():
        configs = [p.config for p in sweep.points(load(batch | {"replicas": 1}))]
        made = plan(configs, assembly.timeline(configs))
        replicas = batch.get("replicas", 1)
        assert made.total < 1 << 30, part
        assert replicas * (made.updates + made.gossips) < 1e8, part
    for batch in EXPERIMENTS[name]("cuda").batches().values():  # no smaller than those for the CPU
        assert sweep.points(load(batch | {"replicas": 1}))


@pytest.mark.parametrize("name", TINY)
def test_a_figure_leaves_pictures_numbers_and_settings(name, published):
    left = published(name)
    experiment = left.experiment
    assert sorted(left.paths) == sorted(left.paths[0].parent.iterdir())
    kinds = [path.suffix for path in left.paths]
    assert kinds == [".png", ".pdf", ".csv"] + [".yaml"] * len(experiment.batches())
    for path, (part, batch) in zip(left.paths[3:], experiment.batches().items(), strict=True):
        stem = f"{name}-{part}" if len(experiment.batches()) > 1 else name
        assert path.name == f"{stem}.yaml"
        assert load(path) == load(batch | {"name": stem})
    pdf = left.paths[1].read_bytes()
    assert b"/FontFile2" in pdf  # an embedded TrueType font
    assert b"/Type3" not in pdf


@pytest.mark.parametrize("name", TINY)
def test_the_numbers_alone_give_the_same_picture(name, published):
    table, again = pd.read_csv(published(name).paths[2]), io.BytesIO()
    with matplotlib.rc_context(plots.PAPER):
        TINY[name].draw(table).savefig(again)
    first = matplotlib.image.imread(published(name).paths[0])
    assert (matplotlib.image.imread(io.BytesIO(again.getvalue())) == first).all()
    assert len(TINY[name].findings(table)) == len(published(name).findings) > 0


@pytest.mark.parametrize("existing", ["quickstart.png", "quickstart.pdf", "quickstart.csv", "quickstart.yaml"])
def test_nothing_is_overwritten_and_nothing_runs_then(existing, tmp_path):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(ValueError, match=f"--out must not hold {existing} yet, got .*; nothing is ever overwritten"):
        publish("quickstart", Quickstart(math.nan), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out must be a folder that can be made, got"):
        publish("quickstart", Quickstart(math.nan), tmp_path / "file")


def test_a_run_that_diverges_leaves_nothing(tmp_path):
    experiment = Regression("linear_regression", 4, LINEAR, 1e300, 5.0, (4,), 2)
    with pytest.raises(ValueError, match="is not finite"):
        publish("x", experiment, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ single figures


def test_quickstart_is_that_of_the_config_file():
    (batch,) = Quickstart().batches().values()
    of_file = load("configs/quickstart.yaml", ["run.baseline=none"])
    assert load(batch | {"name": "quickstart"}) == of_file


@pytest.mark.slow
def test_staleness_scaling_measures_the_law(tmp_path):
    """Eight points have a law; each is outside of its 99.9% interval with probability 0.1%, so 0.8% in all."""
    table = publish("s", StalenessScaling((5, 20), (5,), (5,), 6), tmp_path).table
    measured = table[table["theory"].notna() & (table["replicas"] > 0)]
    assert len(measured) == 8
    for _, row in measured.iterrows():
        half = (row["staleness_high_99"] - row["staleness"]) / stats.t.ppf(0.995, 5) * stats.t.ppf(0.9995, 5)
        assert abs(row["staleness"] - row["theory"]) < half
    freshest = measured[(measured["scheme"] == "freshest") & (measured["n"] == 5)].set_index("capacity")["theory"]
    assert freshest["1"] == theory.freshest_staleness(5, 1.0, 1.0)
    assert freshest["n"] == theory.freshest_staleness(5, 5.0, 1.0)
    uniform = measured[(measured["scheme"] == "uniform") & (measured["n"] == 20)].set_index("capacity")["theory"]
    assert uniform["log(n)"] == theory.mean_staleness(20, math.log(20), 1.0, "push")


def test_staleness_scaling_shows_laws_beyond_what_is_simulated(published):
    table = published("staleness-scaling").table
    beyond = table[table["replicas"] == 0]
    assert sorted(zip(beyond["capacity"], beyond["n"], strict=True)) == [("1", 10), ("1", 20), ("log(n)", 20)]
    assert beyond["theory"].notna().all()
    assert beyond["staleness"].isna().all()


@pytest.mark.slow
def test_regression_separates_the_regimes(tmp_path):
    """Nodes that hear of nobody keep their own model: the worst of them is far worse than with news."""
    experiment = Regression("linear_regression", 6, LINEAR, 0.08, 30.0, (40,), 3)
    table = publish("r", experiment, tmp_path).table
    end = table[(table["time"] == 30) & (table["user"] == "worst user")]
    loss = {(r["scheme"], r["capacity"]): r["loss"] for _, r in end.iterrows()}
    assert len(loss) == 6
    assert min(loss["freshest", "1"], loss["freshest", "log(n)"]) > 10 * max(
        loss["freshest", "n"], loss["uniform", "n"]
    )
    assert experiment.separation(table) == min(
        loss["uniform", "1"], loss["freshest", "1"], loss["freshest", "log(n)"]
    ) / max(loss["uniform", "log(n)"], loss["uniform", "n"], loss["freshest", "n"])


@pytest.mark.parametrize(("name", "count"), [("base-graph", 112), ("matcha", 145), ("choco", 13), ("byzantine", 14)])
def test_what_was_published_is_met(name, count, published):
    assert verdict(compared(published(name).table)) == f"all {count} published values are met"


def test_accuracies_of_images_are_compared_with_those_of_the_paper():
    networks = pd.DataFrame({"network": range(9), "time": 1.0, "accuracy_min": [0.873, 0.874, 0.875] * 3})
    metrics = {name: networks.assign(accuracy_min=networks["accuracy_min"] - 0.3 * (name == "d2")) for name in METHODS}
    experiment = Heterogeneity(True, 1.0, 3)
    found = {one.value: one.inside for one in compared(experiment.table(metrics))}
    assert len(found) == 30 - 5  # of these the paper shows not all seeds
    assert found["D-PSGD, alpha = 1"]
    assert not found["D2, alpha = 1"]
    assert len(experiment.findings(experiment.table(metrics))) == 2


# ---------------------------------------------------------------------------------------------------------- estimates


def test_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    got = interval(values, 0.95)
    assert (got.low, got.high) == pytest.approx((low, high), rel=1e-12)  # the same formula, in another order
    assert interval(values[:1], 0.95).half_width == math.inf


def test_intervals_cover_the_mean_as_often_as_they_say():
    """2,000 samples of five: the number of misses at 95% is binomial; outside 100 +- 32 with probability 0.1%."""
    samples = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    misses = sum(abs(i.mean - 3.0) > i.half_width for i in (interval(s, 0.95) for s in samples))
    assert abs(misses - 100) < 32


def test_time_averages_leave_out_the_warm_up():
    rows = [(0, 0.0, 0.0), (1, 0.0, 0.0), (0, 2.0, 10.0), (1, 2.0, 20.0), (0, 6.0, 14.0), (1, 6.0, 60.0)]
    frame = pd.DataFrame(rows, columns=["network", "time", "staleness_integral"])
    assert time_averages(frame, 1 / 3)["staleness"].tolist() == [1.0, 10.0]
    assert time_averages(frame, 1 / 3)["network"].tolist() == [0, 1]


def test_over_replicas_gathers_settings_in_order():
    frame = pd.DataFrame({"n": [9, 9, 4, 4], "v": [1.0, 3.0, 5.0, 5.0], "until": [7, 7, 8, 8]})
    got = over_replicas(frame, ["n"], "v", ["until"])
    assert got["n"].tolist() == [9, 4]
    assert got["v"].tolist() == [2.0, 5.0]
    assert got["until"].tolist() == [7, 8]
    assert got["replicas"].tolist() == [2, 2]
    assert got["v_high_95"].tolist() == pytest.approx([2 + stats.t.ppf(0.975, 1), 5.0])
    assert (got["v_low_99"] <= got["v_low_95"]).all()


N = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])


@pytest.mark.parametrize(
    ("v", "law", "exponent"),
    [
        (np.log(N) + 0.577, "log n", None),
        (2 * N**0.5, "power", 0.5),
        (N * np.log(N), "power", None),
        (1 + 0.5 / np.log(N), "flat or falling", None),
        (np.array([1.0, 1.01, 0.99, 1.0, 1.005]), "flat or falling", None),
    ],
)
def test_growth_is_named(v, law, exponent):
    got = growth(N, v)
    assert got.law == law
    if exponent is not None:
        assert got.exponent == pytest.approx(exponent, abs=1e-12)  # an exact line, to rounding
        assert got.half_width < 1e-9  # the scatter is rounding alone
    assert growth(N[:2], v[:2]).half_width == math.inf


def test_rising_is_isotonic_regression():
    rng = np.random.default_rng(1)
    x = rng.permutation(50).astype(float)
    y = 0.1 * x + rng.normal(size=50)
    expected = IsotonicRegression().fit_transform(x, y)
    assert rising(x, y) == pytest.approx(expected, abs=1e-12)  # the same means, summed in another order


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_figure_that_ends_early_leaves_nothing(error, tmp_path):
    def watch(*_):
        raise error

    with pytest.raises(error):
        publish("quickstart", Quickstart(30.0), tmp_path / "new" / "figures", watch)
    assert [*tmp_path.iterdir()] == []


# --------------------------------------------------------------------------------------- published values on quadratics


@pytest.mark.slow
def test_tuned_step_sizes_are_the_published_ones_to_the_digit(tmp_path):
    values = compared(publish("r", RelaySGDQuadratics((case(STAR),)), tmp_path).table)
    assert [(one.published, one.here) for one in values] == [(8, 8), (0.78125, 0.78125)]
    assert verdict(values) == "all 2 published values are met"


@pytest.mark.parametrize("name", ["topologies-quadratics", "acid"])
def test_published_values_are_met_and_runs_have_the_law(name, published):
    table = published(name).table
    values = compared(table)
    assert len(values) >= 12
    assert all(one.inside for one in values)
    if name == "acid":  # six means at 4.5 standard errors: a false alarm in 20,000 seeds
        runs = table[table["measured"].notna()]
        assert len(runs) == 6
        assert (abs(runs["measured"] - runs["expected"]) < 4.5 * runs["error"]).all()
    else:  # means of some 4,500 numbers that are nearly independent, so of 2%
        runs = table[table["neighbours"].notna()]
        assert np.allclose(runs["neighbours"], runs["measured_theory"], rtol=0.25)
