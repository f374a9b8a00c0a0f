r"""Metrics: what is measured at a mark, network by network.

Letters: n nodes, p parameters, k nodes evaluated, x models [n, p], x_mean their mean.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.func import vmap

from batchednodes import staleness
from batchednodes.algorithms.state import State
from batchednodes.staleness import Sources
from batchednodes.tasks import Problem
from batchednodes.timeline import Clocks
from batchednodes.topology import Networks
from batchednodes.versions import Layout

_ROWS = 1 << 24
"""Numbers handled at once where a reduction over x needs a copy in float64."""


@dataclass(frozen=True)
class Meter:
    """What is observed of a batch of networks, and with which constants."""

    networks: Networks
    problem: Problem
    sources: Sources
    layout: Layout
    evaluated: tuple[Int64[np.ndarray, " _"], ...]
    """Rows of each network whose models are scored on the test set."""
    theory: tuple[float | None, ...]
    """Exact long-run mean staleness of each network; None where there is no law."""
    peaks: tuple[float, ...]
    """Largest rate at which any one node of each network ever transmits [1/s]."""
    chunk: int
    """Models scored by one vmap call, at most."""

    def observe(self, state: State, clocks: Clocks) -> "list[Observation]":
        """Returns what holds now for each network."""
        return [self._network(state, clocks, g) for g in range(self.networks.count)]

    def _network(self, state: State, clocks: Clocks, g: int) -> "Observation":
        part = self.networks.slice(g)
        rows = torch.from_numpy(self.evaluated[g]).to(state.x.device)
        mean, distances = consensus(state.x[part])
        loss, accuracy = (s.double().cpu() for s in self._scores(state.x, rows, g))
        average = mean.to(state.x.dtype).unsqueeze(0)
        mean_loss, mean_accuracy = (float(s) for s in self._scores(average, rows.new_zeros(1), g))
        stale = staleness.measure(
            state.versions, self.layout, state.moment, clocks.time, self.sources, self.networks, g
        )
        row = {
            "time": clocks.time,
            "network": g,
            "seed": int(self.networks.seeds[g]),
            "n": int(self.networks.sizes[g]),
            "updates": int(clocks.updates[part].sum()),
            "gossips": int(clocks.gossips[part].sum()),
            "loss_mean": float(loss.mean()),
            "loss_max": float(loss.max()),
            "accuracy_mean": _known(float(accuracy.mean())),
            "accuracy_min": _known(float(accuracy.min())),
            "loss_mean_model": mean_loss,
            "accuracy_mean_model": _known(mean_accuracy),
            "consensus_distance": math.sqrt(float(distances.square().mean())),
            "staleness_mean": None,
            "staleness_max": None if stale is None else stale.max,
            "staleness_theory": self.theory[g],
            "loss_min": float(loss.min()),
            "accuracy_max": _known(float(accuracy.max())),
            "staleness_now": None if stale is None else stale.mean,
            "staleness_integral": None if stale is None else stale.integral,
            "gossip_rate_mean": _per_second(clocks.gossips[part].mean(), clocks.time),
            "gossip_rate_max": _per_second(clocks.gossips[part].max(), clocks.time),
            "gossip_rate_peak": self.peaks[g],
            "loss_median": float(loss.median()),
        }
        over_nodes = {"loss": loss, "distance_from_mean": distances.cpu()}
        if self.problem.classes is not None:
            over_nodes["accuracy"] = accuracy
        if stale is not None:
            over_nodes["staleness"] = stale.of_node.cpu()
        return Observation(row, {name: values.numpy() for name, values in over_nodes.items()})

    def _scores(self, x: Float[Tensor, "n p"], rows: Int64[Tensor, " k"], g: int) -> tuple[Tensor, Tensor]:
        """Returns test loss and accuracy of some rows of x on the test set of network g, scored in chunks."""
        score = vmap(lambda row: self.problem.score(row, g))
        with torch.no_grad():
            scores = [score(x[part]) for part in rows.split(self.chunk)]
        return torch.cat([s[0] for s in scores]), torch.cat([s[1] for s in scores])


@dataclass(frozen=True)
class Observation:
    """One network at one mark."""

    row: dict[str, Any]
    """One line of metrics.jsonl; None where a key does not apply. `staleness_mean` is a mean over the time since the
    mark before, which whoever keeps the rows fills in from `staleness_integral`."""
    over_nodes: dict[str, np.ndarray]
    """Values node by node, for histograms."""


def consensus(x: Float[Tensor, "n p"]) -> tuple[Float64[Tensor, " p"], Float64[Tensor, " n"]]:
    """Returns the mean model and the distance of each model from it, summed in float64, a block of rows at a time."""
    blocks = x.split(max(1, _ROWS // x.shape[1]))
    mean = torch.stack([b.sum(0, dtype=torch.float64) for b in blocks]).sum(0) / x.shape[0]
    return mean, torch.cat([(b.double() - mean).norm(dim=1) for b in blocks])


def diverged(state: State) -> list[tuple[int, float]]:
    """Returns the nodes whose loss or model is not finite, with the time when that was first seen (inf: just now)."""
    blocks = state.x.split(max(1, _ROWS // state.x.shape[1]))
    finite = torch.cat([b.isfinite().all(1) for b in blocks])
    bad = torch.nonzero(state.diverged_at.isfinite() | ~finite)[:, 0].cpu()
    return list(zip(bad.tolist(), state.diverged_at.cpu()[bad].tolist(), strict=True))


def _per_second(contacts: float, time: float) -> float | None:
    return float(contacts) / time if time else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
