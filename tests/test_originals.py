"""A run goes on with the files that it began with, or says which one has changed."""

import json
import shutil

import numpy as np
import pytest
from test_resume import TINY, after, same_files

from batchednodes import load, originals, resume, sweep, train


def points(*overrides):
    return sweep.points(load(TINY, overrides))


def sums(*overrides):
    return originals.checksums(points(*overrides))


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


def test_of_large_files_a_share_is_read_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "_BLOCK", 16)
    monkeypatch.setattr(originals, "_BLOCKS", 4)
    path, content = tmp_path / "edges", bytearray(range(256))
    path.write_bytes(content)
    first, read = sums(EDGES % path), []
    for place in range(256):
        content[place] ^= 1
        path.write_bytes(content)
        read.append(sums(EDGES % path) != first)
        content[place] ^= 1
    assert [k for k, one in enumerate(read) if one] == [64 * block + k for block in range(4) for k in range(16)]


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
        assert {*sums(EDGES % path).values()} <= {originals._checksum(tmp_path)}  # that of nothing


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
