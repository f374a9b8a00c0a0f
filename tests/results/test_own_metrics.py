"""A metric of a user's own stands in rows, curves, panels and tables like those of every run, and goes on with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import batchednodes
from batchednodes import config
from batchednodes.config import sweep
from batchednodes.config.reference import catalogue
from batchednodes.figures import plots
from batchednodes.results import comparison, tables
from batchednodes.results.metrics.catalogue import KEYS
from batchednodes.simulation.planning.preflight import prepare
from batchednodes.simulation.resume import rules

MINE = '''
from dataclasses import dataclass
from batchednodes.results.metrics.base import UserMetric
from batchednodes.results.metrics.catalogue import Metric

@dataclass(frozen=True)
class GradientNorm(UserMetric):
    """Norm of the gradient of the training loss at the mean model."""
    power: float = 1.0
    metric = Metric("gradient_norm", "", "norm of the gradient", "models/gradient_norm")

    def measure(self, models, view):
        return view.gradient(models.mean(0, keepdim=True)).norm() ** self.power

@dataclass(frozen=True)
class Same(UserMetric):
    metric = Metric("loss_again", "", "mean test loss", "models/loss_again")

    def measure(self, models, view):
        return None if view.time > 2 else view.loss(models, "test").mean()

class Broken(GradientNorm):
    def measure(self, models, view):
        return models.no_such_name

class Taken(GradientNorm):
    metric = Metric("updates", "", "taken")

class Panel(GradientNorm):
    metric = Metric("mine", "", "in a panel", panel="loss")
'''
OWN = {"kind": "python", "target": "mine_metrics:GradientNorm", "args": {"power": 2.0}}
AGAIN = {"kind": "python", "target": "mine_metrics:Same"}
SMALL = {
    "network": {"nodes": 5},
    "dtype": "float64",
    "task.data": {"kind": "linear_regression", "samples_per_node": 8, "features": 3},
    "run": {"until": 3, "mark_every": 1, "metrics": ["default", OWN, AGAIN]},
}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a user's module into the working directory, and runs into "run"."""
    (tmp_path / "mine_metrics.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)


def changed(*metrics: object) -> dict[str, object]:
    return SMALL | {"run": {"until": 3, "mark_every": 1, "metrics": [*metrics]}}


def test_it_is_measured_at_each_mark_and_network_after_the_keys_of_every_run():
    result = batchednodes.train(SMALL | {"sweep": {"gossip.clock.rate": [1, 4]}}, out="run")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    ends = ["gradient_norm", "loss_again", "replica", "gossip.clock.rate"]
    assert [*rows[0]] == [*KEYS, *ends]
    assert len(rows) == 8
    for row in rows:
        assert row["gradient_norm"] > 0
        loss = row["loss_mean"] if row["time"] <= 2 else None
        assert row["loss_again"] == (None if loss is None else pytest.approx(loss, rel=1e-12))  # sums of other order
    assert result.summary["networks"][0]["gradient_norm"] == rows[-2]["gradient_norm"]


def test_the_gradient_is_that_of_all_training_examples():
    result = batchednodes.train(changed("default", OWN) | {"replicas": 2})
    made = prepare(sweep.points(config.load(SMALL)))  # seed 0
    data, _ = made.take()[0]
    final = result.metrics[result.metrics["network"] == 0].iloc[-1]
    mean = result.x[:5].mean(0)
    module = result.model(0)
    torch.nn.utils.vector_to_parameters(mean, module.parameters())
    features, targets = (torch.from_numpy(np.asarray(part)).double() for part in (data.features, data.targets))
    torch.nn.functional.mse_loss(module(features), targets.view(len(features), -1)).backward()
    norm = sum(float(w.grad.square().sum()) for w in module.parameters() if w.grad is not None)
    assert final["gradient_norm"] == pytest.approx(norm, rel=1e-9)  # sums of other order


def test_it_goes_on_with_a_run_bit_for_bit_and_stands_in_its_settings():
    batchednodes.train(SMALL, "run.until=6", out="whole")
    batchednodes.train(SMALL, out="run")
    assert config.load("run/config.yaml") == config.load(SMALL)
    batchednodes.resume("run", "run.until=6")
    assert Path("run/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"run\.metrics must not change"):
        batchednodes.resume("run", "run.until=7", "run.metrics=[default]")


def test_it_is_drawn_compared_and_shown_in_tensorboard():
    batchednodes.train(SMALL, out="run")
    curves = EventAccumulator("run").Reload().Scalars("models/gradient_norm")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [c.value for c in curves] == pytest.approx([row["gradient_norm"] for row in rows], rel=1e-6)  # float32
    found, _ = comparison.read(Path("run"))
    assert "gradient_norm" in tables.cells(found, None).columns
    axes = plots.figure(Path("run")).axes
    assert "gradient_norm" in [one.get_ylabel() for one in axes]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([OWN], r"run\.metrics must begin with default"),
        (["default", "default"], r"run\.metrics must begin with default, and name it once"),
        (["default", "loss"], r"run\.metrics\[1\] must be one of default"),
        (
            ["default", {"kind": "python", "target": "mine"}],
            r'run\.metrics\[1\]\.target must be "package\.module:name"',
        ),
        (["default", {"kind": "other"}], r"run\.metrics\[1\]\.kind must be one of python, got 'other'"),
        (["default", OWN | {"target": "mine_metrics:Nobody"}], r"run\.metrics\[1\]\.target must be importable"),
        (
            ["default", OWN | {"args": {"a": 1}}],
            r"run\.metrics\[1\]\.target 'mine_metrics:GradientNorm' must take args",
        ),
        (["default", OWN | {"target": "json:loads", "args": {"s": "1"}}], r"must be a UserMetric"),
        (["default", OWN | {"target": "mine_metrics:Taken"}], r"must have a key of its own, got 'updates'"),
        (["default", OWN, OWN], r"run\.metrics\[2\]\.target must have a key of its own"),
        (["default", OWN | {"target": "mine_metrics:Panel"}], r"must have key, unit, meaning and tag only"),
        (
            ["default", OWN | {"target": "mine_metrics:Broken"}],
            r"run\.metrics\[1\]\.target must return a number or None",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(metrics: list[object], words: str):
    with pytest.raises(ValueError, match=words):
        batchednodes.train(changed(*metrics), out="run")
    assert not Path("run").exists()


def test_a_setting_that_a_run_is_older_than_has_its_default():
    new = config.to_dict(config.load(changed("default")))
    old = new | {"run": {key: value for key, value in new["run"].items() if key != "metrics"}}
    assert rules.between(old, new) == {}
    own = config.to_dict(config.load(SMALL))
    assert rules.between(old, own) == {"run.metrics": [["default"], own["run"]["metrics"]]}


def test_list_names_the_kind():
    assert ("run.metrics[]", "python") in {(kind.section, kind.name) for kind in catalogue()}
