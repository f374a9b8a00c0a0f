"""Devices: what the package asks of CUDA, in one place: which device is meant, its memory, waits and pinned memory.

Other modules name neither `torch.cuda` nor "cuda" where they compute, so that tests may pretend a device that has
another name and finds what a real one would refuse, or wait for.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from batchednodes.numerics import ranks
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    import torch
else:
    torch = deferred("torch")

CUDA = "cuda"
"""What PyTorch calls the kind of device that is not the CPU."""


def count() -> int:
    """Returns the number of CUDA devices of this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def number(name: str) -> int | None:
    """Returns the number of the CUDA device that a setting means, which may not exist; None: it means the CPU.

    Example:
        >>> from batchednodes.numerics import devices
        >>> devices.number("cpu"), devices.number("cuda"), devices.number("cuda:7")
        (None, 0, 7)

    Args:
        name: auto (CUDA where there is one), cpu, cuda or cuda:N; of several ranks on a machine each means its own.
    """
    if name == "cpu" or (name == "auto" and not count()):
        return None
    return int(name.partition(":")[2] or ranks.of_machine()[0])


def named(name: str) -> "torch.device":
    """Returns the device that a setting means, which must exist: torch takes its number modulo 256."""
    k = number(name)
    return torch.device("cpu") if k is None else torch.device(CUDA, k)


def kind(device: "torch.device") -> Literal["cpu", "cuda"]:
    """Returns "cuda" or "cpu", by which tables of sizes are kept."""
    return "cuda" if device.type == CUDA else "cpu"


def is_cuda(device: "torch.device") -> bool:
    """Returns whether a device works by itself, while the host goes on."""
    return device.type == CUDA


def label(device: "torch.device") -> str:
    """Returns the name of a device, as summaries give it."""
    return torch.cuda.get_device_name(device) if is_cuda(device) else "cpu"


def free(device: "torch.device") -> int:
    """Returns the memory of a CUDA device that tensors can get: what is free, and what PyTorch keeps for reuse [B]."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def peak(device: "torch.device") -> int:
    """Returns the most memory that tensors have taken on a CUDA device [B]."""
    return torch.cuda.max_memory_allocated(device)


def release() -> None:
    """Gives back the memory that PyTorch keeps for reuse on CUDA devices, where there are any."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cores(device: "torch.device") -> int:
    """Returns the multiprocessors of a CUDA device; 1 for the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if is_cuda(device) else 1


def pinned(shape: tuple[int, ...], dtype: "torch.dtype") -> "torch.Tensor":
    """Returns new memory of the host from which, and to which, CUDA devices copy while the host goes on."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def synchronize(device: "torch.device") -> None:
    """Waits until a device has done all that it was given; the CPU has."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


class Moment:
    """The instant when a device has done all that it was given before."""

    def __init__(self, device: "torch.device") -> None:
        """Lets the device take note of it; the host goes on."""
        self._event, self._time = None, time.perf_counter()
        if is_cuda(device):
            with using(device):
                self._event = torch.cuda.Event(enable_timing=True)
                self._event.record()

    def wait(self) -> None:
        """Waits until it has come; on the CPU it has."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: "Moment") -> float:
        """Returns the time from an earlier moment until this one, both of which have come [s]."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        return earlier._event.elapsed_time(self._event) / 1000


def using(device: "torch.device") -> AbstractContextManager[object]:
    """Makes a CUDA device the one that kernels, streams and graphs without a device of their own are for."""
    return torch.cuda.device(device) if is_cuda(device) else nullcontext()


def generator_state(device: "torch.device") -> "torch.Tensor":
    """Returns the state of the generator that operations on a device draw from, on the host."""
    return torch.cuda.get_rng_state(device) if is_cuda(device) else torch.get_rng_state()
