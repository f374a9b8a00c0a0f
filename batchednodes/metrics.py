r"""Metrics: what is measured at a mark, network by network.

Networks with equally many nodes and test examples are measured together, so that the cost of a mark does not grow with
the number of networks but with that of their nodes.

Letters: g networks, n nodes, p parameters, k nodes evaluated, x models [n, p], x_mean their mean.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.func import vmap

from batchednodes.algorithms.state import State
from batchednodes.staleness import Staleness, Tracking
from batchednodes.tasks import Problem, Tests
from batchednodes.timeline import Clocks
from batchednodes.topology import Networks

_ROWS = 1 << 24
"""Numbers handled at once where a reduction over x needs a copy in float64."""

_BLOCK = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Numbers of models whose sums are taken at once: on the CPU so few that caches hold them in float64."""


@dataclass(frozen=True)
class Meter:
    """What is observed of a batch of networks, and with which constants."""

    networks: Networks
    problem: Problem
    tracking: Tracking
    evaluated: tuple[Int64[np.ndarray, " _"], ...]
    """Rows of each network whose models are scored on the test set; equally many where networks are equally large."""
    theory: tuple[float | None, ...]
    """Exact long-run mean staleness of each network; None where there is no law."""
    peaks: tuple[float, ...]
    """Largest rate at which any one node of each network ever transmits [1/s]."""
    chunk: int
    """Models scored by one vmap call, at most."""
    together: int
    """The same for models of several networks."""

    def observe(self, state: State, clocks: Clocks) -> "list[Observation]":
        """Returns what holds now for each network; the numbers of all models come to the host at once."""
        parts = list(self._parts(state.x.shape[1]))
        scores = _to_host([self._score(state.x, part) for part in parts])
        models = {g: own for part, score in zip(parts, scores, strict=True) for g, own in score.networks(part.networks)}
        stale = self.tracking.measure(state.versions, state.updated, state.gained, clocks.time)
        return [self._network(clocks, g, *models[g], stale[g]) for g in range(self.networks.count)]

    def _parts(self, p: int) -> Iterator[Tests]:
        """Yields the test sets of as many networks as are measured together."""
        for tests in self.problem.tests:
            n, k = int(self.networks.sizes[tests.networks[0]]), self.evaluated[tests.networks[0]].size
            step = max(1, min(_ROWS // (n * p), self.together // (k + 1)))
            for first in range(0, tests.networks.size, step):
                yield tests.of(slice(first, first + step))

    def _score(self, x: Float[Tensor, "n p"], tests: Tests) -> "_Scores":
        """Returns how some networks' models, and the mean of each network's, do on the test sets."""
        mean, distances = consensus(_models(x, [self.networks.slice(int(g)) for g in tests.networks]))
        rows = torch.from_numpy(np.stack([self.evaluated[g] for g in tests.networks])).to(x.device)
        models = (x[some] for some in rows.split(max(1, self.chunk // len(rows)), dim=1))
        first = torch.cat([mean.to(x.dtype).unsqueeze(1), next(models)], 1)
        with torch.no_grad():
            scores = [self._score_models(some, tests) for some in chain([first], models)]
        loss, accuracy = (torch.cat(parts, 1) for parts in zip(*scores, strict=True))
        return _Scores(loss, accuracy, distances)

    def _score_models(self, models: Float[Tensor, "g k p"], tests: Tests) -> tuple[Tensor, Tensor]:
        """Returns test loss and accuracy [g, k] of some models of each network."""
        if len(models) == 1:
            score = vmap(self.problem.score, in_dims=(0, None, None))
            loss, accuracy = score(models[0], tests.features[0], tests.targets[0])
            return loss.unsqueeze(0), accuracy.unsqueeze(0)
        shape = tests.targets.shape
        targets = tests.targets.unsqueeze(1).expand(shape[0], models.shape[1], *shape[1:])
        return vmap(vmap(self.problem.score, in_dims=(0, None, 0)))(models, tests.features, targets)

    def _network(
        self, clocks: Clocks, g: int, known: dict[str, Any], over_nodes: dict[str, np.ndarray], stale: Staleness | None
    ) -> "Observation":
        part = self.networks.slice(g)
        row = {
            "time": clocks.time,
            "network": g,
            "seed": int(self.networks.seeds[g]),
            "n": int(self.networks.sizes[g]),
            "updates": int(clocks.updates[part].sum()),
            "gossips": int(clocks.gossips[part].sum()),
            **{key: known[key] for key in _FIRST},
            "staleness_mean": None,
            "staleness_max": None if stale is None else stale.max,
            "staleness_theory": self.theory[g],
            **{key: value for key, value in known.items() if key not in _FIRST},
            "staleness_now": None if stale is None else stale.mean,
            "staleness_integral": None if stale is None else stale.integral,
            "staleness_median": None if stale is None else stale.median,
            "staleness_p90": None if stale is None else stale.p90,
            "staleness_p99": None if stale is None else stale.p99,
            "gossip_rate_mean": _per_second(float(clocks.gossips[part].mean()), clocks.time),
            "gossip_rate_max": _per_second(float(clocks.gossips[part].max()), clocks.time),
            "gossip_rate_peak": self.peaks[g],
        }
        if self.problem.classes is None:
            over_nodes = {name: values for name, values in over_nodes.items() if name != "accuracy"}
        return Observation(row, over_nodes, stale)


_FIRST = (
    "loss_mean",
    "loss_max",
    "accuracy_mean",
    "accuracy_min",
    "loss_mean_model",
    "accuracy_mean_model",
    "consensus_distance",
)
"""Keys of a row that come first among those of models."""


@dataclass(frozen=True, eq=False)
class _Scores:
    """Numbers of the models of some networks of one size."""

    loss: Float[Tensor, "g k1"]
    """Test loss, first of the mean model."""
    accuracy: Float[Tensor, "g k1"]
    """Test accuracy, first of the mean model; NaN where there are no labels."""
    distances: Float64[Tensor, "g n"]
    """Distance of each model from the mean model."""

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
        }
        shares = {
            "accuracy_mean": accuracy.mean(1),
            "accuracy_min": accuracy.amin(1),
            "accuracy_mean_model": self.accuracy[:, 0],
            "accuracy_max": accuracy.amax(1),
        }
        rows = [dict(zip(columns, values, strict=True)) for values in torch.stack(list(columns.values()), 1).tolist()]
        for row, values in zip(rows, torch.stack(list(shares.values()), 1).tolist(), strict=True):
            row.update((key, _known(value)) for key, value in zip(shares, values, strict=True))
        nodes = {"loss": loss.numpy(), "distance_from_mean": self.distances.numpy(), "accuracy": accuracy.numpy()}
        for k, (g, row) in enumerate(zip(numbers.tolist(), rows, strict=True)):
            yield g, (row, {name: values[k] for name, values in nodes.items()})


@dataclass(frozen=True)
class Observation:
    """One network at one mark."""

    row: dict[str, Any]
    """One line of metrics.jsonl; None where a key does not apply. `staleness_mean` is a mean over the time since the
    mark before, which whoever keeps the rows fills in from `staleness_integral`."""
    over_nodes: dict[str, np.ndarray]
    """Values node by node, for histograms."""
    staleness: Staleness | None
    """Staleness in full; None where nothing is tracked."""


def _to_host(scores: list[_Scores]) -> list[_Scores]:
    """Returns the same numbers on the host, in float64; they wait for the device once."""
    tensors = [t for s in scores for t in (s.loss, s.accuracy, s.distances)]
    flat = torch.cat([t.double().flatten() for t in tensors]).cpu()
    parts = iter(flat.split([t.numel() for t in tensors]))
    host = [next(parts).view(t.shape) for t in tensors]
    return [_Scores(*host[k : k + 3]) for k in range(0, len(host), 3)]


def _models(x: Float[Tensor, "rows p"], parts: list[slice]) -> Float[Tensor, "g n p"]:
    """Returns the models of networks of one size; without a copy where they lie one after the other."""
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return x[parts[0].start : parts[-1].stop].view(len(parts), -1, x.shape[1])
    return torch.stack([x[part] for part in parts])


def consensus(x: Float[Tensor, "g n p"]) -> tuple[Float64[Tensor, "g p"], Float64[Tensor, "g n"]]:
    """Returns the mean model of each network and the distance of each model from it, summed in float64."""
    blocks = x.split(max(1, _BLOCK[x.device.type] // (x.shape[0] * x.shape[2])), dim=1)
    mean = torch.stack([b.sum(1, dtype=torch.float64) for b in blocks]).sum(0) / x.shape[1]
    return mean, torch.cat([(b.double() - mean.unsqueeze(1)).norm(dim=2) for b in blocks], 1)


def diverged(state: State) -> list[tuple[int, float]]:
    """Returns the nodes whose loss or model is not finite, with the time when that was first seen (inf: just now)."""
    blocks = state.x.split(max(1, _BLOCK[state.x.device.type] // state.x.shape[1]))
    finite = torch.cat([b.isfinite().all(1) for b in blocks])
    bad = torch.nonzero(state.diverged_at.isfinite() | ~finite)[:, 0].cpu()
    return list(zip(bad.tolist(), state.diverged_at.cpu()[bad].tolist(), strict=True))


def _per_second(contacts: float, time: float) -> float | None:
    return contacts / time if time else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
