from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from batchednodes.data import (
    IID,
    Dataset,
    Dirichlet,
    DirichletGroups,
    DirichletPerClass,
    LabelShards,
    LabelsPerNode,
    LinearRegression,
    LogNormalSizes,
    Natural,
    PowerLaw,
    QuantitySkew,
)
from batchednodes.data.partitions.base import ORDER
from batchednodes.data.partitions.dirichlet import _filled, _take
from batchednodes.numerics import rng

BY_LABEL = [
    *(Dirichlet(alpha=alpha) for alpha in (0.1, 1e-9, 1e6)),
    *(DirichletGroups(alpha=alpha, groups=groups) for alpha, groups in ((0.1, 1), (1e-9, 7), (1e6, 2))),
    *(DirichletPerClass(alpha=alpha, shortage="fill") for alpha in (0.5, 1e-9, 1e6)),
    *(DirichletPerClass(alpha=alpha, shortage="fill", capped=True) for alpha in (0.5, 1e-9)),
    LabelsPerNode(labels=5),
]
BY_SIZE = [
    *(QuantitySkew(alpha=alpha) for alpha in (0.5, 1e-3)),
    *(PowerLaw(exponent=exponent) for exponent in (1.1, 2.0, 100.0)),
    *(LogNormalSizes(sigma=sigma) for sigma in (0.0, 1.0, 50.0)),
]
SHARDS = [LabelShards(1), LabelShards(3)]
ALL = [IID(), *BY_SIZE, *BY_LABEL, *SHARDS]


def labelled(samples, classes=5, seed=0, node=None):
    labels = np.random.default_rng(seed).integers(0, classes, samples)
    x = np.zeros((samples, 1), np.float32)
    return Dataset(x, labels, x[:1], labels[:1], classes=classes, node=node)


def equal(first, second):
    return np.array_equal(first.rows, second.rows) and np.array_equal(first.offsets, second.offsets)


def fits(partition, samples, n):
    """Returns whether a test's rows and nodes surely suffice for what the partition asks of each node."""
    each = max(getattr(partition, "shards_per_node", 1), getattr(partition, "labels", 1))
    return (each == 1 or 2 * n * each <= samples) and getattr(partition, "groups", 1) <= n


@pytest.mark.parametrize("partition", ALL)
@pytest.mark.parametrize(("samples", "n"), [(1, 1), (50, 1), (30, 10), (1000, 7), (5000, 300)])
def test_every_row_has_one_owner_and_every_node_a_row(partition, samples, n):
    if not fits(partition, samples, n):
        return
    shards = partition.split(labelled(samples), n, 3)
    assert np.array_equal(np.sort(shards.rows), np.arange(samples))
    assert shards.rows.dtype == shards.offsets.dtype == np.int64
    assert (shards.offsets[0], shards.offsets[-1], len(shards.offsets)) == (0, samples, n + 1)
    assert shards.sizes.min() >= 1


@pytest.mark.parametrize("partition", [p for p in ALL if p not in (LabelShards(3), LabelsPerNode(5))])
def test_as_many_nodes_as_samples(partition):
    shards = partition.split(labelled(40), 40, 3)
    assert np.array_equal(shards.sizes, np.ones(40))
    assert np.array_equal(np.sort(shards.rows), np.arange(40))


@pytest.mark.parametrize("partition", ALL)
def test_a_seed_gives_one_partition(partition):
    data = labelled(500)
    assert equal(partition.split(data, 20, 3), partition.split(data, 20, 3))
    assert not equal(partition.split(data, 20, 3), partition.split(data, 20, 2**62))


@pytest.mark.parametrize("partition", [IID(), Dirichlet(), DirichletGroups(), LabelShards(1), LogNormalSizes(0.0)])
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


def groups_of(n, groups):
    return np.arange(n) * groups // n


def test_groups_share_their_proportions_and_follow_the_dirichlet_law():
    """Nodes of the first turns, while no label runs out: binomial given the q ~ Beta of their group, alike in it."""
    n, m, turns, alpha = 100, 40, 10, 1.0
    data = labelled(n * m, classes=2)
    data.targets[:] = np.arange(n * m) % 2
    firsts, chi, dof = [], 0.0, 0
    for seed in range(400):
        early = rng.generator(seed, rng.PARTITION, ORDER).permutation(n)[:turns]
        counts = DirichletGroups(alpha, 2).split(data, n, seed).counts(data.targets, 2)[early]
        firsts.append(counts[0, 0])
        for group in range(2):
            some = counts[groups_of(n, 2)[early] == group]
            if len(some) > 1 and some.sum(axis=0).min() >= 30:  # chi-square wants large expected counts
                chi, dof = chi + stats.contingency.chi2_contingency(some).statistic, dof + len(some) - 1
    assert dof > 500
    assert stats.chi2.sf(chi, dof) > 1e-6  # false alarm: 1e-6
    law = stats.betabinom.pmf(np.arange(m + 1), m, alpha / 2, alpha / 2)
    bins = np.arange(m + 1) // 5
    found = np.bincount(np.array(firsts) // 5, minlength=bins[-1] + 1)
    assert stats.chisquare(found, np.bincount(bins, law) * len(firsts)).pvalue > 1e-6


def test_per_class_shares_follow_the_beta_law():
    """Each label's share at one node is Beta(alpha, (n - 1) alpha), independent over labels and seeds."""
    n, alpha, samples = 5, 0.7, 6000
    data = labelled(samples, classes=3)
    totals = np.bincount(data.targets)
    parts = [DirichletPerClass(alpha).split(data, n, s).counts(data.targets, 3)[2] / totals for s in range(600)]
    shares, law = np.concatenate(parts), stats.beta(alpha, (n - 1) * alpha)
    assert stats.kstest(shares, law.cdf).pvalue > 1e-6
    square = (shares - law.mean()) ** 2
    assert abs(square.mean() - law.var()) < 5 * square.std() / np.sqrt(len(square))  # false alarm: 6e-7


def test_per_class_rounding_favours_no_node():
    """Two rows of each label, and four nodes: half a row each, on average."""
    data = labelled(40, classes=20)
    data.targets[:] = np.arange(40) % 20
    sizes = np.stack([DirichletPerClass(1e3, shortage="fill").split(data, 4, s).sizes for s in range(500)])
    error = sizes.std(axis=0) / np.sqrt(len(sizes))
    assert np.all(np.abs(sizes.mean(axis=0) - 10) < 5 * error)  # false alarm: 4 x 6e-7


def test_capped_nodes_get_no_labels_that_follow():
    data = labelled(1000, classes=10)
    counts = DirichletPerClass(0.5, capped=True).split(data, 10, 0).counts(data.targets, 10)
    before = np.cumsum(counts, axis=1)[:, :-1]
    assert (before >= 100).any()
    assert not counts[:, 1:][before >= 100].any()
    free = DirichletPerClass(0.5).split(data, 10, 0).counts(data.targets, 10)
    assert free.sum(axis=1).max() > counts.sum(axis=1).max()


def test_sizes_are_drawn_again_until_all_nodes_have_the_minimum():
    data = labelled(400)
    least = [DirichletPerClass(1.0, minimum=15).split(data, 10, seed).sizes.min() for seed in range(30)]
    once = [DirichletPerClass(1.0).split(data, 10, seed).sizes.min() for seed in range(30)]
    assert min(least) >= 15 > min(once)


@pytest.mark.parametrize("seed", range(20))
def test_what_small_nodes_lack_comes_from_the_largest(seed):
    g = np.random.default_rng(seed)
    n, minimum = 12, int(g.integers(1, 9))
    owners = g.integers(0, n, 100) % g.integers(1, n)
    before, after = np.bincount(owners, minlength=n), np.bincount(_filled(owners, n, minimum, g), minlength=n)
    assert after.sum() == 100
    assert np.array_equal(after[before < minimum], np.full((before < minimum).sum(), minimum))
    gave, kept = before > after, (before == after) & (before >= minimum)
    assert np.all(after[before >= minimum] <= before[before >= minimum])
    assert np.ptp(after[gave]) <= 1 if gave.any() else True
    assert after[gave].min(initial=100) + 1 >= after[kept].max(initial=0)


def test_rows_that_move_are_drawn_at_random():
    owners, moves = np.zeros(6, dtype=np.int64), np.zeros((6, 3))
    for seed in range(3000):
        moved = _filled(owners, 3, 1, np.random.default_rng(seed))
        moves[np.arange(6), moved] += 1
    assert stats.chisquare(moves[:, 1]).pvalue > 1e-6
    assert stats.chisquare(moves[:, 2]).pvalue > 1e-6


def test_every_node_holds_exactly_its_number_of_labels():
    for n, k, classes in ((3, 2, 6), (30, 3, 7), (500, 1, 4), (20, 5, 5)):
        data = labelled(8 * n * k * classes, classes)
        counts = LabelsPerNode(k).split(data, n, 1).counts(data.targets, classes)
        assert np.array_equal((counts > 0).sum(axis=1), np.full(n, k))
        for label in range(classes):
            held = counts[:, label][counts[:, label] > 0]
            assert np.ptp(held) <= 1


def test_labels_of_a_node_are_any_pair_alike():
    data = labelled(100, classes=5)
    pairs = np.zeros(32)
    for seed in range(2000):
        counts = LabelsPerNode(2).split(data, 5, seed).counts(data.targets, 5)
        pairs[((counts[3] > 0) * 2 ** np.arange(5)).sum()] += 1
    assert np.count_nonzero(pairs) == 10
    assert stats.chisquare(pairs[pairs > 0]).pvalue > 1e-6


def test_shards_are_dealt_at_random():
    """Ten shards of one label each for five nodes: any node owns label 0, and label 1 is with it one time in nine."""
    data = labelled(100, classes=10)
    data.targets[:] = np.arange(100) // 10
    owners, together = np.zeros(5), 0
    for seed in range(2000):
        counts = LabelShards(2).split(data, 5, seed).counts(data.targets, 10)
        owners[np.argmax(counts[:, 0])] += 1
        together += int(counts[np.argmax(counts[:, 0]), 1] > 0)
    assert stats.chisquare(owners).pvalue > 1e-6
    assert stats.binomtest(together, 2000, 1 / 9).pvalue > 1e-6


@pytest.mark.parametrize(
    ("partition", "law"),
    [
        (PowerLaw(exponent=3.0, minimum=7), stats.laplace(scale=1 / 2.0)),
        (LogNormalSizes(sigma=0.5, minimum=7), stats.norm(scale=0.5 * np.sqrt(2))),
    ],
)
def test_ratios_of_sizes_follow_their_law(partition, law):
    """log(w_1 / w_2) of independent pairs: the difference of two exponential, or two normal, variables."""
    n, samples = 2000, 4_000_000
    sizes = partition.split(labelled(samples), n, 5).sizes
    w = np.log(sizes - partition.minimum + 0.0)
    assert sizes.min() >= 10 * partition.minimum  # rounding to whole rows is far below what 1,000 pairs can show
    assert stats.kstest(w[::2] - w[1::2], law.cdf).pvalue > 1e-6
    error = np.sqrt((law.stats("k") + 2) / len(w[::2]))  # of a variance, in its own size
    assert abs((w[::2] - w[1::2]).var() / law.var() - 1) < 5.5 * error  # false alarm: 4e-8 in the normal limit


@pytest.mark.parametrize("partition", [*(type(p)(minimum=13) for p in BY_SIZE[::3]), DirichletPerClass(minimum=13)])
def test_no_node_has_less_than_the_minimum(partition):
    assert partition.split(labelled(1000), 20, 3).sizes.min() >= 13
    full = replace(partition, minimum=50, **({"shortage": "fill"} if hasattr(partition, "shortage") else {}))
    assert np.array_equal(full.split(labelled(1000), 20, 3).sizes, np.full(20, 50))


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


@pytest.mark.parametrize(
    ("partition", "kind"),
    [
        (Dirichlet(), "dirichlet"),
        (DirichletGroups(groups=3), "dirichlet_groups"),
        (DirichletPerClass(), "dirichlet_per_class"),
        (LabelShards(), "shards"),
        (LabelsPerNode(), "labels_per_node"),
    ],
)
def test_partitions_by_label_refuse_real_targets(partition, kind):
    with pytest.raises(ValueError, match="kind") as error:
        partition.split(LinearRegression().load(3, 0), 3, 0)
    assert str(error.value) == (
        "task.partition.kind must be one that asks for no labels, such as iid or natural, when the "
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
        (
            QuantitySkew(minimum=3),
            labelled(50),
            20,
            "task.partition.minimum must be at most 2 (of 50 training samples, for 20 nodes), got 3: give more data, "
            "fewer nodes or a smaller minimum",
        ),
        (
            DirichletPerClass(0.01, minimum=2),
            labelled(50),
            20,
            "task.partition.minimum must be reached by all 20 nodes in one of 1000 draws, got 2, where the best had a "
            "node of 0 rows: raise task.partition.alpha, lower network.nodes or minimum, or set "
            "task.partition.shortage=fill",
        ),
        (
            DirichletGroups(groups=21),
            labelled(50),
            20,
            "task.partition.groups must be at most network.nodes = 20, got 21; lower it, or use kind=dirichlet, where "
            "each node is its own group",
        ),
        (LabelsPerNode(6), labelled(50), 20, "task.partition.labels must be at most the 5 labels of the data, got 6"),
        (
            LabelsPerNode(2),
            labelled(50),
            2,
            "task.partition.labels must be at least 3, so that 2 nodes hold all 5 labels, got 2: raise it, or "
            "network.nodes",
        ),
        (
            LabelsPerNode(5),
            labelled(50),
            20,
            "network.nodes must be so few that each holder of a label has a row of it, got 20, where label 0 has 14 "
            "rows for 20 nodes: give more data, fewer nodes, or lower task.partition.labels",
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
        (lambda: DirichletGroups(groups=0), "groups must be at least 1, got 0"),
        (lambda: LabelsPerNode(labels=0), "labels must be at least 1, got 0"),
        (lambda: PowerLaw(minimum=0), "minimum must be at least 1, got 0"),
        (lambda: PowerLaw(exponent=1.0), "exponent must be at least 1.1 and finite [dimensionless], got 1.0"),
        (lambda: LogNormalSizes(sigma=51.0), "sigma must be in [0, 50] [dimensionless], got 51.0"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert str(error.value) == words
