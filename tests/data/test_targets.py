"""Targets: labels of each token or pixel, numbers that are labels, and labels that may be a mistake."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from fuzzing import call, settle
from PIL import Image

from batchednodes import train
from batchednodes.data import Csv, HuggingFace, ImageFolder, Libsvm, Npz
from batchednodes.data.sources import labels
from batchednodes.models.losses import choose

RUN = {"network": {"nodes": 4}, "run": {"until": 4, "mark_every": 2}, "local": {"lr": 0.5, "batch_size": 4}}
G = np.random.default_rng(0)
WORDS = G.integers(0, 5, (40, 6))
GREY = G.random((24, 1, 5, 4)).astype(np.float32)
TASKS = {
    "tokens": (WORDS, (WORDS + 1) % 5, "target: 'example_models:Tokens', args: {outputs: 5, each: true}"),
    "pixels": (GREY, (GREY[:, 0] * 3).astype(int), "target: 'example_models:pixels'"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(features, targets, **more):
    """Writes arrays into the working directory; returns the settings of their data."""
    np.savez("d.npz", features=features, targets=targets, **more)
    return "task.data={kind: npz, path: d.npz}"


def task(name):
    """Writes the data of a task; returns its settings."""
    features, targets, model = TASKS[name]
    return [save(features, targets), f"task.model={{kind: python, {model}}}"]


# ----------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("loss", ["auto", "mse"])
@pytest.mark.parametrize("shape", [(), (6,), (5, 4)])
def test_losses_are_means_over_all_labels(shape, loss):
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, *shape, 4, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, 3, (7, *shape), generator=draw)  # one output more than labels
    expected = F.cross_entropy(outputs.movedim(-1, 1), targets)
    if loss == "mse":
        expected = F.mse_loss(outputs, F.one_hot(targets, 4).double())
    found, weights = choose(loss, 3), torch.full((7,), 1 / 7, dtype=torch.float64)
    for value in (found.mean(outputs, targets), found.weighted(outputs, targets, weights)):
        assert value.item() == pytest.approx(expected.item(), rel=1e-14)  # sums in another order
    assert found.each(outputs, targets).shape == (7,)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("options", [["local.steps=2"], ["local.epochs=1"], ["task.loss=mse"], ["run.until=30"]])
def test_batched_equals_serial_with_labels_of_tokens(here, name, options):
    options = [*task(name), *options, "dtype=float64"]
    batched, serial = (train(RUN, *options, f"executor={executor}") for executor in ("batched", "serial"))
    assert torch.allclose(batched.x, serial.x, rtol=0, atol=1e-12)
    assert batched.summary["heterogeneity"] == [None]


@pytest.mark.parametrize("name", TASKS)
def test_accuracy_is_over_all_labels(here, name):
    options, source = [*task(name), "dtype=float64"], Npz("d.npz")
    found, data = train(RUN, *options), source.load(4, 0)
    assert data.sizes == source.sizes(4)
    x, y = torch.from_numpy(data.test_features), torch.from_numpy(data.test_targets)
    x = x if name == "tokens" else x.double()
    outputs, row = [found.model(i)(x) for i in range(4)], found.metrics.iloc[-1]
    right = [(out.argmax(-1) == y).double().mean().item() for out in outputs]
    assert row["accuracy_mean"] == pytest.approx(np.mean(right), rel=1e-12)
    losses = [F.cross_entropy(out.movedim(-1, 1), y).item() for out in outputs]
    assert row["loss_mean"] == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize(("columns", "shape"), [((1,), ()), ((1, 1), ()), ((3,), (3,)), ((2, 3), (2, 3))])
@pytest.mark.parametrize("owned", [False, True])
def test_labels_of_a_sample_have_a_shape(here, columns, shape, owned):
    targets = np.arange(20 * int(np.prod(columns))).reshape(20, *columns) % 4
    save(np.arange(20.0), targets, **({"node": np.arange(20) % 2} if owned else {}))
    source = Npz("d.npz", test_fraction=0.5)
    data = source.load(2, 0)
    assert data.sizes == source.sizes(2)
    assert (data.targets.shape, data.classes) == ((10, *shape), 4)
    assert np.array_equal(data.targets, targets.reshape(20, *shape)[data.features[:, 0].astype(int)])


@pytest.mark.parametrize("named", [True, False])
def test_lists_of_labels_of_hugging_face(here, named):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    kind = datasets.ClassLabel(names=list("abcdefg")) if named else datasets.Value("int16")
    types = datasets.Features({"ids": datasets.List(datasets.Value("int32")), "tags": datasets.List(kind)})
    made = datasets.Dataset.from_dict({"ids": WORDS.tolist(), "tags": (WORDS % 3).tolist()}, features=types)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk("d")
    source = HuggingFace("d", target="tags")
    data = source.load(2, 0)
    assert data.sizes == source.sizes(2)
    assert data.classes == (7 if named else 3)
    assert np.array_equal(data.targets, WORDS % 3)
    ragged = datasets.Dataset.from_dict({"ids": WORDS.tolist(), "tags": [[1], *(WORDS % 3).tolist()[1:]]})
    datasets.DatasetDict({"train": ragged}).save_to_disk("e")
    with pytest.raises(
        ValueError, match=r"^path must hold lists of labels of one shape in column 'tags', got lists of "
    ):
        HuggingFace("e", target="tags", test_split=None).sizes(1)


FAULTS = [
    (
        [f"task.model={{kind: python, {TASKS['tokens'][2]}}}", "task.partition={kind: dirichlet}"],
        r"task.partition.kind must be one that asks for no labels, .* labels of shape \[6\], got dirichlet: dirichlet",
    ),
    (
        ["task.model.kind=linear"],
        r"task.model.kind must be python where each sample has labels of shape \[6\], one a token, got one of batched",
    ),
    (
        ["task.model={kind: python, target: 'example_models:Tokens', args: {outputs: 4, each: true}}"],
        r"task.model must put out a tensor of shape \[4, 6, at least 5\] for 4 examples, got \[4, 6, 4\]$",
    ),
    (
        ["task.model={kind: python, target: 'example_models:Tokens', args: {outputs: 5}}"],
        r"task.model must put out a tensor of shape \[4, 6, at least 5\] for 4 examples, got \[4, 5\]$",
    ),
]


@pytest.mark.parametrize(("options", "words"), FAULTS)
def test_what_does_not_go_with_labels_of_tokens_is_refused(here, options, words):
    found = settle(RUN, (task("tokens")[0], *options), build=True, folder=here)
    assert re.match(words, found), found


def test_classes_in_the_place_of_pytorch_are_named(here):
    data = task("pixels")[0]
    model = "task.model={kind: python, target: 'example_models:pixels', args: {last: false}}"
    found = settle(RUN, (data, model), build=True, folder=here)
    assert found.endswith("got [4, 3, 5, 4]; classes come last here: put .movedim(1, -1) after the model")


# ---------------------------------------------------------------------------------------------- numbers that are labels


@pytest.mark.parametrize("kind", [float, np.float32])
def test_whole_numbers_written_as_reals(here, kind):
    y = np.arange(40) % 10
    data = save(G.normal(size=(40, 3)), y.astype(kind))
    words = "task.data: regression on whole numbers, 0 to 9; set task.data.classes=true if they are labels"
    with pytest.warns(UserWarning, match=words):
        train(RUN, data, "local.lr=0")
    found = train(RUN, data, "task.data.classes=true")
    assert found.metrics["accuracy_mean"].notna().all()
    train(RUN, data, "task.data.classes=false", "local.lr=0")  # no warning
    source = Npz("d.npz", classes=True)
    assert source.load(2, 0).sizes == source.sizes(2)
    assert source.sizes(2).outputs == 10


@pytest.mark.parametrize(
    ("settings", "targets", "kept"),
    [
        ({"classes": False}, np.arange(6), np.arange(6.0)[:, None]),
        ({"classes": False}, np.arange(12).reshape(6, 2), np.arange(12.0).reshape(6, 2)),
        ({"classes": True}, np.arange(6.0) % 2, np.arange(6) % 2),
        ({"classes": True}, np.arange(12.0).reshape(6, 2), np.arange(12).reshape(6, 2)),
    ],
)
def test_the_user_says_whether_targets_are_labels(here, settings, targets, kept):
    save(np.arange(6.0), targets, test_features=np.ones(6), test_targets=targets)
    source = Npz("d.npz", **settings)
    data = source.load(2, 0)
    assert data.sizes == source.sizes(2)
    assert data.targets.dtype.kind == kept.dtype.kind
    assert np.array_equal(data.targets, kept)


def test_labels_must_be_whole(here):
    save(np.arange(6.0), np.array([0, 1, 1.5, np.nan, 0, 1]))
    with pytest.raises(
        ValueError, match=r"whole numbers in targets with classes=true, got 1.5 \(2 of 6\) in 'd.npz': use"
    ):
        Npz("d.npz", classes=True).sizes(1)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (np.arange(20.0) % 2, "regression on whole numbers, 0 to 1; set"),
        (np.arange(20.0)[:, None] % 3 - 1, "regression on whole numbers, -1 to 1; set"),
        (np.arange(20.0) % 2 + 0.5, None),
        (np.arange(20.0), None),  # each differs
        (np.arange(20.0) % 2 * 2000, None),
        (np.ones(20), None),
        (np.arange(40.0).reshape(20, 2) % 2, None),
        (np.array([0.0, 1.0, np.nan, np.inf] * 5), None),
    ],
)
def test_what_looks_like_labels(targets, words):
    found = labels.whole(targets)
    assert [note.startswith(words) for note in found] == ([] if words is None else [True])


def test_labels_that_begin_at_1(here):
    data = save(G.normal(size=(60, 3)), np.arange(60) % 26 + 1)
    words = "labels are 1 to 26, and no row has label 0, for which models put out a number too; subtract 1"
    assert Npz("d.npz").sizes(2).notes == (words,)
    model = "task.model={kind: python, target: 'example_models:flat', args: {features: 3, outputs: 26}}"
    found = settle(RUN, (data, model), build=True, folder=here)
    assert found.endswith("got [4, 26]; labels count from 0: if yours begin at 1, subtract 1 from them")
    save(G.normal(size=(60, 3)), np.arange(60) % 26)
    assert Npz("d.npz").sizes(2).notes == ()


def test_plan_says_what_may_be_a_mistake(here):
    (here / "c.yaml").write_text("network: {nodes: 4}\n")
    (here / "t.csv").write_text("".join(f"{k / 7},{k % 3}.0\n" for k in range(60)))
    outcome = call(here, "plan", "c.yaml", "task.data={kind: csv, path: t.csv}", "replicas=2")
    words = "regression on whole numbers, 0 to 2; set task.data.classes=true if they are labels"
    assert outcome.err == f"warning: task.data: {words}\n"  # once
    assert "note on targets" in outcome.out
    assert "[1] of float32" in outcome.out
    save(WORDS, (WORDS + 1) % 5)
    model = TASKS["tokens"][2]
    outcome = call(
        here, "plan", "c.yaml", "task.data={kind: npz, path: d.npz}", f"task.model={{kind: python, {model}}}"
    )
    assert outcome.err == ""
    assert "[6] of int64" in outcome.out
    assert "[6] of 5 labels" in outcome.out


# ------------------------------------------------------------------------------------------ labels of test rows alone


def tables(train, test):
    """Returns a source of labels in csv files."""
    for file, names in (("a.csv", train), ("b.csv", test)):
        with open(file, "w", encoding="utf-8") as out:
            out.writelines(["x,y\n", *(f"{k / 3},{name}\n" for k, name in enumerate(names))])
    return Csv("a.csv", test_path="b.csv")


def arrays(train, test):
    """Returns a source of labels in arrays."""
    save(np.arange(float(len(train))), np.array(train), test_features=np.ones(len(test)), test_targets=np.array(test))
    return Npz("d.npz")


def vectors(train, test):
    """Returns a source of labels in files of libsvm."""
    for file, names in (("a.svm", train), ("b.svm", test)):
        with open(file, "w", encoding="utf-8") as out:
            out.writelines(f"{name} 1:{k}\n" for k, name in enumerate(names))
    return Libsvm("a.svm", test_path="b.svm")


def images(train, test):
    """Returns a source of labels in folders of images."""
    for place, names in (("in", train), ("out", test)):
        for k, name in enumerate(names):
            (Path(place) / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), k, np.uint8)).save(Path(place) / name / f"{k}.png")
    return ImageFolder("in", test_path="out")


def columns(train, test):
    """Returns a source of labels in columns of Hugging Face."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    types = datasets.Features(
        {"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["cat", "dog", "ant"])}
    )
    made = {
        split: datasets.Dataset.from_dict({"x": [1.5] * len(names), "label": names}, features=types)
        for split, names in (("train", train), ("test", test))
    }
    datasets.DatasetDict(made).save_to_disk("d")
    return HuggingFace("d")


INCOME = ["<=50K", ">50K", "<=50K"]


@pytest.mark.parametrize(
    ("source", "train", "test", "listed"),
    [
        (tables, INCOME, ["<=50K", ">50K."] * 2, "'>50K.' (2 times; did you mean '>50K'?)"),
        (tables, [1, 2, 1], [1, 3, 3], "3 (2 times)"),
        (tables, ["a", "b", "c"], [*"adefghij"], "'d' (1 time), 'e' (1 time), 'f' (1 time), 'g' (1 time), 'h' (1 time) "
         "and 2 more"),
        (arrays, [0, 1, 0], [0, 2, 2], "2 (2 times)"),
        (arrays, [[0, 1], [1, 0]], [[0, 4], [4, 3]], "3 (1 time), 4 (2 times)"),
        (vectors, [-1, 1, 1], [-1, 3], "3 (1 time)"),
        (images, ["cat", "dog"], ["cat", "cats"], "'cats' (1 time; did you mean 'cat'?)"),
        (columns, [0, 1, 1], [0, 2], "'ant' (1 time)"),
    ],
)  # fmt: skip
def test_labels_that_only_test_rows_have_are_a_warning(here, source, train, test, listed):
    made = source(train, test)
    sizes, data = made.sizes(2), made.load(2, 0)
    assert sizes.notes == (f"test rows have labels that no training row has, and no model learns: {listed}",)
    assert data.sizes == sizes
    assert data.classes == max(data.targets.max(), data.test_targets.max()) + 1


@pytest.mark.parametrize(
    ("source", "train", "test", "listed"),
    [
        (
            tables,
            INCOME,
            ["<=50K.", ">50K."],
            "'<=50K.' (1 time; did you mean '<=50K'?), '>50K.' (1 time; did you mean '>",
        ),
        (arrays, [0, 1], [2, 3], "2 (1 time), 3 (1 time)"),
        (columns, [0, 0, 1], [2, 2], "'ant' (2 times)"),
        (vectors, [0, 1], [2, 3], "2 (1 time), 3 (1 time)"),
    ],
)
def test_test_rows_without_a_label_of_training_rows_are_refused(here, source, train, test, listed):
    made = source(train, test)
    with pytest.raises(ValueError, match="must") as error:
        made.sizes(2)
    key = {arrays: "path", columns: "test_split"}.get(source, "test_path")
    rule = f"{key} must hold test labels that training rows have, got only others: "
    assert str(error.value).startswith(rule + listed)
