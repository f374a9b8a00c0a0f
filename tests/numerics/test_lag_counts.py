"""Sums and counts over tables: compiled loops against operations on blocks, and against the definition."""

import numpy as np
import pytest
import torch

from batchednodes.numerics import devices, lag_counts
from batchednodes.numerics.lag_counts import LagCounts, by_blocks, by_loops


def example(networks: int, n: int, t: int, dtype: torch.dtype, high: int) -> tuple[torch.Tensor, torch.Tensor]:
    tables = torch.randint(0, high, (networks, n, t), generator=torch.Generator().manual_seed(0)).to(dtype)
    return tables, tables.amax(1) + torch.arange(t, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 7, 4), (2, 30, 30)])
@pytest.mark.parametrize("block", [1, 60, 1 << 24])
def test_both_ways_give_the_definition(dtype, shape, block, monkeypatch):
    monkeypatch.setattr(lag_counts, "_BLOCK", block)
    tables, own = example(*shape, dtype, 90)
    s = (own.unsqueeze(1) - tables).long().numpy()
    for way in (by_loops(tables, own), by_blocks(tables, own, int(own.max()))):
        found = LagCounts.of(way)
        assert (found.of_row == s.sum(2)).all()
        assert (found.of_column == s.sum(1)).all()
        assert (found.largest == s.max((1, 2))).all()
        assert found.shift == 0
        for counts, one in zip(found.pairs, s, strict=True):
            assert (counts == np.bincount(one.flatten(), minlength=counts.size)).all()


def test_few_bins_hold_large_values(monkeypatch):
    monkeypatch.setattr(lag_counts, "_BINS", 64)
    tables, own = example(2, 9, 5, torch.int32, 1000)
    s = (own.unsqueeze(1) - tables).long().numpy()
    assert s.max() >= 512  # ten bits, where 64 bins take six
    for way in (by_loops(tables, own), by_blocks(tables, own, 1500), by_blocks(tables, own, 100_000)):
        found = LagCounts.of(way)
        assert found.shift == 4
        assert found.pairs.shape[1] <= 64
        for counts, one in zip(found.pairs, s, strict=True):
            assert (counts == np.bincount(one.flatten() >> 4, minlength=counts.size)).all()


@pytest.mark.cuda
def test_both_ways_agree_on_cuda():
    tables, own = example(3, 50, 40, torch.int16, 90)
    both = [lag_counts.tally(*(t.to(where) for t in (tables, own)), 130) for where in ("cpu", devices.named("cuda"))]
    here, there = (LagCounts.of([t.cpu() for t in found]) for found in both)
    for name in ("of_row", "of_column", "largest", "pairs"):
        assert (getattr(here, name) == getattr(there, name)).all()
