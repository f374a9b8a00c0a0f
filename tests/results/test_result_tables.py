"""Tables of final metrics: whole at 80 columns, the same numbers for papers and programs, possible intervals."""

import json

import numpy as np
import pytest
from rich.console import Console

from batchednodes import train
from batchednodes.cli import app
from batchednodes.results import comparison, tables

SWEPT = {
    "network": {"nodes": 5},
    "task": {"data": {"kind": "digits"}},
    "run": {"until": 3, "mark_every": 3},
    "replicas": 4,
    "sweep": {
        "network.topology": [{"kind": "ring"}, {"kind": "watts_strogatz", "neighbours": 4}, {"kind": "complete"}],
        "gossip.clock.rate": [0.5, "log(n)"],
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a sweep of 3 x 2 settings with four replicas, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "swept"
    return folder, train(SWEPT, out=folder)


def test_each_name_and_number_is_whole_in_80_columns(run):
    found = tables.cells(run[1].summary["networks"], None)
    terminal = Console(width=80, markup=False)
    with terminal.capture() as shown:
        for table in tables.tables(found, "title", terminal.width):
            terminal.print(table)
    lines = shown.get().splitlines()
    cells = [tuple(cell.strip() for cell in line[1:-1].split("│" if line[0] == "│" else "┃")) for line in lines]
    assert max(map(len, lines)) <= 80
    for block in found.blocks(80):
        assert tuple((found.settings + found.columns)[k] for k in block) in cells
        for line in found.lines:
            assert tuple(line[k] for k in block) in cells
    assert [line[:3] for line in found.lines][2:4] == [
        ["watts_strogatz, neighbours 4", "0.5", "4"], ["watts_strogatz, neighbours 4", "log(n)", "4"],
    ]  # fmt: skip
    assert len(found.blocks(10_000)) == 1


def test_what_is_piped_is_wide_and_other_forms_have_the_same_numbers(run, monkeypatch, capsys):
    folder, rows = run[0], run[1].summary["networks"]
    monkeypatch.delenv("COLUMNS", raising=False)
    printed = {}
    for option in ("", "--csv", "--json", "--latex", "--markdown"):
        monkeypatch.setattr("sys.argv", ["batchednodes", "compare", str(folder), *([option] if option else [])])
        with pytest.raises(SystemExit) as stop:
            app.main()
        assert stop.value.code == 0
        printed[option] = capsys.readouterr().out
    assert len(printed[""].splitlines()) == 11  # one table
    numbers = json.loads(printed["--json"])
    mean = np.mean([row["accuracy_mean"] for row in rows[:4]])
    assert numbers[0]["accuracy_mean"] == pytest.approx(mean)
    assert numbers[0]["accuracy_mean_low"] < mean < numbers[0]["accuracy_mean_high"]
    head, first, *_ = printed["--csv"].splitlines()
    assert head.split(",") == [*numbers[0]]
    assert first.startswith("ring,0.5,4,")
    assert printed["--markdown"].splitlines()[2].startswith("| ring | 0.5 | 4 |")
    assert r"watts\_strogatz, neighbours 4 & log(n) & 4 &" in printed["--latex"]


def test_two_forms_at_once_are_refused(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["batchednodes", "compare", str(run[0]), "--csv", "--json"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    assert "one of --csv, --json, --latex and --markdown" in capsys.readouterr().err


def test_swept_sections_can_be_grouped_by_and_name_folders(run):
    folder, result = run
    groups = result.metrics.groupby(["network.topology", "gossip.clock.rate"], sort=False)["accuracy_mean"].mean()
    assert [str(topology) for topology, _ in groups.index][::2] == ["ring", "watts_strogatz, neighbours 4", "complete"]
    assert (folder / "network.topology=watts_strogatz+neighbours=4,gossip.clock.rate=log(n)/replica-3").is_dir()


@pytest.mark.parametrize("values", [[0.9, 0.99, 1.0], [0.0, 0.01, 0.2], [1.0, 0.0, 1.0]])
def test_intervals_of_accuracies_are_accuracies_around_the_mean(values):
    low, high = comparison.interval(np.array(values), "accuracy_mean")
    assert 0 <= low < np.mean(values) < high <= 1
    assert "to" in tables._words(np.array(values), "accuracy_mean")


def test_intervals_are_those_of_students_t_wherever_these_are_possible():
    values = np.array([0.2, 0.3, 0.4])
    half = comparison.half_width(values)
    for key in ("accuracy_mean", "loss_mean", "my_metric"):
        assert comparison.interval(values, key) == (values.mean() - half, values.mean() + half)
    low, high = comparison.interval(np.array([0.01, 0.5]), "consensus_distance")
    assert 0 < low < high
    assert comparison.interval(np.array([0.01, 0.5]), "my_metric")[0] < 0
