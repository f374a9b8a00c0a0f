r"""Table of nodes: what is measured of each evaluated node at each mark.

Notation: r rows, k nodes evaluated.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

COLUMNS = np.dtype([
    ("time", "<f8"), ("network", "<i4"), ("node", "<i4"), ("updates", "<i8"), ("loss", "<f8"), ("accuracy", "<f8"),
    ("loss_own", "<f8"), ("accuracy_own", "<f8"), ("distance_from_mean", "<f8"), ("staleness", "<f8"),
])  # fmt: skip
"""A row of the table: one node at one mark; NaN where a number does not apply. Nodes are numbered in their network."""


def rows(
    time: float,
    network: int,
    nodes: Int64[np.ndarray, " k"],
    kept: Bool[np.ndarray, " n"],
    distance: Float64[np.ndarray, " _"],
    values: dict[str, Float64[np.ndarray, " k"]],
    staleness: Float64[np.ndarray, " n"] | None,
) -> np.ndarray:
    """Returns the rows of one network at one mark.

    Args:
        time: of the mark [s].
        network: its number.
        nodes: those that are evaluated and count, by their number in the network.
        kept: which of all its nodes count.
        distance: from the mean model, of all that count.
        values: of `nodes`, by the names of columns.
        staleness: of all its nodes; None: it is not tracked.
    """
    found = np.zeros(nodes.size, COLUMNS)
    found["time"], found["network"], found["node"] = time, network, nodes
    for name in ("loss", "accuracy", "loss_own", "accuracy_own", "staleness"):
        found[name] = np.nan
    for name, some in values.items():
        found[name] = some
    found["distance_from_mean"] = distance[(np.cumsum(kept) - 1)[nodes]]
    if staleness is not None:
        found["staleness"] = staleness[nodes]
    return found
