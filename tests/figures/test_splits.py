"""Pictures of splits: what they count, and when they are drawn."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from batchednodes import config, train
from batchednodes.data import Dataset, Digits, Dirichlet, LabelCounts
from batchednodes.figures import plots, splits
from batchednodes.simulation.planning.plan import screen

DIGITS = {
    "network": {"nodes": 12},
    "run": {"until": 1, "mark_every": 1},
    "task": {"data": {"kind": "digits"}, "partition": {"kind": "dirichlet", "alpha": 2.0}},
}


@pytest.fixture
def unsaved(monkeypatch):
    """Pictures are drawn, but not written, which takes seconds."""
    monkeypatch.setattr(plots, "save", lambda figure, *_: None)


def counted(samples, n, classes, alpha=0.5):
    labels = np.random.default_rng(0).integers(0, classes, samples)
    x = np.zeros((samples, 1), np.float32)
    data = Dataset(x, labels, x[:1], labels[:1], classes=classes)
    shards = Dirichlet(alpha).split(data, n, 0)
    return LabelCounts.of(shards, labels, classes), shards.counts(labels, classes)


def written(folder, content):
    path = folder / "c.yaml"
    path.write_text(json.dumps(content))
    return path


def test_a_map_has_the_shares_of_nodes_in_order_of_their_most_frequent_label():
    labels, counts = counted(3000, 150, 6)
    shares = splits.shares_of(labels)
    assert shares.shape == (6, 150)
    own = counts / counts.sum(axis=1, keepdims=True)
    assert np.allclose(np.sort(shares.max(axis=0)), np.sort(own.max(axis=1)), rtol=1e-12)
    assert np.allclose(shares.sum(axis=1), own.sum(axis=0), rtol=1e-12)
    best = shares.argmax(axis=0)
    assert np.all(np.diff(best) >= 0)
    assert np.all(np.diff(shares.max(axis=0))[np.diff(best) == 0] <= 1e-12)


def test_columns_of_a_map_are_means_over_near_equally_many_nodes():
    labels, counts = counted(9000, 1000, 3)
    shares = splits.shares_of(labels)
    assert shares.shape == (3, 400)
    assert np.allclose(shares.sum(axis=0), 1, rtol=1e-12)
    own = counts / counts.sum(axis=1, keepdims=True)
    weights = np.bincount(np.arange(1000) * 400 // 1000)
    assert np.allclose(shares @ weights, own.sum(axis=0), rtol=1e-12)
    many, _ = counted(9000, 1000, 900)
    assert splits.shares_of(many).shape == (400, 400)
    assert np.allclose(splits.shares_of(many).sum(axis=0), 1, rtol=1e-12)


def test_bars_are_the_counts_and_few_colours_are_named():
    labels, counts = counted(600, 30, 4)
    figure = splits.draw([splits.Split("", "dirichlet", labels.sizes, labels)])
    bars = [[bar.get_height() for bar in container] for container in figure.axes[0].containers]
    assert np.array_equal(np.array(bars).T, counts)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2", "3"]
    found = labels.heterogeneity()
    title = figure.axes[0].get_title()
    assert title == f"dirichlet\nlabel heterogeneity {found.distance:.3f} ({found.chance:.3f} by chance)"


@pytest.mark.parametrize(
    "sizes", [[5], [3] * 50, [1, 2], [7, 8, 9] * 30, [1, 5000], list(range(1, 900)), [10**6, 10**6 + 1], [100, 2000]]
)
def test_a_histogram_counts_every_node(sizes):
    figure = splits.draw([splits.Split("", "iid", np.array(sizes), None)])
    (container,) = figure.axes[0].containers
    assert sum(bar.get_height() for bar in container) == len(sizes)
    assert len(container) <= 41


def test_a_config_is_drawn_without_a_run(tmp_path):
    drawn = plots.plot([written(tmp_path, DIGITS)], tmp_path / "out")
    assert drawn.paths == [tmp_path / "out" / f"split.{kind}" for kind in ("png", "pdf")]
    assert all(path.stat().st_size > 10_000 for path in drawn.paths)
    (words,) = drawn.splits
    assert words.startswith("dirichlet, alpha = 2.0; label heterogeneity 0.")


@pytest.mark.usefixtures("unsaved")
def test_a_run_has_its_curves_its_split_and_the_number_in_its_summary(tmp_path):
    result = train(DIGITS, "sweep.network.nodes=[5, 12]", "replicas=2", "task.shift.kind=noise", out=tmp_path / "run")
    drawn = plots.plot([tmp_path / "run"], None)
    names = [path.name for path in drawn.paths]
    assert names == ["curves.png", "curves.pdf", "split.png", "split.pdf"]
    found = result.summary["heterogeneity"]
    assert len(found) == 4
    first = config.load(DIGITS, ["network.nodes=5"])
    alone = splits.deal(first, "nodes 5")
    assert found[0] == {
        "distance": alone.labels.heterogeneity().distance,
        "chance": alone.labels.heterogeneity().chance,
    }
    assert drawn.splits[0] == alone.words
    assert len(drawn.splits) == 2  # one for each number of nodes, not for each replica
    (tmp_path / "run" / "figures" / "split.png").touch()
    with pytest.raises(ValueError, match=r"must not hold split\.png yet"):
        plots.plot([tmp_path / "run"], None)


@pytest.mark.usefixtures("unsaved")
def test_at_most_four_splits_are_in_one_picture(tmp_path):
    path = written(tmp_path, DIGITS | {"sweep": {"task.partition.alpha": [0.1, 0.2, 0.5, 1, 2, 5]}})
    drawn = plots.plot([path], tmp_path / "out")
    assert [words.partition(";")[0] for words in drawn.splits] == [
        f"dirichlet, alpha = {alpha}" for alpha in (0.1, 0.2, 0.5, 1.0)
    ]


@pytest.mark.usefixtures("unsaved")
def test_real_targets_have_a_picture_of_sizes_where_a_partition_is_asked_for(tmp_path):
    plain = {"network": {"nodes": 5}, "run": {"until": 1, "mark_every": 1}}
    result = train(plain, out=tmp_path / "plain")
    assert result.summary["heterogeneity"] == [None]
    assert [path.stem for path in plots.plot([tmp_path / "plain"], None).paths] == ["curves", "curves"]
    skewed = plain | {"task": {"partition": {"kind": "quantity_skew"}}}
    drawn = plots.plot([written(tmp_path, skewed)], tmp_path / "out")
    assert drawn.splits == ["quantity_skew, alpha = 0.5; 5 nodes"]
    with pytest.raises(ValueError, match=r"CONFIG must have labels or a task\.partition, whose split can be drawn"):
        plots.plot([written(tmp_path, plain)], tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("unsaved")
def test_a_run_whose_data_are_gone_is_drawn_without_its_split(tmp_path):
    x = np.random.default_rng(0).random((40, 3))
    np.savez(tmp_path / "d.npz", features=x, targets=np.arange(40) % 2)
    settings = DIGITS | {"task": {"data": {"kind": "npz", "path": str(tmp_path / "d.npz")}}}
    train(settings, out=tmp_path / "run")
    (tmp_path / "d.npz").unlink()
    with pytest.warns(UserWarning, match="is not drawn: task.data.path must be an existing"):
        drawn = plots.plot([tmp_path / "run"], None)
    assert [path.stem for path in drawn.paths] == ["curves", "curves"]


def test_names_of_runs_are_drawn_as_they_are(tmp_path):
    labels, _ = counted(60, 5, 3)
    split = splits.Split("a$b_{" + "x " * 60, "iid", labels.sizes, labels)
    figure = splits.draw([split, split])
    figure.savefig(tmp_path / "f.png", dpi=50)
    assert max(len(line) for line in figure.axes[0].get_title().splitlines()) <= 60
    assert matplotlib.image.imread(tmp_path / "f.png").shape[1] < 2000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("network.nodes=2000", "network.nodes must be at most the number of training samples, 1438, got 2000"),
        ("task.partition={kind: labels_per_node, labels: 11}", "task.partition.labels must be at most the 10 labels"),
        ("task.shift={kind: rotation, image: [7, 7]}", "task.shift.image must be the height and width"),
        ("task.shift={kind: rotation, groups: 13}", "task.shift.groups must be at most network.nodes = 12"),
    ],
)
def test_what_the_sizes_forbid_is_refused_before_data_are_loaded(change, words, monkeypatch):
    monkeypatch.setattr(Digits, "load", None)
    with pytest.raises(ValueError, match=words):
        screen([config.load(DIGITS, [change])])


def test_pictures_of_a_hundred_nodes_have_bars_and_of_more_a_map():
    few, many = (counted(2000, n, 3)[0] for n in (100, 101))
    assert splits.draw([splits.Split("", "", few.sizes, few)]).axes[0].containers
    assert splits.draw([splits.Split("", "", many.sizes, many)]).axes[0].images


@pytest.mark.usefixtures("unsaved")
def test_a_run_without_settings_is_drawn_without_its_split(tmp_path):
    train(DIGITS, out=tmp_path / "run")
    Path(tmp_path / "run" / "config.yaml").unlink()
    with pytest.warns(UserWarning, match="is not drawn: "):
        assert plots.plot([tmp_path / "run"], None).splits == []
