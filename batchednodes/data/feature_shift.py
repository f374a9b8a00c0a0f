r"""Feature shift: nodes that see the same things differently.

A shift changes the rows of the data set in place, each as its node sees it; labels stay. It takes no memory beyond the
data, since each row has one owner.

Notation: n nodes, R rows, c channels, h x w pixels of an image, i node.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit

from batchednodes.data.partitions import Shards
from batchednodes.data.partitions.base import NOISE, TEST_NODES, TEST_NOISE
from batchednodes.data.sources.base import Dataset, DataSizes
from batchednodes.numerics import rng
from batchednodes.numerics.values import PerNode, check_sizes, count, per_node, shown

_BLOCK = 1 << 20
"""Numbers of noise that are drawn at once."""


class Shift(ABC):
    """How the features of a node differ from those of others."""

    @abstractmethod
    def check(self, sizes: DataSizes, n: int, seed: int) -> None:
        """Checks all that is known before the data are loaded.

        Raises:
            ValueError: the shift does not suit such data, or so many nodes.
        """

    @abstractmethod
    def applies_to_tests(self) -> bool:
        """Returns whether test rows are shifted too."""

    def keeps_integers(self, n: int, seed: int) -> bool:
        """Returns whether features that are integers stay so at each of n nodes."""
        return False

    @abstractmethod
    def apply_(self, x: np.ndarray, node: Int64[np.ndarray, " R"], n: int, seed: int, purpose: int) -> None:
        """Changes features [R, ...] of reals, or of int64 if it keeps integers, to what the node of each row sees.

        Args:
            x: contiguous and writable.
            node: of each row.
            n: number of nodes.
            seed: of the network.
            purpose: of the draws, `NOISE` or `TEST_NOISE`.
        """


def shifted(dataset: Dataset, shards: Shards, shift: Shift, seed: int) -> Dataset:
    """Returns the data as the nodes see them; the memory of `dataset` is reused.

    Test rows stay as they are, or each is what a node drawn at random would see.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import IID, LinearRegression, Noise
        >>> from batchednodes.data.feature_shift import shifted
        >>> data = LinearRegression(features=1, samples_per_node=1000).load(2, seed=0)
        >>> shards, before = IID().split(data, 2, seed=0), data.features.copy()
        >>> noise = shifted(data, shards, Noise(level=1.0), seed=0).features - before
        >>> [noise[shards.owners == i].std().round(1).item() for i in range(2)]
        [0.5, 1.0]
    """
    n = len(shards.offsets) - 1
    shift.check(dataset.sizes, n, seed)
    x = np.require(dataset.features, requirements=["C", "W"])
    shift.apply_(x, shards.owners, n, seed, NOISE)
    tests = dataset.test_features
    if shift.applies_to_tests():
        tests = np.require(tests, requirements=["C", "W"])
        node = rng.generator(seed, rng.PARTITION, TEST_NODES).integers(0, n, len(tests))
        shift.apply_(tests, node, n, seed, TEST_NOISE)
    return replace(dataset, features=x, test_features=tests)


# --------------------------------------------------------------------------------------------------------- rotation


@dataclass(frozen=True)
class Rotation(Shift):
    r"""Images turned about their centre, by an angle for each node or group of nodes.

    Multiples of 90 degrees are exact; other angles interpolate between the four nearest pixels, with zeros outside of
    the image. By default nodes are in four groups, turned by 0, 90, 180 and 270 degrees. Group of node i:
    floor(i groups / n).

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Rotation
        >>> images = np.array([[[1.0, 2.0], [3.0, 4.0]]] * 2)[:, None]  # the same one at two nodes
        >>> Rotation(angle=[0.0, 90.0], groups=2).apply_(images, np.array([0, 1]), n=2, seed=0, purpose=0)
        >>> images.tolist()
        [[[[1.0, 2.0], [3.0, 4.0]]], [[[2.0, 4.0], [1.0, 3.0]]]]

    Reference:
        A. Ghosh, J. Chung, D. Yin, K. Ramchandran, "An efficient framework for clustered federated learning", NeurIPS
        2020 (rotated MNIST).
    """

    angle: PerNode = field(default_factory=lambda: [0.0, 90.0, 180.0, 270.0])
    """Angle, counterclockwise [degrees]; in [-360, 360]; of each group where there are groups, which then count as n,
    else of each node."""

    groups: int | None = 4
    """Number of groups, at least 1 and at most `network.nodes`, whose nodes share an angle; null: each node has its
    own."""

    image: tuple[int, ...] | None = None
    """Height and width of an image [pixels]; null: the last two dimensions of the features, or, where these are flat,
    a square. Channels come before them."""

    test: Literal["clean", "shifted"] = "clean"
    """Test images: `clean` as they are; `shifted` each as a node drawn at random would see it."""

    def __post_init__(self) -> None:
        check_sizes(groups=self.groups)
        if self.image is not None and len(self.image) != 2:
            raise ValueError(f"image must be two sizes, height and width [pixels], got {shown(list(self.image))}")
        for side in self.image or ():
            count(side, 1, "image", high=10**6)

    def check(self, sizes: DataSizes, n: int, seed: int) -> None:
        if self.groups is not None and self.groups > n:
            raise ValueError(
                f"task.shift.groups must be at most network.nodes = {n}, got {self.groups}; lower it, or use null: "
                "each node has an angle of its own"
            )
        if self.groups is not None and isinstance(self.angle, list | tuple) and len(self.angle) != self.groups:
            raise ValueError(
                f"task.shift.angle must be a list of one angle for each of the {self.groups} groups, got "
                f"{len(self.angle)}; set task.shift.groups={max(1, len(self.angle))}, or null: each node has its own"
            )
        self._angles(n, seed, min(n, 10**6))
        self._pixels(sizes.features)

    def applies_to_tests(self) -> bool:
        return self.test == "shifted"

    def keeps_integers(self, n: int, seed: int) -> bool:
        return not (self._angles(n, seed) % 90.0).any()

    def apply_(self, x: np.ndarray, node: Int64[np.ndarray, " R"], n: int, seed: int, purpose: int) -> None:
        turns = np.array([_direction(angle) for angle in self._angles(n, seed)])
        group = node if self.groups is None else node * self.groups // n
        h, w = self._pixels(x.shape[1:])
        _turn_(x.reshape(len(x), -1, h, w), turns, group)

    def _angles(self, n: int, seed: int, size: int | None = None) -> Float64[np.ndarray, " _"]:
        many = self.groups or n
        return per_node(
            self.angle,
            many,
            seed,
            "task.shift.angle",
            low=-360.0,
            high=360.0,
            open_high=False,
            unit="degrees",
            size=None if size is None else min(many, size),
        )

    def _pixels(self, features: tuple[int, ...]) -> tuple[int, int]:
        """Returns the height and width of an image."""
        if len(features) > 1 and self.image in (None, features[-2:]):
            return features[-2], features[-1]
        total, side = math.prod(features), math.isqrt(math.prod(features))
        h, w = self.image or (side, side)
        flat = len(features) == 1 and total % (h * w) == 0 and (self.image is not None or side * side == total)
        if not flat:
            got = "null" if self.image is None else f"{list(self.image)}"
            raise ValueError(
                "task.shift.image must be the height and width of the images that the features are, got "
                f"{got} for features of shape {list(features)}; set task.shift.image=[height, width]"
            )
        return h, w


def _direction(angle: float) -> tuple[float, float]:
    """Returns cosine and sine of an angle [degrees], exact for multiples of 90 degrees."""
    turns, rest = divmod(angle, 90.0)
    if rest == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(turns) % 4]
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


@njit(nogil=True, cache=True)
@no_type_check
def _turn_(x, turns, group):  # noqa: ANN001, ANN202  (numba infers the types)
    """Turns the images x[r] [c, h, w] in place by turns[group[r]] = (cos, sin); bilinear, zeros outside."""
    rows, channels, h, w = x.shape
    old = np.empty((h, w), x.dtype)
    middle_r, middle_c = (h - 1) / 2, (w - 1) / 2
    for r in range(rows):
        cos, sin = turns[group[r], 0], turns[group[r], 1]
        if cos == 1.0:
            continue
        for channel in range(channels):
            old[:] = x[r, channel]
            for a in range(h):
                for b in range(w):
                    from_r = middle_r + cos * (a - middle_r) + sin * (b - middle_c)
                    from_c = middle_c - sin * (a - middle_r) + cos * (b - middle_c)
                    near_r, near_c = math.floor(from_r), math.floor(from_c)
                    if near_r != from_r or near_c != from_c:
                        x[r, channel, a, b] = _between(old, from_r, from_c)
                    elif 0 <= near_r < h and 0 <= near_c < w:
                        x[r, channel, a, b] = old[near_r, near_c]  # float64 does not hold all integers
                    else:
                        x[r, channel, a, b] = 0


@njit(nogil=True, cache=True, inline="always")
@no_type_check
def _between(image, r, c):  # noqa: ANN001, ANN202
    """Returns the image at a point, interpolated between the four pixels around it; zeros outside."""
    top, left = math.floor(r), math.floor(c)
    down, right = r - top, c - left
    value = 0.0
    for k in range(4):
        a, b = int(top) + k // 2, int(left) + k % 2
        weight = (down if k // 2 else 1.0 - down) * (right if k % 2 else 1.0 - right)
        if weight > 0.0 and 0 <= a < image.shape[0] and 0 <= b < image.shape[1]:
            value += weight * image[a, b]
    return value


# ------------------------------------------------------------------------------------------------------------ noise


@dataclass(frozen=True)
class Noise(Shift):
    r"""Gaussian noise on the features, of another level at each node.

    Node i = 0, ..., n - 1 adds N(0, s_i^2) to each feature, with s_i = level (i + 1) / n, or s_i = level of the node.
    (The paper calls level i / n the variance; the code published with it uses a standard deviation, as here.)

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import Noise
        >>> from batchednodes.data.feature_shift import NOISE
        >>> x, node = np.zeros((4000, 1)), np.repeat([0, 1, 2, 3], 1000)
        >>> Noise(level=1.0).apply_(x, node, n=4, seed=0, purpose=NOISE)
        >>> x.reshape(4, 1000).std(axis=1).round(1).tolist()  # rises from node to node
        [0.3, 0.5, 0.7, 1.0]

    Reference:
        Q. Li, Y. Diao, Q. Chen, B. He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022.
    """

    level: PerNode = 0.1
    """Standard deviation of the noise [unit of the features]; in [0, 1e30]."""

    rising: bool = True
    """Whether node i has (i + 1) / n of the level, as published; false: the whole."""

    test: Literal["clean", "shifted"] = "clean"
    """Test features: `clean` as they are; `shifted` each as a node drawn at random would see it."""

    def check(self, sizes: DataSizes, n: int, seed: int) -> None:
        self._levels(n, seed, min(n, 10**6))

    def applies_to_tests(self) -> bool:
        return self.test == "shifted"

    def apply_(self, x: np.ndarray, node: Int64[np.ndarray, " R"], n: int, seed: int, purpose: int) -> None:
        levels, rows = self._levels(n, seed).astype(x.dtype), x.reshape(len(x), -1)
        draws, block = rng.generator(seed, rng.PARTITION, purpose), max(1, _BLOCK // max(1, rows.shape[1]))
        for first in range(0, len(rows), block):
            part = slice(first, first + block)
            noise = draws.standard_normal(rows[part].shape, dtype=x.dtype)
            noise *= levels[node[part], None]
            rows[part] += noise

    def _levels(self, n: int, seed: int, size: int | None = None) -> Float64[np.ndarray, " _"]:
        own = per_node(
            self.level, n, seed, "task.shift.level", high=1e30, open_high=False, unit="unit of the features", size=size
        )
        return own * np.arange(1, len(own) + 1) / n if self.rising else own
