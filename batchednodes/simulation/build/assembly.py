r"""Assembly: from the settings of some networks to what runs. Networks of one batch lie one after the other in x.

Notation: n nodes of all networks, p parameters, x models [n, p].
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.context import Gradient
from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.edge_rows import EdgeRows
from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.fused import fuse_
from batchednodes.algorithms.fused_update import fuse_updates_
from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.algorithms.local_sgd import LocalSGD
from batchednodes.algorithms.mixing import Ages, Entries, parts
from batchednodes.algorithms.mixing.personal import Personal
from batchednodes.algorithms.mixing.rounds import RoundMatrices
from batchednodes.algorithms.one_by_one import OneByOne
from batchednodes.algorithms.over_ranks import sources
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.algorithms.reference import Reference
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.algorithms.waves import Waves
from batchednodes.config import Config, has_messages
from batchednodes.data import Dataset, Heterogeneity, Sampler, Shards
from batchednodes.data.minibatches_cuda import DeviceSampler
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.events.schemes import Freshest, Uniform
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import Timeline
from batchednodes.models.problem import Problem
from batchednodes.numerics import devices, rng
from batchednodes.numerics.memory import Chunk, Chunks
from batchednodes.numerics.ranks import Ranks, of_machine
from batchednodes.numerics.unloaded import load_compiler
from batchednodes.numerics.values import shown
from batchednodes.results import theory
from batchednodes.results.metrics import base as own_metrics
from batchednodes.results.metrics.evaluator import Evaluator
from batchednodes.results.metrics.models import columns_of
from batchednodes.results.metrics.privacy_loss import Accountant
from batchednodes.results.metrics.staleness import Sources, Tracking, sample
from batchednodes.simulation.build import datasets, fields, learning, local, personal, trials
from batchednodes.simulation.build import robust as robustness
from batchednodes.simulation.build.learning import DTYPES
from batchednodes.simulation.build.start import Start
from batchednodes.simulation.build.statistics import check_statistics
from batchednodes.simulation.engine import Batched, Engine, Serial
from batchednodes.simulation.lookahead import automatic_window
from batchednodes.simulation.planning import preflight
from batchednodes.topology import Complete, Networks

LARGEST_FRESHEST = 300
"""Nodes up to which a run computes the law of `freshest`, whose work is n^3; a tenth of a second at this size."""


@dataclass(frozen=True)
class Simulation:
    """All parts of a run, ready to start."""

    engine: Engine
    state: State
    declared: dict[str, Field]
    """What nodes keep besides their models."""
    evaluator: Evaluator
    problem: Problem
    planned: Chunks
    """Rows to handle at once."""
    chunk: Chunk
    """Rows that descend at once, now."""
    labels: tuple[Heterogeneity | None, ...]
    """How heterogeneous the labels of the nodes are, in each network; None where targets are real numbers."""
    cut: Cut | None = None
    """How the state is cut over ranks; None: this process has all."""
    edges: tuple[int, ...] | None = None
    """Directed edges of each network; None: nothing lies on them."""

    @property
    def chunks(self) -> Chunks:
        """Rows that are handled at once now: fewer than planned after memory did not hold them.

        A checkpoint that keeps them, for `assemble`, continues bit for bit: sums over fewer rows round otherwise.
        """
        scored = self.evaluator.chunk.rows
        together = self.planned.together if scored == self.planned.evaluate else min(self.planned.together, scored)
        return replace(self.planned, update=self.chunk.rows, evaluate=scored, together=together)


def device(config: Config) -> torch.device:
    """Returns the device that the settings ask for; auto: CUDA where there is one.

    Raises:
        ValueError: CUDA is asked for where there is none, or a device number that does not exist, or several ranks of
            this machine would share one.
    """
    number, count, here = devices.number(config.device), devices.count(), of_machine()[1]
    if number is not None and here > (1 if ":" in config.device else count):
        raise ValueError(
            f"device must be one for each of the {here} ranks of this machine, got {shown(config.device)} with {count} "
            "CUDA devices; use auto, fewer ranks, or cpu"
        )
    if number is not None and number >= count:
        raise ValueError(
            f"device must be one of this machine, got {shown(config.device)} with {count} CUDA devices; use auto or cpu"
        )
    return devices.named(config.device)


def timeline(configs: Sequence[Config]) -> Timeline:
    """Returns the laws of all events, see `preparation.timeline`."""
    if not any(has_messages(c) for c in configs):
        return preflight.timeline(configs, 0)
    dtype = DTYPES[configs[0].dtype]
    stack = learning.skeleton(configs[0], datasets.sizes(configs[:1])[0], dtype, torch.device("cpu"))
    return preflight.timeline(configs, stack.p, [personal.sent(c, stack) for c in configs])


def assemble(
    configs: Sequence[Config],
    events: Timeline,
    chunks: Chunks,
    state: State | None = None,
    dealt: list[tuple[Dataset, Shards]] | None = None,
    ranks: Ranks | None = None,
    window: float | None = None,
) -> Simulation:
    """Returns everything that a run needs, built on its device.

    Args:
        configs: settings of each network; they share model, data shape, dtype, device and run.
        events: the timeline of these networks.
        chunks: rows handled at once, from the plan.
        state: where the run stands; None: at its start, with models initialised.
        dealt: data of each network, and who owns them; None: they are loaded.
        ranks: those that hold these networks together, cut by columns; None: this process has them alone.
        window: longest simulated time that is scheduled at once, where the settings leave it open, that of all networks
            of the run [s]; None: that of these.

    Raises:
        ValueError: data, partition or model do not fit together, or the state does not fit them.
    """
    config = configs[0]
    where, dtype = device(config), DTYPES[config.dtype]
    problem, labels = learning.problem(configs, events.networks, dtype, where, dealt, chunks.block)
    check_statistics(config, problem.stack)
    problem = problem.with_scorers() if chunks.scored else problem
    tracking = Tracking.of(events.networks, [c.staleness.track for c in configs], where)
    if isinstance(events, MessageTimeline):
        events = events.taking(problem.sampler.steps_of)
    if state is None:  # else they are those that the run had
        chunks = _fitted(chunks, config, problem.sampler)
    updated, scored = _chunks(chunks)
    problem = problem.holding(min(updated.rows, events.networks.n) if config.executor == "batched" else 1)
    slots = events.slots if isinstance(events, MessageTimeline) else 0
    tracking.layout.reserve(slots if state is None else state.x.shape[0] - state.nodes)
    executor, rowwise, declared = _executor(configs, events, problem, tracking, (chunks, updated), ranks)
    start = Start(tuple(configs), events, problem, executor.algorithm.layout, declared, rowwise.edges, rowwise.cut)
    state = start.begun() if state is None else start.given(state)
    tried = start.whole(state)
    trials.check_algorithm(rowwise, tried, problem)
    trials.check_robust(rowwise)
    if chunks.traced and config.executor == "batched":
        _fuse_(rowwise, tried, events, config)
    window = config.run.window or window or automatic_window(events)
    every = config.run.mark_every if config.run.mark_at is None else config.run.mark_at
    engine = Engine(events, executor, config.run.until, every, window)
    if rowwise.cut is not None and isinstance(executor.algorithm, Waves):
        tracking = tracking.over(rowwise.cut, executor.algorithm.layout, executor.algorithm.own)
    evaluator = _evaluator(configs, events, problem, (tracking, rowwise), (chunks, scored))
    evaluator.measured(state, 0.0, np.zeros(events.networks.n, bool))  # what a user's metric cannot is refused here
    edges = None if rowwise.edges is None else rowwise.edges.counts(events.networks)
    return Simulation(engine, state, declared, evaluator, problem, chunks, updated, labels, rowwise.cut, edges)


def _evaluator(
    configs: Sequence[Config], events: Timeline, problem: Problem, made: tuple[Tracking, Rowwise],
    rows: tuple[Chunks, Chunk],
) -> Evaluator:  # fmt: skip
    """Returns what measures a run at marks."""
    (tracking, rowwise), (chunks, scored), config = made, rows, configs[0]
    theories = tuple(mean_staleness(c, events, g, tracking.sources) for g, c in enumerate(configs))
    evaluated, peaks = _evaluated(configs, events.networks), tuple(events.peaks())
    constants = (evaluated, theories, peaks, scored, chunks.together, config.run.on_divergence == "quarantine")
    laws = events.laws if isinstance(events, MessageTimeline) else None
    own, attackers = own_metrics.load(config.run.metrics), robustness.attackers(configs)
    sent = personal.contact_bytes(configs, events, problem.stack)
    cut, models = rowwise.cut, rowwise.models
    if cut is not None:
        models = functools.partial(columns_of, rowwise, cut, scored)
    extra = (models, own, attackers if attackers.any() else None, sent)
    extra += ("classes" in config.run.metrics, config.run.node_metrics, rowwise.personal)
    extra += (Accountant.of(configs, problem.sampler), cut)
    return Evaluator(events.networks, _tried(problem, evaluated), tracking, *constants, laws, *extra)


def _executor(
    configs: Sequence[Config], events: Timeline, problem: Problem, tracking: Tracking, rows: tuple[Chunks, Chunk],
    ranks: Ranks | None,
) -> tuple[Serial | Batched, Rowwise, dict[str, Field]]:  # fmt: skip
    """Returns what runs events, the algorithm on rows, and what nodes keep besides their models."""
    config, where = configs[0], problem.features.device
    dtype, quarantine = DTYPES[config.dtype], config.run.on_divergence == "quarantine"
    rates, weight = local.hyperparameters(configs, dtype, where), local.weight(configs, dtype, where)
    entries, ages = _entries(config, events, problem)
    declared = fields.declared(configs, rates.momentum is not None, entries.parts if entries and ages else 0)
    carries, replaces = (config.gossip.on_receipt in kinds for kinds in (("update", "update_merge"), ("update",)))
    quiet = tuple(c.network.silent for c in configs)
    cut = _cut(config, declared, problem.stack.p, ranks)
    rounds = RoundMatrices(events.weights, where, dtype, quiet) if isinstance(events, Barriers) else None
    silent = events.networks.rows(quiet)
    laws, own = (rates, weight, tracking.layout, tracking.own), personal.personal(configs, problem.stack, where)
    if config.executor == "serial":
        load_compiler()
        reference = Reference(problem, *laws, quarantine, entries, replaces, ages, own, frozenset(silent.tolist()))
        descent = local.plain_descent(config, problem, rates)
        rowwise = _rowwise(configs, events, Gradient(problem), descent, rates, own)
        return _serial(config, reference, rowwise, rounds), rowwise, declared
    descent = local.descent(config, problem, rates, rows[0])
    gradient = Gradient(problem, lambda taken: local.descent(config, problem, taken, rows[0]))
    if not type(config.method).descends:
        _ = gradient.steps  # made before the run
    rowwise = _rowwise(configs, events, gradient, descent, rates, own)
    if cut is not None:
        rowwise, laws = replace(rowwise, cut=cut), (rates, weight, *sources(cut, tracking.layout, tracking.own))
        entries = entries and replace(entries, columns=cut.columns(problem.stack.p))
    drawing = DeviceSampler.of(problem.sampler, where) if problem.feed is None else None
    mask = torch.from_numpy(np.isin(np.arange(events.networks.n), silent)).to(where) if silent.size else None
    choices = (rows[1], config.run.mixing, quarantine, entries, carries, replaces, ages, rounds, drawing, mask, cut)
    own = None if cut is None else lambda w: cut.share(cut.counts(w))
    return Batched(Waves(rowwise, problem, descent, *laws, *choices), own=own), rowwise, declared


def _serial(config: Config, reference: Reference, rowwise: Rowwise, rounds: RoundMatrices | None) -> Serial:
    """Returns what runs events one by one: in plain PyTorch, or by the methods of an algorithm on rows."""
    plain = type(config.method) is GossipSGD and rounds is None and rowwise.robust is None
    independent = hasattr(config.method, "event_") or rowwise.robust is not None
    return Serial(reference if plain else OneByOne(reference, rowwise, rounds, independent))


def _cut(config: Config, declared: dict[str, Field], p: int, ranks: Ranks | None) -> Cut | None:
    """Returns how the state is cut over ranks; None: this process has all.

    Raises:
        ValueError: events are to run one by one.
    """
    if ranks is None or ranks.size == 1:
        return None
    if config.executor == "serial":
        raise ValueError(
            f"executor must be batched where {ranks.size} ranks hold a network together, got 'serial'; leave it out, "
            "or start one process"
        )
    return Cut.of(ranks, declared, p)


def _fuse_(rowwise: Rowwise, state: State, events: Timeline, config: Config) -> None:
    """Lets updates and contacts of models that come at once run as tapes, where there are such."""
    fuse_updates_(rowwise, state)
    at_once = not isinstance(events, Barriers | MessageTimeline)
    if at_once and config.run.mixing == "auto" and rowwise.personal is None:
        fuse_(rowwise, state, events.exchange == "meet")


def _fitted(planned: Chunks, config: Config, sampler: Sampler) -> Chunks:
    """Returns the chunks where nodes own different numbers of examples, which the plan did not know.

    Each row then takes the memory of the node that owns most: as many rows less descend at once.
    """
    if not sampler.padded or planned.update_row is None or config.local.chunk is not None:
        return planned
    mean = -(-sampler.rows.size // sampler.sizes.size)
    (_, b), row = config.local.shape(mean), planned.update_row
    largest = row * sampler.shape[1] // b + 8 * math.prod(sampler.shape)
    rows = planned.update if largest <= 2 * row else max(1, planned.update * row // largest)
    return replace(planned, update=rows, update_row=largest)


def _chunks(planned: Chunks) -> tuple[Chunk, Chunk]:
    """Returns how many rows descend, and how many models are scored, at once."""
    smaller = "the model, or use a smaller dtype"
    updated = Chunk(
        planned.update, "local.chunk", planned.update_row, f"lower local.batch_size, local.steps or {smaller}"
    )
    scored = Chunk(
        planned.evaluate, "evaluation", planned.evaluate_row, f"lower the number of test examples or {smaller}"
    )
    return updated, scored


def _rowwise(
    configs: Sequence[Config], events: Timeline, gradient: Gradient, descent: LocalSGD, rates: Hyperparameters,
    own: Personal | None,
) -> Rowwise:  # fmt: skip
    """Returns the algorithm, which all networks share, and what its methods may know of nodes."""
    batch, where = events.networks, rates.lr.device
    degree = [
        np.full(int(size), size - 1.0) if graph is None else graph.degrees
        for size, graph in zip(
            batch.sizes, map(events.contacts.graph, map(batch.slice, range(batch.count))), strict=True
        )
    ]
    seeds = torch.from_numpy(batch.seeds[batch.network_of()].astype(np.int64)).to(where)
    numbers, counts = torch.from_numpy(batch.index()).to(where), gradient.problem.sampler.sizes
    degrees, sizes, owned = (
        torch.from_numpy(a).to(rates.lr) for a in (np.concatenate(degree), batch.sizes[batch.network_of()], counts)
    )
    algorithm = configs[0].method
    edges = EdgeRows.of(events.contacts, batch, where) if algorithm.living("edge") else None
    if edges is not None and events.to_all is not None:
        edges = edges.weighed(events.to_all, batch, rates.lr)
    robust = robustness.robust(configs, batch, rates.lr.dtype, where)
    known = (degrees, sizes, owned, seeds, numbers, _constants(algorithm, events, rates))
    return Rowwise(gradient, descent, rates, *known, algorithm, edges, robust, own)


def _constants(algorithm: Algorithm, events: Timeline, rates: Hyperparameters) -> dict[str, Tensor]:
    """Returns what an algorithm says of the networks of all nodes, by name."""
    if type(algorithm).constants is Algorithm.constants:
        return {}
    batch, rate = events.networks, events.gossip.rate
    with datasets.section("algorithm"):
        parts = map(batch.slice, range(batch.count))
        found = [algorithm.constants(events.contacts.graph(part), rate[part]) for part in parts]
    network = torch.from_numpy(batch.network_of()).long().to(rates.lr.device)
    return {name: rates.lr.new_tensor([one[name] for one in found])[network] for name in found[0]}


def mean_staleness(config: Config, events: Timeline, g: int, sources: Sources) -> float | None:
    """Returns the exact law's mean staleness of network g; None where no law is known, or it takes long to compute.

    All laws need the complete graph and one gossip capacity for all nodes. That of uniform gossip is linear in the
    source's update rate, so updates may differ from node to node: the mean over sources is the law at their mean rate.
    That of `freshest` needs memoryless updates of one rate for all.
    """
    part, n, gossip = events.networks.slice(g), config.network.nodes, config.gossip
    capacity, tracked, update = events.gossip.rate[part], sources.nodes[g], events.update.part(part)
    if (
        has_messages(config)
        or gossip.exchange == "push_pull"
        or events.gossip.quantiles
        or events.at_update is not None
    ):
        return None
    if isinstance(events, Barriers) or config.network.silent:
        return None
    lawful = isinstance(config.network.topology, Complete) and n > 1 and tracked.size > 0
    if not lawful or capacity[0] == 0 or (capacity != capacity[0]).any() or events.gossip.quantiles is not None:
        return None
    if isinstance(gossip.scheme, Uniform):
        return theory.mean_staleness(n, float(capacity[0]), float(events.update.rate[tracked].mean()), gossip.exchange)
    memoryless = update.quantiles is None and not update.shift.any() and (update.scale == update.scale[0]).all()
    if isinstance(gossip.scheme, Freshest) and gossip.exchange == "push" and memoryless and n <= LARGEST_FRESHEST:
        return theory.freshest_staleness(n, float(capacity[0]), float(update.rate[0]))
    return None


def _entries(config: Config, events: Timeline, problem: Problem) -> tuple[Entries | None, Ages | None]:
    """Returns which entries of a model a message brings, None: all; and how ages divide step sizes, if they do."""
    batch, p = events.networks, problem.stack.p
    rule = config.gossip.merge.weighing(np.zeros(1))
    if rule.parts == 1 and rule.share == 1 and not rule.divides:
        return None, None
    entries = Entries(p, rule.parts, rule.share, batch.seeds[batch.network_of()], batch.index())
    steps = torch.from_numpy(problem.sampler.steps_of).to(problem.features.device)
    return entries, Ages(parts(p, rule.parts, steps.device), steps) if rule.divides else None


def _evaluated(configs: Sequence[Config], batch: Networks) -> tuple[Int64[np.ndarray, " _"], ...]:
    sizes = [(c.seed, rng.EVALUATED, c.network.nodes, c.run.eval_nodes or c.network.nodes) for c in configs]
    return tuple(int(first) + sample(*size) for first, size in zip(batch.offsets[:-1], sizes, strict=True))


def _tried(problem: Problem, evaluated: Sequence[Int64[np.ndarray, " _"]]) -> Problem:
    """Returns what is learned, with the own test rows of the nodes that are evaluated only."""
    return problem if problem.own is None else replace(problem, own=problem.own.only(np.concatenate(evaluated)))
