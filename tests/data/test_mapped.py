"""Features that stay in files: models are those of data in memory, bit for bit, and memory does not hold the data."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_exactness import finish

from batchednodes import load, train
from batchednodes.data import HuggingFace, ImageFolder, Npz
from batchednodes.data.sources import holdout
from batchednodes.data.sources.mapped import MappedRows
from batchednodes.simulation import prefetch
from batchednodes.simulation.planning import memory_plan, preflight
from batchednodes.simulation.planning.plan import plan

G = np.random.default_rng(0)
SHAPE = (90, 1, 4, 4)
FEATURES = {
    "float32": G.normal(size=SHAPE).astype(np.float32),
    "float64": G.normal(size=SHAPE),
    "uint8": G.integers(0, 256, SHAPE).astype(np.uint8),
    "numbers": G.normal(size=90),
}
TARGETS = np.arange(90) % 5
BASE = {"network": {"nodes": 6}, "local": {"lr": 0.1, "batch_size": 4}, "run": {"until": 3.0}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Returns an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path, **arrays):
    """Writes arrays as .npy files into a folder, or as an .npz file; returns the path."""
    if path.endswith(".npz"):
        np.savez(path, **arrays)
        return path
    Path(path).mkdir()
    for name, array in arrays.items():
        np.save(Path(path, f"{name}.npy"), array)
    return path


def both(path, *options, **data):
    """Returns the results of runs whose data are in memory, and in their file."""
    made = [{"kind": "npz", "path": path, "memory": memory, **data} for memory in ("loaded", "mapped")]
    return [train({**BASE, "task": {"data": one}}, *options) for one in made]


@pytest.mark.parametrize("path", ["data.npz", "folder"])
@pytest.mark.parametrize("name", FEATURES)
def test_sizes_and_rows_are_those_in_memory(here, path, name):
    written(path, features=FEATURES[name], targets=TARGETS)
    for standardize in ("none", "train", "all"):
        loaded, mapped = (Npz(path, standardize=standardize, memory=memory) for memory in ("loaded", "mapped"))
        one, other = loaded.load(6, 3), mapped.load(6, 3)
        assert other.sizes == mapped.sizes(6)
        assert not isinstance(other.features, np.ndarray)
        assert np.array_equal(one.features, other.features[:])
        assert np.array_equal(one.features[5:2:-1], other.features[np.array([5, 4, 3])])
        assert np.array_equal(one.test_features, other.test_features)
        assert one.features.dtype == other.features.dtype


def test_some_rows_are_scaled_as_all_are():
    rows = MappedRows(
        lambda index: np.stack([index, index], 1).astype(np.float32), np.arange(6), (np.ones(2), np.full(2, 2.0))
    )
    some = rows.of(np.array([5, 3]))
    assert some[:].tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert some[:].dtype == np.float32


OPTIONS = {
    "standardized": ("task.data.standardize=train", "local.steps=2"),
    "serial": ("executor=serial",),
    "epochs, float64": ("local.epochs=1", "dtype=float64", "task.partition={kind: dirichlet, alpha: 1}"),
    "augmented, replicas": ("task.augment=[{kind: crop, padding: 1}, {kind: mixup}]", "replicas=2"),
    "losses of others": ("algorithm={kind: pens, sampled: 2, kept: 1, rounds: 1}", "timing.kind=synchronous"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_models_are_those_of_data_in_memory_bit_for_bit(here, name):
    loaded, mapped = both(written("folder", features=FEATURES["uint8"], targets=TARGETS), *OPTIONS[name])
    assert torch.equal(loaded.x, mapped.x)
    assert loaded.metrics.equals(mapped.metrics)


@pytest.mark.parametrize("updates", [30, 3, 0])
def test_what_is_read_ahead_is_what_is_read_wave_by_wave(here, monkeypatch, updates):
    path = written("data.npz", features=FEATURES["float32"], targets=TARGETS)
    loaded, _ = both(path, "run.window=1")
    monkeypatch.setattr(prefetch, "READ", 4 * (8 + 4 * 16) * updates)
    assert torch.equal(loaded.x, both(path, "run.window=1")[1].x)


def test_a_run_that_goes_on_from_a_checkpoint_is_bit_identical(here):
    path = written("data.npz", features=FEATURES["float32"], targets=TARGETS)
    config = load({**BASE, "run": {"until": 6.0}, "task": {"data": {"kind": "npz", "path": path, "memory": "mapped"}}})
    (straight, _), (restarted, _) = finish([config]), finish([config], restart=here / "half.safetensors")
    assert torch.equal(straight.x, restarted.x)


def test_tokens_stay_integers(here):
    path = written("tokens.npz", features=G.integers(0, 30_000, (40, 6)), targets=np.arange(40) % 2)
    one, other = (Npz(path, memory=memory).load(3, 0) for memory in ("loaded", "mapped"))
    assert other.features.dtype == np.int64
    assert np.array_equal(one.features, other.features[:])
    assert np.array_equal(other.features[0], one.features[0])


def test_images_and_arrow_stay_in_their_files(here):
    for kind in "ab":
        (here / "images" / kind).mkdir(parents=True)
        for k in range(5):
            Image.fromarray(G.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(here / "images" / kind / f"{k}.png")
    sources = [(ImageFolder("images", memory=memory), 2) for memory in ("loaded", "mapped")]
    datasets = pytest.importorskip("datasets")
    columns = {"x": G.normal(size=(9, 3)).tolist(), "label": [0, 1, 2] * 3}
    datasets.Dataset.from_dict(columns).save_to_disk("arrow")
    sources += [(HuggingFace("arrow", test_split=None, memory=memory), 3) for memory in ("loaded", "mapped")]
    for (loaded, n), (mapped, _) in zip(sources[::2], sources[1::2], strict=True):
        one, other = loaded.load(n, 1), mapped.load(n, 1)
        assert other.sizes == mapped.sizes(n)
        assert other.sizes.mapped
        assert np.array_equal(one.features, other.features[:])
        assert np.array_equal(one.test_features, other.test_features)


def test_memory_does_not_hold_the_data(here, monkeypatch):
    features = np.zeros((6000, 1024), np.float32)
    features[:, 0] = np.arange(6000) % 7
    tests = {"test_features": features[:50], "test_targets": np.zeros(50, np.int64)}
    path, peaks = written("folder", features=features, targets=np.arange(6000) % 2, **tests), {}
    monkeypatch.setattr(holdout, "_BLOCK", 1 << 18)
    for memory in ("loaded", "mapped"):
        tracemalloc.start()
        one = {"kind": "npz", "path": path, "memory": memory, "standardize": "train"}
        peaks[memory] = train({**BASE, "run": {"until": 1.0}, "task": {"data": one}}).x, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert torch.equal(peaks["loaded"][0], peaks["mapped"][0])
    assert 4 * peaks["mapped"][1][1] < features.nbytes < peaks["loaded"][1][1]


def test_the_plan_does_not_count_what_stays_in_files(here):
    path, needs = written("data.npz", features=FEATURES["float32"], targets=TARGETS), {}
    for memory in ("loaded", "mapped"):
        config = load({**BASE, "task": {"data": {"kind": "npz", "path": path, "memory": memory}}})
        needs[memory] = plan([config], preflight.timeline([config], 0)).memory
    loaded, mapped = needs["loaded"], needs["mapped"]
    assert loaded["data"] == 90 * (16 + 5) * 4
    assert mapped["data"] == 18 * (16 + 5) * 4 + 72 * 8  # test rows, and training targets
    assert mapped["minibatches drawn ahead (host)"] > 2 * loaded["minibatches drawn ahead (host)"]
    assert "task.data.memory=mapped" in memory_plan.misfit([("data", 10 << 30)], 1 << 30, "cpu")


def test_what_cannot_stay_in_its_file_is_refused_by_name(here):
    np.savez_compressed("small.npz", features=FEATURES["float32"], targets=TARGETS)
    turned = np.asfortranarray(FEATURES["float32"])
    written("turned.npz", features=turned, targets=TARGETS)
    written("odd", features=FEATURES["float32"] * np.inf, targets=TARGETS)
    for path, message in {
        "small.npz": "task.data.path must hold uncompressed arrays with memory=mapped, got 'small.npz'",
        "turned.npz": "task.data.path must hold rows that lie one after the other with memory=mapped, got 'features'",
        "odd": "task.data must hold finite features, within the range of float32, got others in training row",
    }.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            train({**BASE, "task": {"data": {"kind": "npz", "path": path, "memory": "mapped"}}})
    path = written("data.npz", features=FEATURES["float32"], targets=TARGETS)
    with pytest.raises(ValueError, match=r"^task.shift must be null where features stay in files"):
        both(path, "task.shift={kind: noise}")
    with pytest.raises(ValueError, match=r"^task.data.memory must be one of loaded, mapped, got 'file'"):
        load({"task": {"data": {"kind": "npz", "path": path, "memory": "file"}}})
