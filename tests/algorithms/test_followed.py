"""Versions that follow at the end of a window, against one line after the other."""

import numpy as np
import pytest
import torch

from batchednodes.algorithms.mixing import follow_, follows
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout

E = 400


def lines(sizes: list[int], seed: int, updates: float = 0.2) -> GossipPhase:
    """Returns random contacts and updates within networks of some sizes."""
    draw, first = np.random.default_rng(seed), np.cumsum([0, *sizes])
    g = draw.integers(len(sizes), size=E)
    i, step = draw.integers(np.array(sizes)[g]), draw.integers(1, np.array(sizes)[g])
    i[draw.random(E) < 0.5] = 0  # some nodes are busy
    j = np.where(draw.random(E) < updates, i, (i + step) % np.array(sizes)[g])
    rows, others = (torch.from_numpy(first[g] + k) for k in (j, i))
    times = torch.from_numpy(np.sort(draw.random(E)))
    return GossipPhase(rows, others, rows, torch.full((E,), 0.5), times, np.arange(E + 1), sum(sizes))


State = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def one_by_one(state: State, some: GossipPhase, layout: Layout, own: torch.Tensor) -> None:
    """Does what `follow_` does, line by line."""
    versions, gained, updated = state
    for j, i, time in zip(some.receivers.tolist(), some.senders.tolist(), some.times.tolist(), strict=True):
        if i == j:
            if own[j] >= 0:
                versions[own[j]] += 1
                updated[j] += time
        else:
            mine, other = layout.of_node(versions, j), layout.of_node(versions, i)
            new = torch.maximum(mine, other)
            gained[j] += time * int((new - mine).sum())
            mine.copy_(new)


def tables(sizes: list[int], widths: list[int], spread: int, dtype: torch.dtype) -> tuple[Layout, torch.Tensor, State]:
    """Returns networks of some sizes and tracked sources, the places of their own counts, and versions below these."""
    layout = Layout.of(sizes, widths, torch.device("cpu"))
    column = np.concatenate([np.where(np.arange(n) < t, np.arange(n), -1) for n, t in zip(sizes, widths, strict=True)])
    own = torch.where(torch.from_numpy(column) >= 0, layout.place + torch.from_numpy(column), -1)
    draw, versions = torch.Generator().manual_seed(1), layout.zeros(dtype)
    for g, t in enumerate(widths):
        block = layout.block(versions, g)
        block.copy_(1000 - torch.randint(0, spread, block.shape, generator=draw))
        block[range(t), range(t)] = 1000
    gained, updated = torch.zeros(2, sum(sizes), dtype=torch.float64)
    return layout, own, (versions, gained, updated)


def copied(state: State) -> State:
    """Returns the same numbers in new memory."""
    versions, gained, updated = (t.clone() for t in state)
    return versions, gained, updated


@pytest.mark.parametrize(
    ("sizes", "widths", "spread", "dtype"),
    [
        ([9], [9], 3, torch.int16),
        ([70, 5, 3], [70, 2, 0], 40, torch.int16),
        ([600], [600], 40, torch.int32),
        ([70], [70], 300, torch.int16),
        ([9], [4], 900, torch.int32),
    ],
    ids=["few", "networks", "columns-of-two-blocks", "some-too-far-behind", "all-too-far-behind"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_versions_follow_as_line_by_line(
    sizes: list[int], widths: list[int], spread: int, dtype: torch.dtype, seed: int
) -> None:
    layout, own, state = tables(sizes, widths, spread, dtype)
    wanted, some = copied(state), lines(sizes, seed)
    one_by_one(wanted, some, layout, own)
    follow_(*state, some, layout, own)
    assert all(torch.equal(a, b) for a, b in zip(state, wanted, strict=True))


def test_more_updates_than_a_byte_holds() -> None:
    layout, own, state = tables([3], [3], 3, torch.int16)
    wanted = copied(state)
    some = GossipPhase.updates(np.zeros(300, np.int64), np.arange(300.0), np.arange(301), 3, torch.device("cpu"))
    one_by_one(wanted, some, layout, own)
    follow_(*state, some, layout, own)
    assert all(torch.equal(a, b) for a, b in zip(state, wanted, strict=True))


def test_threads_share_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchednodes.algorithms.mixing.followed._SMALL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    layout, own, state = tables([600, 30], [600, 30], 40, torch.int16)
    wanted, some = copied(state), lines([600, 30], 2)
    one_by_one(wanted, some, layout, own)
    follow_(*state, some, layout, own)
    assert all(torch.equal(a, b) for a, b in zip(state, wanted, strict=True))


def test_few_lines_do_not_pay_for_a_large_table() -> None:
    some, versions = lines([9], 0), torch.zeros(1, dtype=torch.int16)
    assert follows(versions, some)
    assert not follows(versions.expand(1 << 21).contiguous(), lines([300], 0))
    assert not follows(versions.long(), some)
