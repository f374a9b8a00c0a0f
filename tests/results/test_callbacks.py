"""Callbacks and loggers hear of a run what happens in it, and change nothing."""

import csv
import json
import sqlite3
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import batchednodes
from batchednodes.results.callbacks import Begun

SMALL = {"network.nodes": 3, "run": {"until": 4, "mark_every": 1, "checkpoint_every": {"time": 2}}}


class Heard(batchednodes.Callback):
    """Takes note of what it is told."""

    def __init__(self) -> None:
        self.told = list[tuple[Any, ...]]()

    def start(self, run: Begun) -> None:
        self.told.append(("start", [*run.networks], len(run.rows)))

    def mark(self, rows: Sequence[dict[str, Any]]) -> None:
        self.told.append(("mark", rows[0]["time"], len(rows)))

    def checkpoint(self, time: float, path: Path) -> None:
        self.told.append(("checkpoint", time, path.name))

    def end(self, summary: dict[str, Any]) -> None:
        self.told.append(("end", summary["status"]))


def test_a_callback_hears_of_start_marks_checkpoints_and_end(tmp_path: Path):
    first, then = Heard(), Heard()
    done = batchednodes.train(SMALL, "run.until=2", out=tmp_path / "run", callbacks=[first])
    assert first.told == [
        ("start", [""], 0),
        *[("mark", float(t), 1) for t in range(3)],
        ("checkpoint", 2.0, "000001.safetensors"),
        ("end", "finished"),
    ]
    longer = batchednodes.resume(tmp_path / "run", "run.until=3", callbacks=[then])
    assert then.told == [("start", [""], 3), ("mark", 3.0, 1), ("end", "finished")]
    assert torch.equal(longer.x, batchednodes.train(SMALL, "run.until=3").x)
    assert torch.equal(done.x, batchednodes.train(SMALL, "run.until=2").x)


def test_a_run_that_is_halted_tells_of_its_checkpoint(tmp_path: Path):
    heard = Heard()
    batchednodes.train(SMALL, out=tmp_path / "run", callbacks=[heard], stop=lambda: True)
    assert [one[0] for one in heard.told[-2:]] == ["checkpoint", "end"]
    assert heard.told[-1] == ("end", "interrupted")


def test_what_a_callback_raises_ends_the_run_which_can_go_on(tmp_path: Path):
    class Failing(batchednodes.Callback):
        def mark(self, rows: Sequence[dict[str, Any]]) -> None:
            if rows[0]["time"] == 3:
                raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        batchednodes.train(SMALL, out=tmp_path / "run", callbacks=[Failing()])
    assert torch.equal(batchednodes.resume(tmp_path / "run").x, batchednodes.train(SMALL).x)


@pytest.mark.parametrize("callbacks", [Heard(), [Heard], [3]])
def test_only_callbacks_are_told(callbacks: Any, tmp_path: Path):
    refused = (ValueError, TypeError)  # the latter where signatures are checked
    with pytest.raises(refused, match=r"callbacks must be a list of objects of classes derived|parameter 'callbacks'"):
        batchednodes.train(SMALL, callbacks=callbacks, out=tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


def test_the_table_has_the_rows_of_metrics_also_after_a_pause(tmp_path: Path):
    settings = [SMALL, {"run.loggers": ["csv"]}, "replicas=2"]
    batchednodes.train(*settings, "run.until=2", out=tmp_path / "run")
    batchednodes.resume(tmp_path / "run", "run.until=4")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert table == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    assert [*(tmp_path / "run").glob("events.out*"), *(tmp_path / "run").glob("all/*/events*")] == []


def test_loggers_are_refused_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"run.loggers must be of packages that are installed, got wandb: pip install"):
        batchednodes.train(SMALL, {"run.loggers": ["csv", "wandb"]}, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"run.loggers must name each logger once"):
        batchednodes.train(SMALL, {"run.loggers": ["csv", "csv"]}, out=tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs batchednodes[wandb]")
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_has_a_run_for_each_network(tmp_path: Path):
    batchednodes.train(SMALL, {"run.loggers": ["wandb"]}, "replicas=2", out=tmp_path / "run")
    files = [*(tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")]
    assert len(files) == 2
    assert all(b"consensus_distance" in file.read_bytes() for file in files)


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs batchednodes[mlflow]")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_metrics_of_each_network(tmp_path: Path):
    batchednodes.train(SMALL, {"run.loggers": ["mlflow"]}, "replicas=2", out=tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "mlflow.db") as found:
        steps = found.execute("select step, count(*) from metrics where key = 'loss_mean' group by step").fetchall()
        states = found.execute("select distinct status from runs").fetchall()
    assert steps == [(1000 * t, 2) for t in range(5)]
    assert states == [("FINISHED",)]
