r"""Test rows of the nodes' own: those of the data, dealt to them as training rows are; or a share of their own rows.

Notation: n nodes, S training samples, T test samples, R rows, i node.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

from batchednodes.data.feature_shift import Shift
from batchednodes.data.partitions import Natural, Partition, Shards
from batchednodes.data.partitions.base import OWN_NOISE, OWN_TESTS, of_owners
from batchednodes.data.sources.base import Dataset, OwnTests
from batchednodes.data.sources.mapped import MappedRows
from batchednodes.numerics import rng

BLOCK = 256
"""Own test rows of a node that are scored at once, at most."""


def block_width(rows: int, n: int) -> int:
    """Returns of how many own test rows of a node the scores are computed at once, where n nodes have some rows.

    Example:
        >>> from batchednodes.data.own_tests import block_width
        >>> block_width(359, 50), block_width(10, 50), block_width(60_000, 10)
        (8, 1, 256)
    """
    return min(BLOCK, max(1, -(-rows // n)))


def dealt(data: Dataset, shards: Shards, partition: Partition, shift: Shift | None, seed: int) -> OwnTests:
    """Returns the test rows of the data as one node each owns them and, with a shift, sees them.

    Each test row goes to who owns a training row of its label: those of a label lie evenly among the training rows of
    that label, sorted by owner, so that node i gets its share of them to within one row. With targets that are no
    labels, one of a row each, the rows of all nodes count alike. Where rows stay where they were made, so do test
    rows whose makers are known.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Dirichlet, Sklearn
        >>> from batchednodes.data.own_tests import dealt
        >>> iris, law = Sklearn("iris").load(4, seed=0), Dirichlet(0.1)
        >>> shards = law.split(iris, 4, seed=0)
        >>> tests = dealt(iris, shards, law, None, seed=0)
        >>> own = [tests.targets[tests.offsets[i] : tests.offsets[i + 1]] for i in range(4)]
        >>> [np.bincount(labels, minlength=3).tolist() for labels in own]  # of 0, 30 or 10 training rows each
        [[0, 0, 7], [0, 7, 0], [3, 3, 3], [7, 0, 0]]

    Args:
        data: whose test rows are as no node sees them.
        shards: training rows of each node.
        partition: by which they were dealt.
        shift: that nodes see features by; None: there is none.
        seed: of the network.
    """
    n, owner = len(shards.offsets) - 1, data.test_node
    if owner is None or not isinstance(partition, Natural):
        owner = _owners(data, shards, seed)
    known = np.flatnonzero((owner >= 0) & (owner < n))
    own = of_owners(known, owner[known], n)
    features = data.test_features[own.rows]
    if shift is not None:
        shift.apply_(features, np.repeat(np.arange(n), own.sizes), n, seed, OWN_NOISE)
    return OwnTests(features, data.test_targets[own.rows], own.offsets)


def _owners(data: Dataset, shards: Shards, seed: int) -> Int64[np.ndarray, " T"]:
    """Returns the owner of each test row."""
    draws = rng.generator(seed, rng.PARTITION, OWN_TESTS)
    labels, tests = _strata(data.targets, data.classes), _strata(data.test_targets, data.classes)
    kinds = max(data.classes or 1, 1)
    rows, found = np.bincount(labels, minlength=kinds), np.bincount(tests, minlength=kinds)
    order = draws.permutation(len(tests))
    order = order[np.argsort(tests[order], kind="stable")]
    label = tests[order]
    place = np.arange(len(tests)) - (np.cumsum(found) - found)[label]
    at = ((place + draws.random(kinds)[label]) / found[label] * rows[label]).astype(np.int64)
    first = (np.cumsum(rows) - rows)[label]
    at = first + np.minimum(at, rows[label] - 1)
    anyone = draws.integers(0, len(labels), len(tests))  # of labels without a training row
    sorted_ = shards.owners[np.lexsort((shards.owners, labels))]
    owner = np.empty(len(tests), np.int64)
    owner[order] = sorted_[np.where(rows[label] > 0, at, anyone)]
    return owner


def held_out(data: Dataset, shards: Shards, share: float, seed: int) -> tuple[Dataset, Shards]:
    """Returns data without a share of each node's rows, which are its own test rows, and who owns the others.

    Of its m rows a node keeps at least one, and holds out the nearest number to the share, at least one where m > 1;
    they are drawn at random, of each label its share to within one row.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Dirichlet, Sklearn
        >>> from batchednodes.data.own_tests import held_out
        >>> iris = Sklearn("iris").load(4, seed=0)
        >>> left, shards = held_out(iris, Dirichlet(0.1).split(iris, 4, seed=0), 0.2, seed=0)
        >>> shards.sizes.tolist(), np.diff(left.own.offsets).tolist()  # of 30 rows each
        ([24, 24, 24, 24], [6, 6, 6, 6])

    Args:
        data: as nodes see them.
        shards: training rows of each node.
        share: between 0 and 1, both excluded; dimensionless.
        seed: of the network.
    """
    out, n = _chosen(data, shards, share, seed), len(shards.offsets) - 1
    rows = np.flatnonzero(out)
    own = of_owners(rows, shards.owners[rows], n)
    tests = OwnTests(data.features[own.rows], data.targets[own.rows], own.offsets)
    node = None if data.node is None else data.node[~out]
    features = data.features.of(np.flatnonzero(~out)) if isinstance(data.features, MappedRows) else data.features[~out]
    left = replace(data, features=features, targets=data.targets[~out], node=node, own=tests)
    kept = ~out[shards.rows]
    offsets = np.concatenate([[0], np.cumsum(kept)])[shards.offsets]
    return left, Shards((np.cumsum(~out) - 1)[shards.rows[kept]], offsets)


def _chosen(data: Dataset, shards: Shards, share: float, seed: int) -> Bool[np.ndarray, " S"]:
    """Returns which training rows are held out."""
    draws, owners, sizes = rng.generator(seed, rng.PARTITION, OWN_TESTS), shards.owners, shards.sizes
    order = draws.permutation(len(owners))
    order = order[np.lexsort((_strata(data.targets, data.classes)[order], owners[order]))]
    node = owners[order]
    place = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[node]
    take = np.minimum(np.maximum(np.rint(share * sizes), 1), sizes - 1).astype(np.int64)[node]
    begin, m = draws.integers(0, sizes)[node], sizes[node]
    out = np.empty(len(order), bool)
    out[order] = ((place + 1) * take + begin) // m > (place * take + begin) // m
    return out


def _strata(targets: np.ndarray, classes: int | None) -> Int64[np.ndarray, " R"]:
    """Returns the label of each row; 0 where rows have none, or several each."""
    return targets if classes is not None and targets.ndim == 1 else np.zeros(len(targets), np.int64)
