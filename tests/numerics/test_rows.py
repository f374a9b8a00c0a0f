"""Rows that a kernel writes are those that PyTorch writes."""

import pytest
import torch

from batchednodes.numerics import devices
from batchednodes.numerics.rows import write_


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize(("w", "p"), [(0, 3), (1, 1), (37, 30), (3, 2100)])  # tiles hold 1024 numbers
def test_rows_of_a_wider_tensor_are_written_as_by_pytorch(w, p, dtype):
    draw = torch.Generator().manual_seed(w)
    x, new = (torch.randint(0, 2, (rows, p + 5), generator=draw).to(dtype) for rows in (50, w))
    rows, there = torch.randperm(50, generator=draw)[:w], x.to(devices.named("cuda"))
    write_(there[:, 2 : p + 2], rows.to(there.device), new.to(there.device)[:, 5:])
    x[:, 2 : p + 2].index_copy_(0, rows, new[:, 5:])
    assert torch.equal(there.cpu(), x)


@pytest.mark.cuda
def test_rows_of_another_type_are_refused_as_by_pytorch():
    x, rows = torch.zeros(2, 2, device=devices.named("cuda")), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(RuntimeError):
        write_(x, rows.to(x.device), x[:1].double())
