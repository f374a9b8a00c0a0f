"""Marks of networks that several ranks hold together are those of one process."""

import marks_over_ranks
import numpy as np
import pytest
from ranks import run

from batchednodes.results.metrics.observed import Observation, Observed, joined
from batchednodes.topology import Networks


@pytest.mark.slow
def test_marks_over_ranks_are_those_of_one_process():
    found = run(3, "marks_over_ranks.py")
    assert [one["case"] for one in found] == [*marks_over_ranks.CASES]
    assert max(one["worst"] for one in found) <= 1e-12, found


def test_marks_of_groups_of_ranks_join_in_the_order_of_the_batch():
    networks = Networks(offsets=np.array([0, 2, 5, 9]), seeds=np.zeros(3, np.uint64))

    def observed(count, diverged, done):
        return Observed([Observation({"network": g, "n": g}, {}, None) for g in range(count)], diverged, done)

    parts = [observed(2, [(1, 3.0), (2, 1.0), (5, 2.0)], 4.0), observed(1, [(0, 0.5)], 5.0)]
    whole = joined(parts, [(0, 2), (1,)], networks)
    assert [(one.row["network"], one.row["n"]) for one in whole.networks] == [(0, 0), (1, 0), (2, 1)]
    assert whole.diverged == [(1, 3.0), (2, 0.5), (5, 1.0), (8, 2.0)]
    assert whole.done == 5.0
