"""Memory that the system does not give: the real fault, in a process with a limit on its data."""

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import no_type_check

import numpy as np
import pytest
import torch
from numba import njit
from safetensors.torch import load_file

from batchednodes import Result, load, train
from batchednodes.numerics.fx_program import Function
from batchednodes.numerics.memory import Chunk, Chunks, exhausted, gib, reason
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.folder.inside import Inside
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Batched, Unobserved

pytestmark = pytest.mark.slow

LIMITED = """
import os, resource, sys
from pathlib import Path
from batchednodes.cli import app as cli; from batchednodes.cli import commands

class Late(commands.Watch):
    "Lets the process have some more MiB of memory than it has after the first mark."

    def __call__(self, config, progress, row):
        super().__call__(config, progress, row)
        if MORE in os.environ:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            most = (int(status["VmData"].split()[0]) << 10) + (int(os.environ.pop(MORE)) << 20)
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))

MORE, commands.Watch = "MORE", Late
cli.main()
"""
CLOCK = "update.clock={kind: deterministic, period: 1}"
NODES = ["network.nodes=600", "run.until=2", "staleness.track=none", "run.threads=1", "local.compile=off"]
NODES += ["task.data={kind: digits}", "local.batch_size=32"]
NODES += ["task.partition={kind: iid}", "task.model={kind: mlp, hidden: [64]}", "local.chunk=600", "dtype=float64"]
"""All nodes update at once: rows of 4,810 parameters, with temporaries of about 0.3 MiB each."""


def limited(more: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with some more memory than it has at the start of the run [MiB]."""
    command = [sys.executable, "-c", LIMITED, "train", "empty.yaml", "--out", "run", *arguments]
    environment = os.environ | {"MORE": str(more), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # larger blocks go back to the system when they are free
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("more", "options"),
    [(60, [CLOCK]), (120, [CLOCK, "update.applies=delta", "local.momentum=0.5", "run.on_divergence=quarantine"])],
)
def test_a_run_goes_on_with_smaller_chunks(more, options, folder):
    done = limited(more, *NODES, *options)
    assert done.returncode == 0, done.stderr
    assert "warning: local.chunk did not fit in memory with 600 rows at once (" in done.stderr
    assert "can't allocate memory" in done.stderr
    same(folder, train({}, *NODES, *options))
    chunks = checkpoint.load(Inside(folder / "run") / "final.safetensors", torch.device("cpu")).journal.chunks
    assert 1 <= chunks["update"] < 600


def test_marks_go_on_with_fewer_models_at_once(folder):
    options = ["update.clock.kind=never", "gossip.clock.kind=never", "local.chunk=null"]
    done = limited(18, *NODES, *options)
    assert done.returncode == 0, done.stderr
    assert "warning: evaluation did not fit in memory with " in done.stderr
    same(folder, train({}, *NODES, *options))


def same(folder: Path, free: Result) -> None:
    """Asserts that a run left what another one, which had all the memory it wanted, gave; an MLP amplifies rounding."""
    x = load_file(folder / "run" / "final.safetensors")["x"]
    assert float((x - free.x).abs().max() / free.x.abs().max()) <= 1e-9
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss_mean"] for row in rows] == pytest.approx(free.metrics["loss_mean"].tolist(), rel=1e-9)
    assert [row["consensus_distance"] for row in rows] == free.metrics["consensus_distance"].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([CLOCK, "network.nodes=2", "local.batch_size=100000", "local.chunk=null"],
         r"local\.chunk must fit in memory, got none for one row, which takes \d+\.\d\d GiB by the plan \(.*alloc.*\)"
         r"; lower local\.batch_size, local\.steps or the model, or use a smaller dtype"),
        ([CLOCK, "network.nodes=2", "local.batch_size=100000", "local.chunk=null", "executor=serial",
          "local.compile=auto"],
         r"the run must fit in memory, got: .*allocate.*; lower network\.nodes"),
        (["network.nodes=2", "update.clock.kind=never", "local.chunk=null", "task.model.hidden=[20000]"],
         r"evaluation must fit in memory, got none for one row, which takes \d+\.\d MiB by the plan \(.*allocate.*\); "
         r"lower the number of test examples"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_go_on_ends_in_one_message(options, message, folder):
    done = limited(16, *NODES, *options)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert re.fullmatch(f"error: {message}.*", errors[0])
    assert load(folder / "run" / "config.yaml").network.nodes == 2
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["time"] == 0
    assert rows[0]["loss_mean"] > 0


def test_nobody_waits_for_a_thread_that_has_a_stack_but_no_memory_to_begin_with():
    child = """
import resource, sys
from pathlib import Path
from batchednodes.numerics.memory import BackgroundWorker
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
most = (int(status["VmData"].split()[0]) << 10) + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
aside = BackgroundWorker()
print(aside.submit(sum, [1, 2])(), aside.has_thread())
aside.close()
"""
    stack = 8 << 20
    for more, there in ((0, False), (stack + 4096, False), (stack + 65536, False), (200 << 20, True)):
        done = subprocess.run([sys.executable, "-c", child, str(more)], capture_output=True, text=True, timeout=240)
        assert done.stdout == f"3 {there}\n", done.stderr


# ------------------------------------------------------------------------------------------------------ without limits


@njit
@no_type_check
def many(n):
    return np.empty(n)


@pytest.mark.parametrize("allocate", [lambda n: torch.empty(n), np.empty, many, lambda n: bytes(n)])
def test_each_way_to_say_that_there_is_no_memory_is_known(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate(1 << 50)  # no processor has such addresses
    assert exhausted(caught.value)
    assert "\n" not in reason(caught.value)
    assert len(reason(caught.value)) > 5


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not exhausted(caught.value)
    assert not exhausted(ValueError("out of memory"))
    assert exhausted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert exhausted(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    with pytest.raises(RuntimeError, match="other"):
        Chunk(8).attempt(8, lambda _: raises(RuntimeError("other")))


def raises(error: Exception) -> None:
    raise error


def test_a_chunk_is_halved_until_its_work_fits():
    chunk, tried, written = Chunk(100, "local.chunk", 3 << 20, "lower it"), [], []

    def work(part: slice) -> int:
        size = min(part.stop, 90) - part.start
        tried.append(size)
        return size if size <= 12 else raises(MemoryError())

    with pytest.warns(
        UserWarning, match=r"local.chunk did not fit in memory with \d+ rows at once \(memory could not be"
    ):
        chunk.run_(90, work, lambda part, size: written.append((part.start, size)))
    assert tried[:4] == [90, 45, 22, 11]
    assert written == [(first, min(11, 90 - first)) for first in range(0, 90, 11)]
    assert (chunk.rows, chunk.planned) == (11, 100)
    rule = r"local.chunk must fit in memory, got none for one row, which takes 3.0 MiB by the plan \(.*\); lower it"
    with pytest.warns(UserWarning, match="the run goes on with [0-9]+$"), pytest.raises(ValueError, match=rule):
        chunk.run_(90, lambda _: raises(MemoryError()), lambda *_: None)
    assert gib(3 << 20) == "3.0 MiB"


@pytest.mark.parametrize("applies", ["at_completion", "delta"])
@pytest.mark.parametrize("momentum", ["0", "0.5"])
def test_an_update_that_fails_halfway_has_written_nothing(applies, momentum):
    options = ["network.nodes=20", "dtype=float64", f"update.applies={applies}", f"local.momentum={momentum}"]
    config = load({}, [*options, "local.steps=2", "run.until=4", "update.clock={kind: deterministic, period: 1}"])
    finals = []
    for most in (20, 3):
        events = assembly.timeline([config])
        run = assembly.assemble([config], events, Chunks(20, 20))
        assert isinstance(run.engine.executor, Batched)
        algorithm = run.engine.executor.algorithm
        descent = replace(algorithm.descent, step_=Failing(algorithm.descent.step_, most))
        engine = replace(run.engine, executor=Batched(replace(algorithm, descent=descent)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if most == 3 else "error")
            engine.run_(run.state, engine.begin(), Unobserved())
        assert run.chunks == Chunks(20 if most == 20 else 2, 20)
        finals.append(run.state)
    for name, tensor in finals[0].tensors().items():
        assert torch.allclose(tensor, finals[1].tensors()[name], rtol=1e-12, atol=1e-14), name  # other chunks round


class Failing:
    """A step of local SGD for which memory ends in the second of two steps, if it has more than some rows."""

    def __init__(self, step_: Function, most: int) -> None:
        self.step_, self.most, self.calls = step_, most, 0

    def __call__(self, x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        loss = self.step_(x, *more)
        self.calls += 1
        if x.shape[0] > self.most and self.calls % 2 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss


def test_a_checkpoint_can_keep_how_many_rows_are_in_use():
    config = load({}, ["network.nodes=20"])
    events = assembly.timeline([config])
    planned = Chunks(20, 10, 30, 1 << 20, 2 << 20)
    run = assembly.assemble([config], events, planned)
    assert run.chunks == planned
    run.chunk.rows, run.evaluator.chunk.rows = 5, 2
    assert run.chunks == Chunks(5, 2, 2, 1 << 20, 2 << 20)
