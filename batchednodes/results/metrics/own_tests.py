r"""Own test rows: what is said of nodes that are tried on rows of their own.

Notation: n nodes of all networks, k nodes evaluated.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from batchednodes.results.metrics.spread import deviation, gini, jain, worst

OWN = "loss_own", "accuracy_own"
"""What is measured of each node on its own test rows."""

Spoken = tuple[dict[str, float | None], dict[str, np.ndarray]]
"""Part of the row of a network, and values node by node."""


def said(
    values: dict[str, Float64[np.ndarray, " n"]],
    sizes: Int64[np.ndarray, " n"],
    evaluated: Sequence[Int64[np.ndarray, " _"]],
    cut: Bool[np.ndarray, " n"],
) -> list[Spoken]:
    """Returns what is said of each network, without some nodes and those that have no test rows.

    Args:
        values: of nodes on their own test rows: by the names in `OWN`.
        sizes: number of test rows of each node.
        evaluated: nodes of each network.
        cut: nodes that do not count.
    """
    return [_of(values, sizes, rows[~cut[rows] & (sizes[rows] > 0)]) for rows in evaluated]


def _of(
    values: dict[str, Float64[np.ndarray, " n"]], sizes: Int64[np.ndarray, " n"], rows: Int64[np.ndarray, " k"]
) -> Spoken:
    """Returns what is said of the nodes of one network."""
    if not rows.size:
        return {}, {}
    loss, accuracy = (values[name][rows] for name in OWN)
    some, shares = (torch.from_numpy(a)[None] for a in (loss, accuracy))
    found = {
        "loss_own_mean": float(loss.mean()),
        "loss_own_worst": float(worst(some, descending=True)),
        "accuracy_own_mean": float(accuracy.mean()),
        "accuracy_own_worst": float(worst(shares)),
        "accuracy_own_min": float(accuracy.min()),
        "accuracy_own_std": float(deviation(shares)),
        "accuracy_own_pooled": float(accuracy @ sizes[rows] / sizes[rows].sum()),
        "accuracy_own_gini": float(gini(shares)),
        "accuracy_own_jain": float(jain(shares)),
    }
    row = {key: None if key[:4] == "accu" and math.isnan(value) else value for key, value in found.items()}
    return row, {"loss_own": loss, "accuracy_own": accuracy}
