"""Data with a node for each user or hospital: LEAF's files, and those of Fed-Heart-Disease."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from batchednodes import train
from batchednodes.data import HeartDisease, Leaf, check_dataset
from batchednodes.data.sources.heart_disease import _tested
from batchednodes.data.sources.users import nodes_of

G = np.random.default_rng(0)
NUMBERS = {
    f"f{i}": {"x": G.random((4 + i, 3)).round(3).tolist(), "y": G.integers(0, 4, 4 + i).tolist()} for i in range(6)
}
TESTS = {name: {key: values[:2] for key, values in one.items()} for name, one in NUMBERS.items()}
TEXT = "the quick brown fox\n" * 4
LETTERS = {
    f"s{i}": {"x": [TEXT[i + k : i + k + 8] for k in range(9)], "y": list(TEXT[i + 8 : i + 17])} for i in range(4)
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Returns an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(here, folder, *files):
    """Writes LEAF's files, of users with samples, into a folder; returns the folder."""
    (here / folder).mkdir(parents=True)
    for k, users in enumerate(files):
        sizes = [len(one["y"]) for one in users.values()]
        text = json.dumps({"users": [*users], "num_samples": sizes, "user_data": users})
        (here / folder / f"all_data_{k}.json").write_text(text)
    return folder


@pytest.fixture
def femnist(here):
    """Returns the folder of users with numbers, in two files, and test rows of their own."""
    first = {name: one for name, one in NUMBERS.items() if name < "f3"}
    written(here, "femnist/train", first, {name: one for name, one in NUMBERS.items() if name >= "f3"})
    written(here, "femnist/test", TESTS)
    return "femnist"


@pytest.mark.parametrize(
    ("rule", "seed", "node"),
    [
        ("first", None, [0, 1, 2, -1, -1, -1]),
        ("sampled", 3, nodes_of("sampled", 6, 3, 3).tolist()),
        ("merged", None, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_each_user_is_a_node_with_the_rows_of_its_own(femnist, rule, seed, node):
    source, node = Leaf(femnist, users=rule, users_seed=seed), np.array(node)
    data = source.load(3, 0)
    check_dataset(data)
    assert data.sizes == source.sizes(3)
    for i in range(3):
        mine = [f"f{k}" for k in np.flatnonzero(node == i)]
        assert mine
        assert data.features[data.node == i].tolist() == [x for name in mine for x in NUMBERS[name]["x"]]
        assert data.test_targets[data.test_node == i].tolist() == [y for name in mine for y in TESTS[name]["y"]]
    assert data.classes == 1 + max(max(one["y"]) for one in NUMBERS.values())


def test_users_are_nodes_of_a_run(femnist):
    result = train(
        {"network": {"nodes": 6}, "task": {"data": {"kind": "leaf", "path": femnist}}, "run": {"until": 1.0}}
    )
    assert result.metrics["accuracy_mean"].notna().all()


def test_sampled_users_are_others_for_another_seed():
    drawn = {tuple(nodes_of("sampled", 40, 5, seed)) for seed in (None, 0, 1, 2)}
    assert len(drawn) == 3  # no seed is seed 0
    assert all([i for i in node if i >= 0] == [0, 1, 2, 3, 4] for node in drawn)  # in the order of users


def test_letters_are_their_places_in_the_alphabet_and_other_users_may_be_tested(here):
    written(here, "shakespeare/train", LETTERS)
    written(here, "shakespeare/test", {"nobody": LETTERS["s0"]})
    data, alphabet = Leaf("shakespeare").load(2, 0), sorted({*TEXT})
    texts = ["".join(alphabet[k] for k in row) for row in data.features]
    assert texts == LETTERS["s0"]["x"] + LETTERS["s1"]["x"]
    assert [alphabet[k] for k in data.targets] == LETTERS["s0"]["y"] + LETTERS["s1"]["y"]
    assert (data.features.dtype, data.classes) == (np.int64, len(alphabet))
    assert data.test_node.tolist() == [-1] * 9


def test_images_are_those_that_samples_name(here):
    (here / "photos").mkdir()
    pixels = G.integers(0, 256, (8, 4, 5, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(here / "photos" / f"{k:06}.png")
    users = {f"c{i}": {"x": [f"{4 * i + k:06}.png" for k in range(4)], "y": [0, 1, 0, 1]} for i in range(2)}
    written(here, "celeba/train", users)
    written(here, "celeba/test", users)
    data = Leaf("celeba", images="photos").load(2, 0)
    assert np.allclose(data.features, pixels.transpose(0, 3, 1, 2) / 255)
    assert Leaf("celeba", images="photos", size=(2, 2), channels=1).sizes(2).features == (1, 2, 2)
    with pytest.raises(ValueError, match=r"^images must be the folder of the images that samples name, got null"):
        Leaf("celeba").sizes(2)


def test_rows_are_held_out_where_no_test_files_are(here):
    written(here, "plain", NUMBERS)
    source = Leaf("plain", test_fraction=0.25)
    data = source.load(6, 1)
    assert data.sizes == source.sizes(6)
    assert len(data.test_features) == 10
    assert {*data.test_node} == {*data.node} == {*range(6)}


@pytest.mark.parametrize(
    ("users", "settings", "message"),
    [
        (NUMBERS, {"users_seed": 1}, "users_seed must be left out with users=first, which draws none, got 1"),
        (NUMBERS, {"size": (2, 2)}, r"size must be null where images names no folder, got \(2, 2\)"),
        ({"a": {"x": [[1.0], [2.0, 3.0]], "y": [0, 1]}}, {}, "path must hold as many samples of one shape in x"),
        ({"a": {"x": [[1.0]], "y": [0, 1]}}, {}, "path must hold as many samples of one shape in x as targets in y"),
        ({"a": {"x": ["ab", "abc"], "y": [0, 1]}}, {}, "path must hold texts of one length, got 2 to 3: pad or cut"),
        ({"a": {"x": [[1.0]], "y": [0]}, "b": {"x": [[1.0, 2.0]], "y": [0]}}, {}, "path must hold x of one shape and"),
        ({"a": {"x": [[None]], "y": [0]}}, {}, "path must hold samples of numbers or texts, got object"),
        ({"a": {"x": [], "y": []}}, {}, "path must hold users with samples, got none"),
    ],
)
def test_files_of_leaf_that_cannot_be_used_are_refused(here, users, settings, message):
    written(here, "leaf", users)
    with pytest.raises(ValueError, match=f"^{message}"):
        Leaf("leaf", **settings).sizes(len(users))


def test_labels_are_those_of_all_users_and_may_be_numbers(here):
    few = {name: {"x": [[0.5]] * 3, "y": [k, k, 0]} for k, name in enumerate("abc")}
    source = Leaf(written(here, "few", few))
    assert source.sizes(2).outputs == 3
    real = Leaf("few", classes=False)
    assert (real.sizes(2).is_classes, real.load(2, 0).targets.dtype) == (False, np.float64)


def test_too_few_users_and_damaged_files_are_refused_by_name(here, femnist):
    with pytest.raises(
        ValueError, match=r"^task.data.path must hold a user with training rows for each of .* = 7, got 6"
    ):
        train({"network": {"nodes": 7}, "task": {"data": {"kind": "leaf", "path": femnist}}})
    (here / "femnist/train/all_data_2.json").write_text((here / "femnist/train/all_data_1.json").read_text())
    with pytest.raises(ValueError, match=r"^path must hold each user once, got 'f3' twice in '.*train'"):
        Leaf(femnist).sizes(2)
    (here / "femnist/train/all_data_0.json").write_text('{"users": ["a"]}')
    with pytest.raises(ValueError, match=r"^path must hold JSON files .*all_data_0.json.*KeyError: 'user_data'"):
        Leaf(femnist).sizes(2)


HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture
def heart(here):
    """Returns a folder of files of four hospitals; of every ninth patient something is not known."""
    (here / "heart").mkdir()
    for k, name in enumerate(HOSPITALS):
        lines = [f"{30 + i},1,{1 + i % 4},{'?' if i % 9 == 8 else 120 + i},200,0,{i % 3},150,0,1.5,?,?,?,{i % 3}"
                 for i in range(20 + 5 * k)]  # fmt: skip
        (here / "heart" / f"processed.{name}.data").write_text("\n".join(lines) + "\n")
    return "heart"


def test_hospitals_are_nodes_with_the_patients_that_flamby_trains_on(heart):
    source = HeartDisease(heart, standardize="none")
    data = source.load(4, 0)
    assert data.sizes == source.sizes(4)
    for k in range(4):
        known = [i for i in range(20 + 5 * k) if i % 9 != 8]
        ill = np.array([int(i % 3 > 0) for i in known])
        trained, tested = train_test_split(
            np.arange(len(known)), test_size=1.0 - 0.66, train_size=0.66, random_state=43, shuffle=True, stratify=ill
        )
        for rows, node, features in ((trained, data.node, data.features), (tested, data.test_node, data.test_features)):
            assert features[node == k, 0].tolist() == [30 + known[row] for row in sorted(rows)]
    chest, rest = data.features[:, 8:11], data.features[:, 11:]
    patient = data.features[:, 0].astype(int) - 30
    assert np.array_equal(data.targets, patient % 3 > 0)
    assert np.array_equal(chest, np.eye(4)[patient % 4][:, 1:])
    assert np.array_equal(rest, np.eye(3)[patient % 3][:, 1:])
    assert HeartDisease(heart, users="merged").load(2, 0).sizes.samples == data.sizes.samples


def test_two_patients_of_a_label_are_not_divided_alike():
    labels = np.array([0, 0] + [1] * 10)
    _, tested = train_test_split(np.arange(12), test_size=1.0 - 0.66, train_size=0.66, random_state=43)
    assert np.flatnonzero(_tested(labels)).tolist() == sorted(tested)


def test_a_hospitals_file_that_is_missing_or_odd_is_refused(here, heart):
    (here / "heart/processed.va.data").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"^path must hold lines of 14 numbers or ., got .*va.data.*: 3 columns"):
        HeartDisease(heart).sizes(4)
    (here / "heart/processed.va.data").write_text("63,1,9,145,233,1,2,150,0,2.3,3,0,6,0\n")
    with pytest.raises(ValueError, match=r"^path must hold one of 1, 2, 3, 4 in column 2, got 9"):
        HeartDisease(heart).sizes(4)
    (here / "heart/processed.va.data").unlink()
    with pytest.raises(ValueError, match=r"^path must be an existing UCI file, got .*get the processed files"):
        HeartDisease(heart).sizes(4)
