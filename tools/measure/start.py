"""How long commands take to start, beside the import of PyTorch alone."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from measure.timing import gathered, ratios

ALONE = "import torch"
"""What commands are measured beside."""

COMMANDS = {
    "--help": ("--help",),
    "list": ("list",),
    "plan": ("plan", "small.yaml"),
    "train": ("train", "small.yaml", "--out", "{out}", "--quiet"),
}
"""Name and arguments of what is measured; `{out}` is a folder that is new each time."""


def cpu_seconds(arguments: list[str], place: Path) -> float:
    """Returns the processor time of a Python process with its threads [s].

    Raises:
        CalledProcessError: it failed.
    """
    before = os.times()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run([sys.executable, *arguments], cwd=place, env=environment, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def start(repeats: int, commands: tuple[str, ...] = tuple(COMMANDS)) -> dict[str, dict[str, float]]:
    """Returns the processor time of warm commands on ten nodes for a second over that of `import torch`."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "small.yaml").write_text("network: {nodes: 10}\nrun: {until: 1}\n")

        def run(name: str) -> float:
            out = tempfile.mkdtemp(dir=place) + "/run"
            words = [word.format(out=out) for word in COMMANDS[name]]
            return cpu_seconds(["-m", "batchednodes", *words], place)

        works = {name: partial(run, name) for name in commands}
        times = gathered({ALONE: partial(cpu_seconds, ["-c", ALONE], place), **works}, repeats)
    return {f"{name} over {ALONE}": ratios(times[name], times[ALONE]) for name in commands}
