"""Examples that models of a run are tried on: features and targets in any form that `train` takes."""

from typing import Any

import numpy as np
from torch import Tensor

from batchednodes.data import from_objects
from batchednodes.numerics.torch_modes import own
from batchednodes.numerics.values import shown

Rows = tuple[np.ndarray, np.ndarray]
"""Features and targets of some examples."""


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
