"""Curves of runs: what is drawn from the files that a run left."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from batchednodes import train
from batchednodes.figures import plots
from batchednodes.results import ticks

TINY = {
    "network": {"nodes": 6},
    "run": {"until": 3, "mark_every": 1},
    "task": {"data": {"samples_per_node": 5, "test_samples": 30}},
}


@pytest.fixture
def drawn(monkeypatch):
    """Figures that are drawn from now on; none is saved."""
    shown = []
    monkeypatch.setattr(plots, "save", lambda figure, *_: shown.append(figure))
    return shown


def panel(figure, label):
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == label]
    return axes


def test_quantiles_of_staleness_are_a_band_around_few_runs_and_lines_beside_many(drawn, tmp_path):
    train(TINY, "gossip.clock.rate=0.2", out=tmp_path / "one")
    train(TINY, "sweep.gossip.clock.rate=[0.2, 1, 5]", out=tmp_path / "three")
    plots.plot([tmp_path / "one"], None)
    plots.plot([tmp_path / "three"], None)
    one, three = (panel(figure, "staleness [updates]") for figure in drawn)
    assert "median to 99% of pairs" in one.get_legend_handles_labels()[1]
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    highest = max(row["staleness_p99"] for row in rows)
    assert one.collections[0].get_datalim(one.transData).ymax == highest
    assert -1 < one.get_ylim()[0] < 0  # a line at 0 is inside the frame
    assert not three.collections
    assert three.get_legend_handles_labels()[1].count("99% of pairs") == 3
    assert three.get_ylim()[1] >= max(line.get_ydata().max() for line in three.lines)  # nothing is cut off


def test_many_runs_are_a_line_each_in_colours_and_styles(tmp_path):
    """Colour is for the first setting, style for the second, and a column for each value of the third."""
    swept = {"network.topology": [{"kind": "ring"}, {"kind": "star"}], "gossip.clock.rate": [1, "n"]}
    train(TINY | {"sweep": swept | {"local.lr": [0.1, 0.2]}}, out=tmp_path / "run")
    figure = plots.figure(tmp_path / "run")
    (names,) = figure.legends
    assert [text.get_text() for text in names.get_texts()] == ["ring", "star", "rate 1", "rate n"]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["lr 0.1", "lr 0.2"]
    for axes in figure.axes:
        looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        assert len(looks) == len({*looks}) == 4
        assert [looks[a][b] == looks[c][b] for a, c, b in [(0, 1, 0), (2, 3, 0), (0, 2, 1), (1, 3, 1)]] == [True] * 4
        assert not axes.collections
        low, high = axes.get_ylim()
        assert all(low < line.get_ydata().min() and line.get_ydata().max() < high for line in axes.lines)
    colours = [matplotlib.colors.to_rgb(line.get_color()) for line in figure.axes[0].lines[::2]]
    greys = [0.3 * red + 0.59 * green + 0.11 * blue for red, green, blue in colours]
    assert abs(greys[0] - greys[1]) > 0.3  # told apart in grey


def test_each_band_and_line_has_a_name_and_isolated_nodes_are_drawn(tmp_path):
    """The picture of README's quickstart, of fewer nodes and a shorter time."""
    quickstart = Path(__file__).parents[2] / "configs/quickstart.yaml"
    train(quickstart, "network.nodes=6", "run.until=3", "run.mark_every=1", out=tmp_path / "run")
    figure = plots.figure(tmp_path / "run")
    for axes in figure.axes:
        named = axes.get_legend_handles_labels()[1]
        assert len(named) == len(axes.lines) + len(axes.collections)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == named
    assert "isolated nodes" in panel(figure, "test accuracy").get_legend_handles_labels()[1]


def test_ticks_are_plain_numbers():
    for (low, high), wanted in {(0.01, 30): ["0.01", "0.1", "1", "10"], (0.2, 3): ["0.2", "0.5", "1", "2"]}.items():
        axes = Figure().subplots()
        axes.set(yscale="log", ylim=(low, high))
        ticks.plain(axes.yaxis)
        shown = [text.get_text() for text in axes.get_yticklabels()]
        assert [text for text, at in zip(shown, axes.get_yticks(), strict=True) if low <= at <= high] == wanted


def test_means_over_replicas_have_their_interval(drawn, tmp_path):
    train(TINY, "replicas=3", out=tmp_path / "run")
    plots.plot([tmp_path / "run"], None)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = np.array([row["consensus_distance"] for row in rows if row["time"] == 3])
    half = stats.t.ppf(0.975, 2) * last.std(ddof=1) / np.sqrt(3)
    axes = panel(drawn[0], "consensus distance")
    (band,) = axes.collections
    ends = [y for t, y in band.get_paths()[0].vertices if t == 3]
    assert min(ends) == pytest.approx(last.mean() - half)
    assert max(ends) == pytest.approx(last.mean() + half)


def test_runs_of_versions_without_quantiles_are_still_drawn(drawn, tmp_path):
    train(TINY, out=tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if not key.startswith("staleness_p")} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    plots.plot([tmp_path / "run"], None)
    assert panel(drawn[0], "staleness [updates]").get_legend_handles_labels()[1] == ["mean between marks", "exact law"]


def test_no_law_is_named_where_none_is_known(drawn, tmp_path):
    train(TINY, "network.topology={kind: star}", "gossip.exchange=meet", out=tmp_path / "run")
    plots.plot([tmp_path / "run"], None)
    names = panel(drawn[0], "staleness [updates]").get_legend_handles_labels()[1]
    assert names == ["mean between marks", "median to 99% of pairs"]
