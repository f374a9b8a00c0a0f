"""A run from config to result: the API, the files it leaves, and what stops it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from observers import Watching
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import batchednodes
from batchednodes import load, resume, train
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import plan

TINY = {
    "network": {"nodes": 6},
    "run": {"until": 3, "mark_every": 1},
    "task": {"data": {"samples_per_node": 5, "test_samples": 30}},
}
FIRST_KEYS = [
    "time", "network", "seed", "n", "updates", "gossips", "loss_mean", "loss_max", "accuracy_mean", "accuracy_min",
    "loss_mean_model", "accuracy_mean_model", "consensus_distance",
    "staleness_mean", "staleness_max", "staleness_theory",
]  # fmt: skip
SUMMARY_KEYS = {
    "networks", "wall_seconds", "updates_per_second", "events_per_second", "mean_wave", "peak_memory_bytes", "ranks",
    "device", "torch", "version", "status",
}  # fmt: skip


def test_a_run_leaves_what_the_design_says(tmp_path):
    out = tmp_path / "run"
    result = train(TINY, "name=tiny", out=out)
    assert result.folder == out
    names = {p.name for p in out.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "summary.json", "final.safetensors"} < names
    assert sum(name.startswith("events.out.tfevents.") for name in names) == 1
    assert len(names) == 5

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["time"] for row in rows] == [0, 1, 2, 3]
    assert list(rows[0])[: len(FIRST_KEYS)] == FIRST_KEYS
    assert rows[-1]["accuracy_mean"] is None  # a regression: null, not missing
    pd.testing.assert_frame_equal(pd.DataFrame(rows), result.metrics, check_dtype=False)

    summary = json.loads((out / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert summary == result.summary
    assert summary["status"] == "finished"
    assert summary["networks"][0].items() >= rows[-1].items()

    final = load_file(out / "final.safetensors")
    assert torch.equal(final["x"], result.x)
    assert torch.equal(final["versions"], result.versions)
    arrays = ("next_update", "updates", "next_gossip", "gossips", "draws", "stamp", "order", "awake")
    assert {name for name in final if name.startswith("clocks.")} == {f"clocks.{name}" for name in arrays}


def test_the_config_that_a_run_leaves_repeats_it(tmp_path):
    options = ["gossip.clock.rate=2*log(n)", "update.clock.rate={kind: lognormal}", "seed=7"]
    first = train(TINY, *options, out=tmp_path / "a")
    again = train(tmp_path / "a" / "config.yaml", out=tmp_path / "b")
    assert torch.equal(first.x, again.x)
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()


def test_tensorboard_shows_curves_histograms_config_and_hyperparameters(tmp_path):
    train(TINY, "task.data.kind=digits", "network.nodes=4", out=tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run"))
    board.Reload()
    tags = board.Tags()
    for kind in ("loss", "accuracy"):
        assert {f"{kind}/{who}" for who in ("node_mean", "node_worst", "node_best", "average_model")} <= set(
            tags["scalars"]
        )
    assert {"models/consensus_distance", "staleness/mean", "staleness/max", "staleness/exact_law"} <= set(
        tags["scalars"]
    )
    assert {"run/events_per_second", "run/updates_per_second"} <= set(tags["scalars"])
    assert {"nodes/loss", "nodes/accuracy", "nodes/distance_from_mean", "nodes/staleness"} <= set(tags["histograms"])
    assert [e.step for e in board.Scalars("loss/node_mean")] == [0, 1000, 2000, 3000]  # milliseconds
    assert "config/text_summary" in tags["tensors"]
    assert "custom_scalars__config__" in tags["tensors"]
    assert any("hparams" in tag for tag in board.summary_metadata)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(TINY)
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_those_of_the_models():
    result = train(TINY, "task.data.kind=digits", "task.model.kind=mlp", "network.nodes=4", "dtype=float64")
    digits = batchednodes.load(TINY, ["task.data.kind=digits"]).task.data.load(4, 0)
    features, labels = torch.from_numpy(digits.test_features).double(), torch.from_numpy(digits.test_targets)
    losses, accuracies = [], []
    for i in range(4):
        outputs = result.model(i)(features).detach()
        losses.append(float(F.cross_entropy(outputs, labels)))
        accuracies.append(float((outputs.argmax(1) == labels).double().mean()))
    row = result.metrics.iloc[-1]
    assert row["loss_mean"] == pytest.approx(np.mean(losses), rel=1e-12)  # another order of the same sums
    assert row["loss_max"] == pytest.approx(max(losses), rel=1e-12)
    assert row["loss_median"] == pytest.approx(sorted(losses)[1], rel=1e-12)  # of an even number, the lower of two
    assert row["accuracy_mean"] == pytest.approx(np.mean(accuracies), rel=1e-12)
    assert row["accuracy_min"] == pytest.approx(min(accuracies), rel=1e-12)
    distances = (result.x - result.x.mean(0)).norm(dim=1)
    assert row["consensus_distance"] == pytest.approx(float(distances.square().mean().sqrt()), rel=1e-12)
    with pytest.raises(ValueError, match=r"i must be a node, 0 <= i < 4, got 4"):
        result.model(4)


def assembly_of(*overrides: str):
    config = batchednodes.load(TINY, overrides)
    events = assembly.timeline([config])
    return assembly.assemble([config], events, plan([config], events).chunks)


def test_a_sample_of_nodes_is_evaluated_when_asked():
    everyone, some = train(TINY), train(TINY, "run.eval_nodes=2")
    assert torch.equal(everyone.x, some.x)
    assert some.metrics["loss_max"].iloc[-1] <= everyone.metrics["loss_max"].iloc[-1]
    run = assembly_of("run.eval_nodes=2")
    assert run.evaluator.evaluated[0].tolist() != [0, 1]  # a sample, not the first ones
    assert some.metrics["loss_mean"].iloc[-1] != everyone.metrics["loss_mean"].iloc[-1]
    assert (some.metrics["loss_mean_model"] == everyone.metrics["loss_mean_model"]).all()


def test_the_isolated_baseline_is_the_same_run_without_gossip():
    result = train(TINY, "run.baseline=isolated")
    alone = train(TINY, "gossip.clock.kind=never")
    assert result.summary["isolated"][0]["loss_mean"] == alone.metrics["loss_mean"].iloc[-1]
    assert result.summary["isolated"][0]["gossips"] == 0
    assert result.summary["isolated"][0]["consensus_distance"] > result.metrics["consensus_distance"].iloc[-1]


def test_nodes_of_rounds_are_isolated_too():
    rounds = [
        "timing={kind: rounds, steps: 3}",
        "network.churn={join: [0, 2.5, 0, 0, 2.5, 0, 0, 0, 0, 0], start: neighbour}",
    ]
    result = train(TINY, *rounds, "run.baseline=isolated", "network.nodes=10")
    fresh = train(
        TINY,
        *rounds,
        "network.nodes=10",
        "network.churn.start=fresh",
        "gossip.loss={kind: independent, probability: 1}",
    )
    assert result.summary["isolated"][0]["loss_mean"] == fresh.metrics["loss_mean"].iloc[-1]
    assert fresh.metrics["messages_delivered"].iloc[-1] == 0 < result.metrics["messages_delivered"].iloc[-1]


def test_the_end_is_a_mark_even_between_two_marks():
    assert train(TINY, "run.until=2.5").metrics["time"].tolist() == [0, 1, 2, 2.5]
    assert train(TINY, "run.until=0.3", "run.mark_every=0.1").metrics["time"].tolist() == [0, 0.1, 0.2, 0.3]


def test_marks_are_at_the_times_that_are_given(tmp_path):
    """A run is the same whatever its marks; one that is resumed with a later end has a mark at the end it had."""
    base = {"network.nodes": 4, "run.until": 7}
    given = train(base, {"run.mark_at": [0.5, 2, 6.5, 9]}, out=tmp_path / "run")
    assert given.metrics["time"].tolist() == [0, 0.5, 2, 6.5, 7]
    assert torch.equal(given.x, train(base, {"run.mark_every": 7}).x)
    longer = resume(tmp_path / "run", "run.until=10")
    assert longer.metrics["time"].tolist() == [0, 0.5, 2, 6.5, 7, 9, 10]
    assert load(tmp_path / "run" / "config.yaml").run.marks == 6


def test_divergence_stops_at_the_next_mark_and_keeps_what_was_written(tmp_path):
    result = train(TINY, "local.lr=1e30", "local.steps=3", "run.until=50", out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "diverged"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 1 < len(rows) < 51
    assert rows[-1]["loss_mean"] is None  # not finite: null in strict JSON
    assert (tmp_path / "run" / "final.safetensors").exists()
    message = result.summary["message"]
    assert "is not finite" in message
    assert "the first was node" in message
    assert f"the run stopped at t = {rows[-1]['time']:g} s; local.lr of node " in message
    assert message.endswith("measured on its data: lower local.lr")
    first = float(message.split("at t = ")[1].split(" s")[0])
    assert rows[-2]["time"] < first <= rows[-1]["time"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["device=cuda:99"], "device must be one of this machine, got 'cuda:99' with"),
        (["device=cuda:999"], "device must be one of this machine, got 'cuda:999' with"),
        (["network.nodes=2000", "task.data.kind=digits"],
         "network.nodes must be at most the number of training samples"),
        (["local.epochs=1", "task.partition.kind=quantity_skew", "dtype=bfloat16",
          "task.model={kind: python, target: 'example_models:Centred', args: {width: 10}}"],
         "task.model must compute each example by itself with local.epochs"),
        (["task.loss=cross_entropy"], "task.loss must be mse for real-valued targets, got 'cross_entropy'"),
        (["task.model={kind: python, target: 'example_models:batch_norm'}"], r"task.model must take features of shape"),
        (["task.model={kind: python, target: 'example_models:missing'}"], "task.model.target must be importable"),
        (["task.model={kind: python, target: 'example_models:not_a_module'}"], "must return an nn.Module, got int"),
        (["task.model={kind: python, target: 'example_models:Tied', args: {depth: 3}}"],
         "task.model.target 'example_models:Tied' must take args {'depth': 3}, got TypeError"),
        (["task.model={kind: python, target: nothing}"],
         'task.model.target must be "package.module:name", got \'nothing\''),
        (["task.data.kind=npz", "task.data.path=missing.npz"], "task.data.path must .*missing.npz"),
        (["gossip.clock.rate=1e17"], "run.until times the rates of .* at most 1e.12 events, got"),
        (["executor=serial", "local.chunk=3"], "local.chunk must be left out with executor=serial"),
        (["executor=serial", "local.compile=on"], "local.compile must be left out with executor=serial"),
        (["network.nodes=30000", "staleness.track=all", "task.model={kind: mlp, hidden: [4000000]}"],
         "the run must fit in memory, got .* GiB needed"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(TINY, *options, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_disconnected_graph_is_warned_about(tmp_path):
    (tmp_path / "two.txt").write_text("0 1\n1 2\n3 4\n4 5\n")
    with pytest.warns(
        UserWarning,
        match=r"network.topology is not connected: 2 components \(those of node 0 and 2 others, node 3 and 2 others\)",
    ):
        train(TINY, f"network.topology={{kind: edge_list, path: '{tmp_path / 'two.txt'}'}}")


def test_an_existing_folder_is_never_written_to(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"--out must not exist yet, got .*run'; nothing is ever overwritten"):
        train(TINY, out=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_users_own_data_and_partition(tmp_path):
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 3)).astype(np.float32)
    labels, node = (features[:, 0] > 0).astype(np.int64), np.repeat(np.arange(6), 10)
    np.savez(tmp_path / "mine.npz", features=features, targets=labels, node=node)
    data = f"task.data={{kind: npz, path: '{tmp_path / 'mine.npz'}'}}"
    result = train(TINY, data, "run.until=30", "local.lr=1.0")
    assert result.metrics["accuracy_mean"].iloc[-1] > 0.85  # a separable problem; chance is 0.5
    assert result.x.shape == (6, 3 * 2 + 2)


def test_momentum_is_not_mixed_and_rows_begin_equal_or_not():
    same, different = train(TINY, "run.until=0.1"), train(TINY, "run.until=0.1", "task.model.init=independent")
    assert same.metrics["consensus_distance"].iloc[0] == 0
    assert different.metrics["consensus_distance"].iloc[0] > 0
    assert different.x.unique(dim=0).shape[0] == 6


def test_progress_is_shown_after_each_window_and_mark():
    seen = []
    train(TINY, "run.window=0.5", watch=lambda config, progress, row: seen.append((progress.clocks.time, row["time"])))
    assert seen[0] == (0, 0)
    assert (0.5, 0) in seen
    assert seen[-1] == (3, 3)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "auto"])
def test_every_loss_trains_on_labels(loss):
    result = train(
        TINY, "task.data.kind=digits", f"task.loss={loss}", "run.until=20", "local.lr=0.5", "network.nodes=4"
    )
    assert result.metrics["loss_mean"].iloc[-1] < 0.9 * result.metrics["loss_mean"].iloc[0]
    first = train(
        TINY, "task.data.kind=digits", f"task.loss={loss}", "dtype=float64", "network.nodes=2", "run.until=0.1"
    )
    digits = batchednodes.load(TINY, ["task.data.kind=digits"]).task.data.load(2, 0)
    outputs = first.model(0)(torch.from_numpy(digits.test_features).double()).detach()
    labels = torch.from_numpy(digits.test_targets)
    hot = F.one_hot(labels, 10).double()
    expected = F.mse_loss(outputs, hot) if loss == "mse" else F.cross_entropy(outputs, labels)
    assert first.metrics["loss_mean"].iloc[0] == pytest.approx(float(expected), rel=1e-12)


def test_a_users_frozen_parameters_are_the_same_in_every_run():
    model = "task.model={kind: python, target: 'example_models:Tied', args: {width: 10}}"
    before = torch.get_rng_state()
    first, second = train(TINY, model), train(TINY, model)
    assert torch.equal(first.x, second.x)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's draws are touched


def test_the_average_of_staleness_leaves_the_warm_up_out():
    result = train(TINY, "run.until=60", "network.nodes=20")
    late = result.metrics[result.metrics["time"] > 30]["staleness_mean"]
    final = result.summary["networks"][0]
    assert final["staleness_average"] == pytest.approx(late.mean(), rel=1e-12)  # marks are evenly spaced
    assert final["staleness_average_half_width"] > 0
    slow = train(TINY, "run.until=60", "network.nodes=20", "gossip.clock.rate=0.05").summary["networks"][0]
    assert slow["staleness_average_half_width"] is None  # far too short for an interval


def test_the_results_of_a_run_are_kept_if_its_baseline_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(batchednodes.simulation.training, "_isolated", fail)
    with pytest.raises(MemoryError):
        train(TINY, "run.baseline=isolated", out=tmp_path / "run")
    assert {"final.safetensors", "metrics.jsonl"} <= {p.name for p in (tmp_path / "run").iterdir()}


def test_threads_are_set_for_the_run_and_restored():
    before, seen = torch.get_num_threads(), []
    train(TINY, "run.threads=2", watch=lambda *_: seen.append(torch.get_num_threads()))
    assert set(seen) == {2}
    seen.clear()
    train(TINY, watch=lambda *_: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}  # small waves
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_staleness_by_node_and_source_over_the_second_half(tmp_path):
    # Constant between events: marks every 5 ms miss only the events inside a step, about 1% of the changes.
    options = ["network.nodes=5", "staleness.track=3", "run.until=8"]
    result = train(TINY, *options, "run.mark_every=2", out=tmp_path / "run")
    final = load_file(tmp_path / "run" / "final.safetensors")
    of_node, of_source = final["staleness_of_node"], final["staleness_of_source"]
    assert of_node.dtype == of_source.dtype == torch.float64
    tracked = ~of_source.isnan()
    assert tracked.sum() == 3
    weights = torch.where(tracked, 2.0, 3.0)  # sources other than the node itself
    average = float((of_node * weights).sum() / weights.sum())
    assert average == pytest.approx(result.summary["networks"][0]["staleness_average"], rel=1e-12)
    marks, events = assembly_of(*options, "run.mark_every=0.005"), []
    watching = Watching(
        lambda p: (
            events.append((p.clocks.time, marks.evaluator.observe(marks.state, p.clocks).networks[0].staleness)) or True
        )
    )
    marks.engine.run_(marks.state, marks.engine.begin(), watching)
    sampled = np.mean([s.of_node for time, s in events if time > 4], axis=0)
    assert of_node.numpy() == pytest.approx(sampled, rel=0.02)
    seen = np.mean([s.of_source for time, s in events if time >= 4 and abs(time % 2) < 1e-9], axis=0)
    assert of_source.numpy() == pytest.approx(seen, rel=1e-12, nan_ok=True)
    serial = train(TINY, *options, "run.mark_every=2", "executor=serial", out=tmp_path / "serial")
    again = load_file(serial.folder / "final.safetensors")
    assert again["staleness_of_node"].numpy() == pytest.approx(of_node.numpy(), rel=1e-12)  # sums in another order


def test_a_run_without_staleness_or_a_second_half_leaves_no_numbers_for_it(tmp_path):
    train(TINY, "staleness.track=none", out=tmp_path / "none")
    train(TINY, "run.mark_every=9", out=tmp_path / "end")
    for run, unknown in (("none", {"staleness_of_node", "staleness_of_source"}), ("end", {"staleness_of_node"})):
        final = load_file(tmp_path / run / "final.safetensors")
        for name in ("staleness_of_node", "staleness_of_source"):
            assert bool(final[name].isnan().all()) == (name in unknown)


def test_quantiles_of_staleness_are_in_order_and_shown(tmp_path):
    result = train(TINY, "network.nodes=20", "run.until=20", out=tmp_path / "run")
    last = result.metrics.iloc[-1]
    keys = ["staleness_median", "staleness_p90", "staleness_p99", "staleness_max"]
    assert last[keys].is_monotonic_increasing
    assert 0 < last["staleness_p90"] < last["staleness_max"]
    assert list(result.metrics.columns)[: len(FIRST_KEYS)] == FIRST_KEYS
    board = EventAccumulator(str(tmp_path / "run"), {"histograms": 0, "scalars": 0})
    board.Reload()
    assert [e.value for e in board.Scalars("staleness/p99")] == result.metrics["staleness_p99"].tolist()
    pairs = board.Histograms("staleness/pairs")[-1].histogram_value
    assert (pairs.num, pairs.max) == (20 * 19, last["staleness_max"])
    assert pairs.bucket_limit[:2] == [0.5, 1.5]  # each small number has its own bucket
    assert sum(pairs.bucket) == 20 * 19
    assert pairs.sum == pytest.approx(last["staleness_now"] * 20 * 19)
    for tag in ("nodes/staleness", "nodes/staleness_as_source"):
        spread = board.Histograms(tag)[-1].histogram_value
        assert (spread.num, sum(spread.bucket)) == (20, 20)
        assert spread.sum == pytest.approx(last["staleness_now"] * 20)


@pytest.mark.parametrize("together", [1, 12, 64])
def test_networks_are_measured_alike_alone_and_together(together):
    config = batchednodes.load(TINY, ["sweep.network.nodes=[6, 4, 6]", "replicas=2", "dtype=float64"])
    configs = [p.config for p in batchednodes.config.sweep.points(config)]
    events = assembly.timeline(configs)
    run = assembly.assemble(configs, events, assembly.Chunks(update=9, evaluate=5, together=together))
    run.state.x.copy_(torch.randn(run.state.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    observed = run.evaluator.observe(run.state, events.begin()).networks
    assert [o.row["network"] for o in observed] == list(range(6))
    for g, (config, seen) in enumerate(zip(configs, observed, strict=True)):
        laws = assembly.timeline([config])
        alone = assembly.assemble([config], laws, assembly.Chunks(update=9, evaluate=64))
        alone.state.x.copy_(run.state.x[events.networks.slice(g)])
        (expected,) = alone.evaluator.observe(alone.state, laws.begin()).networks
        for key, value in expected.row.items():
            near = value if value is None else pytest.approx(value, rel=1e-12)  # the same sums in another order
            assert key == "network" or seen.row[key] == near, key
        assert seen.over_nodes.keys() == expected.over_nodes.keys()
        for name, values in expected.over_nodes.items():
            assert seen.over_nodes[name] == pytest.approx(values, rel=1e-12)


def test_overrides_may_be_mappings_here_too(tmp_path):
    given, said = train(TINY, {"seed": 1}, out=tmp_path / "run"), train(TINY, "seed=1")
    assert torch.equal(given.x, said.x)
    resume(tmp_path / "run", {"run": {"until": 4}})
    assert batchednodes.load(tmp_path / "run" / "config.yaml").run.until == 4
