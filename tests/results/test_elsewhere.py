"""Checkpoints on another disk: where a setting says so, and nowhere else."""

import json
import shutil

import pytest
import torch
from test_resume import TINY, after, halted, same_files

from batchednodes import resume, train


def scratch(tmp_path, *options):
    """Leaves a run that was halted, with its checkpoints elsewhere; returns the folders of both."""
    train(TINY, *options, out=tmp_path / "whole")
    elsewhere = f"run.checkpoint_folder={tmp_path / 'scratch'}"
    assert train(TINY, *options, elsewhere, out=tmp_path / "run", stop=after(40)).summary["status"] == "interrupted"
    (place,) = (tmp_path / "scratch").iterdir()
    return tmp_path / "run", place


@pytest.mark.parametrize("options", [[], ["run.baseline=isolated"]])
def test_a_run_goes_on_from_checkpoints_elsewhere(options, tmp_path):
    run, place = scratch(tmp_path, *options)
    assert place.name.startswith("run-")
    assert (run / "checkpoints").read_text() == f"{place}\n"
    assert [path.name for path in sorted(place.iterdir())][-1].endswith(".safetensors")
    moved = run.rename(tmp_path / "moved")
    resume(moved)
    assert [*(tmp_path / "scratch").iterdir()] == [place]
    assert {path.suffix for path in place.iterdir()} == {".safetensors"}
    same_files(tmp_path / "whole", moved)


def test_each_run_has_a_folder_of_its_own_and_touches_no_other(tmp_path):
    run, place = scratch(tmp_path)
    (place.parent / "000001.safetensors").write_text("precious")
    shutil.copytree(place, place.with_name("run-mine"))
    before = {path: path.read_bytes() for path in place.parent.rglob("*") if path.is_file()}
    again = train(run / "config.yaml", "run.keep_checkpoints=1", out=tmp_path / "again" / "run")
    assert (again.folder / "checkpoints").read_text() != (run / "checkpoints").read_text()
    assert all(path.read_bytes() == content for path, content in before.items())
    resume(run, "run.keep_checkpoints=1")
    assert all(path.read_bytes() == content for path, content in before.items() if path.parent != place)


def test_a_branch_starts_from_checkpoints_elsewhere(tmp_path):
    run, _ = scratch(tmp_path)
    second = train(TINY, f"run.start_from={run}", out=tmp_path / "second")
    assert second.summary["start"]["changed"].keys() == {"run.checkpoint_folder"}
    assert second.summary["start"]["time"] > 0
    assert torch.isfinite(second.x).all()


def test_a_run_without_checkpoints_leaves_no_folder_for_them(tmp_path):
    options = ["run.checkpoint_every.time=null", f"run.checkpoint_folder={tmp_path / 'scratch'}"]
    train(TINY, *options, out=tmp_path / "run")
    assert not any((tmp_path / "scratch").iterdir())
    assert not (tmp_path / "run" / "checkpoints").exists()
    resume(tmp_path / "run", "run.until=7", "run.checkpoint_every.time=0.5")
    assert (tmp_path / "run" / "checkpoints").is_file()


@pytest.mark.parametrize("kind", ["text", "relative", "other name", "other folder", "no setting", "link", "folder"])
def test_a_folder_that_the_settings_do_not_name_is_left_alone(kind, tmp_path):
    run, place = scratch(tmp_path)
    other = shutil.copytree(place, tmp_path / "other" / place.name)
    named = {
        "text": "0\0",
        "relative": f"../scratch/{place.name}",
        "other name": str(shutil.copytree(place, place.with_name("thesis"))),
        "other folder": str(other),
    }
    if kind in named:
        (run / "checkpoints").write_text(named[kind])
    elif kind == "no setting":
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            config.replace(f"checkpoint_folder: {place.parent}", "checkpoint_folder: null")
        )
    elif kind == "link":
        place.rename(tmp_path / "target")
        place.symlink_to(tmp_path / "target")
    else:
        (run / "checkpoints").unlink()
        (run / "checkpoints").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"run.checkpoint_folder must|must name the folder of the run's|, a link to"):
        resume(run)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        ("file/scratch", r"run.checkpoint_folder must be a folder that can be made, got .*: '.*file' is not a folder"),
        ("", "run.checkpoint_folder must be the path of a folder, got ''"),
        (json.dumps("a\0b"), r"run.checkpoint_folder must be the path of a folder, got 'a\\x00b'"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_written(place, rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rule):
        train(TINY, f"run.checkpoint_folder={place or json.dumps('')}", out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_checkpoints_may_be_moved(tmp_path):
    run, place = scratch(tmp_path)
    (tmp_path / "new").mkdir()
    moved = place.rename(tmp_path / "new" / place.name)
    with pytest.raises(
        ValueError, match=r"run.checkpoint_folder must be '.*scratch', .* got '.*new'; where they were mov"
    ):
        resume(run, f"run.checkpoint_folder={tmp_path / 'new'}")
    (run / "checkpoints").write_text(str(moved))
    resume(run, f"run.checkpoint_folder={tmp_path / 'new'}")
    same_files(tmp_path / "whole", run)
    assert not any((tmp_path / "scratch").iterdir())


def test_checkpoints_in_the_folder_of_the_run_are_not_left_behind(tmp_path):
    parts, files = halted(tmp_path)
    with pytest.raises(
        ValueError, match=r"run.checkpoint_folder must be null, where the run's checkpoints lie, got '/"
    ):
        resume(parts, f"run.checkpoint_folder={tmp_path / 'scratch'}")
    assert all(file.exists() for file in files)
    assert not (tmp_path / "scratch").exists()
