"""Signals and time limits, sent to real processes; and the lock on a folder."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from batchednodes import resume, train
from batchednodes.cli.interruption import Interruption, seconds
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.lock import Lock

LONG = {
    "network": {"nodes": 20},
    "task": {"data": {"samples_per_node": 5, "test_samples": 30}},
    "run": {"until": 1e6, "mark_every": 1e4},
}
"""Minutes of work."""


def started(folder, *options):
    """Starts a long run in a process of its own, and returns it at its first mark."""
    (folder / "c.yaml").write_text(json.dumps(LONG))
    command = [sys.executable, "-m", "batchednodes", "train", "c.yaml", "--out", "run", *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (folder / "run" / "metrics.jsonl").exists():
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_howto_go_on(number, code, tmp_path):
    process = started(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code
    assert "Traceback" not in out + err
    assert "to go on: batchednodes resume run" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["000001.safetensors"]
    assert not (tmp_path / "run" / "lock").exists()
    again = resume(tmp_path / "run", stop=lambda: True)
    assert again.summary["resumed"][0]["time"] >= 0


@pytest.mark.slow
def test_a_signal_while_isolated_nodes_run_is_obeyed_too(tmp_path):
    options = ["run.until=600", "run.mark_every=200", "run.baseline=isolated", "gossip.clock.rate=0.01"]
    process = started(tmp_path, *options)
    while process.poll() is None and not (tmp_path / "run/checkpoints/isolated/config.yaml").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 143
    assert "the run reached its end, t = 600 s, its isolated nodes halted on the way there; to go on" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    resume(tmp_path / "run")
    train(LONG, *options, out=tmp_path / "whole")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "whole")]
    assert all(summaries[0][key] == summaries[1][key] for key in ("isolated", "networks", "status"))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["numba", "batchednodes.simulation.engine"])
def test_an_interrupt_while_the_command_is_imported_is_one_line(module, tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(LONG))
    command = [sys.executable, "-X", "importtime", "-m", "batchednodes", "train", "c.yaml", "--out", "run"]
    command += ["run.until=1", "run.mark_every=1"]  # an end where the signal is lost
    lines = []
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or []:
            lines.append(line)
            if line.split("|")[-1].strip() == module:
                process.send_signal(signal.SIGINT)
    said = [line for line in lines if not line.startswith("import time:") and line.strip()]
    assert said == ["interrupted; nothing that was there has changed\n"]
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(tmp_path):
    process = started(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)  # so that it finds both: the first noted, the second obeyed
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_interrupt_after_a_signal_shows_the_cursor_again(tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(LONG))
    terminal, its = pty.openpty()
    command = [sys.executable, "-m", "batchednodes", "train", "c.yaml", "--out", "run"]
    environment = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=its, stderr=subprocess.PIPE, env=environment)
    os.close(its)
    seen = b""
    while b"\x1b[?25l" not in seen:  # the progress bar hides it
        seen += os.read(terminal, 4096)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        seen += os.read(terminal, 4096)
    os.kill(process.pid, signal.SIGSTOP)  # so that it finds both at once
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    with suppress(OSError):  # at the end of a terminal
        while some := os.read(terminal, 4096):
            seen += some
    _, err = process.communicate(timeout=240)
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert process.returncode in (130, 143)  # 143: the interrupt came first, and the other asked to halt
    assert b"Traceback" not in err


HANGS_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
terminal = os.open(sys.argv[1], os.O_RDWR)  # the controlling one of this process, which leads its session
for stream in range(3):
    os.dup2(terminal, stream)
os.execv(sys.executable, [sys.executable, "-m", "batchednodes", *sys.argv[2:]])
"""


@pytest.mark.slow
def test_a_terminal_that_is_closed_leaves_a_checkpoint(tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(LONG))
    terminal, its = pty.openpty()
    command = [sys.executable, "-c", HANGS_UP, os.ttyname(its), "train", "c.yaml", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        os.read(terminal, 4096)
    os.close(its)
    os.close(terminal)
    assert process.wait(timeout=240) == 128 + signal.SIGHUP
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "run" / "lock").exists()


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(None) as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert not interruption()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_after_a_request_to_end_stops_at_once():
    child = """
import signal, sys
from batchednodes.cli.interruption import Interruption
with Interruption(None):
    for number in map(int, sys.argv[1:]):
        signal.raise_signal(number)
    print("goes on")
"""
    numbers = [str(int(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    for order, code, out in ((numbers, 130, ""), (numbers[::-1], 0, "goes on\n"), (numbers[1:] * 2, 130, "")):
        done = subprocess.run([sys.executable, "-c", child, *order], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, out)
        assert ("stopped at once; the last checkpoint is as it was" in done.stderr) == (code == 130)


@pytest.mark.slow
def test_a_time_limit_does_the_same(tmp_path):
    process = started(tmp_path, "--time-limit", "0.2s", "--quiet")
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (124, "")
    assert "to go on: batchednodes resume run" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2h", 7200), ("90min", 5400), ("1h30m", 5400), ("45", 45), ("1.5 h", 5400), ("2d", 172800), (" 45 ", 45)],
)
def test_spans_of_time(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1h",
        "h",
        "1y",
        "1h x",
        "2 weeks",
        "inf",
        "1" * 5000 + "y",
        ".",
        "1h1.5.2h",
        "1" * 50 + "!",
        "2h30",
        "30 2h",
        "1 2",
        "1.5.2s",
    ],
)
def test_what_is_no_span_of_time_is_refused(text):
    with pytest.raises(ValueError, match="--time-limit must be a positive time such as 2h, 90min or 1h30m, got"):
        seconds(text)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption(None) as interruption:
        assert not interruption()
        signal.raise_signal(signal.SIGTERM)
        assert interruption()
        assert interruption.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_second_process_in_one_folder_is_refused(tmp_path):
    process = started(tmp_path)
    with pytest.raises(
        ValueError, match=rf"must not be in use, got a run in it by process {process.pid} on .* since 20"
    ):
        resume(tmp_path / "run")
    process.kill()
    process.communicate(timeout=240)
    assert (tmp_path / "run" / "lock").exists()  # stale: its process is dead
    assert resume(tmp_path / "run", stop=lambda: True).summary["status"] == "interrupted"
    assert not (tmp_path / "run" / "lock").exists()


def test_the_lock_of_a_run_in_this_process_counts_too(tmp_path):
    refused = []

    def watch(*_):
        with pytest.raises(ValueError, match=rf"must not be in use, got a run in it by process {os.getpid()}"):
            Lock(Inside(tmp_path / "run"))
        refused.append(True)

    train(LONG, "run.until=1", out=tmp_path / "run", watch=watch)
    assert refused
    assert not Path(tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize(
    ("text", "holder"),
    [
        ("", "another process"),
        ("[" * 100_000, "another process"),
        ("[1]", "another process"),
        ('{"pid": 1}', "another process"),
        ('{"pid": [1], "host": "a\\u001b[2J", "since": null}', r"process \[1\] on 'a\\x1b\[2J' since None"),
    ],
    ids=range(5),
)
def test_whatever_a_lock_says_of_its_holder_is_one_line(text, holder, tmp_path):
    with Lock(Inside(tmp_path)):
        (tmp_path / "lock").write_text(text)
        with pytest.raises(
            ValueError, match=rf"must not be in use, got a run in it by {holder}; wait for it or stop it"
        ):
            Lock(Inside(tmp_path))
