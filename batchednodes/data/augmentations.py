r"""Augmentation: what is changed at random about the examples of a minibatch, each time that they are trained on.

    @dataclass(frozen=True)
    class Brightness(Augmentation):
        most: float = 0.2

        def change(self, x, y, here, uniform):
            factor = 1 + self.most * (2 * uniform(1) - 1)  # one for each example
            return x * factor.to(x.dtype).view(*x.shape[:2], *[1] * (x.ndim - 2)), y

Draws have the address (seed, node, update, step, number of the augmentation, place in the minibatch), so what an
example becomes does not depend on the device, nor on what else is computed with it. Test data stay as they are.

Notation: m minibatches, b examples of each, c channels, h height, w width.
"""

from __future__ import annotations  # signatures name tensors, and torch is not imported for that

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy

from batchednodes.data.sources.base import DataSizes
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.memory import send
from batchednodes.numerics.values import count, number, shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

Uniform = Callable[[int], "Tensor"]
"""Returns numbers in (0, 1) for each example [m, b, size], as float64: asked again for as many, the same."""

Shape = tuple[int, ...] | None
"""[height, width] or [channels, height, width] of images whose features are one after the other; None: they have it."""

_POINTS = 4096
"""Pieces of the inverse of Beta's distribution function, between which it is straight."""


class Augmentation(ABC):
    """How the examples of minibatches are changed before they are trained on."""

    softens: ClassVar[bool] = False
    """Whether targets that are labels come, and leave, as probabilities of all labels [m, b, ..., labels]."""

    def check(self, sizes: DataSizes) -> None:  # noqa: B027  (there may be nothing to check)
        """Checks that it suits data of some sizes.

        Raises:
            ValueError: it does not; the message begins with the name of a setting.
        """

    @abstractmethod
    def change(self, x: Tensor, y: Tensor, here: Tensor, uniform: Uniform) -> tuple[Tensor, Tensor]:
        """Returns features and targets as they are trained on, of the same shapes and types, each minibatch by itself.

        Args:
            x: features [m, b, ...]; not written.
            y: targets [m, b, ...]; not written.
            here: which places hold an example [m, b]: a smaller minibatch ends with some that do not.
            uniform: draws.
        """


def check_image(sizes: DataSizes, shape: Shape, name: str, fill: float = 0.0) -> None:
    """Checks that samples are images, [h, w] or [c, h, w], or as many numbers as a shape says.

    Args:
        sizes: of the data.
        shape: that of a setting.
        name: of the kind, for messages.
        fill: what stands in place of pixels.

    Raises:
        ValueError: they are not, or are integers, which the fill is not.
    """
    found = sizes.features
    if sizes.integers and fill != int(fill):
        raise ValueError(f"fill must be a whole number where features are integers, got {shown(fill)}")
    if shape is None:
        if len(found) not in (2, 3):
            rule = f"must be given to {name} unless features are images [height, width] or [channels, height, width]"
            raise ValueError(f"shape {rule}, got null with features of shape {list(found)}")
    elif len(shape) not in (2, 3) or min(shape) < 1 or np.prod(shape) != np.prod(found):
        rule = f"must be [height, width] or [channels, height, width] of features of shape {list(found)}"
        raise ValueError(f"shape {rule}, got {shown(list(shape))}")


def _images(x: Tensor, shape: Shape) -> Tensor:
    """Returns features as images [m, b, c, h, w], without a copy."""
    own = tuple(x.shape[2:]) if shape is None else shape
    return x.reshape(*x.shape[:2], *own) if len(own) == 3 else x.reshape(*x.shape[:2], 1, *own)


def _covered(images: Tensor, mask: Tensor, fill: float) -> Tensor:
    """Returns images [m, b, c, h, w] with something else in place of some pixels [m, b, h, w]."""
    return images.masked_fill(mask.unsqueeze(2), fill if images.is_floating_point() else int(fill))


def _below(u: Tensor, bound: int) -> Tensor:
    """Returns integers 0, ..., bound - 1 [m, b, 1] made of numbers in (0, 1)."""
    return (u * bound).long()


@dataclass(frozen=True)
class Crop(Augmentation):
    """Images are padded on all sides and cut back to their size at a random place: they move by `padding` at most.

    Example:
        >>> import torch
        >>> from batchednodes.data.augmentations import Crop
        >>> x = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
        >>> moved, _ = Crop(padding=1).change(x, x, x, lambda size: torch.full((1, 1, size), 0.9))
        >>> moved[0, 0].tolist()  # the part one row below and one column to the right
        [[5.0, 6.0, 0.0], [8.0, 9.0, 0.0], [0.0, 0.0, 0.0]]
    """

    padding: int = 4
    """Pixels that are added on each side; at least 1."""

    fill: float = 0.0
    """What they are, in units of the features; finite."""

    shape: Shape = None
    """[height, width] or [channels, height, width] of images that are rows of numbers; null: features are images."""

    def __post_init__(self) -> None:
        count(self.padding, 1, "padding", high=10_000)
        number(self.fill, 1, "fill", low=-np.inf)

    def check(self, sizes: DataSizes) -> None:
        check_image(sizes, self.shape, "crop", self.fill)

    def change(self, x: Tensor, y: Tensor, here: Tensor, uniform: Uniform) -> tuple[Tensor, Tensor]:
        images, moves = _images(x, self.shape), _below(uniform(2), 2 * self.padding + 1) - self.padding
        c, h, w = images.shape[2:]
        down, right = (
            moves[..., k : k + 1] + torch.arange(size, device=x.device) for k, size in enumerate((h, w))
        )  # [m, b, h] and [m, b, w]: where each pixel comes from
        inside = ((down >= 0) & (down < h)).unsqueeze(-1) & ((right >= 0) & (right < w)).unsqueeze(-2)
        place = (down.clamp(0, h - 1).unsqueeze(-1) * w + right.clamp(0, w - 1).unsqueeze(-2)).flatten(2)
        found = images.flatten(3).gather(3, place.unsqueeze(2).expand(-1, -1, c, -1)).view_as(images)
        return _covered(found, ~inside, self.fill).view_as(x), y


@dataclass(frozen=True)
class Flip(Augmentation):
    """Images are mirrored, left to right, with some probability.

    Example:
        >>> import torch
        >>> from batchednodes.data.augmentations import Flip
        >>> x = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two images of one row
        >>> u = torch.tensor([[[0.3], [0.7]]])
        >>> Flip().change(x, x, x, lambda size: u)[0].tolist()
        [[[[2.0, 1.0]], [[3.0, 4.0]]]]
    """

    probability: float = 0.5
    """With which an image is mirrored; in (0, 1]."""

    shape: Shape = None
    """[height, width] or [channels, height, width] of images that are rows of numbers; null: features are images."""

    def __post_init__(self) -> None:
        number(self.probability, 1, "probability", open_low=True, high=1.0, open_high=False)

    def check(self, sizes: DataSizes) -> None:
        check_image(sizes, self.shape, "flip")

    def change(self, x: Tensor, y: Tensor, here: Tensor, uniform: Uniform) -> tuple[Tensor, Tensor]:
        images = _images(x, self.shape)
        turned = (uniform(1) < self.probability).view(*x.shape[:2], 1, 1, 1)
        return torch.where(turned, images.flip(-1), images).reshape(x.shape), y


@dataclass(frozen=True)
class Cutout(Augmentation):
    """A square of each image, around a random pixel, is covered; what of it lies outside is left out.

    Example:
        >>> import torch
        >>> from batchednodes.data.augmentations import Cutout
        >>> x = torch.ones(1, 1, 3, 3)
        >>> covered, _ = Cutout(size=2).change(x, x, x, lambda size: torch.full((1, 1, size), 0.5))
        >>> covered[0, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]

    Reference:
        T. DeVries, G. W. Taylor, "Improved regularization of convolutional neural networks with Cutout",
        arXiv 1708.04552, 2017.
    """

    size: int = 16
    """Height and width of the square [pixels]; at least 1."""

    fill: float = 0.0
    """What covers it, in units of the features; finite."""

    shape: Shape = None
    """[height, width] or [channels, height, width] of images that are rows of numbers; null: features are images."""

    def __post_init__(self) -> None:
        count(self.size, 1, "size", high=10_000)
        number(self.fill, 1, "fill", low=-np.inf)

    def check(self, sizes: DataSizes) -> None:
        check_image(sizes, self.shape, "cutout", self.fill)

    def change(self, x: Tensor, y: Tensor, here: Tensor, uniform: Uniform) -> tuple[Tensor, Tensor]:
        images, u = _images(x, self.shape), uniform(2)
        h, w = images.shape[3:]
        rows, columns = (
            (torch.arange(side, device=x.device) - _below(u[..., k : k + 1], side) + self.size // 2)
            for k, side in enumerate((h, w))
        )  # [m, b, h] and [m, b, w]: how far into the square each pixel is
        high, wide = (rows >= 0) & (rows < self.size), (columns >= 0) & (columns < self.size)
        return _covered(images, high.unsqueeze(-1) & wide.unsqueeze(-2), self.fill).view_as(x), y


@dataclass(frozen=True)
class Mixup(Augmentation):
    r"""Each example is mixed with another of its minibatch: x <- l x + (1 - l) x', and the same of the targets.

    There is one l ~ Beta(alpha, alpha) for a minibatch, and one random order, in which places take their partners.
    Targets that are labels become probabilities of all labels: cross-entropy and mse take these, as does a loss of your
    own that is given such, as `torch.nn.functional:cross_entropy`. l is drawn by the inverse of its distribution
    function, which is straight between 4,097 points.

    Example:
        >>> import torch
        >>> from batchednodes.data.augmentations import Mixup
        >>> x, here = torch.tensor([[[1.0], [3.0]]]), torch.ones(1, 2, dtype=torch.bool)
        >>> u = torch.tensor([[[0.5, 0.9], [0.5, 0.1]]])
        >>> Mixup(alpha=1.0).change(x, x, here, lambda size: u)[0].tolist()  # l = 1/2, and the other one
        [[[2.0], [2.0]]]

    Reference:
        H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, "mixup: beyond empirical risk minimization", ICLR 2018.
    """

    alpha: float = 0.2
    """Both parameters of Beta's law [dimensionless]; in [0.01, 1000]."""

    softens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number(self.alpha, 1, "alpha", low=0.01, high=1000.0, open_high=False)

    def check(self, sizes: DataSizes) -> None:
        if sizes.integers:
            rule = "kind must be one that keeps integers where features are such, got mixup"
            raise ValueError(f"{rule}; use task.data.features_as=real")

    def change(self, x: Tensor, y: Tensor, here: Tensor, uniform: Uniform) -> tuple[Tensor, Tensor]:
        m, b = here.shape
        u = uniform(2)
        at, knots = u[:, 0, 0] * _POINTS, _quantiles(self.alpha, x.device)
        left = at.long().clamp(max=_POINTS - 1)
        low, high = knots[left], knots[left + 1]
        share = low + (at - left) * (high - low)  # [m]
        order = torch.where(here, u[..., 1], 2.0).argsort(dim=1, stable=True)  # places without an example are last
        partner = (torch.arange(m, device=x.device).unsqueeze(1) * b + order).flatten()
        return _mixed(x, partner, share), _mixed(y, partner, share)


def _mixed(values: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Returns share x + (1 - share) x' for each example [m, b, ...], whose partner has a number."""
    part = share.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    others = values.flatten(0, 1).index_select(0, partner).view_as(values)
    return part * values + (1 - part) * others


@cache
def _quantiles(alpha: float, device: torch.device) -> Tensor:
    """Returns Beta(alpha, alpha)'s inverse distribution function at 0, 1 / 4096, ..., 1, on a device."""
    return send(scipy.special.betaincinv(alpha, alpha, np.arange(_POINTS + 1) / _POINTS), device)
