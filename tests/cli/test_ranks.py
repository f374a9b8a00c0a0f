"""The command over ranks: signals to one, one that fails, is killed or hangs; what `--ranks` starts, and returns."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folders import differences

from batchednodes import resume, train
from batchednodes.__main__ import main
from batchednodes.cli import over_ranks

LONG = {
    "network": {"nodes": 20},
    "task": {"data": {"samples_per_node": 5, "test_samples": 30}},
    "local": {"compile": "off"},
    "run": {"until": 1e6, "mark_every": 1e4, "checkpoint_every": {"minutes": 0.01}},
}
"""Minutes of work."""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def started(folder, *options, alone=False, **environment):
    """Starts a long run on two ranks by torchrun, or by the command itself, and returns it once it computes."""
    (folder / "c.yaml").write_text(json.dumps(LONG))
    command = [sys.executable, "-m"] if alone else TORCHRUN
    process = subprocess.Popen(
        [*command, "batchednodes", "train", "c.yaml", "--out", "run", *options],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    while process.poll() is None and not list((folder / "run" / "checkpoints").glob("00000*[0-9]")):
        time.sleep(0.01)
    return process


def members(process):
    """Returns the ranks of a run by their numbers."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((one for one in environment if one.startswith(b"RANK=")), None)
        if rank is not None:
            found[int(rank.partition(b"=")[2])] = int(child)
    return found


def is_alive(process):
    """Returns whether a process has not ended."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_no_more_ranks_are_started_than_cores_can_serve():
    with pytest.raises(ValueError, match=r"^--ranks must be at most 8 a core of this machine, \d+, got 100000; "):
        over_ranks.check(100_000, "cpu")  # not by the command, which would start them where this fails
    over_ranks.check(8, "cpu")


@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_halts_both_with_a_checkpoint(tmp_path):
    process = started(tmp_path)
    os.kill(members(process)[1], signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err.count("interrupted: the run halted in the window after") == 1
    assert "to go on: batchednodes resume run" in err
    assert "Traceback" not in out + err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "run" / "lock").exists()
    assert resume(tmp_path / "run", stop=lambda: True).summary["resumed"][0]["time"] >= 0


@pytest.mark.slow
def test_one_of_two_ranks_that_is_killed_ends_the_other_and_leaves_what_goes_on(tmp_path):
    process = started(tmp_path)
    os.kill(members(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1  # torchrun's own code for a failure
    assert err.count("error: ") == 1, err
    assert "error: a rank has ended without a word" in err
    assert "to go on: batchednodes resume run" in err
    assert resume(tmp_path / "run", stop=lambda: True).summary["status"] == "interrupted"


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_others_after_the_time_that_is_set(tmp_path):
    process = started(tmp_path, BATCHEDNODES_RANKS_TIMEOUT="20")
    ranks = members(process)
    os.kill(ranks[1], signal.SIGSTOP)
    begun = time.monotonic()
    while is_alive(ranks[0]):
        assert time.monotonic() - begun < 60
        time.sleep(0.1)
    os.kill(ranks[1], signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert "a rank has not answered for 20 s (BATCHEDNODES_RANKS_TIMEOUT), or has ended without a word" in err


@pytest.mark.slow
def test_what_all_ranks_find_wrong_is_said_once_and_what_one_does_too(tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(LONG))
    command = [sys.executable, "-m", "batchednodes", "train", "c.yaml", "--ranks", "2", "--out"]
    go = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([*command, "run", "executor=serial", "local.compile=auto"], **go)
    assert done.returncode == 2
    assert done.stdout.strip() == ""
    assert done.stderr.startswith("error: executor must be batched")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ranks_starts_them_and_returns_what_one_process_would(tmp_path):
    settings = LONG | {"run": {"until": 40, "mark_every": 20}}
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "batchednodes"]
    go = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 240}
    done = subprocess.run([*command, "train", "c.yaml", "--ranks", "2", "--out", "run", "--time-limit", "0.01s"], **go)
    assert done.returncode == 124, done.stderr
    assert done.stderr.count("interrupted: ") == 1
    done = subprocess.run([*command, "resume", "run", "--ranks=3"], **go)
    assert (done.returncode, done.stderr) == (0, "")
    assert "n = 20 nodes at t = 40 s" in done.stdout
    train(settings, out=tmp_path / "one")
    assert differences(tmp_path / "one", tmp_path / "run") == []


@pytest.mark.slow
def test_a_signal_to_what_started_ranks_halts_them(tmp_path):
    process = started(tmp_path, "--ranks", "2", alone=True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert err.count("halting with a checkpoint") == err.count("interrupted: the run halted") == 1
    assert "Traceback" not in err


def test_ranks_are_refused_where_a_run_has_one_process(tmp_path):
    (tmp_path / "c.yaml").write_text("{}")
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": "0"}
    for arguments in (["figure", "staleness-scaling"], ["race", "c.yaml", "--algorithms", "gossip_sgd"]):
        done = subprocess.run(
            [sys.executable, "-m", "batchednodes", *arguments], cwd=tmp_path, env=environment, capture_output=True,
            text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert "ranks must be 1 for" in done.stderr


def test_ranks_that_are_started_again_go_on_with_their_own_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(json.dumps(LONG | {"run": {"until": 4, "mark_every": 1}}))
    config, out = str(tmp_path / "c.yaml"), str(tmp_path / "run")
    train(config, out=out, stop=itertools.chain([False] * 3, itertools.repeat(True)).__next__)
    monkeypatch.chdir(tmp_path)
    for environment, more, code in (({}, [], 2), ({"TORCHELASTIC_RESTART_COUNT": "1"}, ["seed=1"], 2),
                                    ({"TORCHELASTIC_RESTART_COUNT": "1"}, [], 0)):  # fmt: skip
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(sys, "argv", ["batchednodes", "train", config, "--out", out, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        assert ("--out must not exist yet" in capsys.readouterr().err) == (code == 2)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
