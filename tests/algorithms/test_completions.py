"""What a kernel takes note of updates is what PyTorch's operations do."""

import pytest
import torch

from batchednodes.algorithms.completions import complete_
from batchednodes.algorithms.state import State, begin
from batchednodes.numerics import devices


def made(device: str, tracked: bool, loss: torch.dtype) -> State:
    """Returns the state of 200 nodes, each third of which is tracked, after two waves of updates."""
    where, n, draw = devices.named(device), 200, torch.Generator().manual_seed(0)
    versions = torch.zeros(n if tracked else 0, dtype=torch.int16, device=where)
    state = begin(torch.zeros(n, 1, device=where), versions, n, {})
    own = torch.arange(n).where(torch.arange(n) % 3 == 0, -1).to(where)
    for k in range(2):
        nodes, times = torch.randperm(n, generator=draw)[:150], torch.rand(150, generator=draw, dtype=torch.float64)
        losses = torch.randn(150, generator=draw).to(loss)
        losses[k::10], losses[k + 3 :: 40], losses[k + 4 :: 40] = torch.nan, torch.inf, -torch.inf
        complete_(state, nodes.to(where), times.to(where) + k, losses.to(where), own)
    return state


@pytest.mark.cuda
@pytest.mark.parametrize(("tracked", "loss"), [(True, torch.float32), (True, torch.bfloat16), (False, torch.float64)])
def test_a_kernel_takes_note_of_what_operations_do(tracked, loss):
    there, here = made("cuda", tracked, loss), made("cpu", tracked, loss)
    assert 10 < here.diverged_at.isfinite().sum() < 100
    for name, tensor in here.tensors().items():
        assert torch.equal(there.tensors()[name].cpu(), tensor), name
