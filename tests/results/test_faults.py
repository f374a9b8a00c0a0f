"""Faults of disks and files, provoked for real: results stay correct, or one message says what happened."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import pytest
import torch
from safetensors.torch import load_file
from test_resume import TINY, same_files

from batchednodes import resume, train
from batchednodes.cli import app
from batchednodes.config import Every
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.checkpointer import Checkpointer
from batchednodes.results.folder.inside import Inside

BIG = [
    "run.checkpoint_every={time: 1, minutes: null}",
    "task.data={kind: digits}",
    "task.model={kind: mlp, hidden: [256]}",
    "local.batch_size=2",
]
"""A state of about 600 KB."""


@pytest.fixture
def disk(tmp_path):
    """Returns a function that mounts a small disk, or gives it another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size):
        how = (
            ["-o", f"remount,size={size}"] if os.path.ismount(place) else ["-t", "tmpfs", "-o", f"size={size}", "none"]
        )
        if subprocess.run(["mount", *how, str(place)], capture_output=True).returncode:
            pytest.skip("this user may not mount a disk")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def files_of_at_most(size):
    """Lets the operating system refuse longer files [B]."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore:TensorBoard's files:UserWarning", "ignore:no checkpoint:UserWarning")
def test_a_full_disk_costs_time_but_no_results(disk, tmp_path):
    train(TINY, *BIG, out=tmp_path / "whole")
    place = disk("1m")  # one checkpoint fits; the next one may be in the way of metrics while it is written
    with pytest.raises(
        OSError, match=r"(final.safetensors|metrics.jsonl) cannot be written: .*No space left on device"
    ):
        train(TINY, *BIG, out=place / "run")
    assert [p.name for p in (place / "run" / "checkpoints").iterdir()] == ["000001.safetensors"]
    assert not list((place / "run").rglob("*.partial"))
    disk("50m")
    resume(place / "run")
    same_files(tmp_path / "whole", place / "run")


def test_a_checkpoint_that_cannot_be_written_is_a_warning(disk, tmp_path):
    train(TINY, *BIG, out=tmp_path / "run")
    snapshot = checkpoint.load(Inside(tmp_path / "run") / "final.safetensors", torch.device("cpu"))
    place = disk("1m")
    shutil.copy(tmp_path / "run" / "metrics.jsonl", place)
    checkpointer = Checkpointer(Inside(place), Every(), 2, 0.0, beside=True)
    checkpointer.write(snapshot)
    checkpointer.settle()
    checkpointer.write(snapshot)
    with pytest.warns(UserWarning, match=r"no checkpoint: .*2.safetensors cannot be written: .*; the run goes on"):
        checkpointer.settle()
    checkpointer.close()
    assert [p.name for p in (place / "checkpoints").iterdir()] == ["000001.safetensors"]


def test_rows_that_cannot_be_kept_leave_no_checkpoint_that_refers_to_them(tmp_path):
    train(TINY, out=tmp_path / "run")
    snapshot = checkpoint.load(Inside(tmp_path / "run") / "final.safetensors", torch.device("cpu"))
    checkpointer = Checkpointer(Inside(tmp_path), Every(), 2, 0.0, beside=False)
    with pytest.raises(OSError, match=r"000001.safetensors cannot be written: metrics.jsonl: No such file"):
        checkpointer.write_now(snapshot)
    assert not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.filterwarnings("ignore:TensorBoard's files:UserWarning", "ignore:no checkpoint:UserWarning")
def test_a_disk_too_full_for_metrics_stops_the_run_at_the_mark_before(disk, tmp_path):
    options = [*BIG, "run.mark_every=0.4"]
    train(TINY, *options, out=tmp_path / "whole")
    place = disk("2m")

    def watch(config, progress, row):
        if progress.clocks.time > 3:
            fill(place / "filler")

    with pytest.raises(OSError, match=r"metrics.jsonl cannot be written: No space left on device"):
        train(TINY, *options, out=place / "run", watch=watch)
    kept = (place / "run" / "metrics.jsonl").read_bytes()
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes().startswith(kept)
    assert kept.endswith(b"}\n")
    (place / "filler").unlink()
    disk("50m")
    resume(place / "run")
    same_files(tmp_path / "whole", place / "run")


def fill(path):
    """Leaves no page on a disk."""
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.filterwarnings("ignore:TensorBoard's files:UserWarning", "ignore:no checkpoint:UserWarning")
def test_a_limit_on_files_ends_in_one_message(tmp_path):
    train(TINY, out=tmp_path / "whole")  # first: what is compiled is cached in longer files
    with files_of_at_most(3000), pytest.raises(OSError, match=r"run/.* cannot be written: .*File too large"):
        train(TINY, out=tmp_path / "run")
    resume(tmp_path / "run")
    same_files(tmp_path / "whole", tmp_path / "run")


@pytest.mark.filterwarnings("ignore:TensorBoard's files:UserWarning")
def test_the_command_says_howto_go_on_once_it_can(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(json.dumps(TINY | {"run": {"until": 9, "mark_every": 0.1}}))
    arguments = ["train", str(tmp_path / "c.yaml"), "run.checkpoint_every.time=0.5", "--out", str(tmp_path / "a run")]
    monkeypatch.setattr(sys, "argv", ["batchednodes", *arguments])
    with files_of_at_most(20_000), pytest.raises(SystemExit) as stop:
        app.main()
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2
    assert "metrics.jsonl cannot be written: File too large; once that is mended, to go on:" in said
    assert said.endswith(f"batchednodes resume '{tmp_path / 'a run'}'")


def test_tensorboard_may_fail_alone(tmp_path):
    options = ["run.mark_every=0.1", "run.checkpoint_every.time=null", "staleness.track=1"]
    whole = train(TINY, *options, out=tmp_path / "whole")
    longest = max(p.stat().st_size for p in (tmp_path / "whole").iterdir() if "tfevents" not in p.name)
    assert longest < 100_000
    with files_of_at_most(longest + 10), pytest.warns(UserWarning, match="TensorBoard's files in .* File too large"):
        alone = train(TINY, *options, out=tmp_path / "run")
    assert alone.summary["networks"] == whole.summary["networks"]
    same_files(tmp_path / "whole", tmp_path / "run")


def test_a_file_in_tensorboards_place_costs_the_curves_only(tmp_path):
    options = ["sweep.local.lr=[0.1, 0.2]"]
    train(TINY, *options, out=tmp_path / "whole")
    train(TINY, *options, out=tmp_path / "run", stop=lambda: True)
    shutil.rmtree(tmp_path / "run" / "local.lr=0.2")
    (tmp_path / "run" / "local.lr=0.2").write_text("in the way")
    with pytest.warns(
        UserWarning, match="TensorBoard's files in .* cannot be written: .*; the run goes on without them"
    ):
        resume(tmp_path / "run")
    first, second = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "run"))
    assert first["x"].equal(second["x"])
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()


@pytest.mark.filterwarnings("ignore:no checkpoint:UserWarning", "ignore:TensorBoard's files:UserWarning")
def test_a_folder_that_is_removed_ends_the_run_in_one_message(tmp_path):
    def watch(config, progress, row):
        while progress.clocks.time > 3 and (tmp_path / "run").exists():  # a checkpoint may appear while it is removed
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(OSError, match=r"run/metrics.jsonl cannot be written: No such file or directory"):
        train(TINY, out=tmp_path / "run", watch=watch)
    assert not (tmp_path / "run").exists()


class Disk:
    """Notes what a disk would still hold after a loss of power: contents and names as they were when last synced."""

    def __init__(self):
        self.contents, self.names, self.handles = {}, {}, {}
        self.still = Lock()  # between one sync and the next: other threads write meanwhile

    def fsync(self, handle):
        inode, path = os.fstat(handle).st_ino, Path(f"/proc/self/fd/{handle}").readlink()
        with self.still:
            if path.is_dir():
                self.names[path] = {p.name: p.stat().st_ino for p in path.iterdir() if p.exists()}
            else:
                self.contents[inode] = path.read_bytes()
                self.handles.setdefault(inode, os.dup(handle))  # so that no other file gets the number

    def lose(self, folder, place):
        """Puts what is left of a folder at one instant elsewhere."""
        with self.still:
            self._lose(folder, place)

    def _lose(self, folder, place):
        place.mkdir()
        for name, inode in self.names.get(folder, {}).items():
            if (folder / name).is_dir():
                self._lose(folder / name, place / name)
            elif inode in self.contents:
                (place / name).write_bytes(self.contents[inode])

    def close(self):
        for handle in self.handles.values():
            os.close(handle)


def test_a_loss_of_power_leaves_each_checkpoint_the_rows_that_it_refers_to(tmp_path, monkeypatch):
    disk, lost = Disk(), []
    monkeypatch.setattr(os, "fsync", disk.fsync)
    train(TINY, out=tmp_path / "whole")
    disk.lose(tmp_path / "whole", tmp_path / "finished")
    same_files(tmp_path / "whole", tmp_path / "finished")

    def watch(config, progress, row):
        if progress.clocks.time > 3 and not lost:
            while not any((tmp_path / "run" / "checkpoints").glob("*.safetensors")):
                time.sleep(0.01)
            disk.lose(tmp_path / "run", tmp_path / "left")
            lost.append((tmp_path / "run" / "metrics.jsonl").read_bytes())

    train(TINY, out=tmp_path / "run", watch=watch)
    monkeypatch.undo()
    disk.close()
    assert lost[0].startswith((tmp_path / "left" / "metrics.jsonl").read_bytes())
    resume(tmp_path / "left")  # no warning: the newest checkpoint is of use
    same_files(tmp_path / "whole", tmp_path / "left")


@pytest.mark.filterwarnings("ignore:TensorBoard's files:UserWarning", "ignore:no checkpoint:UserWarning")
def test_a_disk_that_becomes_read_only_ends_the_run_in_one_message(disk, tmp_path):
    train(TINY, out=tmp_path / "whole")
    run, sealed = disk("20m") / "run", tmp_path / "sealed"
    sealed.mkdir()

    def bind(source, target):
        subprocess.run(["mount", "--bind", source, target], check=True)

    def watch(config, progress, row):
        if progress.clocks.time > 3 and os.access(run, os.W_OK):
            bind(run, sealed)
            subprocess.run(["mount", "-o", "remount,bind,ro", sealed], check=True)
            bind(sealed, run)  # in one step: what other threads write through a mount keeps it from becoming read-only

    try:
        with pytest.raises(OSError, match=r"metrics.jsonl cannot be written: Read-only file system"):
            train(TINY, out=run, watch=watch)
        with pytest.raises(OSError, match=r"run/lock cannot be written: Read-only file system"):
            resume(run)
    finally:
        for place in (run, sealed):
            subprocess.run(["umount", "-l", place], check=True)
    resume(run)
    same_files(tmp_path / "whole", run)


def test_a_new_folder_on_a_read_only_disk_is_refused_before_anything_is_loaded(disk):
    place = disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    with pytest.raises(
        ValueError, match=r"--out must be a folder that can be made, got '.*/a/b': '.*disk' is not a fo"
    ):
        train({"task": {"data": {"kind": "npz", "path": "missing.npz"}}}, out=place / "a" / "b")
