"""Ranking of finished runs: that of a race of the same settings, over seeds that all have, in Python and by command."""

import math
import sys
from pathlib import Path

import pandas as pd
import pytest

import batchednodes
from batchednodes import train
from batchednodes.cli import app
from batchednodes.figures.race.finished import MOST, ranked

TINY = {
    "network": {"nodes": 5},
    "task": {"data": {"kind": "linear_regression", "features": 3, "samples_per_node": 8, "test_samples": 20}},
    "local": {"lr": 0.1, "batch_size": 4},
    "run": {"until": 6, "mark_every": 2, "loggers": []},
    "staleness.track": "none",
    "replicas": 3,
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["batchednodes", *arguments])
    try:
        app.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("rank", ["final", "best", "to=0.6"])
def test_compare_ranks_as_a_race_of_the_same_runs_does(rank):
    own = {"push": {}, "meet": {"gossip": {"exchange": "meet"}}, "slow": {"local.lr": 0.001}}
    race = batchednodes.race(TINY | {"replicas": 1}, algorithms=own, seeds=3, by="loss_mean", rank=rank)
    runs = {name: train(settings, out=name) for name, settings in race.settings.items()}
    for given in (list(runs), list(runs.values())):
        found = batchednodes.compare(*given, by="loss_mean", rank=rank)
        assert found["run"].tolist() == race.ranking["algorithm"].tolist()
        for mine, its in {f"{rank} loss_mean": "score", "gap_low": "gap_low", "tied_with": "tied_with"}.items():
            pd.testing.assert_series_equal(found[mine], race.ranking[its], check_names=False, rtol=1e-6)  # as files say
        assert found["rank"].tolist() == [1, 2, 3]


def test_seeds_that_some_run_lacks_are_left_out_and_runs_without_a_shared_one_are_not_ranked():
    runs = [train(TINY), train(TINY, "seed=1", "local.lr=0.01"), train(TINY, "seed=7")]
    with pytest.warns(UserWarning, match="the ranking is over 2 seeds that all settings have, of up to 3"):
        found = batchednodes.compare(*runs[:2], by="loss_mean")
    alone = [run.metrics[(run.metrics["time"] == 6) & run.metrics["seed"].isin([1, 2])] for run in runs[:2]]
    assert found["final loss_mean"].tolist() == pytest.approx([part["loss_mean"].mean() for part in alone])
    with pytest.warns(UserWarning, match="runs are not ranked: DIR must be of runs with a seed that all have"):
        assert "rank" not in batchednodes.compare(runs[0], runs[2])
    with pytest.raises(ValueError, match="a seed that all have to be ranked, got none"):
        batchednodes.compare(runs[0], runs[2], by="loss_mean")


def test_results_without_a_folder_stay_apart_and_a_single_run_is_ranked_if_asked_for():
    swept = train(TINY, {"sweep": {"local.lr": [0.001, 0.1]}})
    assert "rank" not in batchednodes.compare(swept)
    assert batchednodes.compare(swept, rank="best")["local.lr"].tolist() == [0.1, 0.001]
    again = train(TINY)
    found = batchednodes.compare(again, train(TINY, "local.lr=0.001"))
    assert found["run"].tolist() == ["run", "run (2)"]
    assert found["replicas"].tolist() == [3, 3]
    with pytest.raises(ValueError, match="must be of 2 to 100 settings to be ranked, got 1"):
        batchednodes.compare(again, by="loss_mean")
    with pytest.raises(ValueError, match="--by must be a metric that these runs measured, got accuracy_mean"):
        batchednodes.compare(swept, by="accuracy_mean")
    with pytest.raises(ValueError, match="--by must be a metric that these runs measured, got time, by which nothing"):
        batchednodes.compare(swept, by="min:time")


def test_a_run_that_diverged_comes_last_whatever_it_ended_with():
    good, bad = [
        {"run": name, "network": 0, "seed": 0, "time": 1.0, "loss_mean": loss, "accuracy_mean": None}
        for name, loss in (("good", 2.0), ("bad", 1.0))
    ]
    assert ranked([bad, good], [bad, good], []).places == [0, 1]
    found = ranked([bad, good], [bad, good], ["bad"])
    assert found.places == [1, 0]
    assert math.isnan(found.ranking["score"].iloc[1])
    many = [good | {"run": str(k)} for k in range(MOST + 1)]
    with pytest.raises(ValueError, match="settings to be ranked, got 101"):
        ranked(many, many, [])


def test_the_command_prints_the_ranking_in_all_forms_and_draws_it(monkeypatch, capsys):
    train(TINY, out="push")
    train(TINY, "local.lr=0.001", out="slow")
    code, out, err = call(monkeypatch, capsys, "compare", "slow", "push", "--out", "drawn", "--format", "png")
    assert (code, err) == (0, "")
    assert "final loss_mean" in out
    assert out.index("│ push") < out.index("│ slow")
    assert "drawn/ranking.png" in out
    assert Path("drawn/ranking.png").read_bytes()[:4] == b"\x89PNG"
    table = pd.read_csv("drawn/ranking.csv")
    assert table["setting"].tolist() == ["push", "slow"]
    assert table["gap_low"][1] > 0
    assert len(pd.read_csv("drawn/curves.csv")) == 2 * 3 * 4  # settings, seeds and marks
    assert not pd.read_csv("drawn/pairs.csv")["tied"].item()
    code, _, err = call(monkeypatch, capsys, "compare", "slow", "push", "--out", "drawn", "--format", "png")
    assert (code, err.split(",")[0]) == (2, "error: --out must not hold ranking.png yet")
    code, out, _ = call(monkeypatch, capsys, "compare", "slow", "push", "--csv")
    assert out.splitlines()[0].endswith("rank,final loss_mean,score_low,score_high,gap,gap_low,gap_high,tied_with")
    assert call(monkeypatch, capsys, "compare", "slow", "push", "--latex")[1].count(r"\begin{tabular}") == 1
    code, out, err = call(monkeypatch, capsys, "compare", "slow", "push", "--by", "accuracy_mean")
    assert (code, out) == (2, "")
    assert err == ("error: --by must be a metric that these runs measured, got accuracy_mean, which has no value\n")
    code, out, err = call(monkeypatch, capsys, "compare", "slow", "--rank", "last")
    assert (code, err) == (2, "error: --rank must be final, best or to=value, as to=0.9, got 'last'\n")
