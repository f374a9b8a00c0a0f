r"""Held-out rows: from the samples that a file holds to training and test rows, standardised or as they are.

Notation: S samples, T test samples, x features.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int64

from batchednodes.data.sources.base import SPLIT, Dataset, Features, Targets
from batchednodes.data.sources.mapped import MappedRows, taken
from batchednodes.numerics import rng
from batchednodes.numerics.values import shown

Standardize = Literal["none", "train", "all"]
"""Over which rows features get mean 0 and standard deviation 1: none, the training rows, or training and test rows."""

_BLOCK = 1 << 20  # numbers whose squares are held at once


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples as a source gives them."""

    features: Features
    """Features; those of images are [S, channels, height, width]."""

    targets: Targets
    """Labels 0, 1, ..., one or an array of one shape a sample, or real targets, k a sample."""

    classes: int | None
    """Number of labels; None for a regression."""

    node: Int64[np.ndarray, " S"] | None = None
    """The node that owns each row."""


# ----------------------------------------------------------------------------------------------------------- checks


def check_fraction(fraction: float) -> None:
    """Raises ValueError unless the fraction of test samples lies strictly between 0 and 1."""
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, both excluded [dimensionless], got {shown(fraction)}")


def check_holdout(fraction: float, seed: int | None, given: str | None, key: str) -> None:
    """Checks settings that say how test rows are chosen.

    Args:
        fraction: share of rows held out; dimensionless.
        seed: of the draw of the test rows; None: that of the network.
        given: where test rows of their own are; None: nowhere.
        key: the name of the setting that gives them.

    Raises:
        ValueError: the fraction or the seed is out of range, or a seed is given that would have no effect.
    """
    check_fraction(fraction)
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"test_seed must be in [0, 2^63), got {shown(seed)}")
    if seed is not None and given is not None:
        raise ValueError(f"test_seed must be left out where {key} gives the test rows, got {seed}")


# ------------------------------------------------------------------------------------------------------------ split


def held_out(samples: int, fraction: float) -> int:
    """Returns the number of samples held out for testing: the nearest to the fraction, 1 to samples - 1.

    Example:
        >>> from batchednodes.data.sources.holdout import held_out
        >>> held_out(150, 0.2), held_out(2, 0.01)
        (30, 1)
    """
    return min(max(round(fraction * samples), 1), samples - 1)


def split(strata: Int64[np.ndarray, " S"], fraction: float, seed: int) -> np.ndarray:
    """Returns a mask [S] of the test rows: drawn at random, in proportion within each stratum.

    Rows are sorted by stratum, in random order within one, and every (S/T)-th is taken: exactly T = `held_out` rows,
    and of each stratum its share of T to within one row.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.sources.holdout import split
        >>> labels = np.array([0] * 10 + [1] * 5)
        >>> labels[split(labels, 0.2, seed=0)].tolist()  # of each label its share
        [0, 0, 1]

    Args:
        strata: label (or another class) of each row; all zero for a plain random split.
        fraction: share of rows held out; dimensionless, between 0 and 1.
        seed: of the network.
    """
    samples = len(strata)
    order = rng.generator(seed, rng.DATA, SPLIT).permutation(samples)
    order = order[np.argsort(strata[order], kind="stable")]
    ticks = np.arange(samples + 1) * held_out(samples, fraction) // samples
    mask = np.empty(samples, dtype=bool)
    mask[order] = np.diff(ticks) > 0
    return mask


def dataset(rows: Rows, test: Rows | None, fraction: float, seed: int, standardize: Standardize) -> Dataset:
    """Returns the data set of some rows.

    Args:
        rows: checked samples, whose features may be written to.
        test: test samples of their own, likewise; None: a part of the rows is held out, in proportion for each node
            where rows have owners, else for each label, where rows have one.
        fraction: share of rows that is held out then; dimensionless, between 0 and 1.
        seed: of the draw that chooses them.
        standardize: see `standardize_`.

    Raises:
        ValueError: features are too large to be standardised.
    """
    if test is None:
        labelled = rows.classes is not None and rows.targets.ndim == 1
        strata = rows.node if rows.node is not None else rows.targets if labelled else None
        mask = split(np.zeros(len(rows.features), np.int64) if strata is None else strata, fraction, seed)
        rows, test = _part(rows, ~mask), _part(rows, mask)
    tested = test.features if isinstance(test.features, np.ndarray) else test.features[:]
    features = standardize_(rows.features, tested, standardize)
    return Dataset(features, rows.targets, tested, test.targets, rows.classes, node=rows.node, test_node=test.node)


def _part(rows: Rows, mask: np.ndarray) -> Rows:
    node = None if rows.node is None else rows.node[mask]
    return Rows(taken(rows.features, mask), rows.targets[mask], rows.classes, node)


# ------------------------------------------------------------------------------------------------------ standardize


def standardize_(x: Features, test: np.ndarray, rule: Standardize) -> Features:
    """Shifts and scales features in place, to mean 0 and standard deviation 1 (of S rows, not S - 1); returns x.

    What stays in a file is read once for that, and shifted and scaled as it is read again.

    Those of images [S, channels, height, width] are shifted and scaled by channel. What does not vary becomes 0, to
    rounding.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.sources.holdout import standardize_
        >>> x, test = np.array([[1.0], [3.0]]), np.array([[5.0]])
        >>> _ = standardize_(x, test, "train")
        >>> x.tolist(), test.tolist()  # by mean 2 and standard deviation 1 of the training rows
        ([[-1.0], [1.0]], [[3.0]])

    Args:
        x: training features.
        test: test features, which are shifted and scaled alike.
        rule: the rows whose mean and standard deviation are meant; `none` changes nothing.

    Raises:
        ValueError: squares of the features exceed float64.
    """
    if rule == "none":
        return x
    mean, spread = _moments([x] if rule == "train" else [x, test])
    if not np.isfinite(spread).all():
        largest = max(np.abs(block).max() for part in (x, test) for block in _blocks(part))
        raise ValueError(
            f"standardize must be none where squares of features exceed float64, got {rule} and a feature of "
            f"{largest:g}; scale the features"
        )
    for part in (x, test):
        for block in _blocks(part) if isinstance(part, np.ndarray) else ():
            block[...] = (block - mean) / spread
    return x if isinstance(x, np.ndarray) else replace(x, scale=(mean, spread))


def _moments(parts: Sequence[np.ndarray | MappedRows]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation over the rows, and the pixels, of some arrays; 1 where nothing varies."""
    axes = (0, 2, 3) if parts[0].ndim == 4 else (0,)
    count = sum(math.prod(part.shape[axis] for axis in axes) for part in parts)

    def blocks() -> Iterator[np.ndarray]:
        return (block for part in parts for block in _blocks(part))

    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum((block.sum(axes, np.float64, keepdims=True) for block in blocks()), np.zeros(())) / count
        squares = (((block - mean) ** 2).sum(axes, np.float64, keepdims=True) for block in blocks())
        spread = np.sqrt(sum(squares, np.zeros(())) / count)
    rounding = count * np.finfo(np.float64).eps * np.abs(mean)  # of the mean of equal numbers
    return mean, np.where(spread <= rounding, 1.0, spread)


def _blocks(x: np.ndarray | MappedRows) -> Iterator[np.ndarray]:
    """Yields rows that lie one after the other: views of an array, or what is read of a file."""
    rows = max(1, _BLOCK // max(1, x[:1].size))
    return (x[first : first + rows] for first in range(0, len(x), rows))
