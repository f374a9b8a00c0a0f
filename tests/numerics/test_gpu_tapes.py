"""The kernel that runs tapes on CUDA devices: against compiled code of the CPU."""

import os

import pytest
import test_tape
import test_tape_tokens
import torch

from batchednodes import train
from batchednodes.algorithms.local_sgd import taken
from batchednodes.algorithms.waves import Waves
from batchednodes.numerics.tape import gpu
from batchednodes.simulation.planning import memory_plan

LARGEST = gpu.LARGEST
PLACES = [("deep", "labels"), ("gelu", "values"), ("elu", "labels"), ("softplus", "value"), ("norm", "labels"),
          ("softmax", "one-hot"), ("attention", "labels")]  # fmt: skip


def on_both(one, x, v, examples, rates, rows):
    """Returns losses, and what becomes of models and momentum buffers, by the CPU's code and by the kernel."""
    found = []
    for kernel in (False, True):
        tensors = x.clone(), None if v is None else v.clone()
        given, index, *more = taken(tensors[0], tensors[1], examples, rates)
        arguments = (given, index, one.features, one.targets, *more)
        tape, skip = one.tape, one.uneven != "none"
        if kernel:
            lie = [source.lies for source in tape.sources]
            loss = gpu.run_(tape.spelled, tape._found(arguments, index), lie, index, rows, skip)
        else:
            loss = tape.run_(arguments, rows, skip)
        found.append([loss, *(t for t in tensors if t is not None)])
    return found


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="compiled, kernels take tensors of a GPU only")
@pytest.mark.parametrize(("model", "loss"), PLACES)
def test_the_kernel_gives_what_compiled_code_of_the_cpu_gives(model, loss):
    more = {"momentum": True, "uneven": "skip"} if model == "deep" else {}
    plain, rates, p = test_tape.descent(model, loss, **more)
    one = plain.taped(p, 5, rates)
    x, v, examples, some = test_tape.drawn(plain, rates, p, 4, steps=2 if more else 1)
    test_tape.same(*on_both(one, x, v, examples[:2], some, torch.tensor([3, 0])))


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="compiled, kernels take tensors of a GPU only")
def test_rows_of_tables_and_whole_lines_are_those_of_the_cpu():
    plain, rates, stack = test_tape_tokens.descent("tied", guarded=True)
    one = plain.taped(stack.p, 2, rates)
    x = 0.3 * torch.randn(2, stack.p, dtype=torch.float64)
    examples = torch.tensor([[[0, 1], [1, 1]], [[3, 3], [2, 0]]])
    test_tape.same(*on_both(one, x, None, examples, rates.of(torch.arange(2)), None))


@pytest.mark.cuda
def test_a_wave_is_one_kernel_and_a_run_is_that_of_the_cpu(machine, monkeypatch):
    monkeypatch.setattr(gpu, "LARGEST", LARGEST)
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)  # as in a long run
    waves, update = [], Waves.update_
    monkeypatch.setattr(Waves, "update_", lambda *wave: (waves.append(wave), update(*wave)))
    settings = {"network.nodes": 4, "run.until": 2}
    more = {"dtype": "float64", "local.momentum": 0.9, "local.batch_size": 3}
    wanted = train(settings | more | {"device": "cpu"})
    waves.clear()
    made = train(settings | more | {"device": "cuda"})
    assert (made.x.cpu() - wanted.x).abs().max() < 1e-12  # sums of other orders
    if machine is not None:
        assert sum(count for (_, name), count in machine.launches.items() if name == "run") == len(waves) + 1  # a trial
