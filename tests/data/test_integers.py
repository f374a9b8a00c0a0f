"""Features that are integers: which sources keep them, who gets them, and what is refused of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from fuzzing import settle

from batchednodes import load, train
from batchednodes.config.sweep import points
from batchednodes.data import Csv, HuggingFace, Npz, Parquet
from batchednodes.simulation.planning.memory_plan import MemoryBudget

RUN = {"network": {"nodes": 5}, "run": {"until": 6, "mark_every": 3}, "local": {"lr": 1.0, "batch_size": 4, "steps": 2}}


def model(name, **args):
    return f"task.model={{kind: python, target: 'example_models:{name}', args: {args}}}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(features, targets=None, **more):
    """Writes arrays into the working directory; returns the settings of their data."""
    targets = features[:, 0] % 2 if targets is None else targets
    np.savez("d.npz", features=features, targets=targets, **more)
    return "task.data={kind: npz, path: d.npz}"


def tokens(base, rows=80):
    """Returns sequences of three equal tokens, `base` or base + 1."""
    return base + np.random.default_rng(0).integers(0, 2, (rows, 1)) * np.ones((1, 3), np.int64)


# ---------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("kind", "rule", "kept"),
    [
        *((kind, "auto", "i8") for kind in ("i2", "u2", "i4", "u4", ">i4", "i8", "u8")),
        *((kind, "auto", "f4") for kind in ("u1", "i1", "?")),
        *((kind, "integers", "i8") for kind in ("u1", "i1", "i8")),
        *((kind, "real", kept) for kind, kept in (("u1", "f4"), ("i2", "f4"), ("i8", "f8"))),
    ],
)
def test_arrays_of_integers(here, kind, rule, kept):
    values = (np.arange(12) % 2 * 100).reshape(6, 2).astype(kind)
    save(values, np.arange(6) % 2)
    source = Npz("d.npz", features_as=rule)
    dataset = source.load(2, 0)
    assert dataset.features.dtype == kept
    assert dataset.sizes == source.sizes(2)
    both = np.concatenate([dataset.features, dataset.test_features])
    assert np.array_equal(both, values)  # all rows are alike


def test_integers_beside_reals_are_reals(here):
    save(np.ones((4, 2), int), test_features=np.full((2, 2), 0.5), test_targets=np.ones(2, int))
    assert Npz("d.npz").load(2, 0).features.dtype == np.float64


TABLE = pd.DataFrame({"a": [1, 2**53 + 1, 3, 4], "b": [5, 6, 7, 8], "y": list("uvuv")})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("change", "settings", "integers"),
    [
        ({}, {}, True),
        ({}, {"features_as": "real"}, False),
        ({}, {"standardize": "all"}, False),
        ({"b": [5, 6, 7.5, 8]}, {}, False),
        ({"b": [True, False, True, False]}, {}, False),
        ({"b": [5, 6, 7, 2**64 - 1]}, {}, False),
        ({"a": [1, -2, 3, 4.0]}, {"ignore": ("b",), "features_as": "integers"}, True),
        ({"b": [5, 6, 7.5, 8]}, {"ignore": ("b",)}, True),
    ],
)
def test_tables_of_integers(here, kind, change, settings, integers):
    frame = TABLE.assign(**change)
    if kind == "csv":
        frame.to_csv("t", index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet("t")
    source = (Csv if kind == "csv" else Parquet)("t", test_fraction=0.25, **settings)
    dataset = source.load(2, 0)
    assert dataset.features.dtype == (np.int64 if integers else np.float64)
    assert dataset.sizes == source.sizes(2)
    if integers:
        rows = np.concatenate([dataset.features, dataset.test_features])
        assert sorted(rows[:, 0]) == sorted(int(a) for a in frame["a"])


def test_small_integers_of_parquet_are_reals(here):
    pytest.importorskip("pyarrow")
    TABLE.assign(a=np.arange(4, dtype=np.uint8), b=np.arange(4, dtype=np.uint8)).to_parquet("t")
    assert Parquet("t").load(2, 0).features.dtype == np.float64
    assert Parquet("t", features_as="integers").load(2, 0).features.dtype == np.int64


def test_a_late_number_that_is_none_makes_a_table_real(here, monkeypatch):
    monkeypatch.setattr("batchednodes.data.sources.tables._CELLS", 10)
    (here / "t").write_text("1,2,0\n" * 60 + "1,2.5,0\n")
    assert not Csv("t").sizes(1).integers
    assert Csv("t", ignore=("1",)).sizes(1).integers


@pytest.mark.parametrize(
    ("columns", "integers"),
    [(("ids",), True), (("ids", "one"), True), (("small",), False), (("ids", "real"), False), (("matrix",), True)],
)
def test_columns_of_hugging_face(here, columns, integers):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    g = np.random.default_rng(0)
    values = {"ids": g.integers(0, 2**40, (6, 3)), "one": g.integers(0, 9, 6), "small": g.integers(0, 9, (6, 2))}
    values |= {"real": g.normal(size=6), "matrix": g.integers(0, 9, (6, 2, 2)), "label": np.arange(6) % 2}
    lists = {"ids": datasets.List(datasets.Value("int64")), "small": datasets.List(datasets.Value("int8"))}
    types = {name: datasets.Value("int32") for name in ("one", "label")} | lists
    types |= {"real": datasets.Value("float64"), "matrix": datasets.Array2D((2, 2), "int16")}
    made = datasets.Dataset.from_dict({k: v.tolist() for k, v in values.items()}, features=datasets.Features(types))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk("d")
    source = HuggingFace("d", features=columns)
    dataset = source.load(2, 0)
    assert dataset.sizes == source.sizes(2)
    assert (dataset.features.dtype == np.int64) is integers
    expected = values[columns[0]] if len(columns) == 1 else np.column_stack([values[name] for name in columns])
    assert np.array_equal(dataset.features, expected)


# ----------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("executor", ["batched", "serial"])
@pytest.mark.parametrize(("dtype", "base"), [("bfloat16", 1000), ("float32", 2**24), ("float64", 2**53)])
def test_a_module_gets_every_token_as_it_is(here, dtype, base, executor):
    data = save(tokens(base))
    result = train(RUN, data, model("Tokens", vocabulary=2, base=base), f"dtype={dtype}", f"executor={executor}")
    assert result.metrics["accuracy_min"].iloc[-1] == 1
    assert result.x.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("name", ["Tokens", "Hot"])
@pytest.mark.parametrize("options", [["local.compile=off"], ["local.compile=auto", "run.until=40"], ["local.epochs=1"]])
def test_batched_equals_serial_with_tokens(here, name, options):
    g = np.random.default_rng(1)
    data, both = save(g.integers(0, 5, (60, 3)), g.integers(0, 2, 60)), []
    run = RUN | {"local": {"lr": 0.5, "batch_size": 4}} if "local.epochs=1" in options else RUN
    for executor in ("batched", "serial"):
        some = [option for option in options if executor == "batched" or "compile" not in option]
        both.append(train(run, data, model(name), "dtype=float64", f"executor={executor}", *some))
    assert torch.allclose(both[0].x, both[1].x, rtol=0, atol=1e-12)
    assert not torch.equal(both[0].x[0], both[0].x[1])


def test_a_module_that_takes_no_integers_gets_reals(here):
    data = save(np.random.default_rng(2).integers(0, 9, (40, 3)))
    found, real = (train(RUN, data, model("flat"), *more) for more in ([], ["task.data.features_as=real"]))
    assert torch.equal(found.x, real.x)
    plain = [train(RUN, data, "task.model.kind=linear", *more) for more in ([], ["task.data.features_as=real"])]
    assert torch.equal(plain[0].x, plain[1].x)


def test_memory_of_integers_is_planned(here):
    data = save(tokens(0), np.ones((80, 3), int))
    (own,) = points(load(RUN, [data, model("Tokens"), "dtype=bfloat16"]))
    (reals,) = points(load(RUN, [data, "task.model.kind=linear", "dtype=bfloat16"]))
    sizes = own.config.task.data.sizes(5)
    sent = [MemoryBudget([one.config], 3, [sizes]).tensors(5, 0)["data"] for one in (own, reals)]
    assert sent == [80 * (3 * 8 + 3 * 8), 80 * (3 * 2 + 3 * 8)]


# --------------------------------------------------------------------------------------------------------- refusals

FAULTS = [
    ([model("Tokens", vocabulary=4)], "looks up, got index 4, where embedding takes 0 to 3, in training row "),
    ([model("Hot", vocabulary=4)], "looks up, got index 4, where scatter takes 0 to 3, in training row "),
    ([model("Hot", vocabulary=-1)], "got: F.one_hot without num_classes, which else depends on the minibatch"),
    ([model("Tokens"), "task.data.features_as=real"], "task.model must take features of shape [b, 3], got: "),
    ([model("flat"), "task.data.features_as=integers"], "task.model must take features of shape [b, 3], got: "),
    ([model("flat", features=4)], "task.model must take features of shape [b, 3], got: "),
    (
        [model("Tokens"), "task.data.standardize=train"],
        "task.data.standardize must be none where features are integers, got train; use features_as=real",
    ),
    (
        [model("Tokens"), "task.shift={kind: noise}"],
        "task.shift must be null where features are integers, which it would make reals; use task.data.features_as=re",
    ),
    (
        ["task.data.features_as=integers"],
        "task.model.kind must be python where task.data.features_as=integers, got one that takes reals; use features_a",
    ),
]


@pytest.mark.parametrize(("options", "words"), FAULTS)
def test_what_does_not_go_with_integers_is_refused(here, options, words):
    data = save(np.tile(np.arange(5), 12).reshape(20, 3))
    assert words in settle(RUN, (data, *options), build=True, folder=here)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"standardize": "all"}, "standardize must be none where features are integers, got all; use features_as=real"),
        ({}, "must hold integers below 2^63 in size in column 'b' of 't', got 7.5 in row 2 of the data, from 0 (1 of"),
    ],
)
def test_tables_that_are_to_hold_integers(here, settings, words):
    TABLE.assign(b=[5, 6, 7.5, 8]).to_csv("t", index=False)
    with pytest.raises(ValueError, match="must") as error:
        Csv("t", features_as="integers", **settings).load(1, 0)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones((4, 2)), "features_as must be auto or real where features are no integers, got integers and float64"),
        (np.ones((4, 2), bool), "features_as must be auto or real where features are no integers, got integers and bo"),
        (np.full((4, 2), 2**63, np.uint64), "entries of features below 2^63, got 9223372036854775808 in 'd.npz': use"),
    ],
)
def test_arrays_that_are_to_hold_integers(here, features, words):
    save(features, np.arange(4) % 2)
    with pytest.raises(ValueError, match="must") as error:
        Npz("d.npz", features_as="integers").load(1, 0)
    assert words in str(error.value)


@pytest.mark.parametrize("more", ["task.model.kind=linear", "task.data.features_as=real"])
@pytest.mark.parametrize(("dtype", "largest"), [("bfloat16", 257), ("float32", 2**24 + 1), ("float32", 2**24)])
def test_integers_that_become_reals_and_are_rounded_are_a_warning(here, dtype, largest, more, recwarn):
    data, run = save(np.array([[0, 1], [largest, 3]] * 10)), RUN | {"local": {"lr": 0.0}}
    if largest == 2**24:
        train(run, data, more, f"dtype={dtype}")
        assert not recwarn
        return
    words = f"task.data: features are whole numbers up to {largest:,} in size, of which dtype={dtype} holds those to"
    with pytest.warns(UserWarning, match=words):
        train(run, data, more, f"dtype={dtype}")


@pytest.mark.parametrize("at", [0, 1])
def test_large_integers_beside_reals_are_a_warning(here, at):
    frame = pd.DataFrame({"a": np.arange(20) + 2**24, "b": np.linspace(0, 1, 20), "y": [0, 1] * 10})
    frame[["a", "b", "y"] if at == 0 else ["b", "a", "y"]].to_csv("t", index=False)
    data = "task.data={kind: csv, path: t}"
    words = (
        rf"features are whole numbers up to 16,777,2\d\d in size, .* \(at place {at} of a row, from 0\); number them"
    )
    with pytest.warns(UserWarning, match=words):
        train(RUN, data)


def test_large_reals_are_no_warning(here, recwarn):
    train(RUN, save(np.linspace(2**24, 2**25, 40).reshape(20, 2) + 0.5, np.arange(20) % 2))
    assert not recwarn


@pytest.mark.parametrize("name", ["Int64", "int64[pyarrow]"])
def test_nullable_integers_of_parquet_without_gaps_stay_integers(here, name):
    pytest.importorskip("pyarrow")
    TABLE.astype({"a": name, "b": name}).to_parquet("t")
    source = Parquet("t", test_fraction=0.25)
    dataset = source.load(2, 0)
    assert source.sizes(2).integers
    assert dataset.features.dtype == np.int64
    assert dataset.sizes == source.sizes(2)


HINT = "; task.data.features_as=integers gives the model integers"


@pytest.mark.parametrize(
    ("kind", "name", "hinted"),
    [("u1", "Tokens", True), ("f4", "Tokens", True), ("?", "Tokens", True), ("u1", "Branching", False)],
)
def test_a_model_that_takes_integers_only_is_told_of_them(here, kind, name, hinted):
    data = save((np.arange(60).reshape(20, 3) % 2).astype(kind), np.arange(20) % 2)
    assert (HINT in settle(RUN, (data, model(name)), build=True, folder=here)) is hinted
