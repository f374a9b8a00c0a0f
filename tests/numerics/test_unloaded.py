"""PyTorch's compiler stays unloaded where nobody needs it."""

import subprocess
import sys

_RUN = """
import sys
import batchednodes
run = {"network.nodes": 3, "run.until": 2, "device": "cpu"}
before = batchednodes.train(run).x
assert "torch._dynamo" not in sys.modules, "loaded by a run"
import torch
assert torch._dynamo.config.cache_size_limit > 0, "found by whoever asks for it"
assert torch._dynamo is sys.modules["torch._dynamo"], "in its own place"
assert torch.equal(batchednodes.train(run).x, before)
"""


def test_a_short_run_does_without_it_and_whoever_asks_gets_it() -> None:
    done = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
