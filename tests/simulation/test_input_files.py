"""A run goes on with the files that it began with, or says which one has changed."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_resume import TINY, after, same_files

from batchednodes import load, resume, train
from batchednodes.config import sweep
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.header import header, newest_first
from batchednodes.results.folder.inside import Inside
from batchednodes.simulation.resume import input_files


def points(*overrides):
    return sweep.points(load(TINY, overrides))


def sums(*overrides):
    return input_files.checksums(points(*overrides))


EDGES = "network.topology={kind: edge_list, path: %s}"
RING = "".join(f"{i} {(i + 1) % 8}\n" for i in range(8))


def test_contents_sizes_and_names_count(tmp_path):
    folder = tmp_path / "images"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(name.encode() * 50)
    images = f"task.data={{kind: image_folder, path: {folder}}}"
    seen = [sums(images)]
    (folder / "a" / "1.png").write_bytes(b"c" + b"a" * 49)
    seen.append(sums(images))
    (folder / "a" / "1.png").write_bytes(b"c" + b"a" * 48)
    seen.append(sums(images))
    (folder / "a" / "1.png").rename(folder / "a" / "2.png")
    seen.append(sums(images))
    assert all([*one] == [str(folder)] for one in seen)
    assert len({one[str(folder)] for one in seen}) == len(seen)
    shutil.copytree(folder, tmp_path / "copy")
    assert sums(f"task.data={{kind: image_folder, path: {tmp_path / 'copy'}}}").popitem()[1] == seen[-1][str(folder)]


def test_links_are_followed_and_what_systems_add_does_not_count(tmp_path):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (folder / "b").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "round").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "itself")
    os.mkfifo(folder / "pipe")
    images = f"task.data={{kind: image_folder, path: {folder}}}"
    first = sums(images)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / name).write_text("no image")
    assert sums(images) == first
    (tmp_path / "other" / "1.png").write_text("an image")
    assert sums(images) != first


def test_arguments_of_models_name_no_data(tmp_path):
    args = f"args: {{path: '{tmp_path}'}}"
    assert sums(f"task.model={{kind: python, target: 'example_models:Tied', {args}}}") == {}


def changed(path, place=0):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_each_of_many_small_files_counts(tmp_path):
    files = [tmp_path / "images" / f"{k % 3}" / f"{k}.png" for k in range(120)]
    for k, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100 + k))
    images = f"task.data={{kind: image_folder, path: {tmp_path / 'images'}}}"
    first = sums(images)
    for k, path in enumerate(files):
        changed(path, k)
        assert sums(images) != first
        changed(path, k)
    assert sums(images) == first
    (files[0].parent / "empty.png").touch()
    assert sums(images) != first


def places(path, options):
    """Returns the places of a file at which a change of it is noticed."""
    first, read = sums(options), []
    for place in range(path.stat().st_size):
        changed(path, place)
        if sums(options) != first:
            read.append(place)
        changed(path, place)
    return read


@pytest.mark.slow
def test_of_a_large_file_blocks_are_read_evenly_from_end_to_end(tmp_path, monkeypatch):
    for name, size in (("_WHOLE", 64), ("_END", 8), ("_BLOCK", 16)):
        monkeypatch.setattr(input_files, name, size)
    path = tmp_path / "edges"
    path.write_bytes(bytes(range(256)))
    assert places(path, EDGES % path) == [80 * block + k for block in range(4) for k in range(16)]
    path.write_bytes(bytes(64))
    assert places(path, EDGES % path) == [*range(64)]


def test_of_many_large_files_both_ends_of_each_count(tmp_path, monkeypatch):
    monkeypatch.setattr(input_files, "_WHOLE", 100)
    monkeypatch.setattr(input_files, "_END", 8)
    (tmp_path / "images").mkdir()
    for k, size in enumerate((10, 16, 17, 40, 60, 90)):
        (tmp_path / "images" / f"{k}.png").write_bytes(bytes(size))
    images = f"task.data={{kind: image_folder, path: {tmp_path / 'images'}}}"
    for k, size in enumerate((10, 16, 17, 40)):
        ends = {*range(min(8, size)), *range(max(0, size - 8), size)}
        assert {*places(tmp_path / "images" / f"{k}.png", images)} == ends


def test_checksums_of_an_older_form_are_not_called_other_content(tmp_path):
    path = tmp_path / "edges"
    path.write_text(RING)
    train(TINY, EDGES % path, out=tmp_path / "run", stop=after(9))
    file = newest_first(Inside(tmp_path / "run"))[0]
    snapshot = checkpoint.load(file, torch.device("cpu"))
    assert [*snapshot.journal.files] == [str(path)]
    old = replace(snapshot.journal, files={str(path): "0" * 64})
    checkpoint.save(file, replace(snapshot, journal=old))
    with pytest.warns(UserWarning, match=r"network.topology.path is not compared with what it was: an older version"):
        resume(tmp_path / "run", stop=after(9))
    assert header(newest_first(Inside(tmp_path / "run"))[0]).journal.files == snapshot.journal.files
    path.write_text(RING + "0 2\n")
    with pytest.raises(ValueError, match=r"network.topology.path must hold what it held when the run began"):
        resume(tmp_path / "run")


def test_a_file_that_may_not_be_read_counts_by_its_name_and_size(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / name).write_text("an image")
    images = f"task.data={{kind: image_folder, path: {tmp_path / 'images'}}}"
    seen = [sums(images)]
    opened = os.open

    def refuse(path, *rest, **how):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **how)

    monkeypatch.setattr(os, "open", refuse)
    seen.append(sums(images))
    changed(tmp_path / "images" / "b")
    seen.append(sums(images))
    assert all(one.keys() == {str(tmp_path / "images")} for one in seen)
    assert len({*map(str, seen)}) == 3


def test_files_of_all_networks_of_a_sweep_count(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(RING)
    paths = [str(tmp_path / name) for name in "ab"]
    found = sums(EDGES % paths[0], f"sweep.network.topology.path={json.dumps(paths)}", "replicas=3")
    assert sorted(found) == paths
    assert len({*found.values()}) == 1


def test_what_is_not_there_or_no_file_is_left_to_what_needs_it(tmp_path):
    assert sums() == {}
    for path in (tmp_path / "none", "/dev/zero", "x" * 300):
        assert {*sums(EDGES % path).values()} <= {input_files._checksum(str(tmp_path))}  # that of nothing


@pytest.mark.parametrize("kind", ["data", "graph", "trace"])
def test_a_run_goes_on_only_with_the_files_that_it_began_with(kind, tmp_path):
    path = tmp_path / "file"
    draw = np.random.default_rng(0)

    def write(change):
        if kind == "data":
            features = draw.normal(size=(40, 3)) + change
            np.savez(path.with_suffix(".npz"), features=features, targets=np.arange(40) % 2)
            path.with_suffix(".npz").replace(path)
        else:
            path.write_text(RING + "0 2\n" * change if kind == "graph" else f"0.1\n0.{2 + change}\n")

    options = {
        "data": [f"task.data={{kind: npz, path: {path}}}"],
        "graph": [EDGES % path],
        "trace": [f"gossip.delay={{kind: trace, path: {path}}}"],
    }[kind]
    key = {"data": "task.data", "graph": "network.topology", "trace": "gossip.delay"}[kind]
    source = TINY | ({"task": {}} if kind == "data" else {})
    write(0)
    kept = path.read_bytes()
    train(source, *options, out=tmp_path / "whole")
    train(source, *options, out=tmp_path / "parts", stop=after(9))
    write(1)
    left = {p: p.read_bytes() for p in (tmp_path / "parts").rglob("*") if p.is_file()}
    rule = f"^{key}.path must hold what it held when the run began, got other content in '{path}'; put it back"
    with pytest.raises(ValueError, match=rule):
        resume(tmp_path / "parts")
    assert {p: p.read_bytes() for p in (tmp_path / "parts").rglob("*") if p.is_file()} == left
    path.write_bytes(kept)
    resume(tmp_path / "parts")
    same_files(tmp_path / "whole", tmp_path / "parts")
