"""Data with a node for each user, hospital or region: LEAF's files, Fed-Heart-Disease and Fed-TCGA-BRCA."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split

from batchednodes import train
from batchednodes.data import HeartDisease, Leaf, TcgaBrca, check_dataset
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
    assert all(sorted(node)[-5:] == [0, 1, 2, 3, 4] for node in drawn)


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


def tweet(text: str) -> list[str]:
    return ["1467", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "ann", text, "training"]


TWEETS = {
    "ann": {"x": [tweet("I'm late, late, late!"), tweet("tea @5")], "y": [0, 1]},
    "bob": {"x": [tweet("late " * 30), tweet("tea? tea.")], "y": [0, 1]},
}


def test_tweets_become_the_numbers_of_their_words(here):
    written(here, "sent140/train", TWEETS)
    written(here, "sent140/test", {"ann": {"x": [tweet("unheard-of tea")], "y": [1]}})
    source = Leaf("sent140")
    data = source.load(2, 0)
    assert data.sizes == source.sizes(2)
    assert (data.features.shape, data.features.dtype, data.classes) == ((4, 25), np.int64, 2)
    # 28 times late, 3 times tea, 2 commas; then once each, in the order of Unicode: ! . 5 ? I'm
    words = {"late": 2, "tea": 3, ",": 4, "!": 5, ".": 6, "5": 7, "?": 8, "I'm": 9}
    texts = [["I'm", "late", ",", "late", ",", "late", "!"], ["tea", "5"], ["late"] * 25, ["tea", "?", "tea", "."]]
    for row, text in zip(data.features.tolist(), texts, strict=True):
        assert row == [words[word] for word in text] + [0] * (25 - len(text))
    assert data.test_features[0, :4].tolist() == [1, 1, 3, 0]  # "unheard" and "of" are in no training file
    assert {*Leaf("sent140", words=5).load(2, 0).features[0].tolist()} == {0, 1, 2}  # <PAD>, late, tea have numbers
    (here / "embs.json").write_text(json.dumps({"vocab": ["tea", "late", "unheard"], "emba": []}))
    listed = Leaf("sent140", vocabulary="embs.json").load(2, 0)
    assert listed.features[1].tolist() == [0] + [3] * 24  # as LEAF fills texts up
    assert listed.test_features[0, :4].tolist() == [2, 3, 0, 3]


def comment(*texts: str) -> dict[str, list]:
    """Returns the comments of a user as LEAF's code for Reddit writes them, in sequences of four words."""
    x, y = [], []
    for text in texts:
        tokens = [["<BOS>", *text.split(), "<EOS>"], [*text.split(), "<EOS>", "<PAD>"]]
        tokens = [part + ["<PAD>"] * (-len(part) % 4) for part in tokens]
        given, following = ([part[k : k + 4] for k in range(0, len(part), 4)] for part in tokens)
        x.append(given)
        y.append(
            {"subreddit": "tea", "created_utc": 1, "score": 2, "target_tokens": following, "count_tokens": [[1.0]]}
        )
    return {"x": x, "y": y}


def test_comments_are_sequences_of_words_whose_labels_are_the_next_ones(here):
    written(here, "reddit/train", {"1": comment("a b a c a", "a b"), "2": comment("b"), "3": comment()})
    written(here, "reddit/test", {"1": comment("d a b")})
    source = Leaf("reddit")
    data = source.load(2, 0)
    assert data.sizes == source.sizes(2)
    assert (data.sizes.target_shape, data.node.tolist()) == ((4,), [0, 0, 0, 1])
    # <PAD> 2, a 4, <BOS> 3, <EOS> 3, b 3, c 1
    number = {"<PAD>": 0, "a": 2, "<BOS>": 3, "<EOS>": 4, "b": 5, "c": 6}
    whole = "<BOS> a b a | c a <EOS> <PAD> | <BOS> a b <EOS> | <BOS> b <EOS> <PAD>"
    assert data.features.tolist() == [[number[word] for word in part.split()] for part in whole.split("|")]
    following = "a b a c | a <EOS> <PAD> <PAD> | a b <EOS> <PAD> | b <EOS> <PAD> <PAD>"
    assert data.targets.tolist() == [[number[word] for word in part.split()] for part in following.split("|")]
    assert data.test_features.tolist() == [[3, 1, 2, 5], [4, 0, 0, 0]]
    model = {"kind": "python", "target": "torch.nn:Embedding", "args": {"num_embeddings": 7, "embedding_dim": 7}}
    task = {"data": {"kind": "leaf", "path": "reddit"}, "model": model}
    run = train({"network.nodes": 2, "task": task, "run.until": 2, "local.batch_size": 1, "local.lr": 1})
    assert run.metrics["loss_mean"].iloc[-1] < run.metrics["loss_mean"].iloc[0]


@pytest.mark.parametrize(
    ("users", "settings", "message"),
    [
        (NUMBERS, {"words": 9}, "words must be left out where samples are no texts of words, got 9 for others in"),
        (NUMBERS, {"vocabulary": "v.json"}, "vocabulary must be left out where samples are no texts of words, got 'v"),
        (TWEETS, {"words": 2}, "words must be at least 3, got 2"),
        (TWEETS, {"words": 9, "vocabulary": "v.json"}, "words must be left out where vocabulary names a file, got 9"),
        (TWEETS, {"vocabulary": "v.json"}, "vocabulary must be an existing JSON file, got 'v.json'.*embs.json has it"),
        (TWEETS, {"vocabulary": "bad.json"}, "vocabulary must be a JSON file .*the word 'tea' stands twice"),
        (TWEETS | {"eve": NUMBERS["f0"]}, {}, "path must hold texts of words of one kind and length, got others in"),
        ({"1": comment("a") | {"x": [[["a", "b"], ["c"]]]}}, {}, "path must hold sequences of as many words, got"),
    ],
)
def test_texts_of_words_that_cannot_be_used_are_refused(here, users, settings, message):
    written(here, "leaf", users)
    (here / "bad.json").write_text('{"vocab": ["tea", "tea"]}')
    with pytest.raises(ValueError, match=f"^{message}"):
        Leaf("leaf", **settings).sizes(1)


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


def test_too_few_users_and_damaged_files_are_refused_by_name(here, femnist):
    with pytest.raises(
        ValueError, match=r"^task.data.path must hold a user with training rows for each of .* = 7, got 6"
    ):
        train({"network": {"nodes": 7}, "task": {"data": {"kind": "leaf", "path": femnist}}})
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
    assert np.array_equal(chest, np.eye(4)[patient % 4][:, 1:])
    assert np.array_equal(rest, np.eye(3)[patient % 3][:, 1:])
    assert HeartDisease(heart, users="merged").load(2, 0).sizes.samples == data.sizes.samples


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


@pytest.fixture
def brca(here):
    """Returns a folder of FLamby's two files: five patients of each region, of whom the last is tested."""
    (here / "brca").mkdir()
    table = G.random((30, 39)).round(3).tolist()
    lines = [",".join(["pid", *(f"f{k}" for k in range(39)), "E", "T"])]
    lines += [",".join(map(str, [f"p{i}", *row, i % 2, 10.0 * i])) for i, row in enumerate(table)]
    (here / "brca/brca.csv").write_text("\n".join(lines))
    folds = [f"p{i},{part},{part}_{i % 6}" for i in reversed(range(30)) for part in ["train" if i < 24 else "test"]]
    (here / "brca/train_test_split.csv").write_text("\n".join(["pid,fold,fold2", *folds]))
    return np.array(table)


def cox(outputs, targets):
    """Returns Cox's partial likelihood of each patient among those of the minibatch; the risk is the first output."""
    (event, time), risk = targets.unbind(1), outputs[:, 0]
    at_risk = time[None, :] >= time[:, None]
    return event * (torch.logsumexp(risk.masked_fill(~at_risk, -torch.inf), 1) - risk)


def test_regions_are_nodes_with_flambys_split_and_survival_times(brca):
    source = TcgaBrca("brca")
    data = source.load(6, 0)
    check_dataset(data)
    assert data.sizes == source.sizes(6)
    assert (len(data.features), len(data.test_features), data.classes) == (24, 6, None)
    for k in range(6):
        assert np.array_equal(data.features[data.node == k], brca[k:24:6])
        assert data.targets[data.node == k].tolist() == [[i % 2, 10.0 * i] for i in range(k, 24, 6)]
        assert np.array_equal(data.test_features[data.test_node == k], brca[24 + k : 25 + k])
    task = {"data": {"kind": "tcga_brca", "path": "brca"}, "loss": {"kind": "function", "target": "test_users:cox"}}
    runs = [
        train(
            {"network.nodes": 6, "task": task, "run.until": 4, "local.batch_size": 4}, "dtype=float64", f"executor={k}"
        )
        for k in ("batched", "serial")
    ]
    assert np.allclose(runs[0].x, runs[1].x, rtol=0, atol=1e-12)  # sums of a few products in another order
    assert runs[0].metrics["loss_mean"].nunique() > 1


def test_files_of_regions_that_are_missing_or_odd_are_refused(here, brca):
    split = here / "brca/train_test_split.csv"
    split.write_text(split.read_text().replace("train_3", "train_7"))
    with pytest.raises(ValueError, match=r"^path must hold fold2 as train_0 to test_5, got 'train_7' in"):
        TcgaBrca("brca").sizes(6)
    (here / "brca/brca.csv").write_text("pid,E,T\np0,0,1\n")
    with pytest.raises(ValueError, match=r"^path must hold columns pid, 39 features, E and T, got 3 columns"):
        TcgaBrca("brca").sizes(6)
    (here / "brca/brca.csv").unlink()
    with pytest.raises(ValueError, match=r"^path must be an existing CSV file, got .*get it from flamby"):
        TcgaBrca("brca").sizes(6)
