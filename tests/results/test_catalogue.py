"""The table of metrics is what runs write, and what every place shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import batchednodes
from batchednodes.figures import plots
from batchednodes.results import comparison
from batchednodes.results.metrics import evaluator
from batchednodes.results.metrics.catalogue import KEYS, METRICS, PANELS, SCALARS, Metric, renamed, roles

SMALL = {
    "network": {"nodes": 5, "churn": {"leave": {"kind": "uniform", "low": 0, "high": 4}}},
    "task.data": {"kind": "linear_regression", "samples_per_node": 8, "features": 2},
    "run": {"until": 2, "mark_every": 1},
}


def test_a_row_has_the_keys_of_the_table_in_its_order():
    result = batchednodes.train(SMALL)
    assert [*result.metrics.columns] == [*KEYS, "replica"]
    extra = {metric.key for metric in METRICS if metric.kept == "summary"}
    assert {*result.summary["networks"][0]} == {*KEYS, *extra, "replica"}
    assert all(result.summary[metric.key] > 0 for metric in METRICS if metric.kept == "throughput")


def test_each_key_and_curve_stands_once():
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    tags = [metric.tag for metric in METRICS if metric.tag is not None]
    assert len({*tags}) == len(tags)
    assert all(metric.meaning for metric in METRICS)


def test_panels_and_charts_name_metrics_of_the_table():
    table = {metric.key: metric for metric in METRICS}
    assert {metric.panel for metric in METRICS} - {None} == {*PANELS}
    assert all("mean" in roles(panel) for panel in PANELS)
    assert all(table[key].tag for keys in SCALARS.values() for key in keys)


def test_list_metrics_prints_key_unit_and_meaning_without_pytorch():
    code = "import sys; from batchednodes.cli.app import app; app(['list', 'metrics'], standalone_mode=False); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert {metric.key for metric in METRICS} <= {*lines}
    assert "contacts" in lines["gossips"]
    assert "of all nodes" in lines["gossips"]


def test_the_key_of_an_earlier_version_is_read_under_the_one_of_today():
    assert renamed({"time": 0.0, "there": 5, "replica": 0}) == {"time": 0.0, "nodes_present": 5, "replica": 0}
    assert next(iter(comparison.checked({"there": 5}))) == "nodes_present"


def test_a_run_of_an_earlier_version_is_plotted_compared_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = tuple("there" if key == "nodes_present" else key for key in KEYS)
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "KEYS", old)
        batchednodes.train(SMALL, out=tmp_path / "run")
    assert '"there"' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "nodes_present" in comparison.read(tmp_path / "run")[0][0]
    assert plots.plot([tmp_path / "run"], None).paths
    known = batchednodes.resume(tmp_path / "run")
    assert [*known.metrics.columns] == [*KEYS, "replica"]
    further = batchednodes.resume(tmp_path / "run", "run.until=3")
    assert [*further.metrics.columns] == [*KEYS, "replica"]
    assert further.metrics["nodes_present"].tolist()[-1] > 0


def test_a_metric_is_frozen():
    with pytest.raises(AttributeError):
        Metric("a", "", "b").key = "c"  # pyright: ignore[reportAttributeAccessIssue]


def test_rows_are_json_in_the_order_of_the_table(tmp_path: Path):
    batchednodes.train(SMALL, out=tmp_path / "run")
    first = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    assert [*json.loads(first)][: len(KEYS)] == [*KEYS]
