"""Tables in csv and Parquet files: what is read, how columns get their roles, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzzing import settle

from batchednodes.config import KINDS, load, to_dict
from batchednodes.data import IID, Csv, Natural, Parquet, check_dataset
from batchednodes.data.sources import optional, tables

TEXT = """length,kind,width,node
1.5,cat,2,b
-2,dog,4,a
3,cat,-6e-1,b
0.1,ant,8,c
5,dog,1,a
"""
X = np.array([[1.5, 2], [-2, 4], [3, -0.6], [0.1, 8], [5, 1]])


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Returns a function that writes a file into the working directory, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(content, name="t.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def together(dataset):
    """Returns features and targets of all rows, sorted by the first feature."""
    x, y = (
        np.concatenate(p) for p in ((dataset.features, dataset.test_features), (dataset.targets, dataset.test_targets))
    )
    order = np.argsort(x[:, 0])
    return x[order], y[order]


def loaded(source, n=2, seed=0):
    """Returns a source's data set, its sizes known before."""
    dataset = source.load(n, seed)
    assert dataset.sizes == source.sizes(n)
    check_dataset(dataset)
    return dataset


# ------------------------------------------------------------------------------------------------------------ roles


def test_columns_have_roles(written):
    source = Csv(written(TEXT), target="kind", node="node", test_fraction=0.4)
    dataset = loaded(source)
    x, y = together(dataset)
    order = np.argsort(X[:, 0])
    assert np.array_equal(x, X[order])
    assert np.array_equal(y, np.array([1, 2, 1, 0, 2])[order])  # ant, cat, dog
    assert dataset.classes == 3
    owner = {1.5: 1, -2: 0, 3: 1, 0.1: 2, 5: 0}
    assert [owner[first] for first in dataset.features[:, 0]] == dataset.node.tolist()


@pytest.mark.parametrize("target", ["kind", "1"])
@pytest.mark.parametrize("ignore", [("node",), ("3",), ("node", "width"), ("last", "2")])
def test_columns_are_named_or_counted(written, target, ignore):
    x, _ = together(loaded(Csv(written(TEXT), target=target, ignore=ignore)))
    order = np.argsort(X[:, 0])
    assert np.array_equal(x, X[order, : 3 - len(ignore)])


@pytest.mark.parametrize(
    ("lines", "given", "header"),
    [
        ("1,2,x\n3,4,y\n", "auto", False),
        ("a,b,c\n3,4,y\n5,6,z\n", "auto", True),
        ("0,1,2\n3,4,5\n", "auto", False),
        ("0,1,y\n3,4,5\n6,7,5\n", True, True),
        ("\n\na,b,c\n\n3,4,y\n5,6,z\n\n", "auto", True),
        ("\ufeffa,b,c\r\n3,4,y\r\n5,6,z", "auto", True),
        (' "a", b ,"c,d"\n3, 4, y\n5,6,y', "auto", True),
        ("1,2,0\n3,4,0\n5,6,1\n", False, False),
    ],
)
def test_the_first_line_may_name_the_columns(written, lines, given, header):
    data = [line for line in lines.lstrip("\ufeff").splitlines() if line][header:]
    x, _ = together(loaded(Csv(written(lines), header=given)))
    assert x.tolist() == [[float(cell) for cell in line.split(",")[:2]] for line in data]


@pytest.mark.parametrize(("separator", "between"), [(";", ";"), ("\t", "\t"), (" ", "  "), (" ", "\t "), ("|", "|")])
def test_separators(written, separator, between):
    x, y = together(
        loaded(Csv(written(TEXT.replace(",", between)), target="kind", ignore=("node",), separator=separator))
    )
    assert np.array_equal(x, X[np.argsort(X[:, 0])])
    assert np.array_equal(y, [2, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        (["1", "-1", "1", "7"], "auto", [1, 0, 1, 2]),
        (["1.5", "-1", "1", "7"], "auto", [[1.5], [-1], [1], [7]]),
        (["1", "-1", "1", "7"], False, [[1], [-1], [1], [7]]),
        (["1.5", "-1", "1.5", "7"], True, [1, 0, 1, 2]),
        (["10", "9", "b", "9"], "auto", [0, 1, 2, 1]),  # texts sort as texts
        (["True", "False", "True", "True"], "auto", [1, 0, 1, 1]),
        (["0", "0", "0", "0"], "auto", [0, 0, 0, 0]),
    ],
)
def test_targets_are_classes_or_numbers(written, values, classes, expected):
    path = written("".join(f"{k},{value}\n" for k, value in enumerate(values)))
    dataset = loaded(Csv(path, classes=classes))
    assert together(dataset)[1].tolist() == expected
    assert dataset.classes == (None if isinstance(expected[0], list) else max(expected) + 1)


def test_a_second_file_is_tested_on(written):
    path, other = written("a,b,y\n1,2,u\n3,4,w\n"), written("a,b,y\n5,6,w\n", "test.csv")
    dataset = loaded(Csv(path, test_path=other))
    assert dataset.features.tolist() == [[1, 2], [3, 4]]
    assert (dataset.targets.tolist(), dataset.test_targets.tolist(), dataset.classes) == ([0, 1], [1], 2)
    dataset = loaded(Csv(path, test_path=other, standardize="train"))
    assert dataset.test_features.tolist() == [[3, 3]]
    whole = loaded(Csv(path, test_path=other, standardize="all"))
    assert np.allclose(np.concatenate([whole.features, whole.test_features]).std(axis=0), 1, rtol=0, atol=1e-15)


def test_a_split_depends_on_the_seed_alone(written):
    path = written("".join(f"{k},{k % 3}\n" for k in range(60)))
    tests = {n: Csv(path).load(n, 7).test_features for n in (1, 5, 48)}
    assert np.array_equal(tests[1], tests[5])
    assert np.array_equal(tests[1], tests[48])
    assert not np.array_equal(tests[1], Csv(path).load(5, 8).test_features)
    assert np.array_equal(tests[1], Csv(path, test_seed=7).load(5, 8).test_features)


def test_every_node_may_own_one_row(written):
    dataset = Csv(written("".join(f"{k},{k % 2}\n" for k in range(4601))), test_fraction=0.1).load(4141, 0)
    shards = IID().split(dataset, 4141, 0)
    assert np.array_equal(np.sort(shards.rows), np.arange(4141))
    assert np.all(shards.sizes == 1)


def test_owners_are_nodes(written):
    lines = "".join(f"{k},u{k % 12:02},{k % 2}\n" for k in range(60))
    dataset = Csv(written(lines), node="1").load(12, 0)
    assert np.array_equal(Natural().split(dataset, 12, 0).sizes, np.full(12, 4))
    assert np.array_equal(dataset.node, dataset.features[:, 0] % 12)


# ----------------------------------------------------------------------------------------------------------- faults

FAULTS = [
    ("", {}, "path must hold a table, got 't.csv', which is empty"),
    ("\n \n", {}, "path must hold a table, got 't.csv', which is empty"),
    ("a,b\n", {}, "path must hold 2 rows or more, got 0 in 't.csv': give samples"),
    ("1,2\n", {}, "path must hold 2 rows or more, got 1 in 't.csv': give samples"),
    ("1\n2\n", {}, "path must hold a column of features beside the target, got 1 columns in 't.csv': check separator"),
    ("1;2;3\n4;5;6\n", {}, "path must hold a column of features beside the target, got 1 columns"),
    (
        "1,2,0\n3,x,1\n",
        {},
        "path must hold finite numbers in column '1' of 't.csv', got 'x' in row 1 of the data, from 0 (1 of 2 rows): "
        "ignore the column, or write numbers there",
    ),
    (
        "a,b\nx,0\ny,1\n",
        {},
        "got 'x' in row 0 of the data, from 0 (2 of 2 rows): ignore the column, or write one column",
    ),
    ("1,2,0\n3,,1\n", {}, "in column '1' of 't.csv', got nothing in row 1 of the data"),
    ("1,2,0\n3,nan,1\n", {}, "in column '1' of 't.csv', got 'nan' in row 1 of the data"),
    ("1,2,0\n3,1e999,1\n", {}, "in column '1' of 't.csv', got inf in row 1 of the data"),
    ("1,2,0\n3,4\n", {}, "path must hold a class in column '2' of 't.csv', got nothing in row 1 of the data"),
    ("1,2,0.5\n3,4,\n", {"classes": False}, "path must hold finite numbers in column '2' of 't.csv', got nothing in"),
    ("1,2,0\n3,4,1,5\n", {}, "path must hold lines of 3 cells, as its first, got Expected 3 fields in line 2, saw 4"),
    ("a,b\n3,4,1\n5,6,7\n", {}, "path must hold lines of 2 cells, as its first, got more cells in the lines below"),
    ('1,2,"0\n3,4,1\n', {}, "path must hold lines of 3 cells, as its first, got EOF inside string"),
    (b"1,2,0\n\xff,2,1\n", {}, "path must be a text file in UTF-8, got 't.csv', which is not"),
    (b"1,2,0\n1,2,1\n" * 9000 + b"\xff,2,1\n", {}, "path must be a text file in UTF-8, got 't.csv', which is not"),
    (
        "1,2,0\n3,4,1\n",
        {"target": "kind"},
        "target must name a column of 't.csv', got 'kind': the columns are '0', '1'",
    ),
    (TEXT, {"target": "kinds"}, "target must name a column of 't.csv', got 'kinds': did you mean 'kind'?"),
    (TEXT, {"target": "kind", "node": "4"}, "node must name a column of 't.csv', got '4'"),
    (TEXT, {"target": "kind", "node": "1"}, "node must be another column than target, got '1' for both"),
    (TEXT, {"ignore": ("node",)}, "ignore must leave out the columns of target and node, got ['node']"),
    (TEXT, {"ignore": ("x",)}, "ignore must name a column of 't.csv', got 'x'"),
    (
        "a,a,y\n1,2,0\n3,4,1\n",
        {"ignore": ("a",)},
        "ignore must name one column, got 'a', the name of 2: give its index",
    ),
    (
        "label,0,1\n7,0,0\n",
        {},
        "header must be true or false where the first line may be either, got auto and the first lines of 't.csv', "
        "'label' above '7'",
    ),
    ("1,2,0\n3,4,1\n", {"test_path": "no.csv"}, "test_path must be an existing text file, got 'no.csv' (relative"),
    (
        TEXT,
        {"target": "kind", "node": "node", "test_path": "u.csv"},
        "test_path must hold the features of 't.csv', got 'h",
    ),
]


@pytest.mark.parametrize(("content", "settings", "words"), FAULTS)
def test_csv_says_what_is_wrong(written, content, settings, words):
    path = written(content)
    written("length,kind,height,node\n1,cat,2,b\n", "u.csv")
    with pytest.raises(ValueError, match=r"must") as error:
        Csv(path, **settings).load(2, 0)
    assert words in str(error.value)


def test_files_that_are_none(written, tmp_path):
    (tmp_path / "folder").mkdir()
    for path, got in (("no.csv", "'no.csv' (relative paths start"), ("folder", "'folder', a folder"), ("", "''")):
        for kind, words in ((Csv, "text"), (Parquet, "Parquet")):
            with pytest.raises(ValueError, match=f"path must be an existing {words} file, got ") as error:
                kind(path).sizes(1)
            assert got in str(error.value)


def test_too_many_columns(written):
    with pytest.raises(ValueError, match=r"must hold at most 100,000 columns, got 100,001 in .*; use kind npz"):
        Csv(written(",".join("0" * 100_001) + "\n")).sizes(1)


def test_data_that_cannot_fit_are_refused_before_they_are_read(written, monkeypatch):
    path = written("".join(f"{k},{k}\n" for k in range(300)))
    monkeypatch.setattr("batchednodes.simulation.planning.memory_plan.free_host", lambda: 1 << 16)
    monkeypatch.setattr(Csv, "load", None)
    message = settle({"task": {"data": {"kind": "csv", "path": path}}, "network": {"nodes": 2}})
    assert message.startswith("the run must fit in memory")


# ---------------------------------------------------------------------------------------------------------- parquet


def parquet(frame, name="t.parquet"):
    frame.to_parquet(name)
    return name


@pytest.fixture
def frame(tmp_path, monkeypatch):
    """Returns a table, with the working directory empty."""
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    columns = {"a": X[:, 0], "b": np.array([1, 2, 3, 4, 5], np.int8), "y": list("vuvwu"), "node": [3, 9, 3, 9, 3]}
    return pd.DataFrame(columns)


def test_parquet(frame):
    dataset = loaded(Parquet(parquet(frame), target="y", node="node", test_fraction=0.4))
    x, y = together(dataset)
    order = np.argsort(X[:, 0])
    assert np.array_equal(x, frame[["a", "b"]].to_numpy()[order])
    assert np.array_equal(y, np.array([1, 0, 1, 2, 0])[order])
    assert sorted(set(dataset.node)) == [0, 1]


@pytest.mark.parametrize("kind", ["category", "int32", "bool", "float64"])
def test_parquet_targets(frame, kind):
    frame["y"] = np.array([1, 0, 1, 1, 0]).astype(kind) if kind != "category" else frame["y"].astype(kind)
    dataset = loaded(Parquet(parquet(frame), target="y", ignore=("node",)))
    assert dataset.classes == {"category": 3, "float64": None}.get(kind, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": [1, None, 3, 4, 5]}, "path must hold finite numbers in column 'a' of 't.parquet', got nan in row 1"),
        ({"b": list("abcde")}, "path must hold finite numbers in column 'b' of 't.parquet', got 'a' in row 0"),
        ({"b": [[1], [2], [3], [4], [5]]}, "path must hold finite numbers in column 'b' of 't.parquet', got array"),
        (
            {"b": pd.date_range("2020", periods=5)},
            "path must hold finite numbers in column 'b' of 't.parquet', got Tim",
        ),
        (
            {"y": ["a", None, "b", "a", "b"]},
            "path must hold a class in column 'y' of 't.parquet', got nothing in row 1",
        ),
        (
            {"y": [[1], [2], [3], [4], [5]]},
            "path must hold a class in column 'y' of 't.parquet', got array([1]) in row",
        ),
    ],
)
def test_parquet_says_what_is_wrong(frame, change, words):
    with pytest.raises(ValueError, match=r"must") as error:
        Parquet(parquet(frame.assign(**change)), target="y").load(2, 0)
    assert str(error.value).startswith(words)


def test_parquet_that_is_damaged_or_packed(frame, monkeypatch, tmp_path):
    path = parquet(frame)
    whole = (tmp_path / path).read_bytes()
    (tmp_path / path).write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"^path must be a Parquet file, got 't.parquet', which is damaged or none"):
        Parquet(path).sizes(1)
    (tmp_path / path).write_bytes(bytes(len(whole) // 2) + whole[len(whole) // 2 :])
    with pytest.raises(
        ValueError, match=r"^path must (hold readable columns|be a Parquet file), got 't.parquet', which"
    ):
        Parquet(path, target="y").load(2, 0)
    monkeypatch.setattr(tables, "_LOOSE", 1000)
    pd.DataFrame({"a": np.zeros(10**6), "y": np.zeros(10**6)}).to_parquet(path)
    with pytest.raises(
        ValueError, match=r"^path must hold numbers compressed at most 100-fold, got 15 MiB in . KiB in"
    ):
        Parquet(path).sizes(1)


@pytest.mark.parametrize(("kind", "name"), [("parquet", "pyarrow"), ("huggingface", "datasets")])
def test_what_is_not_installed_is_named(written, monkeypatch, kind, name):
    def absent(module):
        raise ImportError(module)

    monkeypatch.setattr(optional, "import_module", absent)
    written("", "data")
    message = settle({"task": {"data": {"kind": kind, "path": "data" if kind == "parquet" else "owner/name"}}})
    extra = {"parquet": "parquet", "huggingface": "hf"}[kind]
    assert message == (
        f"task.data.kind must be one whose packages are installed, got {kind}, which needs {name}: "
        f"pip install 'batchednodes[{extra}]'"
    )


def test_the_examples_of_the_documents_are_settings():
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "data.md").read_text()
    examples = re.findall(r"^\| `(\w+)` \| `(\{kind: .*\})` \|$", text, re.MULTILINE)
    files = set(KINDS["task.data"]) - {"linear_regression", "nonlinear_regression"}
    assert {kind for kind, _ in examples} == files
    for kind, example in examples:
        assert to_dict(load({}, [f"task.data={example}"]))["task"]["data"]["kind"] == kind
