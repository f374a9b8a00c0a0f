"""The tool that kills runs: a short round of it."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "crash.py"


@pytest.mark.slow
def test_killed_runs_are_bit_identical():
    found = subprocess.run([sys.executable, TOOL, "--runs", "1"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 of 1 bit-identical after" in found.stdout
