"""Folders of runs that were damaged, moved or meddled with: nothing good is lost."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_resume import TINY, after, halted, same_files

from batchednodes import load, resume, train
from batchednodes.config import to_dict
from batchednodes.results import comparison
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.header import checksum
from batchednodes.results.folder.inside import BorderError, Inside
from batchednodes.simulation.observer import RunObserver


@pytest.mark.parametrize("left", [0, 700])
def test_good_checkpoints_stay_where_only_the_metrics_are_damaged(left, tmp_path):
    parts, files = halted(tmp_path)
    kept = {file: file.read_bytes() for file in files}
    metrics = (parts / "metrics.jsonl").read_bytes()
    (parts / "metrics.jsonl").write_bytes(metrics[:left])
    words = r"metrics.jsonl must begin as the run left it.*|there is no one before"
    with pytest.warns(UserWarning, match=words) as warned:
        resume(parts, "run.keep_checkpoints=1", stop=after(25))
    first, *_, last = (str(w.message) for w in warned)
    assert "metrics.jsonl must begin as the run left it" in first
    assert last.startswith("there is no one before: the run begins again at t = 0")
    assert all(file.read_bytes() == content for file, content in kept.items())
    (parts / "metrics.jsonl").write_bytes(metrics)  # found again
    resume(parts)
    same_files(tmp_path / "whole", parts)


def test_files_of_another_version_are_left_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(checkpoint, "FORMAT", "batchednodes-9")
        parts, _ = halted(tmp_path)
    kept = {p: p.read_bytes() for p in parts.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"checkpoint must be one that this version of batchednodes can read, batch"):
        resume(parts)
    assert {p: p.read_bytes() for p in parts.rglob("*") if p.is_file()} == kept


def test_a_damaged_name_of_the_version_is_damage_not_another_version(tmp_path):
    parts, files = halted(tmp_path)
    files[-1].write_bytes(files[-1].read_bytes().replace(b"batchednodes-4", b"batchednodes-5"))  # one bit
    with pytest.warns(UserWarning, match=r"which says 'batchednodes-5': it is damaged; .*going on from the one before"):
        resume(parts)
    files[-1].with_name(files[-1].name + ".unusable").unlink()
    same_files(tmp_path / "whole", parts)


def test_settings_that_are_gone_are_not_taken_for_the_defaults(tmp_path):
    parts, _ = halted(tmp_path)
    settings = (parts / "config.yaml").read_text()
    (parts / "config.yaml").write_text("\n")
    with pytest.raises(ValueError, match=r"DIR must hold the settings of a run, got .* with an empty config.yaml; p"):
        resume(parts)
    (parts / "config.yaml").write_text(settings)
    resume(parts)
    same_files(tmp_path / "whole", parts)


@contextmanager
def unreadable(path):
    """Lets nobody read a file."""
    if os.geteuid():
        path.chmod(0)
        yield
        path.chmod(0o644)
        return
    if subprocess.run(["mount", "--bind", "/proc/self/mem", path], capture_output=True).returncode:
        pytest.skip("this user may read all files, and mount none")
    yield
    subprocess.run(["umount", path], check=True)


def test_a_file_that_cannot_be_read_now_is_left_alone(tmp_path):
    parts, files = halted(tmp_path)
    with unreadable(files[-1]), pytest.raises(OSError, match=r"checkpoint must be a file that can be read, got .*000"):
        resume(parts)
    resume(parts)
    same_files(tmp_path / "whole", parts)


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/000099.safetensors", "final.safetensors"])
def test_nobody_waits_for_a_pipe(name, tmp_path):
    parts, _ = halted(tmp_path)
    (parts / name).unlink(missing_ok=True)
    os.mkfifo(parts / name)
    with pytest.raises(BorderError, match=rf"got '.*{name}', a pipe; nothing outside the folder is touched: remove it"):
        resume(parts)
    (parts / name).unlink()


PARTS = '{"status": "finished", "isolated": null, "networks": [%s]}'


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "3", "\xff", "[" * 100_000, PARTS % "", PARTS % '{"time": 6.0}', PARTS % '{"time": "6"}'],
    ids=range(10),
)
def test_a_damaged_summary_is_written_again(content, tmp_path):
    train(TINY, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(content)
    resume(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["networks"] == summary["networks"]


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"networks": 3}', PARTS % "", PARTS % "3"])
def test_a_damaged_summary_is_called_so_in_a_comparison(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    words = r"got '.*' with one that is damaged \((it|networks|a row of metrics) must be .*\); resume the run, which"
    with pytest.raises(ValueError, match=words):
        comparison.read(tmp_path)


def test_a_folder_in_place_of_the_lock_is_named_with_what_to_do(tmp_path):
    parts, _ = halted(tmp_path)
    (parts / "lock").mkdir()
    with pytest.raises(ValueError, match=r"lock' must be a file, got a folder; remove it$"):
        resume(parts)
    (parts / "lock").rmdir()
    resume(parts)
    same_files(tmp_path / "whole", parts)


def test_other_files_among_the_checkpoints_stay(tmp_path):
    parts, files = halted(tmp_path)
    shutil.copy(files[0], files[0].with_name("mine.safetensors"))
    others = [files[0].with_name(name) for name in ("mine.partial", ".tmp-notes", ".new-1-0")]
    for path in others:
        path.mkdir()
    resume(parts)
    assert {p.name for p in files[0].parent.iterdir()} > {"mine.safetensors"}
    assert all(path.is_dir() for path in others)
    files[0].with_name("mine.safetensors").unlink()
    same_files(tmp_path / "whole", parts)


def test_folders_that_killed_processes_were_making_go_away(tmp_path):
    for name, file, age in (("1-0", "config.yaml", 7200), ("2-0", "config.yaml", 60), ("3-0", "thesis.tex", 7200)):
        (tmp_path / f".new-{name}").mkdir()
        (tmp_path / f".new-{name}" / file).write_text("seed: 1")
        then = time.time() - age
        os.utime(tmp_path / f".new-{name}", (then, then))
    (tmp_path / ".new-ideas").mkdir()
    os.utime(tmp_path / ".new-ideas", (1, 1))
    train(TINY, "run.until=1", out=tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {".new-2-0", ".new-3-0", ".new-ideas", "run"}


def test_isolated_nodes_that_diverged_before_a_kill_run_again(tmp_path):
    options = ["local.lr=1e30", "local.steps=3", "run.on_divergence=stop", "run.baseline=isolated", "run.until=1"]
    options += ["update.clock={kind: deterministic, period: 0.6}", "run.mark_every=0.5"]
    train(TINY, *options[2:], out=tmp_path / "run", stop=Halt(tmp_path / "run" / "checkpoints" / "isolated" / "lock"))
    place = tmp_path / "run" / "checkpoints" / "isolated"
    assert place.is_dir()
    for path in place.rglob("*.safetensors"):
        path.unlink()
    train(TINY, *options[:2], *options[4:], out=tmp_path / "bad")
    shutil.copy(tmp_path / "bad" / "final.safetensors", place / "final.safetensors")
    config = (tmp_path / "bad" / "config.yaml").read_text()
    assert "until: 1.0" in config
    snapshot = checkpoint.load(Inside(place) / "final.safetensors", torch.device("cpu"))
    assert snapshot.journal.status == "diverged"
    (place / "metrics.jsonl").write_bytes((tmp_path / "bad" / "metrics.jsonl").read_bytes())
    settings = load(place / "config.yaml")
    journal = replace(snapshot.journal, config=to_dict(settings))
    checkpoint.save(Inside(place) / "final.safetensors", replace(snapshot, journal=journal))
    assert resume(tmp_path / "run").summary["status"] == "finished"
    assert not place.exists()


class Halt:
    """Asks to halt from when a file is there."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        return self.path.exists()


def test_a_branch_without_a_mark_keeps_the_models_that_it_began_with(tmp_path):
    first = train(TINY, out=tmp_path / "first")
    start, folder = f"run.start_from={tmp_path / 'first'}", tmp_path / "second"
    whole = train(TINY, start, "seed=5", out=tmp_path / "whole")
    train(TINY, start, "seed=5", "run.checkpoint_every.time=null", out=folder, stop=lambda: True)
    files = sorted((folder / "checkpoints").iterdir())
    files[-1].unlink()  # that of the halt: as if killed instead
    assert len(files) == 2
    resume(tmp_path / "first", "run.until=9")  # goes on in the meantime
    again = resume(folder, "run.checkpoint_every.time=0.5")
    assert torch.equal(again.x, whole.x)
    assert again.metrics["consensus_distance"][0] == first.metrics["consensus_distance"].iloc[-1]


@pytest.mark.parametrize("options", [[], ["sweep.gossip.clock.rate=[0.5, log(n)]", "replicas=2", "run.mark_every=0.1"]])
def test_metrics_and_averages_are_the_same_with_and_without_a_folder(options, tmp_path):
    seen = []
    free = train(TINY, *options)
    kept = train(TINY, *options, out=tmp_path / "run", watch=lambda config, progress, row: seen.append(row["time"]))
    assert kept.metrics.equals(free.metrics)
    assert kept.summary["networks"] == free.summary["networks"]
    assert seen == sorted(seen)
    assert seen[-1] == 6


def test_the_rows_of_one_mark_are_in_memory_where_files_have_the_others(tmp_path, monkeypatch):
    most = []
    observe = RunObserver.observe
    monkeypatch.setattr(RunObserver, "observe", lambda self, p: (observe(self, p), most.append(len(self.rows)))[0])
    train(TINY, "replicas=2", out=tmp_path / "run")
    assert set(most) == {2}


def test_what_a_killed_process_left_half_written_goes_away(tmp_path):
    parts, _ = halted(tmp_path)
    left = [
        parts / "final.safetensors.partial",
        *(parts / "checkpoints" / name for name in ("000009.safetensors.partial",)),
    ]
    for path in left:
        path.write_text("half")
    resume(parts)
    assert not any(path.exists() for path in left)
    same_files(tmp_path / "whole", parts)


def test_a_run_that_goes_on_has_no_summary_of_what_it_was(tmp_path):
    train(TINY, out=tmp_path / "run")

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", "run.until=9", stop=killed)
    assert not (tmp_path / "run" / "summary.json").exists()
    resume(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["networks"][0]["time"] == 9


def test_a_checkpoint_that_lacks_something_is_damaged(tmp_path):
    parts, files = halted(tmp_path)
    with safe_open(files[-1], framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del metadata["sha256"]
    about = json.loads(metadata["about"]) | {"state": ["x", "nothing"]}
    metadata["about"] = json.dumps(about)
    save_file(tensors, files[-1], metadata=metadata | {"sha256": checksum(checkpoint.contents(tensors), metadata)})
    with pytest.warns(UserWarning, match="checkpoint must hold all that a run needs, got .*'nothing'"):
        resume(parts)
    files[-1].with_name(files[-1].name + ".unusable").unlink()
    same_files(tmp_path / "whole", parts)
