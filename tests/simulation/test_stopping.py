"""A metric ends a run at a mark; a run that goes on ends where the whole one does. Rows of nodes go on likewise."""

import os

import numpy as np
import pytest
import torch
from test_resume import after, same_files

import batchednodes
from batchednodes.config.stopping import StopWhen
from batchednodes.results import comparison
from batchednodes.simulation.stopping import StopRule

BASE = {
    "network": {"nodes": 5},
    "task": {"data": {"samples_per_node": 20, "test_samples": 30}},
    "local": {"lr": 0.1},
    "run": {"until": 12, "mark_every": 1, "checkpoint_every": {"time": 1}, "node_metrics": True},
}
RULE = "run.stop_when={metric: loss_mean, below: 0.1, patience: 2}"


def times(when, values, networks=1):
    """Returns when a rule is met by some values of a metric, at marks 0, 1, ..."""
    rule = StopRule(when, networks)
    for k, value in enumerate(values):
        several = value if isinstance(value, tuple) else (value,) * networks
        rule.see([{"network": g, "time": float(k), "loss": one} for g, one in enumerate(several)])
    return rule.times


def test_a_rule_is_met_where_its_words_say():
    assert times(StopWhen("loss", below=0.5), [0.5, 0.6, 0.4]) == [2.0]
    assert times(StopWhen("loss", above=0.5, patience=2), [0.6, 0.4, 0.6, None, 0.6, 0.7, 0.1]) == [5.0]
    assert times(StopWhen("loss", above=0.5), [float("nan"), float("inf")]) == [None]
    assert times(StopWhen("loss", best="lowest", patience=2), [3, 2, 2.5, 1, 1, float("nan"), 0]) == [5.0]
    assert times(StopWhen("loss", best="highest"), [None, 1]) == [0.0]
    assert times(StopWhen("loss", below=0.5), [(1, 0.4), (0.4, 1)], networks=2) == [1.0, 0.0]
    assert StopWhen("loss_mean", best="lowest").words == "loss_mean without a new lowest value at a mark"
    assert StopWhen("loss", best="lowest", patience=11).words == "loss without a new lowest value at 11 marks in a row"


def test_a_metric_ends_a_run_and_what_goes_on_is_what_would_have_come(tmp_path):
    whole = batchednodes.train(BASE, RULE, "run.baseline=isolated", out=tmp_path / "whole")
    end = float(whole.metrics["time"].to_numpy()[-1])
    assert whole.summary["status"] == "stopped"
    assert whole.summary["stopped"] == [end]
    assert 1 < end < 12
    assert (whole.metrics["loss_mean"].tail(2) < 0.1).all()
    assert whole.summary["message"] == f"the run ended at t = {end:g} s, with loss_mean below 0.1 at 2 marks in a row"
    assert whole.summary["isolated"][0]["time"] == end
    assert comparison.read(tmp_path / "whole")[1] is None
    plain = batchednodes.train(BASE)
    assert plain.metrics["loss_mean"].iloc[: len(whole.metrics)].tolist() == whole.metrics["loss_mean"].tolist()
    halted = batchednodes.train(BASE, RULE, "run.baseline=isolated", out=tmp_path / "parts", stop=after(14))
    assert halted.summary["status"] == "interrupted"
    batchednodes.resume(tmp_path / "parts")
    same_files(tmp_path / "whole", tmp_path / "parts")
    before = (tmp_path / "whole" / "summary.json").read_bytes()
    assert batchednodes.resume(tmp_path / "whole", "run.until=20").summary["status"] == "stopped"
    assert (tmp_path / "whole" / "summary.json").read_bytes() == before
    os.remove(tmp_path / "whole" / "summary.json")
    assert batchednodes.resume(tmp_path / "whole", "run.until=12").summary["stopped"] == [end]
    on = batchednodes.resume(tmp_path / "whole", "run.stop_when=null")
    assert on.summary["status"] == "finished"
    assert torch.equal(on.x, plain.x)
    assert np.array(on.node_rows).tobytes() == np.array(plain.node_rows).tobytes()


WRONG = {
    "{metric: loss_mean}": "run.stop_when.above must be given, or below, or best, one of the three, got none",
    "{metric: loss_mean, above: 1, below: 1}": "got above and below",
    "{metric: los, above: 1}": "run.stop_when.metric must be a metric of rows, .* got 'los'",
    "{metric: staleness_average, above: 1}": "metric must be a metric of rows, .* got 'staleness_average'",
    "{metric: accuracy_mean, above: 1}": "metric must be one that the run has, .* without data with labels",
    "{metric: loss_own_mean, above: 1}": "metric must be one that the run has, .* without task.own_tests",
    "{metric: loss_mean, above: .inf}": "run.stop_when.above must be finite, got inf",
    "{metric: loss_mean, above: 1, patience: 0}": "run.stop_when.patience must be an integer in",
}


@pytest.mark.parametrize("rule", WRONG)
def test_a_rule_that_cannot_be_is_refused_before_anything_is_written(rule, tmp_path):
    with pytest.raises(ValueError, match=WRONG[rule]):
        batchednodes.train(BASE, f"run.stop_when={rule}", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_of_nodes_are_read_by_numpy_and_go_on_bit_for_bit(tmp_path):
    options = ("sweep.network.nodes=[3, 5]", "run.eval_nodes=2", "run.until=4")
    whole = batchednodes.train(BASE, *options, out=tmp_path / "whole")
    rows = np.load(tmp_path / "whole" / "nodes.npy")
    assert rows.tobytes() == np.array(batchednodes.train(BASE, *options).node_rows).tobytes()
    assert len(rows) == 5 * 2 * 2
    means = batchednodes.Result.load(tmp_path / "whole").nodes.groupby(["time", "network"])["loss"].mean()
    np.testing.assert_allclose(means, whole.metrics["loss_mean"], rtol=1e-12)
    parts = tmp_path / "parts"
    assert batchednodes.train(BASE, *options, out=parts, stop=after(14)).summary["status"] == "interrupted"
    with (parts / "nodes.npy").open("ab") as file:
        file.write(bytes(72))  # of a mark after the checkpoint
    batchednodes.resume(parts)
    assert (parts / "nodes.npy").read_bytes() == (tmp_path / "whole" / "nodes.npy").read_bytes()


def test_rows_of_nodes_that_are_not_what_the_run_left_are_named(tmp_path):
    batchednodes.train(BASE, "run.until=2", out=tmp_path / "run")
    file = tmp_path / "run" / "nodes.npy"
    content = file.read_bytes()
    file.write_bytes(content[:600] + b"?" + content[601:])
    with pytest.warns(UserWarning, match=r"nodes.npy must begin as the run left it|no one before"):
        batchednodes.resume(tmp_path / "run", "run.until=3")
    content = file.read_bytes()
    for broken in (content[:-1], b"no array", content.replace(b"'shape': (20,)", b"'shape': (99,)")):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"DIR must hold a whole nodes.npy, got .* with one that is damaged"):
            batchednodes.Result.load(tmp_path / "run")
    file.unlink()
    with pytest.raises(ValueError, match=r"DIR must hold a whole nodes.npy, got .*: No such file"):
        batchednodes.Result.load(tmp_path / "run")
