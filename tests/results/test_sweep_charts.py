"""TensorBoard's charts across a sweep: what is in them is what the networks of the run ended with."""

import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from batchednodes import train
from batchednodes.results import comparison, tables
from batchednodes.results.folder import sweep_charts
from batchednodes.results.folder.inside import Inside

BASE = {
    "network": {"nodes": 6},
    "run": {"until": 4, "mark_every": 1},
    "task": {"data": {"samples_per_node": 5, "test_samples": 20}},
}


def shown(folder) -> EventAccumulator:
    board = EventAccumulator(str(folder / "summary"), {"images": 0, "scalars": 0, "tensors": 0})
    board.Reload()
    return board


def test_curves_are_means_over_replicas_against_the_swept_value(tmp_path):
    sweep = {"network.nodes": [8, 4, 6], "gossip.clock.rate": ["n", 1]}
    networks = train(BASE | {"sweep": sweep}, "replicas=2", out=tmp_path / "run").summary["networks"]
    board = shown(tmp_path / "run")
    for metric in ("loss_mean", "loss_max", "consensus_distance", "staleness_average"):
        for rate in ("n", 1):
            rows = [[r for r in networks if r["gossip.clock.rate"] == rate and r["n"] == n] for n in (4, 6, 8)]
            points = board.Scalars(f"sweep/{metric}/network.nodes/rate {rate}")
            assert [p.step for p in points] == [4, 6, 8]  # whole numbers: the values
            expected = [np.mean([r[metric] for r in group]) for group in rows]
            assert [p.value for p in points] == pytest.approx(expected, rel=1e-6)  # TensorBoard keeps float32
        points = board.Scalars(f"sweep/{metric}/gossip.clock.rate/nodes 8")
        assert [p.step for p in points] == [1, 8]  # n is 8 there
    assert not any("accuracy" in tag for tag in board.Tags()["scalars"])
    images = board.Tags()["images"]
    assert set(images) == {
        f"sweep/{metric}/{key}"
        for key in sweep
        for metric in ("loss_mean", "loss_max", "consensus_distance", "staleness_average")
    }
    assert board.Images("sweep/loss_max/network.nodes")[0].width > 300
    table = board.Tensors("final_metrics/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table == tables.markdown(tables.cells(networks, None))
    assert len(table.splitlines()) == 2 + 6


def test_values_that_are_not_whole_are_shown_by_rank(tmp_path):
    train(BASE | {"sweep": {"local.lr": [0.5, 0.01, 0.1]}}, out=tmp_path / "run")
    board = shown(tmp_path / "run")
    assert [p.step for p in board.Scalars("sweep/loss_mean/local.lr/all")] == [0, 1, 2]


def test_what_is_not_a_number_is_in_the_table_only(tmp_path):
    train(
        BASE
        | {"sweep": {"network.topology.kind": ["ring", "complete"], "update.clock.rate": [1, {"kind": "lognormal"}]}},
        out=tmp_path / "run",
    )
    tags = shown(tmp_path / "run").Tags()
    assert (tags["scalars"], tags["images"]) == ([], [])
    assert tags["tensors"] == ["final_metrics/text_summary"]


def test_a_single_network_has_no_summary_of_a_sweep(tmp_path):
    train(BASE, out=tmp_path / "run")
    assert not (tmp_path / "run" / "summary").exists()


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    rows = [
        {"network": g, "n": 5, "local.lr": lr, "accuracy_mean": None, "loss_mean": loss, "loss_max": loss,
         "loss_mean_model": loss}
        for g, (lr, loss) in enumerate([(1, 0.5), (1, 1.5), (2, float("inf")), (3, float("nan")), (4, 3.0)])
    ]  # fmt: skip
    sweep_charts.write(Inside(tmp_path) / "summary", rows, None)
    points = shown(tmp_path).Scalars("sweep/loss_mean/local.lr/all")
    assert [(p.step, p.value) for p in points] == [(1, 1.0), (4, 3.0)]


def test_words_of_a_table():
    rows = [
        {"network": g, "n": 5, "a.b": "x|y", "accuracy_mean": None, "loss_mean": loss} for g, loss in enumerate((1, 2))
    ]
    lines = tables.markdown(tables.cells(rows, rows)).splitlines()
    assert lines[0] == "| b | replicas | loss, mean | loss, worst | loss, average | isolated |"
    ratio = math.exp(12.706204736 * 0.5 / 1.5)  # Student's t with one degree of freedom, times the error of log loss
    mean = f"1.5 ({1.5 / ratio:.3g} to {1.5 * ratio:.3g})"  # 1.5 ± 6.4 would be negative
    assert lines[2] == f"| x\\|y | 2 | {mean} |  |  | {mean} |"
    assert comparison.half_width(np.array([1 / 3, 1 / 3 + 1e-16])) is None
