"""What is summed of large models: some nodes at a time, in memory for these alone."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batchednodes.results.metrics.consensus import mean_model


class Largest(TorchDispatchMode):
    """The most numbers of a tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not any(made is one for one in args):
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("some", [False, True])
def test_large_models_are_summed_in_memory_for_a_few(some):
    x = torch.randn(1, 12, 1 << 20, generator=torch.Generator().manual_seed(0))
    counted = torch.arange(12) % 3 > 0 if some else torch.ones(12, dtype=torch.bool)
    with Largest() as largest:
        mean = mean_model(x, counted.unsqueeze(0) if some else None)
    assert largest.numbers <= 1 << 20  # a model at a time
    torch.testing.assert_close(mean, x[:, counted].double().mean(1), rtol=1e-14, atol=1e-14)


_GROWN = """
import resource, torch
from batchednodes.results.metrics.consensus import lengths
x = torch.zeros(256, 1 << 18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lengths(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts in KiB, of glibc's memory")
def test_what_is_kept_of_blocks_keeps_none_of_their_memory():
    # 64 blocks of 8 MiB in float64: one or two at once, and what a first call of PyTorch's takes.
    grown = subprocess.run([sys.executable, "-c", _GROWN], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 64 << 10
