"""Starts scripts of tests under torchrun, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(count: int, script: str, *arguments: str, timeout: float = 900) -> list[dict[str, Any]]:
    """Returns what the ranks of a script in tests/support print as lines of JSON."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])  # what tests share, too
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "support" / script), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.replace("}{", "}\n{").splitlines()  # two ranks may print at once
    return [json.loads(line) for line in lines if line.startswith("{")]
