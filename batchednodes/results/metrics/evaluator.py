r"""Metrics: what is measured at a mark, network by network.

Networks with equally many nodes and test examples are measured together, so that the cost of a mark does not grow with
the number of networks but with that of their nodes.

Notation: g networks, n nodes, p parameters, k nodes evaluated, x models [n, p], x_mean their mean.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.state import State
from batchednodes.events.messages.records import REQUEST, MessageLaws
from batchednodes.events.messages.timeline import accounts
from batchednodes.events.timeline import Clocks
from batchednodes.models.problem import Problem, Tests
from batchednodes.numerics import devices
from batchednodes.numerics.memory import Chunk, arriving, send
from batchednodes.results.metrics.base import Measured
from batchednodes.results.metrics.catalogue import KEYS
from batchednodes.results.metrics.consensus import consensus, distances, finite, lengths, norms, unsound
from batchednodes.results.metrics.privacy_loss import Accountant
from batchednodes.results.metrics.staleness import Staleness, Tracking
from batchednodes.results.metrics.view import View
from batchednodes.topology import Networks

_ROWS = 1 << 24
"""Numbers handled at once where a reduction over x needs a copy in float64."""


def as_they_are(state: State, time: float | None = None) -> Float[Tensor, "n p"]:
    """Returns the models of the nodes, as a view."""
    return state.models


@dataclass(frozen=True)
class Evaluator:
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
    chunk: Chunk
    """Models scored by one vmap call, at most."""
    together: int
    """The same for models of several networks."""
    quarantine: bool = False
    """Whether nodes that diverged are left out of what is said of models, and counted."""
    laws: MessageLaws | None = None
    """Of messages under way; None where models are exchanged at once."""
    models: Callable[..., Float[Tensor, "n p"]] = as_they_are
    """The models of the nodes that are scored, of a state and, if they change between events, the time [s]."""
    own: tuple[Measured, ...] = ()
    """Metrics of the user's own."""
    attackers: Bool[np.ndarray, " n"] | None = None
    """Nodes that attack, which are left out of what is said of models; None: there are none."""
    bytes: tuple[int, ...] = ()
    """Bytes that a contact of each network sends, or a message, where there are such [B]."""
    accountant: Accountant | None = None
    """Accounts for the privacy loss of nodes; None: it is not known."""

    def observe(self, state: State, clocks: Clocks) -> "Observed":
        """Returns what holds now; all numbers come to the host at once, and it waits for the device once."""
        begun, away, x = devices.Moment(state.x.device), self._away(clocks.time), self.models(state, clocks.time)
        unseen = self._unseen(away)
        out = state.diverged_at.isfinite() if self.quarantine else None
        if unseen is not None:
            gone = send(unseen, x.device)
            out = gone if out is None else out | gone
        most = (1 + max(rows.size for rows in self.evaluated)) * self.networks.count
        parts, scores = self.chunk.attempt(most, lambda size: self._scores(x, out, size))
        stale = self.tracking.tally(state.versions, int(clocks.updates.max()))
        asked = [*scores, *stale, lengths(x), state.updated, state.gained, state.diverged_at, finite(state.models)]
        found, ended = arriving(asked), devices.Moment(x.device)
        ended.wait()
        done = time.perf_counter() - ended.since(begun)
        norm, updated, gained, since, sound = found[-5:]
        diverged = since.isfinite().numpy() if self.quarantine else np.zeros(self.networks.n, bool)
        cut = diverged if unseen is None else diverged | unseen
        scored = [_Scores(*found[k : k + 5]) for k in range(0, len(scores), 5)]
        models = {g: own for p, score in zip(parts, scored, strict=True) for g, own in self._models(p, score, cut)}
        moments = np.stack([updated.numpy(), gained.numpy()])
        measured = self.tracking.measured(found[len(scores) : -5], moments, clocks.time)
        mean = norms(norm.numpy(), self.networks, unseen)
        posts: list[dict[str, int]] = [{}] * self.networks.count
        if clocks.in_flight is not None and self.laws is not None:
            posts = accounts(clocks.in_flight, self.laws)
        rows = (self._network(clocks, g, *models[g], measured[g], diverged) for g in range(self.networks.count))
        seen = [self._with(row, mean[g], posts[g], clocks, away, g) for g, row in enumerate(rows)]
        own = self.measured(state, clocks.time, cut)
        each = [replace(one, row=one.row | more) for one, more in zip(seen, own, strict=True)]
        return Observed(each, unsound(since, sound), done)

    def measured(self, state: State, time: float, cut: Bool[np.ndarray, " n"]) -> list[dict[str, float | None]]:
        """Returns what the user's own metrics say of each network, without some nodes.

        Raises:
            ValueError: the user's code fails.
        """
        found: list[dict[str, float | None]] = [{}] * self.networks.count
        for g, rows in enumerate(self.evaluated if self.own else ()):
            kept, row = torch.from_numpy(rows[~cut[rows]]).to(state.x.device), dict[str, float | None]()
            view = View(g, time, self.networks.slice(g), self.problem)
            for one in self.own:
                row[one.metric.key] = one.value(self.models(state, time)[kept], view) if len(kept) else None
            found[g] = row
        return found

    def _away(self, time: float) -> Bool[np.ndarray, " n"] | None:
        """Returns which nodes have not joined yet, or have left; None where none ever do.

        Of a network in which nobody is there, all nodes count: its models wait for those who come.
        """
        if self.laws is None:
            return None
        join, leave = self.laws.nodes["join"], self.laws.nodes["leave"]
        if not ((join > 0).any() or np.isfinite(leave).any()):
            return None
        away = (join > time) | (leave <= time)
        there = np.add.reduceat(~away, self.networks.offsets[:-1], dtype=np.int64)
        return away & np.repeat(there > 0, self.networks.sizes)

    def _unseen(self, away: Bool[np.ndarray, " n"] | None) -> Bool[np.ndarray, " n"] | None:
        """Returns which nodes do not count: those that are away, unless no honest ones are left then, and attackers."""
        if self.attackers is None or away is None:
            return away if self.attackers is None else self.attackers
        there = np.add.reduceat(~(away | self.attackers), self.networks.offsets[:-1], dtype=np.int64)
        return self.attackers | (away & np.repeat(there > 0, self.networks.sizes))

    def _with(
        self,
        seen: "Observation",
        norm: float,
        post: dict[str, int],
        clocks: Clocks,
        away: Bool[np.ndarray, " n"] | None,
        g: int,
    ) -> "Observation":
        """Returns what was observed of a network with the norm of its models, their ages and its messages."""
        part, age, present = self.networks.slice(g), None, None
        if clocks.in_flight is not None:
            age = float(
                (clocks.in_flight.age[part] if away is None else clocks.in_flight.age[part][~away[part]]).mean()
            )
        if away is not None:
            present = int((~away[part]).sum())
        counts: dict[str, Any] = {f"messages_{name}": count for name, count in post.items()}
        contacts = int(clocks.gossips[part].sum())
        asked = contacts if self.laws is not None and self.laws.exchange == REQUEST else 0  # a request has no size
        counts["bytes_sent"] = self.bytes[g] * (post.get("sent", contacts) - asked)
        if self.accountant is not None:
            loss = self.accountant.epsilon(clocks.updates)[part]
            counts |= {"epsilon_mean": _known(float(loss.mean())), "epsilon_max": _known(float(loss.max()))}
        row = seen.row | {"model_norm_mean": norm, "model_age_mean": age, "nodes_present": present} | counts
        return replace(seen, row={key: row.get(key) for key in KEYS})

    def _scores(
        self, x: Float[Tensor, "n p"], out: Bool[Tensor, " n"] | None, size: int
    ) -> tuple[list[Tests], list[Tensor]]:
        """Returns the test sets of networks that are measured together, and five tensors of `_Scores` for each.

        Args:
            x: models.
            out: nodes that are left out of the mean model; None: none.
            size: models scored at once, at most.
        """
        parts = list(self._parts(x.shape[1], size))
        return parts, [t for part in parts for t in self._score(x, out, part, size)]

    def _parts(self, p: int, size: int) -> Iterator[Tests]:
        """Yields the test sets of as many networks as are measured together."""
        for tests in self.problem.tests:
            n, k = int(self.networks.sizes[tests.networks[0]]), self.evaluated[tests.networks[0]].size
            together = self.together if self.chunk.rows == self.chunk.planned else min(self.together, size)
            step = max(1, min(_ROWS // (n * p), together // (k + 1)))
            for first in range(0, tests.networks.size, step):
                yield tests.of(slice(first, first + step))

    def _models(
        self, tests: Tests, scores: "_Scores", cut: Bool[np.ndarray, " n"]
    ) -> Iterator[tuple[int, tuple[dict[str, Any], dict[str, np.ndarray]]]]:
        """Yields the number of each network, its part of a row, and its values node by node, without some nodes."""
        for k, (g, known) in enumerate(scores.networks(tests.networks)):
            nodes, scored = cut[self.networks.slice(g)], cut[self.evaluated[g]]
            yield (
                next(scores.without(k, nodes, scored).networks(tests.networks[k : k + 1]))
                if nodes.any()
                else (g, known)
            )

    def _score(self, x: Float[Tensor, "n p"], out: Bool[Tensor, " n"] | None, tests: Tests, size: int) -> list[Tensor]:
        """Returns how some networks' models, and the mean of each network's, do on the test sets, as `_Scores`."""
        parts = [self.networks.slice(int(g)) for g in tests.networks]
        kept = None if out is None else torch.stack([~out[part] for part in parts])
        mean, apart = consensus(_models(x, parts), kept)
        rows = send(np.stack([self.evaluated[g] for g in tests.networks]), x.device)
        models = (x[some] for some in rows.split(max(1, size // len(rows)), dim=1))
        first = torch.cat([mean.to(x.dtype).unsqueeze(1), next(models)], 1)
        with torch.no_grad():
            scores = [self.problem.scores(some, tests) for some in chain([first], models)]
        loss, accuracy = (torch.cat(parts, 1) for parts in zip(*scores, strict=True))
        away = apart[:, :0] if tests.optima is None else distances(_models(x, parts), tests.optima)
        return [loss, accuracy, apart, away, tests.excess(mean).unsqueeze(1)]

    def _network(
        self,
        clocks: Clocks,
        g: int,
        known: dict[str, Any],
        over_nodes: dict[str, np.ndarray],
        stale: Staleness | None,
        diverged: Bool[np.ndarray, " n"],
    ) -> "Observation":
        part = self.networks.slice(g)
        quarantined = int(diverged[part].sum())
        row = {
            "time": clocks.time,
            "network": g,
            "seed": int(self.networks.seeds[g]),
            "n": int(self.networks.sizes[g]),
            "updates": int(clocks.updates[part].sum()),
            "gossips": int(clocks.gossips[part].sum()),
            **known,
            "staleness_mean": None,
            "staleness_max": None if stale is None else stale.max,
            "staleness_theory": None if quarantined else self.theory[g],
            "staleness_now": None if stale is None else stale.mean,
            "staleness_integral": None if stale is None else stale.integral,
            "staleness_median": None if stale is None else stale.median,
            "staleness_p90": None if stale is None else stale.p90,
            "staleness_p99": None if stale is None else stale.p99,
            "gossip_rate_mean": _per_second(float(clocks.gossips[part].mean()), clocks.time),
            "gossip_rate_max": _per_second(float(clocks.gossips[part].max()), clocks.time),
            "gossip_rate_peak": self.peaks[g],
            "quarantined": quarantined if self.quarantine else None,
        }
        if self.problem.classes is None:
            over_nodes = {name: values for name, values in over_nodes.items() if name != "accuracy"}
        return Observation(row, over_nodes, stale)


@dataclass(frozen=True, eq=False)
class _Scores:
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

    def without(self, k: int, nodes: Bool[np.ndarray, " n"], scored: Bool[np.ndarray, " k"]) -> "_Scores":
        """Returns the numbers of one network without some nodes, and without those that are scored among them.

        NaN stands for the test loss and accuracy if none is left.
        """
        columns = torch.from_numpy(np.flatnonzero(np.append(True, ~scored)))
        loss, accuracy = (
            F.pad(t[k, columns], (0, int(scored.all())), value=math.nan) for t in (self.loss, self.accuracy)
        )
        kept = torch.from_numpy(~nodes)
        away = self.away[k, kept[: self.away.shape[1]]]
        return _Scores(loss[None], accuracy[None], self.distances[k, kept][None], away[None], self.excess[k][None])

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
            "suboptimality": self.excess[:, 0],
            "distance_to_optimum": self.away.square().mean(1).sqrt(),
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


@dataclass(frozen=True)
class Observed:
    """All networks at one mark."""

    networks: list[Observation]
    diverged: list[tuple[int, float]]
    """Nodes whose loss or model is not finite, with the time when that was first seen (inf: just now)."""
    done: float
    """When the device had done all that came before, by `time.perf_counter` [s]."""


def _models(x: Float[Tensor, "rows p"], parts: list[slice]) -> Float[Tensor, "g n p"]:
    """Returns the models of networks of one size; without a copy where they lie one after the other."""
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return x[parts[0].start : parts[-1].stop].view(len(parts), -1, x.shape[1])
    return torch.stack([x[part] for part in parts])


def _per_second(contacts: float, time: float) -> float | None:
    return contacts / time if time else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
