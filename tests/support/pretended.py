"""A pretended CUDA device: the tests marked `cuda` run on it where there is none.

* An operation that mixes tensors of the host and of the device raises `MixedError`; so does one of two devices.
* Whatever makes the host wait is noted in `Machine.waits` with the line that asked, and raises `CaptureError` while a
  graph is recorded.
* What is copied to pinned memory is garbage until the host waits; what is sent from it and was written again before
  then is in `Machine.races`.
* Graphs are replayed, operation by operation, on the memory that they were recorded with.
* Triton's kernels run in its interpreter, on tensors of the device only.

It knows nothing of streams, of libraries' kernels, of memory and of speed. Devices are PyTorch's PrivateUse1 under the
name "pretended"; `devices.CUDA` has it while they are there.
"""

import contextlib
import functools
from collections.abc import Iterator
from types import SimpleNamespace

import pretended_tensors
import pytest
import torch
from pretended_backend import COUNT, NAME, register
from pretended_tensors import CaptureError, DeviceTensor, Machine, MixedError, unwrap

from batchednodes.numerics import devices
from batchednodes.numerics.tape import gpu
from batchednodes.simulation.planning import preflight

try:
    from triton.runtime.interpreter import InterpretedFunction
except ImportError:  # it has no build for this platform
    InterpretedFunction = None


class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations = []

    def replay(self) -> None:
        machine = pretended_tensors.MACHINE
        machine.launches[machine.place, "graph"] += 1
        machine.replayed[machine.place] += len(self.operations)
        for again in self.operations:
            again()


class Event:
    """Stands for `torch.cuda.Event`."""

    def __init__(self, **_: bool) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pretended_tensors.MACHINE.wait("an event")

    def elapsed_time(self, other: "Event") -> float:
        return 0.0


@functools.cache
def _register() -> list[torch.library.Library]:
    """Makes PyTorch know what the devices compute, once for the process."""
    register()
    made = torch.library.Library("aten", "IMPL")
    made.impl("empty.memory_format", pretended_tensors.empty, "PrivateUse1")
    made.impl("empty_strided", pretended_tensors.empty_strided, "PrivateUse1")
    made.impl("_copy_from", pretended_tensors.copy_from, "PrivateUse1")
    return [made]


@contextlib.contextmanager
def pretended() -> Iterator[Machine]:
    """Gives the process two CUDA devices, and yields what is noted of them."""
    _register()
    machine = Machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretended_tensors, "MACHINE", machine)
        patch.setattr(devices, "CUDA", NAME)
        patch.setattr(devices, "pinned", pretended_tensors.pinned)
        patch.setattr(preflight, "_loads", lambda _: True)
        patch.setattr(gpu, "LARGEST", -1)  # the interpreter runs a tape a thousand times as long as it runs a graph
        for name, value in _cuda(machine).items():
            patch.setattr(torch.cuda, name, value)
        if InterpretedFunction is not None:
            patch.setattr(InterpretedFunction, "run", _launched(InterpretedFunction.run))
        yield machine


def _cuda(machine: Machine) -> dict[str, object]:
    """Returns what stands for the functions of `torch.cuda`."""
    stream = SimpleNamespace(wait_stream=lambda *_: None)

    @contextlib.contextmanager
    def device(which):
        before, machine.current = machine.current, torch.device(which).index
        yield
        machine.current = before

    @contextlib.contextmanager
    def graph(made, **_):
        machine.wait("the begin of a graph")
        machine.recording = made.operations
        try:
            yield
        finally:
            machine.recording = None

    return {
        "is_available": lambda: True,
        "device_count": lambda: COUNT,
        "get_device_name": lambda *_: "a pretended device",
        "get_device_properties": lambda *_: SimpleNamespace(multi_processor_count=132),
        "mem_get_info": lambda *_: (64 << 30, 80 << 30),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 1,
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: machine.recording is not None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "synchronize": lambda *_: machine.wait("synchronize"),
        "device": device,
        "current_stream": lambda *_: stream,
        "Stream": lambda *_: stream,
        "stream": lambda *_: contextlib.nullcontext(),
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": Graph,
        "Event": Event,
        "graph": graph,
    }


def _launched(plain):
    """Returns a launch of a kernel that takes tensors of the current device, and no others."""

    def run(self, *args, grid, warmup, **kwargs):
        machine = pretended_tensors.MACHINE
        each = (a if type(a) is tuple else (a,) for a in (*args, *kwargs.values()))
        tensors = [a for some in each for a in some if isinstance(a, torch.Tensor)]
        if not any(isinstance(a, DeviceTensor) for a in tensors):
            return plain(self, *args, grid=grid, warmup=warmup, **kwargs)
        if {a.device for a in tensors} != {torch.device(NAME, machine.current)}:
            raise MixedError(f"{self.__name__} at {machine.line()} got a tensor that is not on the current device")
        inner, more = [unwrap(a) for a in args], {name: unwrap(a) for name, a in kwargs.items()}
        again = functools.partial(plain, self, *inner, grid=grid, warmup=warmup, **more)
        if machine.recording is not None:
            machine.recording.append(again)
        else:
            machine.launches[machine.place, self.__name__] += 1
        return again()

    return run


__all__ = ["COUNT", "NAME", "CaptureError", "DeviceTensor", "Graph", "Machine", "MixedError", "pretended"]
