"""Files that settings name must be regular ones: what would hang is refused by name, and never opened."""

import os
import socket

import numpy as np
import pytest
from fuzzing import call, settle
from PIL import Image

from batchednodes.data import HuggingFace, ImageFolder


def pipe(path):
    os.mkfifo(path)


def listening(path):
    """Puts a socket at a path, which stays there when it is closed."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a path of at most 100 bytes


def folder(path):
    path.mkdir()


def device(path):
    path.symlink_to("/dev/zero")


WHAT = {"a pipe": pipe, "a socket": listening, "a folder": folder, "a device": device}
SETTINGS = {
    "task.data.path": "task.data={kind: npz, path: it}",
    "csv": "task.data={kind: csv, path: it}",
    "test": "task.data={kind: csv, path: good.csv, test_path: it}",
    "parquet": "task.data={kind: parquet, path: it}",
    "libsvm": "task.data={kind: libsvm, path: it}",
    "images": "task.data={kind: image_folder, path: it}",
    "edges": "network.topology={kind: edge_list, path: it}",
    "weights": "network={topology: {kind: ring}, weights: {kind: given, path: it}}",
    "delays": "gossip={exchange: push, delay: {kind: trace, path: it}}",
    "availability": "network.availability={kind: trace, path: it}",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Returns an empty working directory with a good table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text("1,0\n2,1\n" * 9)
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "what"), [(s, w) for s in SETTINGS for w in WHAT if (s, w) != ("images", "a folder")]
)
def test_what_is_no_file_is_refused_by_name(here, setting, what):
    WHAT[what](here / "it")
    message = settle({"network": {"nodes": 4}}, (SETTINGS[setting],), folder=here)
    assert "path" in message
    assert "'it'" in message
    if setting in ("delays", "availability"):
        words = "it is not a file"
    else:
        words = "Is a directory" if what == "a folder" and setting in ("edges", "weights") else what
    assert words in message


@pytest.mark.parametrize("what", WHAT)
def test_a_config_that_is_no_file(here, what):
    WHAT[what](here / "it")
    outcome = call(here, "plan", "it")
    assert (outcome.code, outcome.err) == (
        2,
        f"error: config file 'it' must be a file, got {what}; write the settings to a file\n",
    )


@pytest.mark.parametrize("what", [*WHAT, "a link to nothing"])
@pytest.mark.parametrize("place", ["a", "a/inner"])
def test_pipes_among_images(here, what, place):
    (here / "in" / "a" / "inner").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(np.full((2, 2), k, np.uint8)).save(here / "in" / "a" / f"{k}.png")
    path = here / "in" / place / "3.png"
    WHAT.get(what, lambda path: path.symlink_to("nowhere"))(path)
    if what == "a folder":
        assert ImageFolder("in").sizes(1).samples == 2
        return
    message = settle({"task": {"data": {"kind": "image_folder", "path": "in"}}, "network": {"nodes": 2}})
    assert message == f"task.data.path must hold regular files, got 'in/{place}/3.png', {what}: remove it"


def test_pipes_in_a_folder_of_hugging_face(here):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict({"x": [0.5, 1.5, 2.5], "label": [0, 1, 0]})
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk("d")
    (here / "d" / "train" / "state.json").unlink()
    pipe(here / "d" / "train" / "state.json")
    with pytest.raises(
        ValueError, match=r"^path must hold regular files, got 'd/train/state.json', a pipe: remove it$"
    ):
        HuggingFace("d").sizes(1)
