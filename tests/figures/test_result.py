"""Results: what a run has found is loaded, evaluated, tabulated and drawn as the run itself saw it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import batchednodes
from batchednodes import Result
from batchednodes.figures import bars

LABELS = {
    "network.nodes": 4,
    "task": {"data": {"kind": "sklearn", "name": "iris", "standardize": "train"}, "partition": {"kind": "dirichlet"}},
    "local.lr": 0.2,
    "run": {"until": 2, "mark_every": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of two replicas with labels, in a folder."""
    return batchednodes.train(LABELS, "replicas=2", out=tmp_path_factory.mktemp("result") / "iris")


def test_a_loaded_result_is_that_of_the_run(run: Result):
    assert run.folder is not None
    found = Result.load(run.folder)
    assert torch.equal(found.x, run.x)
    assert all(torch.equal(a, b) for a, b in zip(found.tables, run.tables, strict=True))
    assert found.settings == run.settings
    assert found.metrics.equals(run.metrics)
    assert found.summary["networks"] == run.summary["networks"]


@pytest.mark.parametrize("kind", ["push_sum", "acid", "gradient_tracking"])
def test_models_of_an_algorithm_are_loaded_as_they_are_scored(kind: str, tmp_path: Path):
    settings: dict[str, Any] = {
        "network": {"nodes": 4, "topology": {"kind": "ring"}},
        "run.until": 2,
        "algorithm.kind": kind,
    }
    exchange = "push" if kind == "push_sum" else "meet"
    done = batchednodes.train(settings, {"gossip.exchange": exchange}, out=tmp_path / "run")
    assert torch.equal(Result.load(tmp_path / "run").x, done.x)


def test_a_run_that_is_not_at_its_end_is_loaded_as_far_as_it_is(tmp_path: Path):
    done = batchednodes.train(LABELS, out=tmp_path / "run", stop=lambda: True)
    found = Result.load(tmp_path / "run")
    assert done.summary["status"] == found.summary["status"] == "interrupted"
    with pytest.raises(ValueError, match=r"DIR must be the folder of a run, got .* without a config.yaml"):
        Result.load(tmp_path)


def test_evaluation_is_that_of_the_marks(run: Result):
    scores = run.evaluate().groupby("network")
    last = run.metrics.tail(2)
    assert scores["accuracy"].mean().to_numpy() == pytest.approx(last["accuracy_mean"].to_numpy())
    assert scores["loss"].max().to_numpy() == pytest.approx(last["loss_max"].to_numpy(), rel=1e-6)
    mine = run.evaluate(run.data.test, nodes=[1])
    assert mine["loss"].item() == pytest.approx(run.evaluate(nodes=[1])["loss"].item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :3], y), r"data must have features of shape \[\d+\], as the run, got \[3\]"),
        (lambda x, y: (x, y + 7), r"data must have labels from 0 to \d, as the run, got"),
        (lambda x, y: (x, y * 0.5), r"data must have labels from 0 to \d, as the run, got"),
        (lambda x, y: (x[y == 1], y[y == 1].astype(str)), r"data must have rows of all \d classes, .*, got 1; give"),
    ],
)
def test_data_that_models_do_not_know_are_refused(run: Result, change: Callable[[Any, Any], Any], message: str):
    with pytest.raises(ValueError, match=message):
        run.evaluate(change(*run.data.test), nodes=[0])


def test_the_mean_model_is_that_of_its_network(run: Result):
    weights = torch.cat([w.flatten() for w in run.mean_model(1).parameters()])
    assert torch.allclose(weights, run.x[4:].mean(0))
    with pytest.raises(ValueError, match=r"network must be one of 0 \.\. 1, got 2"):
        run.mean_model(2)


def test_predictions_and_confusion_agree(run: Result):
    features, labels = run.data.tests[1]
    said = run.predictions(5)
    assert np.array_equal(said, run.predictions(5, features))
    counts = run.confusion(5)
    assert counts.to_numpy().sum() == len(labels)
    assert np.trace(counts.to_numpy()) / len(labels) == pytest.approx(run.evaluate(nodes=[5])["accuracy"].item())
    with pytest.raises(ValueError, match="i must be a node, 0 <= i < 8, got 8"):
        run.predictions(8)


def test_data_are_the_rows_of_each_node(run: Result):
    assert len(run.data.train) == 8
    sizes = [len(run.data.train[i][1]) for i in range(8)]
    assert sum(sizes[:4]) + len(run.data.test[1]) == 150
    assert all(len(x) == len(y) for x, y in run.data.train[1:3])
    with pytest.raises(IndexError):
        run.data.train[8]


def test_the_table_has_every_number_once(run: Result, tmp_path: Path):
    table = run.table
    assert [*table.columns] == ["network", "replica", "seed", "n", "node", "time", "metric", "value"]
    assert not table.duplicated([*table.columns[:-1]]).any()
    row = run.metrics.iloc[-1]
    last = table[(table["network"] == row["network"]) & (table["time"] == row["time"])].set_index(["metric", "node"])
    assert last.loc[("accuracy", "mean"), "value"] == row["accuracy_mean"]
    assert last.loc[("updates", "all"), "value"] == row["updates"]
    assert len(table[(table["metric"] == "accuracy") & table["node"].isin(range(8))]) == 8
    run.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().startswith("network,replica,seed,n,node,time,metric,value\n")
    with pytest.raises(FileExistsError):
        run.to_csv(tmp_path / "table.csv")


def test_words_and_pictures(run: Result, tmp_path: Path):
    assert repr(run).startswith("<Result 'run': finished, 2 networks, t = 2 s, loss_mean ")
    shown = run._repr_html_()
    assert 'src="data:image/png;base64,' in shown
    assert "loss_mean" in shown
    assert isinstance(run.plot(), Figure)
    assert run.folder is not None
    picture = batchednodes.plot(run, run.folder, out=tmp_path / "two.pdf")
    assert [axes.get_ylabel() for axes in picture.axes][:2] == ["test loss", "test accuracy"]
    assert (tmp_path / "two.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="runs must be folders of runs, or results, got none"):
        batchednodes.plot()


def test_compare_takes_results_and_folders(run: Result):
    assert run.folder is not None
    both = batchednodes.compare(run, batchednodes.train(LABELS))
    assert both["replicas"].tolist() == [2, 1]
    assert both["accuracy_mean"][0] == pytest.approx(run.metrics.tail(2)["accuracy_mean"].mean())
    assert both["accuracy_mean_low"][0] < both["accuracy_mean"][0] < both["accuracy_mean_high"][0]
    assert math.isnan(both["accuracy_mean_low"][1])
    assert batchednodes.compare(run.folder)["accuracy_mean"].tolist() == both["accuracy_mean"][:1].tolist()


def test_a_model_with_a_frozen_trunk_is_given_whole():
    trunk = nn.Linear(4, 4).requires_grad_(False)
    done = batchednodes.train(LABELS, model=nn.Sequential(trunk, nn.Linear(4, 3)))
    assert torch.equal(done.model(1)[0].weight, trunk.weight)
    assert done.evaluate()["accuracy"].mean() == pytest.approx(done.metrics["accuracy_mean"].iloc[-1])


def test_a_bar_is_shown_on_a_terminal_if_asked_for(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    seen = []
    batchednodes.train({"network.nodes": 3, "run.until": 2}, progress=True, watch=lambda *told: seen.append(told))
    assert "t = 2 of 2 s" in capfd.readouterr().err
    assert seen[-1][1].clocks.time == 2


def test_a_bar_in_a_notebook_is_plain_html():
    assert bars._bar("<me>", 1.0, 4.0, 0.5) == (
        '<progress max="4" value="1" style="width: 20em"></progress> &lt;me&gt;: t = 1 of 4 s, loss 0.5'
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path):
    batchednodes.train({"network.nodes": 3, "run.until": 1}, out=tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"time": 0.0, "netw')
    with pytest.raises(ValueError, match=f"DIR must hold a whole {name}"):
        Result.load(tmp_path / "run")
