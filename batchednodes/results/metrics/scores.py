r"""Scores: numbers of the models of networks of one size, and what rows and histograms say of them.

Notation: g networks, n nodes, k nodes evaluated, and k1 of these and the mean model; n0 is n or 0.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from batchednodes.results.metrics.spread import deviation, gini, jain, worst


@dataclass(frozen=True, eq=False)
class Scores:
    """Numbers of the models of some networks of one size, on the host."""

    loss: Float64[Tensor, "g k1"]
    """Test loss, first of the mean model."""
    accuracy: Float64[Tensor, "g k1"]
    """Test accuracy, first of the mean model; NaN where there are no labels."""
    distances: Float64[Tensor, "g n"]
    """Distance of each model from the mean model."""
    away: Float64[Tensor, "g n0"]
    """Distance of each model from the optimum, where one is known, else empty."""
    excess: Float64[Tensor, "g 1"]
    """Suboptimality of the mean model; NaN where no optimum is known."""
    f1: Float64[Tensor, "g k1"]
    """Macro F1 on the test set, first of the mean model; NaN where it is not measured."""
    balanced: Float64[Tensor, "g k1"]
    """Balanced accuracy, likewise."""

    def without(self, k: int, nodes: Bool[np.ndarray, " n"], scored: Bool[np.ndarray, " k"]) -> "Scores":
        """Returns the numbers of one network without some nodes, and without those that are scored among them.

        NaN stands for the test loss and accuracy if none is left.
        """
        columns = torch.from_numpy(np.flatnonzero(np.append(True, ~scored)))
        loss, accuracy, f1, balanced = (
            F.pad(t[k, columns], (0, int(scored.all())), value=math.nan)[None]
            for t in (self.loss, self.accuracy, self.f1, self.balanced)
        )
        kept = torch.from_numpy(~nodes)
        away = self.away[k, kept[: self.away.shape[1]]]
        return Scores(loss, accuracy, self.distances[k, kept][None], away[None], self.excess[k][None], f1, balanced)

    def networks(
        self, numbers: Int64[np.ndarray, " g"]
    ) -> Iterator[tuple[int, tuple[dict[str, Any], dict[str, np.ndarray]]]]:
        """Yields the number of each network, its part of a row, and its values node by node."""
        loss, accuracy = self.loss[:, 1:], self.accuracy[:, 1:]
        columns = {
            "loss_mean": loss.mean(1),
            "loss_max": loss.amax(1),
            "loss_mean_model": self.loss[:, 0],
            "consensus_distance": self.distances.square().mean(1).sqrt(),
            "loss_min": loss.amin(1),
            "loss_median": loss.median(1).values,
            "perplexity_mean": loss.exp().mean(1),
            "perplexity_mean_model": self.loss[:, 0].exp(),
        }
        shares = {
            "accuracy_mean": accuracy.mean(1),
            "accuracy_min": accuracy.amin(1),
            "accuracy_mean_model": self.accuracy[:, 0],
            "accuracy_max": accuracy.amax(1),
            "suboptimality": self.excess[:, 0],
            "distance_to_optimum": self.away.square().mean(1).sqrt(),
            "accuracy_worst": worst(accuracy),
            "accuracy_std": deviation(accuracy),
            "accuracy_gini": gini(accuracy),
            "accuracy_jain": jain(accuracy),
            "f1_mean": self.f1[:, 1:].mean(1),
            "f1_mean_model": self.f1[:, 0],
            "accuracy_balanced_mean": self.balanced[:, 1:].mean(1),
            "accuracy_balanced_mean_model": self.balanced[:, 0],
        }
        rows = [dict(zip(columns, values, strict=True)) for values in torch.stack(list(columns.values()), 1).tolist()]
        for row, values in zip(rows, torch.stack(list(shares.values()), 1).tolist(), strict=True):
            row.update((key, known_number(value)) for key, value in zip(shares, values, strict=True))
        nodes = {"loss": loss.numpy(), "distance_from_mean": self.distances.numpy(), "accuracy": accuracy.numpy()}
        for k, (g, row) in enumerate(zip(numbers.tolist(), rows, strict=True)):
            yield g, (row, {name: values[k] for name, values in nodes.items()})


def known_number(value: float) -> float | None:
    """Returns a number; None: it is not known, which NaN says."""
    return None if math.isnan(value) else value
