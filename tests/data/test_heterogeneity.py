"""The number that says how heterogeneous labels are: against its definition, and against chance."""

import numpy as np
import pytest
from scipy import stats

from batchednodes.data import IID, Dataset, Dirichlet, LabelCounts, LabelShards, QuantitySkew


def labelled(samples, classes, seed=0):
    labels = np.minimum(np.random.default_rng(seed).geometric(0.3, samples) - 1, classes - 1)
    x = np.zeros((samples, 1), np.float32)
    return Dataset(x, labels, x[:1], labels[:1], classes=classes)


@pytest.mark.parametrize("partition", [IID(), Dirichlet(0.3), QuantitySkew(0.3)])
def test_counts_and_distance_are_those_of_the_definition(partition):
    data = labelled(500, 8)
    shards = partition.split(data, 30, 1)
    dense, found = shards.counts(data.targets, 8), LabelCounts.of(shards, data.targets, 8)
    again = np.zeros_like(dense)
    again[found.node, found.label] = found.count
    assert np.array_equal(again, dense)
    assert found.count.min() > 0
    assert np.array_equal(found.totals, dense.sum(axis=0))
    distance = np.abs(dense / dense.sum(axis=1, keepdims=True) - dense.sum(axis=0) / 500).sum(axis=1) / 2
    assert found.heterogeneity().distance == pytest.approx(distance.mean(), rel=1e-12)  # sums in another order


@pytest.mark.parametrize(("partition", "classes", "n"), [(IID(), 1, 5), (IID(), 3, 1), (IID(), 4, 60), (IID(), 7, 13)])
def test_chance_is_the_mean_deviation_of_the_hypergeometric_law(partition, classes, n):
    data = labelled(60, classes)
    counts = LabelCounts.of(partition.split(data, n, 0), data.targets, classes)
    expected = 0.0
    for m in counts.sizes:
        for total in counts.totals:
            x = np.arange(m + 1)
            expected += (stats.hypergeom.pmf(x, 60, total, m) * np.abs(x / m - total / 60)).sum() / 2
    # Logarithms of factorials up to 60! are right to 1e-15 of about 190.
    assert counts.heterogeneity().chance == pytest.approx(expected / n, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("partition", [IID(), QuantitySkew(0.5)])
def test_rows_dealt_at_random_are_as_heterogeneous_as_chance_says(partition):
    data = labelled(400, 6)
    found = [LabelCounts.of(partition.split(data, 25, seed), data.targets, 6).heterogeneity() for seed in range(300)]
    gaps = np.array([one.distance - one.chance for one in found])
    assert abs(gaps.mean()) < 5 * gaps.std() / np.sqrt(len(gaps))  # false alarm: 6e-7
    assert np.mean([one.distance for one in found]) > 0.1


def test_one_label_a_node_is_as_far_as_can_be():
    data = labelled(400, 4)
    data.targets[:] = np.arange(400) // 100
    counts = LabelCounts.of(LabelShards(1).split(data, 4, 0), data.targets, 4)
    assert counts.heterogeneity().distance == pytest.approx(0.75, rel=1e-12)
