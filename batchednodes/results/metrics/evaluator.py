r"""Metrics: what is measured at a mark, network by network.

Networks with equally many nodes and test examples are measured together, so that the cost of a mark does not grow with
the number of networks but with that of their nodes.

Notation: g networks, n nodes, p parameters, k nodes evaluated, x models [n, p], x_mean their mean.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.mixing.personal import Personal
from batchednodes.algorithms.state import State
from batchednodes.events.messages.records import REQUEST, MessageLaws
from batchednodes.events.messages.timeline import accounts
from batchednodes.events.timeline import Clocks
from batchednodes.models.losses import cross_entropy
from batchednodes.models.problem import Problem, Tests
from batchednodes.numerics import devices
from batchednodes.numerics.memory import Chunk, arriving, send
from batchednodes.results.metrics import classes, node_table, own_tests
from batchednodes.results.metrics.base import Measured
from batchednodes.results.metrics.catalogue import KEYS
from batchednodes.results.metrics.consensus import norms, unsound
from batchednodes.results.metrics.models import Models, Whole
from batchednodes.results.metrics.observed import Observation, Observed
from batchednodes.results.metrics.own_tests import OWN
from batchednodes.results.metrics.privacy_loss import Accountant
from batchednodes.results.metrics.scores import Scores, known_number
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
    models: "Callable[..., Float[Tensor, 'n p'] | Models]" = as_they_are
    """The models of the nodes that are scored, of a state and, if they change between events, the time [s]."""
    own: tuple[Measured, ...] = ()
    """Metrics of the user's own."""
    attackers: Bool[np.ndarray, " n"] | None = None
    """Nodes that attack, which are left out of what is said of models; None: there are none."""
    bytes: tuple[int, ...] = ()
    """Bytes that a contact of each network sends, or a message, where there are such [B]."""
    classes: bool = False
    """Whether macro F1 and balanced accuracy are measured."""
    table: bool = False
    """Whether there is a row for each evaluated node, too."""
    personal: Personal | None = None
    """Which entries nodes mix; None: all. Those that all of a network mix have a distance from their mean, and the mean
    model is their mean with the others of each node: its scores are then means over nodes."""
    accountant: Accountant | None = None
    """Accounts for the privacy loss of nodes; None: it is not known."""
    cut: Cut | None = None
    """How ranks hold the networks together, which all take part in what they observe; None: this one holds them."""

    def observe(self, state: State, clocks: Clocks) -> "Observed":
        """Returns what holds now; all numbers come to the host at once, and it waits for the device once.

        What the state adds up for integrals of staleness is drawn together: it means the same, see `State.gained`.
        """
        begun, away, x = devices.Moment(state.x.device), self._away(clocks.time), self.held(state, clocks.time)
        unseen = self._unseen(away)
        out = state.diverged_at.isfinite() if self.quarantine else None
        if unseen is not None:
            gone = send(unseen, x.x.device)
            out = gone if out is None else out | gone
        parts, scores, own = self._scored(x, out)
        stale = self.tracking.tally(state.versions, int(clocks.updates.max()))
        more = [x.lengths(), *self.moments(state), state.diverged_at, x.finite(state.models)]
        found, ended = arriving([*scores, *own, *stale, *more]), devices.Moment(x.x.device)
        ended.wait()
        done = time.perf_counter() - ended.since(begun)
        scored, owned, lags = (found[a:b] for a, b in pairwise(np.cumsum([0, len(scores), len(own), len(stale)])))
        norm, updated, gained, since, sound = found[-5:]
        diverged = since.isfinite().numpy() if self.quarantine else np.zeros(self.networks.n, bool)
        cut = diverged if unseen is None else diverged | unseen
        models, values = self._models(parts, scored, cut), self._own(owned)
        falls = self.tracking.falls(updated.numpy(), gained.numpy())
        self._draw_together_(state, falls)
        measured = self.tracking.measured(lags, falls, clocks.time)
        mean = norms(norm.numpy(), self.networks, unseen)
        posts: list[dict[str, int]] = [{}] * self.networks.count
        if clocks.in_flight is not None and self.laws is not None:
            posts = accounts(clocks.in_flight, self.laws)
        rows = (self._network(clocks, g, *models[g], measured[g], diverged) for g in range(self.networks.count))
        seen = [self._with(row, mean[g], posts[g], clocks, away, g) for g, row in enumerate(rows)]
        asked = self.measured(state, clocks.time, cut)
        each = [replace(one, row=one.row | more) for one, more in zip(seen, asked, strict=True)]
        each = self._with_own(each, values, cut) if values else each
        each = self._with_table(each, values, clocks, cut) if self.table else each
        return Observed(each, unsound(since, sound), done)

    def held(self, state: State, time: float | None = None) -> Models:
        """Returns the models that are scored, at a time [s]; None: as they are after the last events."""
        found = self.models(state, time)
        return found if isinstance(found, Models) else Whole(found, found.shape[1])

    def moments(self, state: State) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Returns `updated` and `gained` of a state, over all sources."""
        if self.cut is None:
            return state.updated, state.gained
        updated, gained = self.cut.ranks.total(torch.stack([state.updated, state.gained]))
        return updated, gained

    def _draw_together_(self, state: State, falls: Float64[np.ndarray, " n"]) -> None:
        """Leaves `Tracking.falls` as `gained`, and nothing as `updated`: sums stay small, and so does their rounding.

        Ranks that share networks have what adds up to that: the first has it, the others nothing.
        """
        state.updated.zero_()
        if self.cut is None or self.cut.ranks.rank == 0:
            state.gained.copy_(send(falls, state.gained.device))
        else:
            state.gained.zero_()

    def _scored(self, x: Models, out: Bool[Tensor, " n"] | None) -> tuple[list[Tests], list[Tensor], list[Tensor]]:
        """Returns what `_scores` does, of as many models at once as memory holds."""
        most = (1 + max(rows.size for rows in self.evaluated)) * self.networks.count
        if self.cut is not None:  # what has ranks wait for each other is not tried again
            return self._scores(x, out, min(self.chunk.planned, most), self.together)

        def attempt(size: int) -> tuple[list[Tests], list[Tensor], list[Tensor]]:
            together = self.together if self.chunk.rows == self.chunk.planned else min(self.together, size)
            return self._scores(x, out, size, together)

        return self.chunk.attempt(most, attempt)

    def _own(self, found: Sequence[Float64[Tensor, " u"]]) -> dict[str, Float64[np.ndarray, " n"]]:
        """Returns loss and accuracy of each node on its own test rows; nothing where there are none."""
        own = self.problem.own
        return {} if own is None else dict(zip(OWN, map(own.means, found), strict=True))

    def _with_own(
        self, each: list["Observation"], values: dict[str, Float64[np.ndarray, " n"]], cut: Bool[np.ndarray, " n"]
    ) -> list["Observation"]:
        """Returns what was observed, with what own test rows say."""
        assert self.problem.own is not None
        said = own_tests.said(values, self.problem.own.sizes, self.evaluated, cut)
        return [
            replace(one, row=one.row | row, over_nodes=one.over_nodes | spread)
            for one, (row, spread) in zip(each, said, strict=True)
        ]

    def _with_table(
        self,
        each: list["Observation"],
        values: dict[str, Float64[np.ndarray, " n"]],
        clocks: Clocks,
        cut: Bool[np.ndarray, " n"],
    ) -> list["Observation"]:
        """Returns what was observed, with a row for each node that is evaluated and counts."""
        made = []
        for g, one in enumerate(each):
            part, rows = self.networks.slice(g), self.evaluated[g][~cut[self.evaluated[g]]]
            known = {
                name: one.over_nodes[name] for name in ("loss", "accuracy") if name in one.over_nodes and rows.size
            }
            known |= {name: all_[rows] for name, all_ in values.items()} | {"updates": clocks.updates[rows]}
            place = (clocks.time, g, rows - part.start, ~cut[part])
            stale = None if one.staleness is None else one.staleness.of_node
            table = node_table.rows(*place, one.over_nodes["distance_from_mean"], known, stale)
            made.append(replace(one, nodes=table))
        return made

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
                value = functools.partial(one.value, view=view)
                row[one.metric.key] = self.held(state, time).told(kept, value) if len(kept) else None
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
            counts |= {"epsilon_mean": known_number(float(loss.mean())), "epsilon_max": known_number(float(loss.max()))}
        row = seen.row | {"model_norm_mean": norm, "model_age_mean": age, "nodes_present": present} | counts
        return replace(seen, row={key: row.get(key) for key in KEYS})

    def _scores(
        self, x: Models, out: Bool[Tensor, " n"] | None, size: int, together: int
    ) -> tuple[list[Tests], list[Tensor], list[Tensor]]:
        """Returns the test sets of networks that are measured together, with tensors of `Scores`, and sums on own rows.

        The last are of the losses and accuracies for each block of own test rows, where there are such.

        Args:
            x: models.
            out: nodes that are left out of the mean model; None: none.
            size: models scored at once, at most.
            together: the same of models of several networks.
        """
        parts, own = list(self._parts(x.p, together)), list[Tensor]()
        if self.problem.own is not None:
            own = x.each(send(self.problem.own.nodes, x.x.device).unsqueeze(0), size, self._own_sums, len(OWN))
            own = [sums[0] for sums in own]
        return parts, [t for part in parts for t in self._score(x, out, part, size)], own

    def _own_sums(self, models: Float[Tensor, "1 w p"], part: slice) -> tuple[Tensor, ...]:
        """Returns sums of losses and accuracies of models on some blocks of own test rows."""
        blocks, copies = torch.arange(part.start, part.stop), models.shape[1] // max(1, part.stop - part.start)
        with torch.no_grad():
            found = self.problem.own_scores(models[0], send(blocks.repeat(copies), models.device))
        return tuple(sums.unsqueeze(0) for sums in found)

    def _parts(self, p: int, together: int) -> Iterator[Tests]:
        """Yields the test sets of as many networks as are measured together."""
        for tests in self.problem.tests:
            n, k = int(self.networks.sizes[tests.networks[0]]), self.evaluated[tests.networks[0]].size
            step = max(1, min(_ROWS // (n * p), together // (k + 1)))
            for first in range(0, tests.networks.size, step):
                yield tests.of(slice(first, first + step))

    def _models(
        self, parts: Sequence[Tests], found: Sequence[Tensor], cut: Bool[np.ndarray, " n"]
    ) -> dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]]:
        """Returns, by the number of each network, its part of a row, and its values node by node, without some nodes.

        Args:
            parts: test sets of networks that are measured together.
            found: of these the tensors of `Scores`, on the host.
            cut: nodes that do not count.
        """
        models, width = {}, len(fields(Scores))
        for tests, first in zip(parts, range(0, len(found), width), strict=True):
            scores = Scores(*found[first : first + width])
            for k, (g, known) in enumerate(scores.networks(tests.networks)):
                nodes, scored = cut[self.networks.slice(g)], cut[self.evaluated[g]]
                models[g] = known
                if nodes.any():
                    alone = scores.without(k, nodes, scored)
                    models[g] = next(alone.networks(tests.networks[k : k + 1]))[1]
        return models

    def _score(self, x: Models, out: Bool[Tensor, " n"] | None, tests: Tests, size: int) -> list[Tensor]:
        """Returns how some networks' models, and the mean of each network's, do on the test sets, as `Scores`."""
        parts = [self.networks.slice(int(g)) for g in tests.networks]
        kept = None if out is None else torch.stack([~out[part] for part in parts])
        mixed = None if self.personal is None else torch.stack([self.personal.all_mix(part) for part in parts])
        mean, apart = x.consensus(parts, kept, mixed)
        rows, dtype = send(np.stack([self.evaluated[g] for g in tests.networks]), x.x.device), x.x.dtype

        def tried(models: Float[Tensor, "g k p"], _: slice) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return self._tried(models, tests)

        known = x.each(rows, size, tried, 4, mean.to(dtype).unsqueeze(1))
        excess = tests.excess(mean)
        if mixed is not None and self.personal is not None and not self.personal.whole:
            counts = torch.ones_like(rows, dtype=torch.bool) if out is None else ~out[rows]

            def own(models: Float[Tensor, "g k p"], part: slice) -> tuple[Tensor, ...]:
                return tried(torch.where(mixed.unsqueeze(1), mean.to(dtype).unsqueeze(1), models), part)

            for each, of_own in zip(known, x.each(rows, size, own, 4), strict=True):
                each[:, 0] = torch.where(counts, of_own, 0).sum(1) / counts.sum(1)
            excess = torch.where(mixed.all(1), excess, torch.nan)
        away = apart[:, :0] if tests.optima is None else x.distances(parts, tests.optima)
        loss, accuracy, f1, balanced = known
        return [loss, accuracy, apart, away, excess.unsqueeze(1), f1, balanced]

    def _tried(self, models: Float[Tensor, "g k p"], tests: Tests) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns loss, accuracy, macro F1 and balanced accuracy of some models; NaN for the last, if not asked for."""
        loss, accuracy = self.problem.scores(models, tests)
        if not self.classes:
            return loss, accuracy, torch.full_like(accuracy, torch.nan), torch.full_like(accuracy, torch.nan)
        hits = self.problem.hits(models, tests)
        return loss, accuracy, classes.f1(hits), classes.balanced(hits)

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
        if self.problem.criterion.mean is not cross_entropy:
            row |= {"perplexity_mean": None, "perplexity_mean_model": None}
        if self.problem.classes is None:
            over_nodes = {name: values for name, values in over_nodes.items() if name != "accuracy"}
        return Observation(row, over_nodes, stale)


def _per_second(contacts: float, time: float) -> float | None:
    return contacts / time if time else None
