r"""A2CiD2: model and copy of each node draw near each other between events, which takes the root of the time of gossip.

Node i keeps a copy y_i of its model, the same at the start, and the time of its last event.

    Between events:              d/dt (x_i, y_i) = eta (y_i - x_i, x_i - y_i), so that after a time t
                                 x_i, y_i <- s_i +- d_i exp(-2 eta t), with s_i, d_i = (x_i +- y_i) / 2;
    at an update of i:           x_i and y_i both take the step LocalSGD(x_i) - x_i;
    at a meeting of i and j:     y_i <- y_i + alpha (x_j - x_i), then x_i <- (x_i + x_j) / 2, and likewise j.

With the Laplacian L of the rates at which pairs meet, resistances R in it,

    chi1 = 1 / lambda_2(L),  chi2 = max over the edges of R_ij / 2,
    eta = 1 / (2 sqrt(chi1 chi2)),  alpha = sqrt(chi1 / chi2) / 2.

Gossip over a ring of n nodes then agrees in a time of order n in place of n^2. The sum of x_i + y_i is kept by meetings
and flow. Models are scored as they have flowed up to the mark.

Notation: n nodes, x models, y their copies, L Laplacian.

Reference:
    A. Nabli, E. Belilovsky, E. Oyallon, "A2CiD2: accelerating asynchronous communication in decentralized deep
    learning", NeurIPS 2023, Algorithm 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float64

from batchednodes.algorithms.base import Algorithm, Context, Field, Law, Rows
from batchednodes.events.timeline import UPDATE
from batchednodes.numerics.values import number
from batchednodes.topology import Graph

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # so that settings are read without PyTorch

LARGEST = 2000
"""Nodes up to which constants are found from a graph, whose work is n^3; some seconds at this size."""


@dataclass(frozen=True)
class ACiD(Algorithm):
    """Accelerated gossip in continuous time, by meetings.

    Example:
        >>> import batchednodes
        >>> from batchednodes.algorithms.acid import ACiD, chi
        >>> from batchednodes.topology import Ring
        >>> [value.round(3).item() for value in chi(Ring().graph(16, 0), [0.5] * 16)]  # met once a second
        [13.137, 0.938]
        >>> ring = {"network": {"nodes": 40, "topology": {"kind": "ring"}}, "gossip": {"exchange": "meet"}}
        >>> still = {"update.clock": {"kind": "never"}, "task.model.init": "independent", "run.until": 100}
        >>> runs = [batchednodes.train(ring, still, {"algorithm.kind": kind}) for kind in ("gossip_sgd", "acid")]
        >>> plain, faster = (run.metrics["consensus_distance"].iloc[-1] for run in runs)
        >>> bool(faster < plain / 5)
        True
    """

    eta: float | None = None
    """Rate at which model and copy draw near each other; non-negative and finite [1/s]; null: from graph and rates."""

    alpha: float | None = None
    """Part of the difference of two models that moves the copy; non-negative and finite; dimensionless; null: from
    graph and rates, as if each neighbour were as likely to be met."""

    fields: ClassVar[dict[str, Field]] = {"y": Field(start="model")}
    mixing: ClassVar[Any] = "double"
    timing: ClassVar[tuple[str, ...]] = ("events",)
    elapses: ClassVar[bool] = True
    laws: ClassVar[dict[str, Law]] = {"sum of x + y": lambda all_: (all_["x"] + all_["y"]).sum(0)}
    spares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key, value in (("eta", self.eta), ("alpha", self.alpha)):
            if value is not None:
                number(value, 1, key, unit="1/s" if key == "eta" else "")

    def constants(self, graph: Graph | None, rate: Float64[np.ndarray, " n"]) -> Mapping[str, float]:
        if self.eta is not None and self.alpha is not None:
            return {"eta": self.eta, "alpha": self.alpha}
        one, two = chi(graph, rate)
        eta, alpha = (1 / (2 * math.sqrt(one * two)), math.sqrt(one / two) / 2) if two > 0 else (0.0, 0.0)
        return {"eta": eta if self.eta is None else self.eta, "alpha": alpha if self.alpha is None else self.alpha}

    def flow_(self, r: Rows, k: Context) -> None:
        nearer = (r["x"] - r["y"]) * ((1 - (-2 * k.constant("eta") * k.elapsed).exp()) / 2)
        r["x"], r["y"] = r["x"] - nearer, r["y"] + nearer

    def update_(self, r: Rows, k: Context) -> None:
        new = k.descend(r["x"])
        r["x"], r["y"] = new, r["y"] + (new - r["x"])

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        r["y"] = r["y"] + 2 * k.constant("alpha") * (mixed["x"] - r["x"])  # twice the move of a mean of two
        r["x"] = mixed["x"]

    def event_(self, rows: Rows, e: Any, k: Any) -> None:
        """Does the same to one event, in plain PyTorch."""
        x, y, last = (rows[name] for name in ("x", "y", "last_event"))
        for i in {e.actor, e.peer}:
            eta = float(e.constants["eta"][i])
            near = math.exp(-2 * eta * (e.time - float(last[i])))
            x[i], y[i] = (
                (1 + near) / 2 * x[i] + (1 - near) / 2 * y[i], (1 - near) / 2 * x[i] + (1 + near) / 2 * y[i]
            )  # fmt: skip
            last[i] = e.time
        if e.kind == UPDATE:
            step = k.descend(x[e.actor]) - x[e.actor]
            x[e.actor] += step
            y[e.actor] += step
        else:
            apart = e.weight * (x[e.peer] - x[e.actor])
            for i, move in ((e.actor, apart), (e.peer, -apart)):
                x[i] += move
                y[i] += 2 * e.constants["alpha"][i] * move


def chi(graph: Graph | None, rate: Float64[np.ndarray, " n"] | list[float]) -> tuple[np.float64, np.float64]:
    """Returns chi1 and chi2 [s] of meetings that nodes make with their neighbours, each as likely; 0: there are none.

    Of a graph in parts chi1 is that of the part that agrees last.

    Args:
        graph: whom each node may contact; None: everyone.
        rate: meetings that each node begins [1/s].

    Raises:
        ValueError: the graph is too large to find them.
    """
    rate = np.asarray(rate, float)
    n = rate.size
    if graph is None and (rate == rate[0]).all():
        found = np.float64(0 if n == 1 or rate[0] == 0 else (n - 1) / (2 * n * rate[0]))
        return found, found
    if n > LARGEST:
        raise ValueError(f"eta and alpha must be given where a network has more than {LARGEST} nodes, got {n}")
    near = 1 - np.eye(n) if graph is None else graph.adjacency().toarray()
    meet = (rate / near.sum(1).clip(1))[:, None] * near
    meet += meet.T
    values, vectors = np.linalg.eigh(np.diag(meet.sum(1)) - meet)
    some = values > values[-1] * n * 1e-14  # of a connected graph all but one
    if not some.any():
        return np.float64(0), np.float64(0)
    inverse = (vectors[:, some] / values[some]) @ vectors[:, some].T
    i, j = meet.nonzero()
    resistance = inverse[i, i] + inverse[j, j] - 2 * inverse[i, j]
    return 1 / values[some][0], resistance.max() / 2
