import zipfile

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from batchednodes.data import (
    Csv,
    Dataset,
    Digits,
    HuggingFace,
    ImageFolder,
    Libsvm,
    LinearRegression,
    NonlinearRegression,
    Npz,
    Sklearn,
    check_dataset,
)
from batchednodes.data.sources.base import check_rows
from batchednodes.data.sources.holdout import held_out, split, standardize_

SOURCES = [
    LinearRegression(features=3, samples_per_node=4, test_samples=7),
    LinearRegression(features=3, samples_per_node=4, test_samples=7, heterogeneity=1.5),
    NonlinearRegression(features=2, samples_per_node=3, test_samples=5, hidden=4),
    Digits(test_fraction=0.3),
    *(Sklearn(name=name) for name in ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")),
]


def arrays(dataset):
    parts = (dataset.features, dataset.targets, dataset.test_features, dataset.test_targets, dataset.node)
    return [part for part in parts if part is not None]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("n", [1, 6])
def test_sizes_are_known_before_the_data_are_built(source, n):
    dataset = source.load(n, 5)
    assert dataset.sizes == source.sizes(n)
    check_dataset(dataset)


@pytest.mark.parametrize("source", SOURCES)
def test_a_seed_gives_one_data_set(source):
    first, again, other = source.load(6, 5), source.load(6, 5), source.load(6, 2**62 + 5)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(again), strict=True))
    assert not np.array_equal(first.features, other.features)
    assert not np.array_equal(first.test_features, other.test_features)


@pytest.mark.parametrize("source", SOURCES[:3])
def test_a_larger_network_adds_nodes_and_changes_none(source):
    few, many = source.load(3, 5), source.load(40, 5)
    rows = len(few.features)
    assert np.array_equal(few.features, many.features[:rows])
    assert np.array_equal(few.targets, many.targets[:rows])
    assert np.array_equal(few.test_targets, many.test_targets)
    assert np.array_equal(few.node, np.repeat(np.arange(3), source.samples_per_node))


def test_linear_targets_are_those_of_one_weight_vector():
    dataset = LinearRegression(features=5, noise=0.0).load(10, 3)
    x, y = dataset.features.astype(np.float64), dataset.targets
    w = np.linalg.lstsq(x, y)[0]
    # Rounding of a sum of 5 products in float64, and the conditioning of the least squares.
    assert np.allclose(x @ w, y, rtol=0, atol=1e-13)
    assert np.allclose(dataset.test_features @ w, dataset.test_targets, rtol=0, atol=1e-13)


def test_heterogeneity_spreads_the_optima_of_the_nodes():
    n, d, h = 2000, 5, 0.7
    dataset = LinearRegression(features=d, samples_per_node=8, noise=0.0, heterogeneity=h).load(n, 3)
    common = np.linalg.lstsq(dataset.test_features.astype(np.float64), dataset.test_targets)[0][:, 0]
    x = dataset.features.reshape(n, 8, d).astype(np.float64)
    y = dataset.targets.reshape(n, 8)
    own = np.stack([np.linalg.lstsq(x[i], y[i])[0] for i in range(n)])
    z = (own - common) * np.sqrt(d) / h  # n d independent standard normal numbers
    assert abs(z.mean()) * np.sqrt(n * d) < 5  # false alarm: 6e-7
    assert abs((z**2).mean() - 1) * np.sqrt(n * d / 2) < 5  # about the same
    assert np.ptp(own[:, 0]) > 0


def test_linear_features_and_noise_are_standard_normal():
    dataset = LinearRegression(features=4, samples_per_node=50, noise=0.5, test_samples=10_000).load(200, 3)
    for x, y in ((dataset.features, dataset.targets), (dataset.test_features, dataset.test_targets)):
        rows = x.astype(np.float64)
        rest = y - rows @ np.linalg.lstsq(rows, y)[0]
        assert abs(rows.mean()) * np.sqrt(rows.size) < 5  # false alarm: 6e-7
        assert abs((rows**2).mean() - 1) * np.sqrt(rows.size / 2) < 5
        # The fit takes 4 of 10,000 degrees of freedom: 0.0004, against a standard error of 0.014.
        assert abs((rest**2).mean() / 0.25 - 1) * np.sqrt(rest.size / 2) < 5


def test_the_teacher_is_a_two_layer_network():
    source = NonlinearRegression(features=3, samples_per_node=2000, noise=0.0, hidden=1)
    dataset = source.load(1, 4)
    y = dataset.targets[:, 0]
    top = np.abs(y).max()
    best = minimize_scalar(lambda v: misfit(dataset.features, y, v), bounds=(top * 1.000001, top * 5), method="bounded")
    assert best.fun < 1e-4  # the search for v stops at 1e-5
    linear = np.linalg.lstsq(dataset.features.astype(np.float64), y)[0]
    assert np.std(y - dataset.features @ linear) > 0.01 * np.std(y)


def misfit(x, y, scale):
    """Returns the relative misfit of y = scale tanh(<a, x>) with the best a: arctanh makes it linear."""
    z = np.arctanh(y / scale)
    a = np.linalg.lstsq(x.astype(np.float64), z)[0]
    return np.std(y - scale * np.tanh(x @ a)) / np.std(y)


def test_digits_are_split_in_proportion_for_each_label():
    dataset = Digits(test_fraction=0.25).load(3, 9)
    assert dataset.features.dtype == np.float32
    assert dataset.features.min() == 0.0
    assert dataset.features.max() == 1.0
    train, test = np.bincount(dataset.targets), np.bincount(dataset.test_targets)
    assert np.array_equal(train + test, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert np.abs(test - 0.25 * (train + test)).max() <= 1  # to within one row
    both = np.concatenate([dataset.features, dataset.test_features])
    assert np.array_equal(both.astype(np.float64).sum(), 561718 / 16)  # every image once


@pytest.mark.parametrize(
    ("name", "corner"),
    [("iris", [5.1, 3.5, 1.4, 0.2]), ("breast_cancer", [17.99, 10.38]), ("diabetes", [0.0380759]), ("linnerud", [5])],
)
def test_bundled_sets_are_those_of_scikit_learn(name, corner):
    dataset = Sklearn(name=name).load(3, 9)
    both = np.concatenate([dataset.features, dataset.test_features])
    first = np.abs(both[:, : len(corner)] - corner).max(axis=1).argmin()
    assert np.allclose(both[first, : len(corner)], corner, rtol=0, atol=1e-6)  # as printed in its description
    if dataset.classes is None:
        return
    whole = np.bincount(np.concatenate([dataset.targets, dataset.test_targets]))
    assert np.array_equal(whole, {"iris": [50, 50, 50], "breast_cancer": [212, 357]}[name])


def test_a_fixed_seed_of_the_split_gives_all_networks_one_test_set():
    source, free = Sklearn(name="wine", test_seed=3), Sklearn(name="wine")
    first, second = source.load(2, 0), source.load(2, 1)
    assert np.array_equal(first.test_features, second.test_features)
    assert np.array_equal(first.test_features, free.load(2, 3).test_features)
    assert not np.array_equal(first.test_features, free.load(2, 0).test_features)


def test_digits_are_the_digits_of_the_bundled_sets():
    some, same = Digits().load(2, 0), Sklearn(name="digits").load(2, 0)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(some), arrays(same), strict=True))


# ------------------------------------------------------------------------------------------------------ standardize


def moments(*parts):
    """Returns mean and standard deviation over rows and pixels."""
    whole = np.concatenate(parts).astype(np.float64)
    axes = (0, 2, 3) if whole.ndim == 4 else 0
    return whole.mean(axis=axes), whole.std(axis=axes)


@pytest.mark.parametrize("shape", [(300, 4), (300, 4, 3), (300, 2, 5, 6), (3, 1, 400, 900)])
@pytest.mark.parametrize("rule", ["train", "all"])
def test_standardized_features_have_mean_0_and_standard_deviation_1(shape, rule):
    g = np.random.default_rng(0)
    x, test = g.normal(3, 2, shape), g.normal(-1, 5, (7, *shape[1:]))
    before = x.copy()
    standardize_(x, test, rule)
    mean, spread = moments(x) if rule == "train" else moments(x, test)
    # Rounding of sums of at most 1.2 million numbers of size 1.
    assert np.allclose(mean, 0, rtol=0, atol=1e-12)
    assert np.allclose(spread, 1, rtol=0, atol=1e-12)
    line = np.polyfit(before.reshape(len(x), -1)[:, 0], x.reshape(len(x), -1)[:, 0], 1)
    assert line[0] > 0
    standardize_(before, test, "none")
    assert not np.array_equal(before, x)


def test_what_does_not_vary_is_not_scaled_up():
    x, test = np.full((1000, 2), 0.1), np.array([[0.1, 0.4]])
    standardize_(x, test, "train")
    assert np.abs(x).max() < 1e-14  # rounding of the mean of 1000 numbers
    assert np.allclose(test, [[0, 0.3]], rtol=0, atol=1e-14)


def test_features_too_large_to_be_standardized():
    with pytest.raises(
        ValueError, match=r"^standardize must be none where squares of features exceed float64, got all"
    ):
        standardize_(np.array([[1e200], [0.0]]), np.zeros((1, 1)), "all")


# ------------------------------------------------------------------------------------------------------------ split


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.99])
def test_a_split_holds_out_the_promised_number_of_rows(fraction):
    strata = np.random.default_rng(0).integers(0, 7, 311)
    assert split(strata, fraction, 4).sum() == held_out(311, fraction) >= 1


def test_a_split_holds_out_every_row_alike():
    strata = np.repeat([0, 1, 2], [10, 15, 25])
    times = sum(split(strata, 0.2, seed).astype(int) for seed in range(2000))
    assert np.abs(times - 400).max() < 5.5 * np.sqrt(2000 * 0.2 * 0.8)  # false alarm: 50 x 4e-8


# ------------------------------------------------------------------------------------------------------------ files


def save(tmp_path, **content):
    path = tmp_path / "data.npz"
    np.savez(path, **content)
    return str(path)


def good(rows=20):
    g = np.random.default_rng(1)
    return {"features": g.normal(size=(rows, 2, 3)), "targets": np.arange(rows) % 4}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_classification(tmp_path, write):
    path, content = str(tmp_path / "data.npz"), good()
    write(path, **content)
    source = Npz(path=path, test_fraction=0.3)
    dataset = source.load(4, 1)
    assert dataset.sizes == source.sizes(4)
    assert (dataset.classes, dataset.node) == (4, None)
    assert dataset.features.shape == (14, 2, 3)
    assert dataset.features.dtype == np.float64
    rows = np.concatenate([dataset.features, dataset.test_features])
    labels = np.concatenate([dataset.targets, dataset.test_targets])
    back = [int(np.flatnonzero((content["features"] == row).all(axis=(1, 2)))[0]) for row in rows]
    assert sorted(back) == list(range(20))
    assert np.array_equal(labels, content["targets"][back])


@pytest.mark.parametrize("columns", [(), (1,), (3,)])
def test_npz_regression(tmp_path, columns):
    content = {"features": np.arange(20.0), "targets": np.ones((20, *columns), np.float32)}
    source = Npz(path=save(tmp_path, **content))
    dataset = source.load(1, 1)
    assert dataset.sizes == source.sizes(1)
    assert dataset.features.shape == (16, 1)
    assert dataset.targets.shape == (16, *(columns or (1,)))
    assert dataset.targets.dtype == np.float32
    assert dataset.classes is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [("u1", "f4"), ("i2", "f4"), ("f2", "f4"), ("?", "f4"), (">f4", "f4"), ("i4", "f8"), ("i8", "f8"), ("f8", "f8")],
)
def test_npz_features_become_float32_where_that_is_exact(tmp_path, given, kept):
    values = np.arange(12).reshape(6, 2).astype(given)
    dataset = Npz(path=save(tmp_path, features=values, targets=np.zeros(6)), features_as="real").load(1, 0)
    assert dataset.features.dtype == np.dtype(kept)
    both = np.vstack([dataset.features, dataset.test_features])
    assert np.array_equal(np.sort(both, axis=0), np.sort(values, axis=0))


def test_npz_keeps_test_arrays_and_nodes(tmp_path):
    content = good()
    extra = {"test_features": np.ones((5, 2, 3)), "test_targets": np.array([0, 1, 2, 3, 3]), "node": np.arange(20) % 3}
    source = Npz(path=save(tmp_path, **content, **extra))
    dataset = source.load(3, 1)
    assert dataset.sizes == source.sizes(3)
    assert np.array_equal(dataset.features, content["features"])
    assert np.array_equal(dataset.test_targets, extra["test_targets"])
    assert np.array_equal(dataset.node, extra["node"])


def test_npz_split_holds_out_rows_of_each_node_in_proportion(tmp_path):
    node = np.repeat(np.arange(10), 5)
    features = np.arange(50.0)
    dataset = Npz(path=save(tmp_path, features=features, targets=features, node=node)).load(10, 1)
    assert np.array_equal(np.bincount(dataset.node), np.full(10, 4))
    assert np.array_equal(dataset.node, node[dataset.features[:, 0].astype(int)])


def test_npz_standardizes_by_the_training_rows(tmp_path):
    features = np.random.default_rng(0).normal(3.0, 5.0, size=(400, 3)).astype(np.float32)
    features[:, 2] = 7.0
    path = save(tmp_path, features=features, targets=np.zeros(400))
    raw, dataset = Npz(path=path).load(1, 0), Npz(path=path, standardize="train").load(1, 0)
    assert dataset.features.dtype == np.float32
    # Rounding of 320 numbers of size 1 to float32.
    assert np.allclose(dataset.features.mean(axis=0), 0, rtol=0, atol=1e-6)
    assert np.allclose(dataset.features.std(axis=0)[:2], 1, rtol=0, atol=1e-6)
    assert np.all(dataset.features[:, 2] == 0)
    mean, spread = raw.features.mean(axis=0, dtype=float), raw.features.std(axis=0, dtype=float)
    expected = (raw.test_features - mean)[:, :2] / spread[:2]
    assert np.allclose(dataset.test_features[:, :2], expected, rtol=0, atol=1e-6)  # float32 of size 1


X, Y = np.zeros((6, 2)), np.arange(6) % 2
FAULTS = [
    ({"features": X}, "path must hold an array named targets, got features in"),
    ({}, "path must hold an array named features, got no arrays in"),
    ({"features": X, "targets": Y, "nodes": Y}, "got 'nodes' in {path}: did you mean 'node'?"),
    (
        {"features": X, "targets": Y, "test_features": X},
        "path must hold both test_features and test_targets, or neither, got features, targets, test_features in",
    ),
    (
        {"features": np.array([[1, None]] * 6), "targets": Y},
        "path must hold plain arrays of numbers, got the object array 'features' in {path}: convert it",
    ),
    ({"features": X + 1j, "targets": Y}, "path must hold real numbers or integers in features, got complex128 in"),
    ({"features": X, "targets": Y.astype(str)}, "path must hold real numbers or integers in targets, got <U21 in"),
    ({"features": X, "targets": Y, "node": Y * 1.0}, "path must hold integers in node, got float64 in"),
    (
        {"features": X, "targets": Y, "test_features": X, "test_targets": Y * 1.0},
        "path must hold labels or real targets in both targets and test_targets, got int64 and float64 in",
    ),
    ({"features": X, "targets": Y[:5]}, "path must hold as many rows in targets as in features, got 5 and 6 in"),
    (
        {"features": X, "targets": Y, "node": Y[:5]},
        "path must hold as many rows in node as in features, got 5 and 6 in",
    ),
    ({"features": X[:0], "targets": Y[:0]}, "path must hold at least one number in features, got shape (0, 2) in"),
    ({"features": X[:, :0], "targets": Y}, "path must hold at least one number in features, got shape (6, 0) in"),
    ({"features": np.float64(1), "targets": Y}, "path must hold one row for each sample in features, got shape () in"),
    ({"features": X, "targets": X[:, :, None]}, "path must hold one row for each sample in targets, got shape (6, 2,"),
    ({"features": X, "targets": Y, "node": Y[:, None]}, "path must hold one row for each sample in node, got shape"),
    ({"features": X[:1], "targets": Y[:1]}, "path must hold at least 2 rows, one to test on, got 1 in"),
    (
        {"features": X, "targets": Y, "test_features": X[:, :1], "test_targets": Y},
        "path must hold samples of one shape in features and test_features, got (2,) and (1,) in",
    ),
    (
        {"features": np.where(np.arange(12).reshape(6, 2) > 8, np.nan, 1.0), "targets": Y},
        "path must hold usable data, got {path}, where features must be finite, got 3 non-finite values, "
        "the first in row 4",
    ),
    ({"features": X, "targets": np.array([0, 1, 2, np.inf, 4, 5])}, "where targets must be finite, got 1 non-finite"),
    (
        {"features": X, "targets": Y - (np.arange(6) == 4)},
        "where targets must be labels from 0 to 1, got -1 at row 4 (1 of 6 rows): number the labels 0, 1, 2, ...",
    ),
    (
        {"features": X, "targets": Y, "test_features": X, "test_targets": Y - (np.arange(6) == 1) * 2},
        "where test_targets must be labels from 0 to 1, got -1 at row 1 (1 of 6 rows)",
    ),
    ({"features": X, "targets": Y - 2}, "path must hold labels 0, 1, 2, ... in targets, got -1 as the largest in"),
    ({"features": X, "targets": Y.astype("u8") + np.uint64(2**63)}, "path must hold entries of targets below 2^63"),
    (
        {"features": X, "targets": Y, "node": np.array([0, 1, 2, 3, 4, 2])},
        "path must hold nodes from 0 to 2 in node (network.nodes is 3), got 3 at row 3 (2 of 6 rows) in {path}: "
        "number the nodes 0, 1, 2, ..., or set network.nodes to 5",
    ),
    ({"features": X, "targets": Y, "node": Y - 1}, "nodes from 0 to 2 in node (network.nodes is 3), got -1"),
]


@pytest.mark.parametrize(("content", "words"), FAULTS)
def test_npz_says_what_is_wrong(tmp_path, content, words):
    path = save(tmp_path, **content)
    with pytest.raises(ValueError, match=r"^path must ") as error:
        Npz(path=path).load(3, 0)
    assert words.replace("{path}", repr(path)) in str(error.value)
    assert path in str(error.value)


def test_npz_missing_or_foreign_file(tmp_path):
    with pytest.raises(ValueError, match=r"^path must be an existing .npz file, got 'none.npz' \(relative paths start"):
        Npz(path="none.npz").sizes(1)
    with pytest.raises(ValueError, match=r"^path must be an existing .npz file, got ''"):
        Npz().load(1, 0)
    other = tmp_path / "data.npy"
    np.save(other, X)
    with pytest.raises(ValueError, match=r"^path must be an .npz file, got .*, which is not a zip archive"):
        Npz(path=str(other)).load(1, 0)


def test_npz_damaged_files(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, features=np.ones((20_000, 2)), targets=np.arange(20_000) % 4)
    whole = path.read_bytes()
    start = whole.index(b"\x93NUMPY")
    path.write_bytes(whole[: start + 200_000] + b"\xff" + whole[start + 200_001 :])
    with pytest.raises(ValueError, match=r"^path must hold readable arrays, got damaged data of 'features' in"):
        Npz(path=str(path)).load(1, 0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", b"not an array")
        archive.writestr("targets.npy", b"")
    with pytest.raises(ValueError, match=r"^path must hold readable arrays, got a damaged or unknown header of 'f"):
        Npz(path=str(path)).sizes(1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", whole[start : start + 168])
        archive.writestr("targets.npy", b"")
    with pytest.raises(ValueError, match=r"^path must hold whole arrays, got 40 of the 320000 bytes of 'features' in"):
        Npz(path=str(path)).sizes(1)


def test_npz_damage_anywhere_is_a_value_error_or_harmless(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **good())
    whole, g, messages = bytearray(path.read_bytes()), np.random.default_rng(3), []
    for _ in range(300):
        part = whole.copy()
        for spot in g.integers(0, len(whole), 4):
            part[spot] = g.integers(256)
        path.write_bytes(part[: g.integers(len(whole) // 2, len(whole) + 1)] if g.random() < 0.3 else part)
        try:
            Npz(path=str(path)).load(3, 0)
        except ValueError as error:
            messages.append(str(error))
    assert all(message.startswith("path must ") for message in messages)
    assert len(messages) > 200  # a changed byte is noticed, save in the parts of a zip file that nobody reads


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearRegression(features=0), "features must be at least 1, got 0"),
        (lambda: LinearRegression(samples_per_node=0), "samples_per_node must be at least 1, got 0"),
        (lambda: LinearRegression(test_samples=-1), "test_samples must be at least 1, got -1"),
        (lambda: LinearRegression(noise=-0.1), "noise must be finite and at least 0 [unit of the targets], got -0.1"),
        (
            lambda: LinearRegression(heterogeneity=float("inf")),
            "heterogeneity must be finite and at least 0 [dimensionless], got inf",
        ),
        (lambda: NonlinearRegression(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: NonlinearRegression(features=0), "features must be at least 1, got 0"),
        (
            lambda: NonlinearRegression(noise=float("nan")),
            "noise must be finite and at least 0 [unit of the targets], got nan",
        ),
        (
            lambda: Digits(test_fraction=1.0),
            "test_fraction must be between 0 and 1, both excluded [dimensionless], got 1.0",
        ),
        (lambda: Sklearn(test_seed=-1), "test_seed must be in [0, 2^63), got -1"),
        (lambda: Csv("a", separator=";;"), 'separator must be one ASCII character, as "," or "\\t", got \';;\''),
        (
            lambda: Csv("a", test_path="b", test_seed=1),
            "test_seed must be left out where test_path gives the test rows, got 1",
        ),
        (lambda: Libsvm("a", features=0), "features must be at least 1, got 0"),
        (
            lambda: ImageFolder("a", size=(3,)),
            "size must be [height, width], each 1 to 100,000 pixels, or null, got [3]",
        ),
        (lambda: ImageFolder("a", channels=2), "channels must be 1 (grey), 3 (red, green, blue) or null, got 2"),
        (
            lambda: HuggingFace("a", test_seed=2),
            "test_seed must be left out where test_split gives the test rows, got 2",
        ),
        (
            lambda: Npz(path="a.npz", test_fraction=0.0),
            "test_fraction must be between 0 and 1, both excluded [dimensionless], got 0.0",
        ),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": X[:0], "targets": Y[:0]}, "features must hold at least one number, got shape (0, 2)"),
        ({"test_features": X + np.nan}, "test_features must be finite, got 12 non-finite values, the first in row 0"),
        ({"targets": Y + 1}, "targets must be labels from 0 to 1, got 2 at row 1 (3 of 6 rows): number the labels"),
    ],
)
def test_check_dataset(change, words):
    content = {"features": X, "targets": Y, "test_features": X, "test_targets": Y, "classes": 2} | change
    with pytest.raises(ValueError, match="must") as error:
        check_dataset(Dataset(**content))
    assert str(error.value).startswith(words)


def test_check_rows_of_unequal_number():
    with pytest.raises(
        ValueError, match=r"^test_targets must have one entry for each of the 6 rows of test_fe.*, got 4$"
    ):
        check_rows(X, Y[:4], 2, "test_")
