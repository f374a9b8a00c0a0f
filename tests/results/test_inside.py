"""Nothing outside the folder of a run is written, followed or removed, whatever stands in place of a name in it."""

import ctypes
import json
import os
import shutil
import socket
import stat
import struct
import sys
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from fuzzing import call
from matplotlib.figure import Figure
from test_resume import TINY, after, halted, same_files

from batchednodes import resume, train
from batchednodes.figures import published
from batchednodes.figures.published.experiment import Experiment
from batchednodes.results.folder.inside import BorderError, Inside

pytestmark = pytest.mark.slow

ANEW = "isolated/"
"""A folder that goes away as a whole, links in it and all, before it is written anew."""
SWEPT = TINY | {"run": TINY["run"] | {"until": 3, "baseline": "isolated"}, "sweep": {"local.lr": [0.1, 0.2]}}
COMMANDS = {
    "resume": ["resume", "run"],
    "plot": ["plot", "run"],
    "compare": ["compare", "run"],
    "plan": ["plan", "run/config.yaml"],
    "again": ["train", "run/config.yaml", "--out", "again", "run.baseline=none"],
    "from": ["train", "mine.yaml", "--from", "run", "--out", "from"],
    "train": ["train", "mine.yaml", "--out", "run"],
    "figure": ["figure", "tiny", "--out", "run"],
    "list": ["list", "staleness"],
}


class Tiny(Experiment):
    """A figure that takes no second."""

    def batches(self):
        return {"tiny": TINY | {"run": {"until": 1}}}

    def table(self, metrics):
        return pd.DataFrame({"time": metrics["tiny"]["time"]})

    def draw(self, table):
        return Figure(figsize=(1, 1))

    def findings(self, table):
        return []


class Watched:
    """Names in some folders that are opened, written, made, renamed or removed, as the kernel tells."""

    EVENTS = 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200  # modify, attributes, open, moves, create, delete

    def __init__(self, folder):
        self.folder, self.libc, self.places = folder, ctypes.CDLL(None, use_errno=True), {}
        self.handle = self.libc.inotify_init1(os.O_NONBLOCK)
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
            number = self.libc.inotify_add_watch(self.handle, os.fsencode(place), self.EVENTS)
            assert number >= 0, ctypes.get_errno()
            self.places[number] = place

    def names(self):
        """Returns the names since the last call, relative to the folder; "." is that itself."""
        found = set()
        while True:
            try:
                data, at = os.read(self.handle, 1 << 20), 0
            except BlockingIOError:
                return found
            while at < len(data):
                number, _, _, size = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + size].rstrip(b"\0")
                found.add(str((self.places[number] / os.fsdecode(name)).relative_to(self.folder)))
                at += 16 + size

    def close(self):
        os.close(self.handle)


@contextmanager
def watched(folder):
    watch = Watched(folder)
    yield watch
    watch.close()


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Returns a working directory with a run that was halted in its isolated nodes, after one mark was drawn."""
    place = tmp_path_factory.mktemp("left")
    (place / "mine.yaml").write_text(json.dumps(TINY))
    alone = place / "run" / "checkpoints" / "isolated"
    train(SWEPT, out=place / "run", stop=lambda: any((alone / "checkpoints").glob("*.safetensors")))
    assert any((alone / "checkpoints").iterdir())
    (place / "run" / "figures").mkdir()
    for name in ("final.safetensors.partial", "checkpoints/000009.safetensors.partial"):
        (place / "run" / name).write_text("half")
    return place


@pytest.fixture(scope="module")
def touched(left, tmp_path_factory):
    """Returns the names in the run's folder that each command opens or changes, passes through, or lists."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(published.EXPERIMENTS, "tiny", lambda size: Tiny())
        for command, arguments in COMMANDS.items():
            place = tmp_path_factory.mktemp("traced") / "work"
            shutil.copytree(left, place)
            with watched(place / "run") as watch:
                call(place, *arguments)
                names = watch.names()
            inside = {str(p.relative_to(base / "run")) for base in (left, place) for p in (base / "run").rglob("*")}
            listed = {name for name in inside if str(Path(name).parent) in names and Path(name).parent != Path()}
            passed = {str(above) for name in names for above in Path(name).parents}
            found[command] = (names | listed | passed) - {"."}
        yield found


def seen(folder):
    """Returns all that can be seen of the files below a folder."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else sorted(path.iterdir()) if path.is_dir() else b""
        found[path] = (content, status.st_mode, status.st_ino, status.st_nlink, status.st_mtime_ns)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="names are traced with Linux's inotify")
def test_what_links_lead_to_stays_as_it_is_whatever_the_command(left, touched, tmp_path):
    names = sorted({name for found in touched.values() for name in found})
    assert {"lock", "metrics.jsonl", "config.yaml", "checkpoints", "summary.json", "figures"} <= {*names}
    place, refused = tmp_path / "work", set()
    for name in names:
        if "tfevents" in name and not (left / "run" / name).exists():
            continue  # its name is that of the second in which it was made
        for kind in ("file", "folder"):
            for command in (command for command in COMMANDS if name in touched[command]):
                shutil.copytree(left, place)
                outside = planted(place / "run" / name, tmp_path / "outside", kind)
                before = seen(outside)
                with watched(outside) as watch:
                    outcome = call(place, *COMMANDS[command])
                    followed = watch.names()
                case = (name, kind, command, outcome)
                assert seen(outside) == before, case
                assert not followed or command in ("plan", "again"), case  # whose CONFIG may be a link: it is only read
                assert outcome.code == 0 or (outcome.code == 2 and outcome.err.count("error: ") == 1), case
                if "nothing outside the folder is touched" in outcome.err:
                    refused.add((name, command))
                    assert {p for p in place.iterdir() if p.name in ("from", "again")} == set()
                shutil.rmtree(place)
                shutil.rmtree(outside)
    assert {name for name, command in refused if command == "resume"} == {
        name for name in touched["resume"] if "tfevents" not in name and not name.startswith(ANEW)
    }


def planted(path, outside, kind):
    """Puts a link to what is outside in place of a name: to that itself, where it is of the kind, or to another."""
    outside.mkdir()
    target = outside / "target"
    path.parent.mkdir(parents=True, exist_ok=True)
    there = "folder" if path.is_dir() else "file" if path.exists() else ""
    if there == kind:
        path.rename(target)
    elif there:
        shutil.rmtree(path) if there == "folder" else path.unlink()
    if there != kind:
        target.mkdir() if kind == "folder" else target.write_text("precious")
    if kind == "folder":
        for other in ("000001.safetensors", "000009.safetensors.partial", "metrics.jsonl", "mine"):
            (target / other).touch()
        (target / ".new-1-1").mkdir()
    path.symlink_to(target)
    return outside


@pytest.mark.parametrize("name", ["metrics.jsonl", "lock"])
def test_a_file_with_a_second_name_elsewhere_is_not_written_into(name, tmp_path):
    parts, _ = halted(tmp_path)
    (parts / name).touch()
    (tmp_path / "backup").hardlink_to(parts / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        BorderError, match=rf"got '.*{name}', a file with a second name elsewhere .*: put a copy in its"
    ):
        resume(parts)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    shutil.copy(parts / name, parts / "copy")
    (parts / "copy").replace(parts / name)
    resume(parts)
    same_files(tmp_path / "whole", parts)


def test_backups_of_hard_links_keep_what_is_replaced(tmp_path):
    parts, files = halted(tmp_path)
    kept = {path: path.read_bytes() for path in (parts / "config.yaml", parts / "summary.json", *files)}
    for k, path in enumerate(kept):
        (tmp_path / f"{k}").hardlink_to(path)
    resume(parts)
    assert [(tmp_path / f"{k}").read_bytes() for k in range(len(kept))] == [*kept.values()]
    same_files(tmp_path / "whole", parts)


def odd(path, kind):
    """Puts what is neither a file nor a folder in place of a name."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        except PermissionError:
            pytest.skip("this user may make no devices")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_nobody_waits_for_what_is_no_file(kind, left, touched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    names = [name for name in touched["resume"] if "tfevents" not in name and "0005" not in name]
    for name in sorted(name for name in names if not name.startswith(ANEW)):
        shutil.copytree(left / "run", "run")
        Path("run", name).parent.mkdir(parents=True, exist_ok=True)
        odd(Path("run", name), kind)
        outcome = call(tmp_path, "resume", "run")
        assert outcome.code == 2
        assert f"got 'run/{name}', a {kind}; nothing outside the folder is touched: remove it" in outcome.err
        shutil.rmtree("run")
    shutil.copytree(left / "run", "run")
    odd(Path("run", "summary.json"), kind)
    assert "a finished run, got 'run' without" not in call(tmp_path, "compare", "run").err
    assert call(tmp_path, "compare", "run").code == 2


def test_the_folder_itself_may_be_a_link_or_lie_below_one(tmp_path):
    parts, _ = halted(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    parts.rename(tmp_path / "disk" / "one")
    (tmp_path / "latest").symlink_to(Path("runs", "one"))
    resume(tmp_path / "latest", stop=after(9))
    resume(tmp_path / "runs" / "one")
    same_files(tmp_path / "whole", tmp_path / "disk" / "one")
    assert train(TINY, f"run.start_from={tmp_path / 'latest'}", out=tmp_path / "runs" / "two").folder


def test_names_below_a_folder_are_those_of_the_folder(tmp_path):
    place = Inside(tmp_path)
    (place / "a/b").make()
    (place / "a" / "b" / "file").create(b"content")
    assert (place / "a/b/file").read(3) == b"con"
    assert (place / "a/b").names() == ["file"]
    assert str(place / "a/b") == str(tmp_path / "a" / "b")
    with pytest.raises(FileExistsError):
        (place / "a/b/file").create(b"other")
    (place / "a/b/file").replace([b"other", b" content"])
    (place / "a/b/file").write(b"!")
    (place / "a/b/file").write(b"O", 0)
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"Other content!"
    assert not (place / "a/b").is_file()
    assert (place / "a/b").is_folder()
    assert (place / "nothing/at/all").status() is None
    assert Inside(tmp_path / ("x" * 300)).names() == []
    with pytest.raises(IsADirectoryError):
        (place / "a").read()
    with pytest.raises(OSError, match="Directory not empty"):
        (place / "a").remove_folder()
    (place / "a").remove_folder(whole=True)
    assert place.names() == []
