import numpy as np
import pytest

from batchednodes.data import IID, Dataset, Dirichlet, LabelShards, LinearRegression, Natural, QuantitySkew
from batchednodes.data.partitions.dirichlet import _take

BY_LABEL = [Dirichlet(alpha=0.1), Dirichlet(alpha=1e-9), Dirichlet(alpha=1e6), LabelShards(1), LabelShards(3)]
ALL = [IID(), QuantitySkew(alpha=0.5), QuantitySkew(alpha=1e-3), *BY_LABEL]


def labelled(samples, classes=5, seed=0, node=None):
    labels = np.random.default_rng(seed).integers(0, classes, samples)
    x = np.zeros((samples, 1), np.float32)
    return Dataset(x, labels, x[:1], labels[:1], classes=classes, node=node)


def equal(first, second):
    return np.array_equal(first.rows, second.rows) and np.array_equal(first.offsets, second.offsets)


@pytest.mark.parametrize("partition", ALL)
@pytest.mark.parametrize(("samples", "n"), [(1, 1), (50, 1), (30, 10), (1000, 7), (5000, 300)])
def test_every_row_has_one_owner_and_every_node_a_row(partition, samples, n):
    if n * getattr(partition, "shards_per_node", 1) > samples:
        return
    shards = partition.split(labelled(samples), n, 3)
    assert np.array_equal(np.sort(shards.rows), np.arange(samples))
    assert shards.rows.dtype == shards.offsets.dtype == np.int64
    assert (shards.offsets[0], shards.offsets[-1], len(shards.offsets)) == (0, samples, n + 1)
    assert shards.sizes.min() >= 1


@pytest.mark.parametrize("partition", ALL[:-2])
def test_as_many_nodes_as_samples(partition):
    shards = partition.split(labelled(40), 40, 3)
    assert np.array_equal(shards.sizes, np.ones(40))
    assert np.array_equal(np.sort(shards.rows), np.arange(40))


@pytest.mark.parametrize("partition", ALL)
def test_a_seed_gives_one_partition(partition):
    data = labelled(500)
    assert equal(partition.split(data, 20, 3), partition.split(data, 20, 3))
    assert not equal(partition.split(data, 20, 3), partition.split(data, 20, 2**62))


@pytest.mark.parametrize("partition", [IID(), Dirichlet(), LabelShards(1)])
def test_near_equal_sizes(partition):
    sizes = partition.split(labelled(1003), 100, 3).sizes
    assert (sizes.min(), sizes.max()) == (10, 11)


def test_counts():
    data = labelled(300, classes=4)
    shards = Dirichlet().split(data, 9, 1)
    counts = shards.counts(data.targets, 4)
    for i in range(9):
        own = data.targets[shards.rows[shards.offsets[i] : shards.offsets[i + 1]]]
        assert np.array_equal(counts[i], np.bincount(own, minlength=4))


def test_iid_gives_every_row_to_every_node_alike():
    data, times = labelled(40), np.zeros((10, 40))
    for seed in range(2000):
        shards = IID().split(data, 10, seed)
        times[np.repeat(np.arange(10), shards.sizes), shards.rows] += 1
    # 400 cells of mean 200 in a chi-square with (10 - 1)(40 - 1) degrees of freedom, as row and column sums are fixed.
    # Cells of a permutation are a little dependent: the true variance is 40 / 39 of that assumed, hence the factor.
    chi = ((times - 200) ** 2 / 200).sum() * 39 / 40 / (1 - 0.1)
    dof = 9 * 39
    assert abs(chi - dof) < 5.5 * np.sqrt(2 * dof)  # false alarm: 4e-8 in the normal limit


def test_dirichlet_labels_follow_their_law_while_every_label_lasts():
    """Counts of label l at a node: mean m p_l, variance m p_l (1 - p_l) (m + a) / (1 + a): Dirichlet-multinomial."""
    nodes, m, a, prior = 4000, 25, 2.0, np.array([0.5, 0.3, 0.2])
    g = np.random.default_rng(5)
    slots = np.empty(nodes * m, dtype=np.int64)
    supply = np.full(3, nodes * m)
    end = _take(g.dirichlet(a * prior, size=nodes), np.full(nodes, m), supply, g.random(nodes * m), slots, 0)
    assert end == nodes * m
    assert np.array_equal(supply, nodes * m - np.bincount(slots))
    counts = np.stack([(slots.reshape(nodes, m) == label).sum(axis=1) for label in range(3)], axis=1)
    variance = m * prior * (1 - prior) * (m + a) / (1 + a)
    assert np.all(np.abs(counts.mean(axis=0) - m * prior) < 5 * np.sqrt(variance / nodes))  # false alarm: 3 x 6e-7
    # The kurtosis of these counts is below 3, so sqrt(2 / nodes) bounds the relative error of a variance.
    assert np.all(np.abs(counts.var(axis=0) / variance - 1) < 5 * np.sqrt(2 / nodes))


def test_dirichlet_keeps_the_prior_at_every_node_and_spreads_with_alpha():
    data = labelled(1000, classes=4)
    data.targets[:400] = 0
    prior = np.bincount(data.targets) / 1000
    for alpha in (0.1, 1.0, 100.0):
        shares = np.stack([Dirichlet(alpha).split(data, 50, s).counts(data.targets, 4) / 20 for s in range(400)])
        error = shares[:, 7].std(axis=0) / np.sqrt(400)
        assert np.all(np.abs(shares[:, 7].mean(axis=0) - prior) < 5 * error)  # false alarm: 3 x 4 x 6e-7
        law = np.sqrt(prior * (1 - prior) / 20 * (20 + alpha) / (1 + alpha)).mean()
        # The law holds while every label lasts: the last nodes take what is left, which is 7% less to 13% more here.
        assert 0.9 < shares.std(axis=1).mean() / law < 1.2


def test_dirichlet_with_tiny_alpha_gives_one_label_to_most_nodes():
    data = labelled(1000, classes=4)
    counts = Dirichlet(1e-9).split(data, 50, 0).counts(data.targets, 4)
    assert np.mean(counts.max(axis=1) == 20) > 0.7  # the others take what is left when a label runs out


def test_dirichlet_spans_more_nodes_than_one_block():
    data = labelled(9000, classes=3)
    shards = Dirichlet(0.2).split(data, 9000, 1)
    assert np.array_equal(np.sort(shards.rows), np.arange(9000))


def test_dirichlet_accepts_labels_without_samples():
    data = labelled(100, classes=3)
    data = Dataset(data.features, data.targets * 5, data.test_features, data.test_targets, classes=20)
    assert np.array_equal(np.sort(Dirichlet().split(data, 10, 0).rows), np.arange(100))
    one = Dataset(data.features, data.targets * 0, data.test_features, data.test_targets, classes=1)
    assert np.array_equal(np.sort(Dirichlet().split(one, 10, 0).rows), np.arange(100))


def test_label_shards_hold_few_labels():
    data = labelled(1000, classes=10)
    counts = LabelShards(2).split(data, 50, 4).counts(data.targets, 10)
    assert (counts > 0).sum(axis=1).max() <= 4  # 10 rows a shard, about 100 of a label: at most 2 labels a shard
    assert (counts > 0).sum(axis=1).mean() < 2.3


def test_quantity_skew_sizes_follow_the_dirichlet_law():
    """Share of a node: mean 1 / n, variance (1 / n)(1 - 1 / n) / (n alpha + 1)."""
    n, alpha, samples, seeds = 10, 0.5, 20_000, 1000
    data = labelled(samples)
    sizes = np.stack([QuantitySkew(alpha).split(data, n, seed).sizes for seed in range(seeds)])
    share = (sizes - 1) / (samples - n)
    variance = 0.1 * 0.9 / (n * alpha + 1)
    assert np.all(np.abs(share.mean(axis=0) - 0.1) < 5 * np.sqrt(variance / seeds))  # false alarm: 10 x 6e-7
    square = (share - 0.1) ** 2
    error = square.std(axis=0) / np.sqrt(seeds)
    assert np.all(np.abs(square.mean(axis=0) - variance) < 5.5 * error)  # 10 x 4e-8 in the normal limit


def test_natural_keeps_rows_at_their_nodes():
    node = np.array([2, 0, 1, 2, 2, 0])
    shards = Natural().split(labelled(6, node=node), 3, 0)
    assert np.array_equal(shards.rows, [1, 5, 2, 0, 3, 4])
    assert np.array_equal(shards.offsets, [0, 2, 3, 6])
    data = LinearRegression(samples_per_node=4).load(5, 0)
    assert np.array_equal(Natural().split(data, 5, 0).rows, np.arange(20))


@pytest.mark.parametrize("partition", [*ALL, Natural()])
def test_more_nodes_than_samples(partition):
    with pytest.raises(ValueError, match="network") as error:
        partition.split(labelled(12, node=np.arange(12)), 13, 0)
    assert str(error.value) == (
        "network.nodes must be at most the number of training samples, 12, got 13: "
        "give more data, or fewer nodes (network.nodes=12)"
    )


@pytest.mark.parametrize(("partition", "kind"), [(Dirichlet(), "dirichlet"), (LabelShards(), "shards")])
def test_partitions_by_label_refuse_real_targets(partition, kind):
    with pytest.raises(ValueError, match="kind") as error:
        partition.split(LinearRegression().load(3, 0), 3, 0)
    assert str(error.value) == (
        "task.partition.kind must be iid, natural, quantity_skew, quantity_power_law or quantity_lognormal when the "
        f"targets are real numbers, got {kind}: {kind} deals by label"
    )


@pytest.mark.parametrize(
    ("partition", "data", "n", "words"),
    [
        (
            LabelShards(3),
            labelled(50),
            20,
            "task.partition.shards_per_node must be at most 2 (of 50 training samples, for 20 nodes), got 3: "
            "give more data, fewer nodes or fewer shards",
        ),
        (
            Natural(),
            labelled(50),
            20,
            "task.partition.kind must be another kind, such as iid or dirichlet, when the data have no node array, "
            "got natural: add an integer array named node, one entry a row",
        ),
        (
            Natural(),
            labelled(8, node=np.arange(8)),
            5,
            "network.nodes must be more than the largest entry of the data's node array, 7, got 5: "
            "number the nodes 0, 1, 2, ..., or set network.nodes=8",
        ),
        (
            Natural(),
            labelled(12, node=np.array([0, 3] * 6)),
            12,
            "network.nodes must be a number of nodes that all own training samples, got 12, of which 10 own none "
            "(nodes 1, 2, 4, 5, 6, ...): give them data, renumber the nodes, or hold out fewer rows",
        ),
    ],
)
def test_what_a_partition_refuses(partition, data, n, words):
    with pytest.raises(ValueError, match="must be") as error:
        partition.split(data, n, 0)
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dirichlet(alpha=0.0), "alpha must be at least 1e-09 and finite [dimensionless], got 0.0"),
        (lambda: Dirichlet(alpha=float("nan")), "alpha must be at least 1e-09 and finite [dimensionless], got nan"),
        (lambda: QuantitySkew(alpha=float("inf")), "alpha must be at least 1e-09 and finite [dimensionless], got inf"),
        (lambda: LabelShards(shards_per_node=0), "shards_per_node must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert str(error.value) == words
