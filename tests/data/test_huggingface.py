"""Data sets of Hugging Face `datasets`: real ones, written by the package itself."""

import numpy as np
import pytest
from PIL import Image

from batchednodes.data import HuggingFace, check_dataset
from batchednodes.data.sources import huggingface

datasets = pytest.importorskip("datasets")

G = np.random.default_rng(0)
PIXELS = G.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
COLUMNS = {
    "label": [0, 1, 0, 1, 2, 2],
    "a": G.normal(size=6),
    "u": np.array([1, 2, 3, 4, 5, 6]),
    "v": G.normal(size=(6, 3)).astype(np.float32),
    "m": G.normal(size=(6, 2, 3)),
    "s": list("xyzxyz"),
}
FEATURES = datasets.Features(
    {
        "label": datasets.ClassLabel(names=["p", "q", "r", "t"]),
        "a": datasets.Value("float64"),
        "u": datasets.Value("int8"),
        "v": datasets.List(datasets.Value("float32")),
        "m": datasets.Array2D((2, 3), "float64"),
        "s": datasets.Value("string"),
    }
)


def made(change=None, features=None, images=True):
    """Returns a data set with changed columns, None removes one."""
    columns = {key: value for key, value in (COLUMNS | (change or {})).items() if value is not None}
    types = {key: value for key, value in FEATURES.items() if key in columns} | (features or {})
    if images:
        columns["image"] = [Image.fromarray(pixels) for pixels in PIXELS]
        types["image"] = datasets.Image()
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in columns.items()}
    return datasets.Dataset.from_dict(plain, features=datasets.Features(types))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a function that saves the splits of a data set, and gives the folder's name."""
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()

    def save(name="d", **splits):
        datasets.DatasetDict(splits).save_to_disk(name)
        return name

    return save


def loaded(source):
    dataset = source.load(2, 0)
    assert dataset.sizes == source.sizes(2)
    check_dataset(dataset)
    return dataset


@pytest.mark.parametrize("block", [4, 1000])
def test_images(folder, monkeypatch, block):
    monkeypatch.setattr(huggingface, "_BLOCK", block)
    path = folder(train=made(), test=made().select([1, 2]))
    dataset = loaded(HuggingFace(path))
    expected = PIXELS.transpose(0, 3, 1, 2) / np.float32(255)
    assert dataset.features.dtype == np.float32
    assert np.array_equal(dataset.features, expected)
    assert np.array_equal(dataset.test_features, expected[[1, 2]])
    assert dataset.targets.tolist() == COLUMNS["label"]
    assert dataset.test_targets.tolist() == [1, 0]
    assert dataset.classes == 4  # as the type of the column says
    small = loaded(HuggingFace(path, size=(2, 2), channels=1, standardize="all"))
    assert small.features.shape == (6, 1, 2, 2)
    both = np.concatenate([small.features, small.test_features])
    assert abs(both.mean()) < 1e-6  # rounding to float32
    assert abs(both.std() - 1) < 1e-6


@pytest.mark.parametrize(
    ("columns", "expected", "dtype"),
    [
        (("a",), COLUMNS["a"][:, None], np.float64),
        (("u",), COLUMNS["u"][:, None], np.float32),
        (("v",), COLUMNS["v"], np.float32),
        (("m",), COLUMNS["m"], np.float64),
        (("u", "v"), np.column_stack([COLUMNS["u"], COLUMNS["v"]]), np.float32),
        (("a", "m"), np.column_stack([COLUMNS["a"], COLUMNS["m"].reshape(6, 6)]), np.float64),
    ],
)
def test_numbers(folder, columns, expected, dtype):
    dataset = loaded(HuggingFace(folder(train=made(), test=made()), features=columns))
    assert dataset.features.dtype == dtype
    assert np.array_equal(dataset.features, expected)
    assert np.array_equal(dataset.test_features, expected)


def test_all_other_columns_are_features_where_there_are_no_images(folder):
    path = folder(train=made({"s": None}, images=False), test=made({"s": None}, images=False))
    dataset = loaded(HuggingFace(path, node="u"))
    wide = np.column_stack([COLUMNS["a"], COLUMNS["v"], COLUMNS["m"].reshape(6, 6)])
    assert np.array_equal(dataset.features, wide)
    assert dataset.node.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("settings", "expected", "classes"),
    [
        ({"target": "s"}, [0, 1, 2, 0, 1, 2], 3),
        ({"target": "u"}, [0, 1, 2, 3, 4, 5], 6),
        ({"target": "a"}, COLUMNS["a"][:, None].tolist(), None),
        ({"classes": False}, [[label] for label in COLUMNS["label"]], None),
    ],
)
def test_targets(folder, settings, expected, classes):
    dataset = loaded(HuggingFace(folder(train=made(), test=made()), features=("v",), **settings))
    assert dataset.targets.tolist() == expected
    assert dataset.classes == classes


def test_one_split_is_divided(folder):
    made().select([4, 0, 1, 2, 3]).save_to_disk("one")
    dataset = loaded(HuggingFace("one", test_split=None))
    assert (len(dataset.features), len(dataset.test_features)) == (4, 1)
    both = np.concatenate([dataset.features, dataset.test_features])
    expected = PIXELS[:5].transpose(0, 3, 1, 2) / np.float32(255)
    assert {part.tobytes() for part in both} == {part.tobytes() for part in expected}


@pytest.mark.parametrize("rows", [999, 1000, 2001])
def test_many_rows_are_read_in_parts(folder, rows):
    values = np.arange(rows * 2.0).reshape(rows, 2)
    data = datasets.Dataset.from_dict({"x": values.tolist(), "label": [0, 1] * (rows // 2) + [0] * (rows % 2)})
    dataset = loaded(HuggingFace(folder(train=data, test=data)))
    assert np.array_equal(dataset.features, values)


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"path": "no/such"}, "path must be an existing folder, or owner/name on the Hub, got 'no/such': "),
        ({}, {"path": "csv"}, "path must be an existing folder, or owner/name on the Hub, got 'csv'"),
        ({}, {"path": "../none"}, "path must be an existing folder, or owner/name on the Hub, got '../none'"),
        ({}, {"path": "."}, "path must be a folder that save_to_disk wrote, or owner/name on the Hub, got '.'"),
        ({}, {"subset": "x"}, "subset must be left out for a folder, got 'x' with 'd'"),
        ({}, {"split": "val"}, "split must be one of 'train', 'test', got 'val' for 'd'"),
        ({}, {"test_split": "val"}, "test_split must be one of 'train', 'test', got 'val' for 'd'; null holds rows of"),
        ({}, {"target": "x"}, "target must name a column of 'd (train)', got 'x', not one of 'label', 'a', 'u', 'v'"),
        ({}, {"features": ("x",)}, "features must name a column of 'd (train)', got 'x', not one of"),
        ({}, {"node": "x"}, "node must name a column of 'd (train)', got 'x', not one of"),
        ({}, {"features": ("image", "a")}, "features must name one column of images, or columns of numbers, beside"),
        ({}, {"features": ("label",)}, "features must name one column of images, or columns of numbers, beside"),
        ({}, {"features": ("a",), "size": (2, 2)}, "size must be null where features are no images, got [2, 2]"),
        ({}, {"features": ("s",)}, "usable features in 's', got 'd (train)' with string, no numbers (row 0, from 0)"),
        (
            {"v": [[1, 2, 3]] * 5 + [[1]]},
            {"features": ("v",)},
            "path must hold usable features in 'v', got 'd (train)' with lists of several lengths (row 0, from 0)",
        ),
        ({"a": [1, 2, None, 4, 5, 6]}, {"features": ("a",)}, "with 1 empty cells (row 0, from 0)"),
        (
            {"a": [1, 2, 3, np.nan, 5, 6]},
            {"features": ("a",)},
            "where features must be finite, got 1 non-finite values",
        ),
        ({"a": [1, 2, 3, np.nan, 5, 6]}, {"target": "a"}, "path must hold finite numbers in column 'a' of 'd (train)'"),
        ({"s": ["x", None, "", "y", "x", "y"]}, {"target": "s"}, "path must hold a class in column 's' of 'd (train)'"),
        ({"label": [0, -1, 0, 1, 2, 2]}, {}, "path must hold labels 0 to 3 in column 'label', got -1 in row 1, from 0"),
        ({}, {"target": "v"}, "path must hold a class in column 'v' of 'd (train)', got array("),
    ],
)
def test_faults(folder, change, settings, words):
    folder(train=made(change), test=made())
    with pytest.raises(ValueError, match=r"must") as error:
        HuggingFace(**{"path": "d"} | settings).load(2, 0)
    assert words in str(error.value)


def test_an_image_that_cannot_be_read_is_named(folder, tmp_path):
    broken = made(images=False)
    rows = [{"bytes": (b"x" if k == 3 else None), "path": str(tmp_path / "i.png")} for k in range(6)]
    Image.fromarray(PIXELS[0]).save("i.png")
    broken = broken.add_column("image", rows).cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match=r"with damage, or no image of BMP.* \(row 3, from 0\)$"):
        HuggingFace(folder(train=broken, test=broken)).load(2, 0)


def test_damaged_folders(folder, tmp_path):
    path = folder(train=made(), test=made())
    file = tmp_path / path / "train" / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    for content in (b"", whole[:700], whole[:3] + bytes(400) + whole[403:], whole[:-300]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"^path must (be a whole folder that save_to_disk wrote|hold)"):
            HuggingFace(path).load(2, 0)
    (tmp_path / path / "train" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"^path must be a whole folder that save_to_disk wrote, got 'd': "):
        HuggingFace(path).load(2, 0)
