r"""Feed: training examples that are made for each minibatch, since they lie in files, or are changed at random.

All ways to make minibatch steps look examples up by their places in one tensor. Here that is a pool, which holds those
of the updates that are at work: they are put there as rows descend, and found by their places in it.

Notation: w rows of a wave, s steps, b examples of a minibatch, S training examples of all networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from batchednodes.data.augmentations import Augmentation, Uniform
from batchednodes.data.minibatches import Sampler
from batchednodes.data.sources.mapped import MappedRows
from batchednodes.models.dropout import mixed, stepped
from batchednodes.numerics.memory import sendable
from batchednodes.numerics.rows import some

_AUGMENTED = 0x2545F4914F6CDD1D
"""What the key of a minibatch step is shifted by, once for each augmentation: dropout draws by the key itself."""

_BLOCK = 1 << 20
"""Numbers that are read at once."""


@dataclass(frozen=True, eq=False)
class HostRows:
    """Training features that stay on the host, one array after the other, as models see them."""

    parts: Sequence[np.ndarray | MappedRows]
    """Features of each network."""
    kind: torch.dtype
    """Type in which models get them."""
    device: torch.device
    """Where they go."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return tuple(self.parts[0].shape[1:])

    def of(self, index: Int64[np.ndarray, "*shape"]) -> Tensor:
        """Returns the examples of some numbers [*shape, ...], in memory that goes to the device at once.

        Raises:
            ValueError: a number is not finite, or not within the range of the type.
        """
        flat = index.reshape(-1)
        firsts = np.cumsum([0, *map(len, self.parts)])
        found = sendable((flat.size, *self.shape), self.kind, self.device)
        rows = max(1, _BLOCK // max(1, found[:1].numel()))
        for first in range(0, flat.size, rows):
            some = flat[first : first + rows]
            for part, begin, end in zip(self.parts, firsts[:-1], firsts[1:], strict=True):
                here = np.flatnonzero((some >= begin) & (some < end))
                if here.size:
                    read = torch.from_numpy(np.ascontiguousarray(part[some[here] - begin])).to(self.kind)
                    self._check(read, some[here])
                    found[torch.from_numpy(first + here)] = read
        return found.view(*index.shape, *self.shape)

    def _check(self, read: Tensor, rows: np.ndarray) -> None:
        if read.is_floating_point() and not read.isfinite().all():
            row = rows[int(read.flatten(1).isfinite().all(1).logical_not().nonzero()[0])]
            rule = f"task.data must hold finite features, within the range of {str(self.kind).removeprefix('torch.')}"
            raise ValueError(f"{rule}, got others in training row {row} (counted after the hold-out); correct that row")


@dataclass(frozen=True, eq=False)
class Drawn:
    """Minibatches of some updates, as they were drawn."""

    index: Int64[Tensor, "w s b"]
    """Numbers of examples, -1 for none, with keys, if any; on the device."""
    features: Tensor | None = None
    """Their features [w, s, b, ...] in memory of the host that goes to the device at once; None: they are there."""

    def __getitem__(self, part: slice) -> "Drawn":
        return Drawn(some(self.index, part), None if self.features is None else some(self.features, part))


@dataclass(frozen=True, eq=False)
class Feed:
    """Makes the examples of minibatches as they are trained on, and knows where they lie meanwhile."""

    source: HostRows | Tensor
    """Features of all training examples: on the host, or on the device [S, ...]."""
    labels: Tensor
    """Their targets, on the device [S, ...]."""
    sampler: Sampler
    """What draws minibatches, with a key for each step where something is changed at random."""
    augment: tuple[Augmentation, ...]
    """How examples are changed, one after the other."""
    classes: int | None
    """Labels of which targets become probabilities; None: they stay as they are."""
    keyed: bool
    """Whether steps draw by the key, too."""
    features: Tensor
    """The pool: inputs of the examples of some minibatches."""
    targets: Tensor
    """Their targets."""

    @staticmethod
    def of(
        source: HostRows | Tensor, labels: Tensor, sampler: Sampler, augment: tuple[Augmentation, ...],
        classes: int | None, dtype: torch.dtype,
    ) -> "Feed":  # fmt: skip
        """Returns what feeds one update at a time; dtype: of models."""
        soft = classes if any(type(one).softens for one in augment) else None
        nothing = torch.zeros(0, dtype=dtype, device=labels.device)
        made = Feed(source, labels, sampler, augment, soft, sampler.keyed, nothing, nothing if soft else labels[:0])
        return made.drawing(sampler.keyed).holding(1)

    def holding(self, rows: int) -> "Feed":
        """Returns the same with a pool for the updates of some rows at once, which holds the first examples."""
        steps, size = self.sampler.shape
        some = torch.arange(rows * steps * size) % len(self.labels)
        index = some.to(self.labels.device)
        return replace(self, features=self.inputs(index), targets=self._targets(index))

    @property
    def bytes_read(self) -> int:
        """Bytes of the features of one update that are read from files [B]; 0: they are on the device."""
        if not isinstance(self.source, HostRows):
            return 0
        return math.prod((*self.sampler.shape, *self.source.shape)) * self.source.kind.itemsize

    def drawing(self, keyed: bool) -> "Feed":
        """Returns the same for steps that draw by keys, or do not."""
        return replace(self, sampler=replace(self.sampler, keyed=keyed or bool(self.augment)), keyed=keyed)

    def inputs(self, index: Int64[Tensor, "*shape"]) -> Tensor:
        """Returns features of training examples [*shape, ...], as they are; the host waits for those of files."""
        if isinstance(self.source, HostRows):
            return self.source.of(index.cpu().numpy()).to(self.labels.device, non_blocking=True)
        return self.source.index_select(0, index.flatten()).view(*index.shape, *self.source.shape[1:])

    def gathered(self, index: Int64[Tensor, "w s b"]) -> Tensor | None:
        """Returns features of minibatches whose numbers are on the host, for `Drawn`; None: they are on the device."""
        if not isinstance(self.source, HostRows):
            return None
        entries = index[:, :, : self.sampler.shape[1]]
        return self.source.of(entries.clamp(min=0).numpy())

    def fill_(self, drawn: Drawn) -> Int64[Tensor, "w s b"]:
        """Puts minibatches into the pool; returns their places there, -1 for none, with keys where steps draw by them.

        What it held is gone.
        """
        entries, keys = drawn.index, None
        if self.sampler.keyed:
            entries, keys = entries[:, :, :-1], entries[:, :, -1]
        here, count = entries >= 0, entries.numel()
        flat = entries.clamp(min=0)
        assert count <= len(self.features), "a pool that holds the updates of all rows at work"
        x = self.inputs(flat) if drawn.features is None else drawn.features.to(flat.device, non_blocking=True)
        x, y = x.flatten(0, 1), self._targets(flat).flatten(0, 1)
        for number, one in enumerate(self.augment):
            assert keys is not None
            x, y = one.change(x, y, here.flatten(0, 1), uniform(keys.flatten(), here.shape[2], number))
        self.features[:count].copy_(x.flatten(0, 1))
        self.targets[:count].copy_(y.flatten(0, 1))
        places = torch.where(here, torch.arange(count, device=flat.device).view_as(flat), -1)
        return torch.cat([places, keys.unsqueeze(2)], 2) if self.keyed and keys is not None else places

    def _targets(self, index: Int64[Tensor, "*shape"]) -> Tensor:
        """Returns targets of training examples [*shape, ...], as training gets them."""
        found = self.labels.index_select(0, index.flatten()).view(*index.shape, *self.labels.shape[1:])
        if self.classes is None:
            return found
        return (found.unsqueeze(-1) == torch.arange(self.classes, device=found.device)).to(self.targets.dtype)


def uniform(keys: Int64[Tensor, " m"], b: int, number: int) -> Uniform:
    """Returns what draws numbers in (0, 1) for the examples of minibatches, by the keys of their steps.

    Args:
        keys: of the steps.
        b: examples of a minibatch.
        number: of the augmentation.
    """
    shift = (number + 1) * _AUGMENTED % (1 << 64)
    base = mixed(keys + (shift - (1 << 64) if shift >> 63 else shift)).view(-1, 1, 1)

    def draw(size: int) -> Float[Tensor, "m b size"]:
        z = mixed(base + stepped(b * size + 1, keys.device)[1:].view(b, size))
        return (((z >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53

    return draw
