"""Each node on test rows of its own, and how nodes differ: what rows say is what each node's module says."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

import batchednodes
from batchednodes import config
from batchednodes.config import sweep
from batchednodes.data import IID, Dataset, Dirichlet, DirichletPerClass, Natural, Sklearn, own_tests
from batchednodes.data.feature_shift import Noise
from batchednodes.data.partitions.base import OWN_NOISE
from batchednodes.models.own_rows import OwnRows
from batchednodes.numerics.memory import Chunk
from batchednodes.results.metrics import classes, spread
from batchednodes.simulation import setup, training
from batchednodes.simulation.planning import plan
from batchednodes.simulation.planning.preflight import prepare

IRIS = {
    "network": {"nodes": 7},
    "dtype": "float64",
    "task": {
        "data": {"kind": "sklearn", "name": "iris"},
        "partition": {"kind": "dirichlet_per_class", "alpha": 0.5},
        "own_tests": "dealt",
        "model": {"kind": "mlp", "hidden": [5]},
    },
    "local": {"lr": 0.3},
    "run": {"until": 3, "mark_every": 3},
}


def last(run, network=0):
    """Returns the last row of a network."""
    return run.metrics[run.metrics["network"] == network].iloc[-1]


@pytest.mark.parametrize("law", [IID(), Dirichlet(0.1), DirichletPerClass(0.2)])
def test_test_rows_are_dealt_in_the_shares_of_training_rows(law):
    data = Sklearn("digits").load(9, seed=1)
    shards = law.split(data, 9, seed=1)
    found = own_tests.dealt(data, shards, law, None, seed=1)
    assert found.offsets[-1] == len(data.test_targets)  # each row has one owner
    order = np.lexsort(found.features.T)
    assert np.array_equal(found.features[order], data.test_features[np.lexsort(data.test_features.T)])
    node = np.repeat(np.arange(9), np.diff(found.offsets))
    counts = np.bincount(node * 10 + found.targets, minlength=90).reshape(9, 10)
    trained, tested = shards.counts(data.targets, 10), np.bincount(data.test_targets)
    assert (np.abs(counts - trained / trained.sum(0) * tested) < 1).all()


def test_test_rows_stay_with_their_makers_and_labels_that_nobody_learned_go_to_anyone():
    x, y = np.arange(6.0)[:, None], np.array([0, 0, 0, 0, 0, 0])
    data = Dataset(x, y, np.arange(4.0)[:, None], np.array([0, 1, 1, 1]), 2, np.array([0, 0, 1, 1, 2, 2]))
    made = dataclasses.replace(data, test_node=np.array([2, 0, 9, 2]))
    shards = Natural().split(data, 3, seed=0)
    assert own_tests.dealt(made, shards, Natural(), None, 0).offsets.tolist() == [0, 1, 1, 3]  # 9 is none of them
    assert own_tests.dealt(data, shards, Natural(), None, 0).offsets[-1] == 4
    assert own_tests.dealt(made, shards, IID(), None, 0).offsets[-1] == 4  # whose makers own nothing there


def test_who_gets_what_is_not_divided_evenly_is_drawn():
    """Bounds are 4.5 standard deviations of independent draws."""
    x = np.arange(40.0)[:, None]
    one = Dataset(x, np.zeros(40, np.int64), x[:1], np.zeros(1, np.int64), 2)
    shards = IID().split(one, 4, seed=0)
    assert len({np.diff(own_tests.dealt(one, shards, IID(), None, seed).offsets).argmax() for seed in range(30)}) == 4
    new = dataclasses.replace(one, test_features=np.zeros((400, 1)), test_targets=np.ones(400, np.int64))
    counts = np.diff(own_tests.dealt(new, shards, IID(), None, 0).offsets)
    assert (np.abs(counts - 100) < 4.5 * np.sqrt(400 * 3 / 16)).all()
    pairs = Dataset(np.zeros((400, 1)), np.arange(400) % 2, x[:1], np.zeros(1, np.int64), 2, np.arange(400) // 2)
    left, _ = own_tests.held_out(pairs, Natural().split(pairs, 200, seed=0), 0.5, seed=0)
    assert abs(left.own.targets.sum() - 100) < 4.5 * np.sqrt(200 / 4)


def test_nodes_see_their_own_test_rows_as_a_shift_makes_them():
    data, law, shift = Sklearn("iris").load(4, seed=0), IID(), Noise(level=0.5)
    shards = law.split(data, 4, seed=0)
    plain, seen = (own_tests.dealt(data, shards, law, one, seed=0) for one in (None, shift))
    made = plain.features.copy()
    shift.apply_(made, np.repeat(np.arange(4), np.diff(plain.offsets)), 4, 0, OWN_NOISE)
    assert np.array_equal(seen.features, made)
    assert not np.array_equal(plain.features, made)


def test_blocks_of_some_nodes_say_nothing_of_others():
    rows = OwnRows.of(torch.zeros(6, 1), torch.zeros(6), np.array([3, 1, 2])).only(np.array([0, 2]))
    means = rows.means(rows.counted.sum(1).double())
    assert means.tolist() == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_share_of_the_rows_of_each_node_is_held_out(share):
    data = Sklearn("digits").load(200, seed=3)
    shards = DirichletPerClass(0.5).split(data, 200, seed=3)
    left, kept = own_tests.held_out(data, shards, share, seed=3)
    assert left.own is not None
    sizes, own = shards.sizes, np.diff(left.own.offsets)
    assert np.array_equal(own, np.minimum(np.maximum(np.rint(share * sizes), 1), sizes - 1))
    assert np.array_equal(kept.sizes + own, sizes)
    for i in (0, 50, 199):
        rows = shards.rows[shards.offsets[i] : shards.offsets[i + 1]]
        mine = [left.features[kept.rows[kept.offsets[i] : kept.offsets[i + 1]]]]
        mine.append(left.own.features[left.own.offsets[i] : left.own.offsets[i + 1]])
        both = np.concatenate(mine)
        assert np.array_equal(both[np.lexsort(both.T)], data.features[rows][np.lexsort(data.features[rows].T)])


OPTIONS = {
    "dealt": (),
    "held out, chosen nodes": ("task.own_tests=0.3", "run.eval_nodes=4"),
    "float32, shifted": ("dtype=float32", "task.shift={kind: noise, level: 0.5}"),
    "several networks": ("sweep.network.nodes=[5, 3]", "replicas=2"),
    "attackers": ("network.attack={kind: sign_flip, nodes: 2}", "timing.kind=synchronous"),
    "cut off": ("run.on_divergence=quarantine", "local.lr=[0.3, 0.3, 1.0e+200, 0.3, 0.3, 0.3, 0.3]"),
    "real targets": ("task.data={kind: linear_regression, samples_per_node: 9}", "task.partition=null"),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_rows_say_of_own_tests_what_modules_say(options):
    run = batchednodes.train(IRIS, *options, "run.node_metrics=true")
    end = run.nodes[run.nodes["time"] == 3.0]
    firsts = np.cumsum([0, *(p.config.network.nodes for p in sweep.points(run.settings))])
    oracle = run.evaluate(nodes=firsts[end["network"]] + end["node"], own_tests=True)
    close = 1e-5 if "dtype=float32" in options else 1e-12  # products of other shapes are summed in another order
    np.testing.assert_allclose(end["loss_own"], oracle["loss"], rtol=close)
    np.testing.assert_allclose(end["accuracy_own"], oracle["accuracy"], rtol=1e-12)
    for g, some in end.groupby("network"):
        owners = [len(run.data.own_tests[firsts[g] + i][1]) > 0 for i in some["node"]]
        shares, row = some["accuracy_own"].dropna().to_numpy(), last(run, g)
        np.testing.assert_allclose(row["loss_own_mean"], some["loss_own"][owners].mean(skipna=False), rtol=1e-12)
        losses = some["loss_own"][owners].to_numpy()
        worst = np.sort(losses)[::-1][: -(-losses.size // 10)].mean()
        np.testing.assert_allclose(row["loss_own_worst"], worst, rtol=1e-12)
        if shares.size:
            np.testing.assert_allclose(row["accuracy_std"], some["accuracy"].std(ddof=0), atol=1e-12)
            known = [shares.mean(), shares.min(), shares.std(), np.sort(shares)[: -(-shares.size // 10)].mean()]
            keys = ["accuracy_own_mean", "accuracy_own_min", "accuracy_own_std", "accuracy_own_worst"]
            np.testing.assert_allclose(row[keys].astype(float), known, atol=1e-12)
            gini = np.abs(shares[:, None] - shares).sum() / (2 * shares.size * shares.sum())
            np.testing.assert_allclose(row["accuracy_own_gini"], gini, atol=1e-12)
        else:
            assert row["accuracy_own_mean"] is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_own_tests_have_the_same_bits_whatever_is_scored_at_once(dtype):
    settings = config.load(IRIS, [f"dtype={dtype}", "task.own_tests=0.4", "network.nodes=11"])
    job = training.Job(settings, prepare(sweep.points(settings)), False, None, training.never)
    with setup.assembled(job, lambda _: None) as (run, means, _):
        run.engine.run_(run.state, run.engine.begin(), training.RunObserver(job, run, means, None, None))
        found = []
        for rows in (1, 3, 1000):
            evaluator = dataclasses.replace(run.evaluator, chunk=Chunk(rows))
            found.append(evaluator._scored(evaluator.held(run.state), None)[2])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_own_tests_are_those_of_the_serial_executor():
    runs = [batchednodes.train(IRIS, f"executor={name}") for name in ("batched", "serial")]
    keys = [key for key in runs[0].metrics if "_own_" in key or key.startswith(("accuracy_worst", "perplexity"))]
    first, second = (run.metrics[keys].to_numpy(float) for run in runs)
    np.testing.assert_allclose(first, second, rtol=1e-9)  # of an MLP after some updates in another order of sums


def test_isolated_nodes_have_rows_too_in_memory_in_files_and_after_a_pause(tmp_path):
    options = ("run.node_metrics=true", "run.baseline=isolated", "replicas=2")
    whole = batchednodes.train(IRIS, *options)
    silent = batchednodes.train(
        IRIS, "run.node_metrics=true", "replicas=2", "gossip.clock.kind=never", "staleness.track=none"
    )
    pd.testing.assert_frame_equal(whole.isolated_nodes, silent.nodes)
    assert not whole.isolated_nodes["loss"].equals(whole.nodes["loss"])
    begun = tmp_path / "run/checkpoints/isolated/nodes.npy"
    halted = batchednodes.train(IRIS, *options, out=tmp_path / "run", stop=begun.exists)  # within the isolated run
    assert halted.summary["status"] == "interrupted"
    with pytest.raises(
        ValueError, match=r"isolated_nodes must be asked of a run with .*run\.baseline=isolated, got one"
    ):
        _ = halted.isolated_nodes
    for run in (batchednodes.resume(tmp_path / "run"), batchednodes.Result.load(tmp_path / "run")):
        pd.testing.assert_frame_equal(run.isolated_nodes, whole.isolated_nodes)
    pd.testing.assert_frame_equal(pd.DataFrame(np.load(tmp_path / "run/isolated.npy")), whole.isolated_nodes)


def test_classes_and_perplexity_are_those_of_scikit_learn():
    run = batchednodes.train(IRIS, "run.metrics=[default, classes]", "task.data.name=wine", "replicas=2")
    for g in (0, 1):
        labels, row = run.data.tests[g][1], last(run, g)
        taken = [run.predictions(7 * g + i, run.data.tests[g]) for i in range(7)]
        f1 = [f1_score(labels, one, average="macro", zero_division=0) for one in taken]
        balanced = [balanced_accuracy_score(labels, one) for one in taken]
        np.testing.assert_allclose([row["f1_mean"], row["accuracy_balanced_mean"]], np.mean([f1, balanced], 1))
        counts = run.confusion("mean", network=g).to_numpy()
        np.testing.assert_allclose(row["accuracy_balanced_mean_model"], (counts.diagonal() / counts.sum(1)).mean())
        loss = run.evaluate(nodes=range(7 * g, 7 * g + 7))["loss"]
        np.testing.assert_allclose(row["perplexity_mean"], np.exp(loss).mean(), rtol=1e-9)
    assert last(batchednodes.train(IRIS))["f1_mean"] is None


def test_labels_that_are_not_there_count_for_f1_where_they_are_taken():
    labels, taken = [0] * 5, [0, 0, 0, 1, 1]
    hits = torch.tensor([[[[3.0, 0.0, 0.0], [3.0, 2.0, 0.0], [5.0, 0.0, 0.0]]]], dtype=torch.float64)
    assert classes.f1(hits).item() == pytest.approx(f1_score(labels, taken, average="macro"))
    assert classes.balanced(hits).item() == pytest.approx(0.6)


def test_spread_of_nodes_is_that_of_its_definitions():
    values = torch.from_numpy(np.random.default_rng(0).random((3, 23)))
    for k, some in enumerate(values.numpy()):
        pairs = np.abs(some[:, None] - some).sum()
        assert spread.gini(values)[k].item() == pytest.approx(pairs / (2 * 23 * some.sum()))
        assert spread.jain(values)[k].item() == pytest.approx(some.sum() ** 2 / (23 * (some**2).sum()))
        assert spread.worst(values)[k].item() == pytest.approx(np.sort(some)[:3].mean())
    assert spread.gini(torch.zeros(1, 4, dtype=torch.float64)).isnan().all()


def test_confusion_matrices_on_own_tests_sum_to_that_on_all():
    run = batchednodes.train(IRIS, "replicas=2")
    for network in (0, 1):
        whole = run.confusion("mean", network=network)
        own = [run.data.own_tests[run.row(i, network)] for i in range(7)]
        parts = [run.confusion("mean", rows, network=network) for rows in own if len(rows[1])]
        assert (sum(parts) == whole).all(axis=None)
        assert (run.confusion("mean", own_tests=True, network=network) == whole).all(axis=None)
        each = run.confusion("each", own_tests=True, network=network)
        nodes = [run.confusion(run.row(i, network), own_tests=True) for i in range(7)]
        assert (sum(nodes) == each).all(axis=None)
        assert (each.sum(axis=1) == whole.sum(axis=1)).all()
        right = each.to_numpy().trace() / each.to_numpy().sum()
        assert right == pytest.approx(last(run, network)["accuracy_own_pooled"])


def test_the_plan_counts_own_tests():
    for rule in ("dealt", 0.5):
        made = prepare(sweep.points(config.load(IRIS, [f"task.own_tests={rule}", "network.nodes=30", *REAL])))
        assert made.events is not None
        planned = plan.plan(made.configs, made.events, made.sizes).memory["data"]
        job = training.Job(made.configs[0], made, False, None, training.never)
        with setup.assembled(job, lambda _: None) as (run, *_):
            problem = run.problem
        own, tests = problem.own, problem.tests[0]
        assert own is not None
        tensors = [problem.features, tests.features, own.features, own.examples, own.counted]
        labels = 8 * (len(problem.targets) + tests.targets.numel() + len(own.targets))
        held = sum(t.nbytes for t in tensors) + labels
        assert 0.9 * planned < held <= planned  # blocks are planned as if all were full


REAL = ("task.data={kind: linear_regression, samples_per_node: 20}", "task.partition=null")

REFUSED = {
    "task.own_tests=1": "task.own_tests must be none, dealt, or a share between 0 and 1, both excluded .*, got 1.0",
    "task.own_tests=half": "task.own_tests must be a number or one of none, dealt, got 'half'",
    "run.metrics=[default, classes, classes]": "run.metrics must begin with default, and name it once, got",
    "run={node_metrics: true, until: 9000, mark_every: 0.01}": "run.node_metrics must make at most 16,000,000 rows, .*",
}


@pytest.mark.parametrize("option", REFUSED)
def test_wrong_settings_are_refused(option):
    with pytest.raises(ValueError, match=REFUSED[option]):
        prepare(sweep.points(config.load(IRIS, [option, "network.nodes=20"])))


def test_what_a_run_does_not_have_is_said():
    run = batchednodes.train(IRIS, "task.own_tests=none", "run.until=0.5", "run.mark_every=0.5")
    for call in (lambda: run.evaluate(own_tests=True), lambda: run.nodes):
        with pytest.raises(ValueError, match=r"own test rows must be asked|nodes must be asked"):
            call()
