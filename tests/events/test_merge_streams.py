"""Chronology: the order of time, whatever the spread of the events."""

import numpy as np
import pytest

from batchednodes.events import merge_streams
from batchednodes.events.merge_streams import Columns, List, merge_

GOSSIP = 3


def merged(updates: List, contacts: list[List], before: np.ndarray, start: float, until: float) -> Columns:
    out = Columns.empty(updates[0].size + sum(time.size for time, _, _ in contacts))
    merge_(out, [updates], contacts, GOSSIP, before, start, until)
    return out


def times(spread: str, size: int, draw: np.random.Generator) -> np.ndarray:
    """Returns times of [1, 4]."""
    if spread == "equal":
        return draw.choice([1.0, 2.5, 4.0], size)
    return 1 + 3 * (draw.random(size) if spread == "even" else draw.beta(0.02, 0.02, size))


@pytest.mark.parametrize("size", [0, 1, 2, 40, 5_000, 60_000])
@pytest.mark.parametrize("spread", ["even", "clustered", "equal"])
def test_events_come_in_the_order_of_time_kind_node_and_number(spread, size):
    draw = np.random.default_rng(4)
    sizes = np.array([size // 5, 0, size // 2, size - size // 5 - size // 2])
    lists = [
        (times(spread, m, draw), *draw.integers([[0], [2**31 - 9]], [[7], [2**31 - 1]], (2, m)).astype(np.int32))
        for m in sizes
    ]
    time, node, number = (np.concatenate(columns) for columns in zip(*lists, strict=True))
    late = np.repeat([0, 1, 1, 1], sizes)
    order = np.lexsort((number, node, late, time))
    before = np.arange(100, 107)
    wanted = (time, GOSSIP * late, node, np.where(late, number, -1), np.where(late, -1, before[node] + number))
    for column, expected in zip(merged(lists[0], lists[1:], before, 1.0, 4.0), wanted, strict=True):
        assert column.tolist() == expected[order].tolist()


def test_one_instant_is_a_window_too():
    nothing = np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.int32)
    late = np.full(3, 2.0), np.array([2, 0, 1], np.int32), np.array([5, 6, 7], np.int32)
    found = merged(nothing, [late], np.zeros(3, np.int64), 2.0, 2.0)
    assert found.actor.tolist() == [0, 1, 2]
    assert found.peer.tolist() == [6, 7, 5]


@pytest.mark.parametrize("threads", [1, 3])
def test_many_short_lists_and_a_long_one_are_dealt_in_even_groups(threads, monkeypatch):
    monkeypatch.setattr(merge_streams, "WORTH", 100)
    draw = np.random.default_rng(5)
    sizes = [*draw.integers(0, 9, 300), 3_000]
    lists = [
        (1 + 3 * draw.random(m), draw.integers(0, 7, m).astype(np.int32), draw.integers(0, 99, m).astype(np.int32))
        for m in sizes
    ]
    groups = merge_streams._groups([(one, np.uint64(0)) for one in lists], 500)
    held = [sum(time.size for (time, _, _), _ in group) for group in groups]
    assert sum(held) == sum(sizes)
    assert all(500 <= m < 1_000 for m in held[:-1])
    before, out = np.zeros(7, np.int64), Columns.empty(int(sum(sizes)))
    merge_(out, lists[:150], lists[150:], GOSSIP, before, 1.0, 4.0, threads)
    assert out.time.tolist() == sorted(np.concatenate([time for time, _, _ in lists]).tolist())
    assert (out.kind == 0).sum() == sum(sizes[:150])
