"""A model of characters, as a user would train one: a module in a file, an archive of NumPy, a config, the command."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import call
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TEXT = Path(__file__).parents[2] / "LICENSE"

MODULE = """
from torch import Tensor, nn


class Characters(nn.Module):
    def __init__(self, tokens: int, width: int = 32) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, 16)
        self.memory = nn.LSTM(16, width, batch_first=True)
        self.out = nn.Linear(width, tokens)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.memory(self.table(ids))[0])
"""

CONFIG = """
name: characters
network: {{nodes: 20}}
gossip: {{clock: {{rate: 2}}, exchange: meet}}
local: {{steps: 2, batch_size: 4, lr: 1.0, momentum: 0.9}}
task:
  data: {{kind: npz, path: characters.npz}}
  model: {{kind: python, target: "a_model_of_characters:Characters", args: {{tokens: {tokens}}}}}
run: {{until: 10, mark_every: 5, eval_nodes: 5, threads: 1, window: 0.5, checkpoint_every: {{time: 1}}}}
"""


def rows() -> np.ndarray:
    """Returns a text as sequences of 65 characters: letters, spaces and a few marks, by number."""
    text = re.sub(r"[^a-z .,]+", " ", TEXT.read_text().lower())
    names = sorted(set(text))
    ids = np.array([names.index(letter) for letter in text], np.int64)
    return ids[: len(ids) // 65 * 65].reshape(-1, 65)


@pytest.fixture
def folder(tmp_path):
    """Makes a working directory with all that a user writes."""
    made, last = rows(), np.arange(len(rows())) % 5 == 4
    arrays = {"features": made[~last, :-1], "targets": made[~last, 1:]}
    arrays |= {"test_features": made[last, :-1], "test_targets": made[last, 1:]}
    np.savez(tmp_path / "characters.npz", **arrays)
    (tmp_path / "a_model_of_characters.py").write_text(MODULE)
    (tmp_path / "characters.yaml").write_text(CONFIG.format(tokens=made.max() + 1))
    return tmp_path


def started(folder: Path, *words: str) -> subprocess.Popen:
    """Starts a command in a working directory."""
    command = [sys.executable, "-m", "batchednodes", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def by_frequencies(folder: Path) -> float:
    """Returns the loss on the test characters of their frequencies in the training ones, counted from 1."""
    with np.load(folder / "characters.npz") as arrays:
        counts = np.bincount(arrays["targets"].ravel(), minlength=rows().max() + 1) + 1
        return float(-np.log(counts / counts.sum())[arrays["test_targets"]].mean())


def test_a_model_of_characters_learns_more_than_frequencies_and_goes_on_after_a_kill(folder):
    whole = started(folder, "train", "characters.yaml", "--out", "whole")
    killed = started(folder, "train", "characters.yaml", "--out", "killed")
    while killed.poll() is None and not list(folder.glob("killed/checkpoints/*.safetensors")):
        time.sleep(0.01)
    assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    resumed = started(folder, "resume", "killed")
    for run in (whole, resumed):
        errors = run.communicate(timeout=240)[1]
        assert run.returncode == 0, errors
        assert "Traceback" not in errors
    one, other = (load_file(folder / name / "final.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [(folder / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert lines[0] == lines[1]
    last = json.loads(lines[0].splitlines()[-1])
    assert last["loss_max"] < by_frequencies(folder)  # of the worst node evaluated
    assert last["loss_mean_model"] < by_frequencies(folder)
    assert last["accuracy_mean"] > 0.2  # over all characters; a space is the most frequent one, with a sixth of them


def test_batched_equals_serial_of_characters(folder):
    finals = []
    for executor in ("batched", "serial"):
        words = ("characters.yaml", f"executor={executor}", "dtype=float64", "run.until=1.5", "--out", executor)
        outcome = call(folder, "train", *words)
        assert (outcome.code, "Traceback" in outcome.err) == (0, False), outcome
        finals.append(load_file(folder / executor / "final.safetensors"))
    batched, serial = finals
    assert torch.equal(batched["versions"], serial["versions"])
    assert batched["versions"].sum() > 100
    # Sums of 256 characters in another order, through 64 steps of an LSTM, a few updates one after the other.
    assert float((batched["x"] - serial["x"]).abs().max() / serial["x"].abs().max()) < 1e-10
