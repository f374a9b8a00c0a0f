"""Quadratic losses: their gradients, how they are drawn, what is measured of them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

import batchednodes
from batchednodes.config import load, to_dict
from batchednodes.config.sweep import points
from batchednodes.data import Quadratics
from batchednodes.models import Linear, NoisyLinear

REFERENCES = Path(__file__).parents[1] / "references"
ALONE = {
    "dtype": "float64",
    "network.nodes": 4,
    "update.clock": {"kind": "deterministic", "period": 1.0},
    "gossip.clock.kind": "never",
    "local.lr": 0.3,
    "run.until": 3,
}


@pytest.fixture
def file(tmp_path):
    """Returns arrays A and B of 4 nodes, of no particular kind, and the path of their file."""
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(4, 3, 3)) / 2, draw.normal(size=(4, 3))
    np.savez(tmp_path / "q.npz", A=a, B=b)
    return a, b, str(tmp_path / "q.npz")


def least(a, b):
    """Returns the optimum of the mean of all losses."""
    return np.linalg.lstsq(a.reshape(-1, a.shape[2]), b.reshape(-1), rcond=None)[0]


@pytest.mark.parametrize("executor", ["batched", "serial"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_node_alone_descends_its_own_loss_from_0_by_full_gradients(file, steps, executor):
    a, b, path = file
    more = {"task.data": {"kind": "quadratics", "path": path}, "local.steps": steps, "executor": executor}
    run = batchednodes.train(ALONE, more)
    x = np.zeros((4, 3))
    for _ in range(3 * steps):
        x -= 0.3 * np.einsum("nij,ni->nj", a, np.einsum("nij,nj->ni", a, x) - b)
    assert np.allclose(run.x.numpy(), x, rtol=1e-12, atol=0)


def test_metrics_say_how_far_models_are_from_the_optimum(file):
    a, b, path = file
    run = batchednodes.train(ALONE, {"task.data": {"kind": "quadratics", "path": path}})
    x, best = run.x.numpy(), least(a, b)

    def cost(model):
        return ((a @ model - b) ** 2).sum() / 4

    final = run.metrics.iloc[-1]
    assert final["suboptimality"] == pytest.approx(cost(x.mean(0)) - cost(best), rel=1e-12)
    assert final["distance_to_optimum"] == pytest.approx(np.sqrt(((x - best) ** 2).sum(1).mean()), rel=1e-12)
    assert final["loss_mean_model"] == pytest.approx(cost(x.mean(0)) / 2, rel=1e-12)
    assert final["loss_mean"] == pytest.approx(np.mean([cost(model) for model in x]) / 2, rel=1e-12)


def test_other_data_have_no_optimum():
    final = batchednodes.train({"network.nodes": 3, "run.until": 1}).metrics.iloc[-1]
    assert final["suboptimality"] is None or np.isnan(final["suboptimality"])
    assert final["distance_to_optimum"] is None or np.isnan(final["distance_to_optimum"])


def problems(source, n, seed):
    """Returns A [n, d, d], B [n, d] and the optimum of what a source draws."""
    data, d = source.load(n, seed), source.dimension
    scale = np.sqrt(d / 2)
    assert data.optimum is not None
    return data.features.reshape(n, d, d) / scale, data.targets.reshape(n, d) / scale, data.optimum


@pytest.mark.parametrize("heterogeneity", [0.0, 0.1, 10.0])
def test_what_is_drawn_is_as_curved_far_and_different_as_it_says(heterogeneity):
    a, b, optimum = problems(Quadratics(dimension=5, heterogeneity=heterogeneity, curvature=0.2), 7, seed=1)
    values = np.linalg.svd(a, compute_uv=False)
    assert np.allclose(values, np.linspace(1, 0.2, 5), rtol=1e-12)
    slopes = np.einsum("nij,ni->nj", a, a @ optimum - b)
    assert (slopes**2).sum() / 7 == pytest.approx(heterogeneity, rel=1e-12, abs=1e-24)
    assert np.linalg.norm(optimum) == pytest.approx(1, rel=1e-12)
    assert np.abs(slopes.sum(0)).max() < 1e-13 * max(1, heterogeneity)


def test_the_optimum_is_as_far_as_it_should_be_and_nodes_differ_as_before():
    near, far = (Quadratics(dimension=4, distance=distance) for distance in (1.0, 10.0))
    (a, b, best), (same, c, moved) = (problems(source, 6, seed=1) for source in (near, far))
    assert np.array_equal(a, same)
    assert np.allclose(moved, 10 * best, rtol=1e-12)
    assert np.allclose(c - b, a @ (9 * best), rtol=1e-9)


@pytest.mark.parametrize("heterogeneity", ["0.1", "1"])
def test_the_published_problems_are_drawn_from_their_seed(heterogeneity):
    source = Quadratics(heterogeneity=float(heterogeneity), torch_seed=0)
    path = REFERENCES / f"quadratics_n32_d10_mu0.5_seed0_zeta{heterogeneity}.npz"
    with np.load(path) as file:
        for found, name in zip(problems(source, 32, seed=5), ("A", "B", "optimum"), strict=True):
            assert np.allclose(found.ravel(), file[name].ravel(), rtol=0, atol=1e-13), name


def test_published_heterogeneity_is_found_to_five_digits_and_any_is():
    for wanted in (0.0, 1e-7, 3e-5, 1e3, 1e16):
        a, b, best = problems(Quadratics(dimension=3, heterogeneity=wanted, torch_seed=2), 5, seed=0)
        spread = (np.einsum("nij,ni->nj", a, a @ best - b) ** 2).sum() / 5
        assert spread == pytest.approx(wanted, abs=1.1e-5, rel=1e-9)


def test_networks_of_one_batch_may_have_other_quadratics():
    swept = {"task.data": [{"kind": "quadratics", "heterogeneity": zeta} for zeta in (0.1, 10.0)]}
    found = points(load({"network.nodes": 3, "task.data.kind": "quadratics", "sweep": swept}))
    assert [one.config.task.data.heterogeneity for one in found] == [0.1, 10.0]


def test_draws_are_functions_of_the_seed():
    first, again, other = (Quadratics(dimension=4).load(5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.targets, again.targets)
    assert not np.isclose(first.features, other.features).any()


def test_a_file_of_what_was_drawn_is_the_same_problem(tmp_path):
    a, b, optimum = problems(Quadratics(dimension=4), 6, seed=2)
    np.savez(tmp_path / "q.npz", A=a, B=b, optimum=optimum[:, None])
    drawn, read = Quadratics(dimension=4).load(6, 2), Quadratics(str(tmp_path / "q.npz")).load(6, 0)
    for name in ("features", "targets", "test_features", "test_targets", "optimum"):
        assert np.allclose(getattr(drawn, name), getattr(read, name), rtol=1e-12, atol=1e-12), name
    assert drawn.sizes == read.sizes == Quadratics(str(tmp_path / "q.npz")).sizes(6)


def test_where_no_optimum_is_the_only_one_a_file_may_choose(tmp_path):
    a, b = np.array([[[1.0, 0.0], [0.0, 0.0]]]), np.array([[2.0, 0.0]])
    np.savez(tmp_path / "q.npz", A=a, B=b, optimum=[2.0, 5.0])
    more = {"task.data": {"kind": "quadratics", "path": str(tmp_path / "q.npz")}, "network.nodes": 1}
    first = batchednodes.train(ALONE, more).metrics.iloc[0]
    assert first["distance_to_optimum"] == pytest.approx(np.sqrt(29), rel=1e-12)
    assert first["suboptimality"] == pytest.approx(4, rel=1e-12)


def test_models_may_begin_elsewhere(file):
    model = {"kind": "linear", "bias": False, "init": "independent"}
    still = {"task.data": {"kind": "quadratics", "path": file[2]}, "task.model": model, "local.lr": 0}
    run = batchednodes.train(ALONE, still)
    assert run.x.shape == (4, 3)
    assert torch.unique(run.x, dim=0).shape == (4, 3)


@pytest.mark.parametrize("executor", ["batched", "serial"])
def test_noise_is_of_its_size_with_signs_for_each_node_and_step(executor):
    more = {"network.nodes": 20, "executor": executor}
    quiet, one, two = (
        batchednodes.train(ALONE, more, {"task.data": {"kind": "quadratics", "noise": noise}, "run.until": until}).x
        for noise, until in ((0.0, 1), (0.2, 1), (0.2, 2))
    )
    first = (quiet - one).numpy() / 0.3 * np.sqrt(10) / 0.2
    assert np.allclose(np.abs(first), 1, rtol=1e-9)
    assert len(np.unique(np.sign(first), axis=0)) == 20
    assert abs(first.mean()) < 4 / np.sqrt(200)  # a false alarm in 16,000
    a, b, _ = problems(Quadratics(noise=0.2), 20, seed=0)
    slopes = np.einsum("nij,ni->nj", a, np.einsum("nij,nj->ni", a, one.numpy()) - b)
    second = ((one - two).numpy() / 0.3 - slopes) * np.sqrt(10) / 0.2
    assert np.allclose(np.abs(second), 1, rtol=1e-9)
    assert 50 < (np.sign(first) == np.sign(second)).sum() < 150  # 200 coins


def test_a_noise_twice_as_large_ends_four_times_as_far():
    rounds = {"timing": {"kind": "synchronous"}, "run": {"until": 400, "mark_every": 400}, "dtype": "float64"}
    ends = [
        batchednodes.train(rounds, {"network.nodes": 6, "task.data": {"kind": "quadratics", "noise": noise}})
        for noise in (0.1, 0.2)
    ]
    near, far = (run.metrics["suboptimality"].iloc[-1] for run in ends)
    assert near > 1e-6
    assert far == pytest.approx(4 * near, rel=1e-6)  # what is left of the start is far less


def test_noise_follows_the_data_where_settings_are_read_again():
    model = {"kind": "linear", "bias": False, "init": "independent"}
    config = load({"task": {"data": {"kind": "quadratics", "noise": 0.1}, "model": model}})
    assert config.task.model == NoisyLinear(0.1, "independent")
    assert load(to_dict(config), ["task.data.noise=0.3"]).task.model == NoisyLinear(0.3, "independent")
    assert load(to_dict(config), ["task.data.noise=0"]).task.model == Linear(bias=False, init="independent")


def test_settings_are_written_with_what_they_stand_for():
    config = load({"task.data.kind": "quadratics"})
    assert config.local.batch_size == "all"
    assert config.task.model == Linear(bias=False, init="zero")
    assert load(to_dict(config)) == config


NAMES = {"A": np.eye(2)[None], "B": np.ones((1, 2))}


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"A": NAMES["A"]}, "path must hold an array named B, got A"),
        (NAMES | {"A": np.ones((1, 2, 3))}, r"path must hold A of shape \[nodes, d, d\], got shape \(1, 2, 3\)"),
        (NAMES | {"B": np.ones((1, 3))}, r"path must hold B of shape \(1, 2\), got shape \(1, 3\)"),
        (NAMES | {"B": np.ones((1, 2), complex)}, "path must hold real numbers in B, got complex128"),
        (NAMES | {"B": np.full((1, 2), np.nan)}, "path must hold finite numbers in B"),
        (NAMES | {"optimum": np.ones(3)}, r"path must hold optimum of shape \(2,\), got shape \(3,\)"),
        (NAMES | {"optimum": np.array([1.0, 2.0])}, "path must hold an optimum at which the mean .* got a slope of 1"),
        ({name: np.repeat(array, 2, 0) for name, array in NAMES.items()}, "path must hold one matrix .* network.nodes"),
    ],
)
def test_files_that_hold_no_quadratics_are_refused(arrays, rule, tmp_path):
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(ValueError, match=f"task.data.{rule}"):
        batchednodes.train({"task.data": {"kind": "quadratics", "path": str(tmp_path / "q.npz")}, "network.nodes": 1})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"task.data.dimension": 0}, "task.data.dimension must be at least 1"),
        ({"task.data.curvature": 0}, r"task.data.curvature must be in \(0, 1\]"),
        ({"task.data.noise": -1}, "task.data.noise must be"),
        ({"task.data.distance": -1}, "task.data.distance must be"),
        ({"task.data.torch_seed": -1}, "task.data.torch_seed must be an integer in"),
        ({"task.data.path": "q.npz", "task.data.torch_seed": 0}, "task.data.torch_seed must be left out where a path"),
        ({"task.data.path": "q.npz", "task.data.noise": 0.1}, "task.data.noise must be left out where a path"),
        ({"task.data": {"kind": "digits"}, "task.model": {"kind": "noisy_linear"}}, "task.model.kind must be another"),
        ({"task.data.heterogeneity": -1}, "task.data.heterogeneity must be"),
        ({"task.data.path": "q.npz", "task.data.dimension": 3}, "task.data.dimension must be left out where a path"),
        ({"task.model": {"kind": "mlp"}}, "task.model must be left out, or be .*bias: false"),
        ({"task.model": {"kind": "linear", "bias": True, "init": "zero"}}, "task.model must be left out, or be"),
        ({"task.loss": "mse"}, "task.loss must be left out with data.kind=quadratics"),
        ({"task.partition": {"kind": "iid"}}, "task.partition must be left out with data.kind=quadratics"),
        ({"local.batch_size": 5}, "local.batch_size must be left out with task.data.kind=quadratics"),
        ({"local.epochs": 2}, "local.epochs must be left out with task.data.kind=quadratics"),
        ({"local.sampling": "replacement"}, "local.sampling must be left out with task.data.kind=quadratics"),
    ],
)
def test_settings_that_quadratics_do_not_have_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        load({"task.data.kind": "quadratics"}, [settings])


@pytest.mark.parametrize("name", ["epochs", "sampling"])
def test_minibatches_of_all_leave_no_more_to_say(name):
    with pytest.raises(ValueError, match=rf"local\.{name} must be left out with batch_size=all"):
        load({"local": {"batch_size": "all", name: 2 if name == "epochs" else "replacement"}})


def test_one_node_has_nothing_to_differ_from():
    with pytest.raises(ValueError, match=r"task\.data\.heterogeneity must be 0 for one node, got 1"):
        batchednodes.train({"task.data.kind": "quadratics", "network.nodes": 1})
    _, _, optimum = problems(Quadratics(heterogeneity=0.0), 1, seed=0)
    assert np.linalg.norm(optimum) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("executor", ["batched", "serial"])
def test_minibatches_of_all_are_full_gradients_of_any_data(tmp_path, executor):
    draw = np.random.default_rng(0)
    x, y, node = draw.normal(size=(12, 2)), draw.normal(size=12), np.repeat([0, 1, 2, 3], [1, 2, 4, 5])
    np.savez(tmp_path / "d.npz", features=x, targets=y, node=node, test_features=x, test_targets=y)
    model = {"kind": "linear", "bias": False, "init": "zero"}
    data = {"task.data": {"kind": "npz", "path": str(tmp_path / "d.npz")}, "task.model": model}
    run = batchednodes.train(ALONE, data, {"local.batch_size": "all", "local.steps": 2, "executor": executor})
    models = np.zeros((4, 2))
    for _ in range(6):
        for i in range(4):
            own = node == i
            models[i] -= 0.3 * 2 * (x[own] @ models[i] - y[own]) @ x[own] / own.sum()
    assert np.allclose(run.x.numpy(), models, rtol=1e-12, atol=1e-15)
