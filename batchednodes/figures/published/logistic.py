r"""Logistic regression as CHOCO's authors have it: labels -1 and 1, no intercept, an L2 penalty, tests on all rows.

Notation: S samples, n nodes, y labels, lambda penalty.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchednodes.data.sources.base import Dataset, DataSizes, Source
from batchednodes.data.sources.bundled import Sklearn
from batchednodes.numerics.lazy import deferred
from batchednodes.results.metrics.base import UserMetric
from batchednodes.results.metrics.catalogue import Metric
from batchednodes.results.metrics.view import View

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")
    Tensor = Any  # so that settings are read without PyTorch

ROWS, FEATURES = 569, 30
"""Of the data set; lambda is 1 / 569."""


@dataclass(frozen=True)
class BreastCancer(Source):
    """The data set breast_cancer of scikit-learn, features with mean 0 and standard deviation 1; tests are on all rows.

    Example:
        >>> from batchednodes.figures.published.logistic import BreastCancer
        >>> data = BreastCancer(by_label=True).load(9, seed=0)
        >>> data.features.shape, [round(float(data.targets[data.node == i].mean()), 2) for i in (0, 3, 8)]
        ((569, 30), [-1.0, 0.27, 1.0])
    """

    by_label: bool = False
    """Whether nodes own rows in the order of their labels, as many each, the last one what is left; else the partition
    deals them."""

    def sizes(self, n: int) -> DataSizes:
        return DataSizes(ROWS, ROWS, (FEATURES,), 1, is_classes=False)

    def load(self, n: int, seed: int) -> Dataset:
        held = Sklearn("breast_cancer", standardize="all").load(n, 0)
        x = np.concatenate([held.features[:], held.test_features]).astype(np.float64)
        y = 2.0 * np.concatenate([held.targets, held.test_targets]).reshape(-1, 1) - 1
        node = None
        if self.by_label:
            node = np.empty(ROWS, np.int64)
            node[np.argsort(y[:, 0], kind="stable")] = np.minimum(np.arange(ROWS) // (ROWS // n), n - 1)
        return Dataset(x, y, x.copy(), y.copy(), None, node=node)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns log(1 + exp(-y z)) of each example."""
    return torch.nn.functional.softplus(-outputs * targets)[:, 0]


class Objective(UserMetric):
    """The loss of the mean model over all rows with its penalty, lambda / 2 times its squared length."""

    @property
    def metric(self) -> Metric:
        return Metric("objective", "", "regularized loss of the mean model", "models/objective")

    def measure(self, models: Tensor, view: View) -> float:
        mean = models.mean(0, keepdim=True)
        return float(view.loss(mean, "test")[0] + mean.square().sum() / (2 * ROWS))
