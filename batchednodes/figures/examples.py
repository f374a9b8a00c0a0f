"""Examples that models of a run learned from, or are tried on, in any form that `train` takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchednodes.data import Dataset, Shards, from_objects
from batchednodes.data.sources.base import Features
from batchednodes.models.losses import Loss
from batchednodes.numerics.torch_modes import own
from batchednodes.numerics.values import shown

_BATCH = 4096
"""Examples that a model sees at once."""

Rows = tuple[np.ndarray, np.ndarray]
"""Features and targets of some examples."""


@dataclass(frozen=True, eq=False)
class Data:
    """What the nodes of a run have learned from, as they saw it: standardised and shifted, if the settings say so."""

    sets: tuple[tuple[Dataset, Shards], ...] = field(repr=False)
    """Data of each network, and who owns which rows."""

    @property
    def train(self) -> "Owned":
        """The training rows of each node: `train[i]` is (features, targets) of node i."""
        return Owned(tuple((data.features, data.targets, own.rows, own.offsets) for data, own in self.sets))

    @property
    def test(self) -> Rows:
        """The test rows (features, targets) of the first network; `tests` has those of all."""
        return self.tests[0]

    @property
    def tests(self) -> tuple[Rows, ...]:
        """The test rows of each network."""
        return tuple((data.test_features, data.test_targets) for data, _ in self.sets)

    @property
    def own_tests(self) -> "Owned":
        """The test rows of each node's own, as `train` has its training rows; of a run with `task.own_tests`.

        Raises:
            ValueError: nodes have none.
        """
        found = [data.own for data, _ in self.sets if data.own is not None]
        if not found:
            raise ValueError("own test rows must be asked of a run with task.own_tests, got one without")
        return Owned(tuple((own.features, own.targets, np.arange(len(own.targets)), own.offsets) for own in found))


@dataclass(frozen=True, eq=False)
class Owned(Sequence[Rows]):
    """The rows of each node, networks one after the other."""

    parts: tuple[tuple[Features, np.ndarray, np.ndarray, np.ndarray], ...] = field(repr=False)
    """Of each network features and targets, the rows of nodes, one after the other, and where those of each begin."""

    def __len__(self) -> int:
        return sum(len(offsets) - 1 for *_, offsets in self.parts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        k = range(len(self))[i]  # IndexError where there is no such node
        for features, targets, owned, offsets in self.parts:
            if k < len(offsets) - 1:
                rows_ = owned[offsets[k] : offsets[k + 1]]
                return features[rows_], targets[rows_]
            k -= len(offsets) - 1
        raise AssertionError


def rows(data: Any, classes: int | None) -> Rows:
    """Returns features and targets of data in any form that `train` takes.

    Args:
        data: without test rows of their own.
        classes: number of labels that the models tell apart; None: targets are real.

    Raises:
        ValueError: data are of no use, or have other classes.
    """
    with own():
        features, targets = from_objects(data, classes).rows()
    if classes is not None and (targets.dtype.kind == "f" or targets.min() < 0 or targets.max() >= classes):
        wrong = targets if targets.dtype.kind == "f" else targets[(targets < 0) | (targets >= classes)]
        raise ValueError(
            f"data must have labels from 0 to {classes - 1}, as the run, got {shown(wrong.flat[0].item())}"
        )
    return features, targets


def features(data: Any, classes: int | None) -> np.ndarray:
    """Returns features of data in any form that `train` takes, or that are given alone; arguments as of `rows`.

    Raises:
        ValueError: data are of no use.
    """
    if isinstance(data, Tensor):
        return data.detach().cpu().numpy()
    if isinstance(data, np.ndarray):
        return data
    if not hasattr(data, "__len__"):
        raise ValueError(f"data must be features, or data that train takes, got {shown(data)}")
    return rows(data, classes)[0]


def outputs(model: nn.Module, features: np.ndarray, kind: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Returns what a model puts out for some rows in evaluation mode, on the host.

    Args:
        model: of a node, or another one.
        features: of the rows.
        kind: type of numbers in which it takes them.
        shape: of the features of a row of the run's own.

    Raises:
        ValueError: features have another shape.
    """
    if not len(features):
        return torch.zeros(0, 1)
    rows_ = torch.from_numpy(features).to(next(model.parameters()).device, kind)
    try:
        return torch.cat([model.eval()(part) for part in rows_.split(_BATCH)]).cpu()
    except RuntimeError as error:
        wanted, got = list(shape), list(features.shape[1:])
        raise ValueError(f"data must have features of shape {wanted}, as the run, got {got}: {error}") from error


def said(outputs: Tensor, classes: int | None) -> np.ndarray:
    """Returns what outputs say of each row: its label, or of real targets (classes None) the numbers."""
    if not len(outputs):
        return np.zeros(0, np.int64)
    return (outputs if classes is None else outputs.argmax(-1)).numpy()


def scored(outputs: Tensor, targets: np.ndarray, classes: int | None, criterion: Loss) -> tuple[float, float]:
    """Returns loss and accuracy (NaN where there are no labels, or no rows) of outputs for some rows."""
    if not len(outputs):
        return float("nan"), float("nan")
    wanted = torch.from_numpy(targets)
    if classes is None:
        return float(criterion.mean(outputs, wanted.to(outputs.dtype))), float("nan")
    return float(criterion.mean(outputs, wanted)), float((outputs.argmax(-1) == wanted).double().mean())
