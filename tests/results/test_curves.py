"""Curves of TensorBoard: their axis is time, so runs lie on each other, and their settings are those that vary."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import batchednodes
from batchednodes import config, resume, train
from batchednodes.results.folder import curves

TINY = {
    "network": {"nodes": 6},
    "run": {"until": 4, "mark_every": 1},
    "task": {"data": {"kind": "digits"}},
}


def shown(folder):
    """Returns step and value of each point of each curve of a folder of TensorBoard."""
    board = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in board.Tags()["scalars"]}


def test_runs_that_differ_in_their_marks_only_lie_on_each_other(tmp_path):
    train(TINY, out=tmp_path / "rare")
    train(TINY, "run.mark_every=0.25", out=tmp_path / "often")
    rare, often = shown(tmp_path / "rare"), shown(tmp_path / "often")
    assert [*rare["loss/node_mean"]] == [0, 1000, 2000, 3000, 4000]
    assert [*often["loss/node_mean"]] == [*range(0, 4001, 250)]
    assert rare.keys() == often.keys()
    assert {tag.partition("/")[0] for tag in rare} == {"accuracy", "loss", "models", "run", "staleness", "vs_updates"}
    speeds = {"run/events_per_second", "run/updates_per_second"}  # by the clock on the wall
    in_time = [tag for tag in rare if tag not in speeds and not tag.startswith("vs_updates/")]  # gossip goes on between
    assert len(in_time) > 15
    for tag in in_time:
        assert rare[tag] == {step: often[tag][step] for step in rare[tag]}, tag


def test_the_second_axis_is_updates_of_each_node_and_survives_a_pause(tmp_path):
    options = ["update.clock.rate=5", "run.checkpoint_every.time=1"]  # at 2 s more steps of updates than of time
    whole = train(TINY, *options, out=tmp_path / "whole").metrics
    seen = iter([False] * 25)
    train(TINY, *options, out=tmp_path / "parts", stop=lambda: next(seen, True))
    assert resume(tmp_path / "parts").summary["status"] == "finished"
    found = shown(tmp_path / "whole")["vs_updates/accuracy_node_mean"]
    assert [*found] == [round(1000 * updates / 6) for updates in whole["updates"]]
    assert [*found.values()] == pytest.approx(whole["accuracy_mean"].tolist(), rel=1e-6)  # TensorBoard keeps float32
    assert max(found) > 4000
    assert shown(tmp_path / "parts")["vs_updates/accuracy_node_mean"] == found


def test_isolated_nodes_have_curves_that_follow_an_extended_run(tmp_path):
    options = ["run.baseline=isolated", "sweep.gossip.clock.rate=[1, 3]"]
    train(TINY, *options, out=tmp_path / "run")
    summary = resume(tmp_path / "run", "run.until=5").summary
    for g, rate in enumerate((1, 3)):
        found = shown(tmp_path / f"run/isolated/gossip.clock.rate={rate}/replica-0")
        assert [*found["accuracy/node_mean"]] == [0, 1000, 2000, 3000, 4000, 5000]
        assert found["accuracy/node_mean"][5000] == np.float32(summary["isolated"][g]["accuracy_mean"])
        assert max(found["run/contacts"].values()) == 0


def test_hyperparameters_are_those_that_vary_beside_what_was_learned(tmp_path):
    settings = TINY | {"sweep": {"network.topology": [{"kind": "ring"}, {"kind": "complete"}]}, "replicas": 2}
    made = [config.to_dict(point.config) for point in config.sweep.points(batchednodes.load(settings))]
    varied = curves.varied(made)
    assert [one["network.topology.kind"] for one in varied] == ["ring", "ring", "complete", "complete"]
    assert [one["seed"] for one in varied] == [0, 1, 0, 1]
    assert {*varied[0]} == {"network.topology.kind", "seed"}
    alone = {"network.topology.kind", "network.nodes", "run.until", "task.data.kind", "task.data.test_fraction", "seed"}
    assert {*curves.varied(made[:1])[0]} == alone
    train(settings, out=tmp_path / "run")
    (board,) = [EventAccumulator(str(p)).Reload() for p in (tmp_path / "run").glob("network.topology*ring*/replica-1")]
    assert any("hparams" in tag for tag in board.summary_metadata)
    assert curves.FINAL[0] == "accuracy_mean"
