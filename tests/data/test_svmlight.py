"""Files of libsvm: what is read, where indices begin, and what is refused."""

import numpy as np
import pytest
from fuzzing import settle

from batchednodes.data import Libsvm, check_dataset

TEXT = """+1 1:0.5 3:2
# a comment
-1 2:-1e-1   # another
+1 qid:3 1:4 2:1 3:7
-1
"""
X = np.array([[0.5, 0, 2], [0, -0.1, 0], [4, 1, 7], [0, 0, 0]])


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Returns a function that writes a file into the working directory, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(content, name="a.svm"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def loaded(source):
    """Returns features and targets of all rows, sorted by the first two features, and the number of classes."""
    dataset = source.load(2, 0)
    assert dataset.sizes == source.sizes(2)
    check_dataset(dataset)
    x, y = (
        np.concatenate(p) for p in ((dataset.features, dataset.test_features), (dataset.targets, dataset.test_targets))
    )
    order = np.lexsort(x.T[1::-1])
    return x[order], y[order].tolist(), dataset.classes


def test_samples_become_dense(written):
    x, y, classes = loaded(Libsvm(written(TEXT)))
    assert np.array_equal(x, X[[1, 3, 0, 2]])
    assert (y, classes) == ([0, 0, 1, 1], 2)


@pytest.mark.parametrize(
    ("text", "zero_based", "width"),
    [
        ("1 1:1\n2 3:1\n", "auto", 3),
        ("1 0:1\n2 3:1\n", "auto", 4),
        ("1 1:1\n2 3:1\n", True, 4),
        ("1 2:1\n2 3:1\n", False, 3),
    ],
)
def test_indices_begin_at_0_or_1(written, text, zero_based, width):
    x, *_ = loaded(Libsvm(written(text), zero_based=zero_based))
    assert x.shape == (2, width)
    assert x.sum() == 2


def test_more_features_than_a_file_shows(written):
    x, *_ = loaded(Libsvm(written(TEXT), features=5))
    assert np.array_equal(x, np.pad(X, ((0, 0), (0, 2)))[[1, 3, 0, 2]])


@pytest.mark.parametrize(
    ("targets", "classes", "expected"),
    [
        (["3", "1", "7"], "auto", ([0, 1, 2], 3)),
        (["3", "1", "7"], False, ([[1], [3], [7]], None)),
        (["3.5", "1", "7"], "auto", ([[1], [3.5], [7]], None)),
        (["3.5", "1", "3.5"], True, ([0, 1, 1], 2)),
    ],
)
def test_targets_are_classes_or_numbers(written, targets, classes, expected):
    path = written("".join(f"{target} 1:{target}\n" for target in targets))
    _, y, count = loaded(Libsvm(path, classes=classes))
    assert (y, count) == expected


def test_a_second_file_is_tested_on(written):
    path, other = written("1 1:1\n2 2:5\n"), written("3 3:5\n2 1:1\n", "b.svm")
    source = Libsvm(path, test_path=other)
    dataset = source.load(2, 0)
    assert dataset.sizes == source.sizes(2)
    assert dataset.features.tolist() == [[1, 0, 0], [0, 5, 0]]
    assert dataset.test_features.tolist() == [[0, 0, 5], [1, 0, 0]]
    assert (dataset.targets.tolist(), dataset.test_targets.tolist(), dataset.classes) == ([0, 1], [2, 1], 3)
    written("2 0:5\n", "b.svm")  # both files count from 0 then
    assert source.load(2, 0).features.tolist() == [[0, 1, 0], [0, 0, 5]]


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("", {}, "path must hold 2 samples or more, got 0 in 'a.svm': give samples"),
        ("1 1:1", {}, "path must hold 2 samples or more, got 1"),
        ("1\n2\n", {}, "path must hold a feature, got none in 'a.svm': give features=..., or samples"),
        (
            "1 1:1\n2 x\n",
            {},
            "path must hold lines 'target index:value index:value ...', got '2 x' at line 2 of 'a.svm'",
        ),
        ("1 1:1\n1,2 1:1\n", {}, "got '1,2 1:1' at line 2"),
        ("1 1:1\n1 -1:1\n", {}, "got '1 -1:1' at line 2"),
        ("1 1:1\n1 9999999999:1\n", {}, "got '1 9999999999:1' at line 2"),
        ("1 1:1\n1 2:1 1:1\n", {}, "path must hold lines whose indices rise and are below 2^31, got others in 'a.svm'"),
        (
            "1 1:1\n1 2:inf\n",
            {},
            "path must hold finite numbers, got 1 others in 'a.svm', the first in sample 1, from 0",
        ),
        (
            "1 1:1\nnan 2:1\n",
            {},
            "path must hold finite numbers, got 1 others in 'a.svm', the first in sample 1, from 0",
        ),
        (
            "1 1:1\n1 4:1\n",
            {"features": 3},
            "features must be at least 4, the largest number of one in the files, got 3",
        ),
        (
            "1 0:1\n1 4:1\n",
            {"zero_based": False},
            "zero_based must be true or auto where an index is 0, got false with",
        ),
        ("1 1:1\n1 4:1\n", {"test_path": "b"}, "test_path must be an existing libsvm file, got 'b' (relative paths"),
    ],
)
def test_faults(written, text, settings, words):
    path = written(text)
    with pytest.raises(ValueError, match=r"must") as error:
        Libsvm(path, **settings).load(1, 0)
    assert words in str(error.value)


def test_what_is_too_wide_is_refused_before_it_is_dense(written, monkeypatch):
    monkeypatch.setattr("batchednodes.simulation.planning.memory_plan.free_host", lambda: 1 << 30)
    data = {"kind": "libsvm", "path": written("1 1:1\n2 999999999:1\n")}
    message = settle({"task": {"data": data}, "network": {"nodes": 1}})
    assert message.startswith("the run must fit in memory")
    data["path"] = written("1 1:1\n2 2147483647:1\n")
    assert settle({"task": {"data": data}, "network": {"nodes": 1}}).startswith("the run must fit in memory")
