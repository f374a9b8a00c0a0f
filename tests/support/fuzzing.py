"""What the fuzz tests share: runs the command line in this process, and says what must hold of every case.

Every case ends in code 0, or in code 2 with one message; never with a traceback, with files left behind, or late.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets  # noqa: F401  (seconds, once, of no single case)
from numba.core import event

from batchednodes.cli import app
from batchednodes.config import load, sweep
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning import preflight
from batchednodes.simulation.planning.plan import plan, screen

with contextlib.suppress(ImportError):  # likewise
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401

LATE, HANGS = 2.0, 120.0
"""The longest time of a processor that a refusal may take, without what is compiled once on a machine, and the longest
time of the clock [s]: the machine may be busy with other things."""

TINY = b"""
network: {nodes: 3}
run: {until: 1, mark_every: 1}
task: {data: {samples_per_node: 3, test_samples: 5, features: 2}}
"""
"""A config whose runs take a tenth of a second."""

LONG = 2000
"""The most characters of a message."""


@dataclass(frozen=True)
class Outcome:
    """How one case ended."""

    code: int
    out: str
    err: str
    seconds: float


class Stopwatch:
    """Measures a processor's time, but for what is compiled, while it is entered."""

    def __init__(self) -> None:
        self.seconds, self.compiled = 0.0, 0.0

    def __enter__(self) -> None:
        self.timer = event.install_timer("numba:compile", self._note)
        self.timer.__enter__()
        self.begun, self.clock = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.timer.__exit__(None, None, None)  # with an error it would not report
        self.seconds = time.process_time() - self.begun - self.compiled
        assert time.perf_counter() - self.clock < HANGS

    def _note(self, seconds: float) -> None:
        self.compiled += seconds


class Case:
    """One case in an empty working directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, listing(folder)

    def call(self, *arguments: str) -> Outcome:
        """Runs the command in this process, and checks what holds of every case."""
        outcome = call(self.folder, *arguments)
        check(outcome)
        if outcome.code == 2 and "everything until then is in" not in outcome.err:
            left = listing(self.folder) - self.before
            assert not left, f"left behind: {left}"
        return outcome


def listing(folder: Path) -> set[str]:
    """Returns the names of all that lies in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def call(folder: Path, *arguments: str) -> Outcome:
    """Runs the command with a working directory; its streams are those of a terminal in UTF-8."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    before, argv, watch, code = Path.cwd(), sys.argv, Stopwatch(), 0
    try:
        os.chdir(folder)
        sys.argv = ["batchednodes", *arguments]
        with watch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    finally:
        os.chdir(before)
        sys.argv = argv
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "backslashreplace"))
    return Outcome(code, *texts, watch.seconds)


def check(outcome: Outcome) -> None:
    """Asserts what holds of every case."""
    assert outcome.code in (0, 2), outcome
    assert "Traceback" not in outcome.out + outcome.err, outcome
    if outcome.code == 2:
        assert outcome.seconds < LATE, outcome
        assert len(outcome.err) < LONG or not outcome.err.startswith("error: "), outcome
        assert outcome.err.count("error: ") + outcome.err.count(" Error ") >= 1, outcome


@contextlib.contextmanager
def case(**files: bytes):
    """Makes a working directory with files, and removes it afterwards; nothing may be left in the temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for path, content in files.items():
            (folder / path.replace("__", ".")).write_bytes(content)
        yield Case(folder)


def settle(source: object, overrides: tuple[str, ...] = (), build: bool = False, folder: Path | None = None) -> str:
    """Plans a config as `batchednodes plan` does; returns the message if it is refused, in time, else nothing.

    Args:
        source: what `load` takes.
        overrides: settings as key=value.
        build: whether all parts of the run are made too: data, models.
        folder: the working directory, in which nothing may be left.
    """
    watch, before, message = Stopwatch(), Path.cwd(), ""
    there = listing(folder) if folder else set()
    try:
        os.chdir(folder or before)
        with watch:
            _plan(source, overrides, build)
    except (ValueError, OSError, MemoryError) as error:
        message = str(error) or type(error).__name__
    finally:
        os.chdir(before)
    assert not message or watch.seconds < LATE, (watch.seconds, source, overrides, message)
    assert len(message) < LONG, message
    assert not folder or listing(folder) == there
    return message


def _plan(source: object, overrides: tuple[str, ...], build: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"network\.topology is not connected|task\.data: ")
        prepared = preflight.prepare(sweep.points(load(source, overrides)))
        screen(prepared.configs, prepared.sizes)
        events = prepared.events or assembly.timeline(prepared.configs)
    made = plan(prepared.configs, events, prepared.sizes)
    if build:
        assembly.assemble(prepared.configs, events, made.chunks, dealt=prepared.take())
