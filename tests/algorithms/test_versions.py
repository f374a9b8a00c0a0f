"""The block-diagonal layout of versions: every number has one place, and all views agree."""

import numpy as np
import pytest
import torch

from batchednodes.algorithms.versions import Layout, dtype_for, widen_

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "widths"),
    [([4], [4]), ([4], [0]), ([5, 3, 5], [5, 3, 5]), ([3, 5, 3, 2], [2, 2, 2, 2]), ([2, 6, 4, 6], [0, 6, 3, 0])],
)
def test_every_number_has_one_place(sizes, widths):
    layout = Layout.of(sizes, widths, CPU)
    assert layout.numbers == sum(n * t for n, t in zip(sizes, widths, strict=True))
    versions, nodes = torch.arange(layout.numbers), np.cumsum([0, *sizes])
    found = torch.cat([layout.block(versions, g).flatten() for g in range(len(sizes))])
    assert found.sort().values.equal(versions)  # each once
    tables = layout.by_width(versions)
    assert [t.shape[1] for t in tables] == sorted(set(widths)) == layout.kinds.tolist()
    for g, (n, t) in enumerate(zip(sizes, widths, strict=True)):
        block = layout.block(versions, g)
        assert block.shape == (n, t)
        for j in range(n):
            i = int(nodes[g]) + j
            assert layout.network[i] == g
            assert layout.of_node(versions, i).equal(block[j])
            assert tables[layout.table[i]][layout.row[i]].equal(block[j])
            assert t == 0 or int(layout.place[i]) == int(block[j, 0])
    assert sorted(np.concatenate(layout.stacks).tolist()) == list(range(len(sizes)))
    for stack in layout.stacks:
        assert len({(sizes[g], widths[g]) for g in stack}) == 1
        for block, g in zip(layout.view(versions, stack), stack.tolist(), strict=True):
            assert block.equal(layout.block(versions, g))


def test_networks_of_one_shape_are_one_stack():
    assert [s.tolist() for s in Layout.of([5, 3, 5, 3], [2, 2, 2, 2], CPU).stacks] == [[1, 3], [0, 2]]


def test_counts_are_stored_in_the_smallest_type_that_surely_holds_them():
    assert dtype_for(0.0) == dtype_for(30_000.0) == torch.int16
    assert dtype_for(31_000.0) == dtype_for(2e9) == torch.int32  # 31,000 + 10 sqrt(31,000) > 2^15
    assert dtype_for(3e9) == torch.int64


def test_counts_that_exceed_their_type_are_widened_in_place():
    versions = torch.tensor([5, 32767], dtype=torch.int16)
    same = versions
    widen_(versions, 32767)
    assert versions.dtype == torch.int16
    widen_(versions, 32768)
    assert same.dtype == torch.int32
    assert same.tolist() == [5, 32767]
    widen_(versions, 2**31)
    assert same.dtype == torch.int64


def test_views_share_the_memory():
    layout = Layout.of([2, 3], [2, 3], CPU)
    versions = layout.zeros(torch.int16)
    layout.block(versions, 1)[1, 2] = 7
    assert versions.sum() == 7


def test_networks_of_one_width_can_be_joined_in_their_order():
    layout = Layout.of([3, 2], [1, 1], CPU)
    versions = layout.zeros(torch.int32)
    layout.block(versions, 0)[:] = 4
    assert layout.joined(versions).tolist() == [[4]] * 3 + [[0]] * 2
