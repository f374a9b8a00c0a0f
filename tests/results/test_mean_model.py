"""The mean model of large models: summed some nodes at a time, in memory for these alone."""

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
