r"""Assembly: from the settings of some networks to what runs. Networks of one batch lie one after the other in x.

Notation: n nodes of all networks, p parameters, x models [n, p].
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from batchednodes.algorithms.context import Gradient
from batchednodes.algorithms.fields import Field
from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.algorithms.local_sgd import LocalSGD, Uneven
from batchednodes.algorithms.mixing import Ages, Entries, parts
from batchednodes.algorithms.mixing.rounds import RoundMatrices
from batchednodes.algorithms.one_by_one import OneByOne
from batchednodes.algorithms.optim import SGD, Constant
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.algorithms.reference import Reference
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State, begin, joined
from batchednodes.algorithms.versions import dtype_for
from batchednodes.algorithms.waves import Waves
from batchednodes.config import Config, has_messages
from batchednodes.data import Dataset, Heterogeneity, Sampler, Shards
from batchednodes.events.messages.timeline import MessageTimeline
from batchednodes.events.schemes import Freshest, Uniform
from batchednodes.events.synchronous import Barriers
from batchednodes.events.timeline import Timeline
from batchednodes.models.problem import Problem
from batchednodes.numerics import rng
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.memory import Chunk, Chunks
from batchednodes.numerics.values import per_node, shown
from batchednodes.results import theory
from batchednodes.results.metrics import base as own_metrics
from batchednodes.results.metrics.evaluator import Evaluator, quarantine_
from batchednodes.results.metrics.staleness import Sources, Tracking, sample
from batchednodes.simulation.build import datasets, fields, learning
from batchednodes.simulation.build.learning import DTYPES
from batchednodes.simulation.engine import Batched, Engine, Serial, automatic_window
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
        ValueError: CUDA is asked for where there is none, or a device number that does not exist.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= count:  # torch takes the number modulo 256
        raise ValueError(
            f"device must be one of this machine, got {shown(config.device)} with {count} CUDA devices; use auto or cpu"
        )
    return torch.device(name)


def timeline(configs: Sequence[Config]) -> Timeline:
    """Returns the laws of all events, see `preparation.timeline`."""
    if not any(has_messages(c) for c in configs):
        return preflight.timeline(configs, 0)
    dtype = DTYPES[configs[0].dtype]
    p = learning.skeleton(configs[0], datasets.sizes(configs[:1])[0], dtype, torch.device("cpu")).p
    return preflight.timeline(configs, p * dtype.itemsize)


def assemble(
    configs: Sequence[Config],
    events: Timeline,
    chunks: Chunks,
    state: State | None = None,
    dealt: list[tuple[Dataset, Shards]] | None = None,
) -> Simulation:
    """Returns everything that a run needs, built on its device.

    Args:
        configs: settings of each network; they share model, data shape, dtype, device and run.
        events: the timeline of these networks.
        chunks: rows handled at once, from the plan.
        state: where the run stands; None: at its start, with models initialised.
        dealt: data of each network, and who owns them; None: they are loaded.

    Raises:
        ValueError: data, partition or model do not fit together, or the state does not fit them.
    """
    config = configs[0]
    where, dtype = device(config), DTYPES[config.dtype]
    problem, labels = learning.problem(configs, events.networks, dtype, where, dealt)
    tracking = Tracking.of(events.networks, [c.staleness.track for c in configs], where)
    coefficients = _rates(configs, dtype, where)
    weight = _weight(configs, dtype, where)
    layout, own, quarantine = tracking.layout, tracking.own, config.run.on_divergence == "quarantine"
    if isinstance(events, MessageTimeline):
        events = events.taking(problem.sampler.steps_of)
    if state is None:  # else they are those that the run had
        chunks = _fitted(chunks, config, problem.sampler)
    (updated, scored), window = _chunks(chunks), config.run.window or automatic_window(events)
    entries, ages, slots = (
        *_entries(config, events, problem),
        events.slots if isinstance(events, MessageTimeline) else 0,
    )
    carries, replaces = (config.gossip.on_receipt in kinds for kinds in (("update", "update_merge"), ("update",)))
    layout.reserve(slots if state is None else state.x.shape[0] - state.nodes)
    rounds = RoundMatrices(events.weights, where, dtype) if isinstance(events, Barriers) else None
    if config.executor == "serial":
        reference = Reference(problem, coefficients, weight, layout, own, quarantine, entries, replaces, ages)
        rowwise = _rowwise(configs, events, problem, _plain_descent(config, problem, coefficients), coefficients)
        independent = hasattr(config.algorithm, "event_")
        single = type(config.algorithm) is not GossipSGD or rounds is not None
        executor = Serial(OneByOne(reference, rowwise, rounds, independent) if single else reference)
    else:
        descent = _descent(config, problem, coefficients, chunks)
        rowwise = _rowwise(configs, events, problem, descent, coefficients)
        choices = (coefficients, weight, layout, own, updated, config.run.mixing, quarantine, entries)
        executor = Batched(Waves(rowwise, problem, descent, *choices, carries, replaces, ages, rounds))
    declared = fields.declared(configs, coefficients.momentum is not None, entries.parts if entries and ages else 0)
    if state is None:
        x = _initial(configs, problem, events.networks, dtype, slots)
        state = begin(x, layout.zeros(counts(events, config)), events.networks.n, declared)
        if quarantine:
            quarantine_(state)  # a user's model may begin with anything
    else:
        _check_state(state, (events.networks.n, problem.stack.p), layout.room, declared)
        state = state if state.travels else joined(state, declared)
    engine = Engine(events, executor, config.run.until, config.run.mark_every, window)
    theories = tuple(mean_staleness(c, events, g, tracking.sources) for g, c in enumerate(configs))
    evaluated, peaks = _evaluated(configs, events.networks), tuple(events.peaks())
    constants = (evaluated, theories, peaks, scored, chunks.together, quarantine)
    laws = events.laws if isinstance(events, MessageTimeline) else None
    models, own_metric = rowwise.models, own_metrics.load(config.run.metrics)
    evaluator = Evaluator(events.networks, problem, tracking, *constants, laws, models, own_metric)
    evaluator.measured(state, 0.0, np.zeros(events.networks.n, bool))  # what a user's metric cannot is refused here
    return Simulation(engine, state, declared, evaluator, problem, chunks, updated, labels)


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


def _check_state(state: State, shape: tuple[int, int], versions: int, declared: Mapping[str, Field]) -> None:
    found = tuple(state.models.shape), state.versions.numel(), {*state.fields, *state.columns}
    if found != (shape, versions, {*declared}):
        raise ValueError(
            f"the checkpoint must fit the settings: models {list(shape)} and {versions} versions, got models "
            f"{list(state.models.shape)} and {state.versions.numel()} versions; did data or the model's code change?"
        )


def _descent(config: Config, problem: Problem, rates: Hyperparameters, chunks: Chunks) -> LocalSGD:
    """Returns the way to make minibatch steps.

    Args:
        config: settings that all networks share.
        problem: what is learned.
        rates: coefficients of all nodes.
        chunks: rows that descend at once, at most, and whether by a tape or a program.

    Raises:
        ValueError: a compiled program is asked for, and cannot be made.
    """
    local, sampler, descent = config.local, problem.sampler, _plain_descent(config, problem, rates)
    divides = descent.divides
    if local.compile == "off" or divides or (local.compile == "auto" and not chunks.traced):
        return descent
    batch, compiled = sampler.shape[1], local.compile == "on"
    if not compiled and not rates.lr.is_cuda:
        with contextlib.suppress(UntraceableError):
            return descent.taped(problem.stack.p, batch, rates)
    try:
        program = descent.traced(problem.stack.p, batch, rates, compiled)
    except UntraceableError as error:
        if not compiled:
            return descent
        raise ValueError(
            f"local.compile must be auto or off where torch.compile cannot compile the update, got 'on': "
            f"{str(error).strip().splitlines()[0][:300]}"
        ) from error
    return program.recorded(chunks.update) if rates.lr.is_cuda else program


def _plain_descent(config: Config, problem: Problem, rates: Hyperparameters) -> LocalSGD:
    """Returns the way to make minibatch steps by vmap, operation by operation."""
    sampler = problem.sampler
    data = (problem.features, problem.targets, sampler.padded, _uneven(sampler, rates.lr.device))
    divides = config.gossip.merge.weighing(np.zeros(1)).divides
    return LocalSGD.of(problem.objective, problem.stack.views, rates, *data, divides, sampler.keyed)


def _rowwise(
    configs: Sequence[Config], events: Timeline, problem: Problem, descent: LocalSGD, rates: Hyperparameters
) -> Rowwise:
    """Returns the algorithm, which all networks share, and what its methods may know of nodes."""
    batch, where = events.networks, rates.lr.device
    degree = [
        np.full(int(size), size - 1.0) if graph is None else graph.degrees
        for size, graph in zip(
            batch.sizes, map(events.contacts.graph, map(batch.slice, range(batch.count))), strict=True
        )
    ]
    seeds = torch.from_numpy(batch.seeds[batch.network_of()].astype(np.int64)).to(where)
    local, degrees = (torch.from_numpy(a).to(where) for a in (batch.local(), np.concatenate(degree)))
    gradient = Gradient(problem)
    return Rowwise(configs[0].algorithm, gradient, descent, rates, degrees.to(rates.lr.dtype), seeds, local)


def _uneven(sampler: Sampler, where: torch.device) -> Uneven:
    """Returns what becomes of the steps that some nodes do not have."""
    if not sampler.uneven:
        return "none"
    return "skip" if where.type == "cpu" else "mask"


def counts(events: Timeline, config: Config) -> torch.dtype:
    """Returns the type of versions in which the counts of a run surely fit."""
    return dtype_for(float(events.update.rate.max()) * config.run.until)


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
    if isinstance(events, Barriers):
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


def _rates(configs: Sequence[Config], dtype: torch.dtype, where: torch.device) -> Hyperparameters:
    parts = [(c.local, c.network.nodes, c.seed) for c in configs]
    lr, momentum, decay = (
        np.concatenate([per_node(getattr(local, key), n, seed, f"local.{key}", high=high) for local, n, seed in parts])
        for key, high in (("lr", math.inf), ("momentum", 1.0), ("weight_decay", math.inf))
    )
    send = learning.Sender(dtype, where)
    optimizer, own = _alike(configs, "optimizer")
    schedule, scheduling = _alike(configs, "schedule")
    clips = [math.inf if local.clip is None else local.clip for local, *_ in parts]
    clip = [
        np.full(n, math.inf) if c == math.inf else per_node(c, n, seed, "local.clip", open_low=True)
        for c, (_, n, seed) in zip(clips, parts, strict=True)
    ]
    idle = isinstance(schedule, Constant) and not scheduling["warmup"].any()
    return Hyperparameters(
        send(lr),
        send(momentum) if momentum.any() else None,
        send(decay) if decay.any() else None,
        configs[0].local.nesterov,
        clip=send(np.concatenate(clip)) if any(c != math.inf for c in clips) else None,
        optimizer=None if isinstance(optimizer, SGD) else optimizer,
        own={name: send(value) for name, value in own.items()},
        schedule=None if idle else schedule,
        scheduling={name: torch.from_numpy(value).to(where) for name, value in scheduling.items()},
    )


def _alike(configs: Sequence[Config], name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns the optimizer or schedule of all networks, and its settings node by node.

    Raises:
        ValueError: networks of one batch have different ones.
    """
    key, found = f"local.{name}", [getattr(c.local, name) for c in configs]
    each = [one.per_node(c.network.nodes, c.seed, key) for one, c in zip(found, configs, strict=True)]
    same = [{k: v for k, v in vars(one).items() if k not in each[0]} for one in found]
    if any(type(one) is not type(found[0]) or rest != same[0] for one, rest in zip(found, same, strict=True)):
        raise ValueError(f"sweep.{key} must keep the kind in all networks of a batch; run separate commands for them")
    return found[0], {setting: np.concatenate([own[setting] for own in each]) for setting in each[0]}


def _weight(configs: Sequence[Config], dtype: torch.dtype, where: torch.device) -> Tensor:
    weights = [
        per_node(c.gossip.weight, c.network.nodes, c.seed, "gossip.weight", high=1.0, open_high=False) for c in configs
    ]
    return learning.Sender(dtype, where)(np.concatenate(weights))


def _initial(configs: Sequence[Config], run: Problem, batch: Networks, dtype: torch.dtype, slots: int) -> Tensor:
    x = torch.empty(batch.n + slots, run.stack.p, dtype=dtype, device=run.features.device)
    x[batch.n :] = 0
    for g, c in enumerate(configs):
        outputs = run.classes or run.targets.shape[1]
        c.task.model.init_(x[batch.slice(g)], run.stack, c.seed, tuple(run.features.shape[1:]), outputs)
    return x


def _entries(config: Config, events: Timeline, problem: Problem) -> tuple[Entries | None, Ages | None]:
    """Returns which entries of a model a message brings, None: all; and how ages divide step sizes, if they do."""
    batch, p = events.networks, problem.stack.p
    rule = config.gossip.merge.weighing(np.zeros(1))
    if rule.parts == 1 and rule.share == 1 and not rule.divides:
        return None, None
    entries = Entries(p, rule.parts, rule.share, batch.seeds[batch.network_of()], batch.local())
    steps = torch.from_numpy(problem.sampler.steps_of).to(problem.features.device)
    return entries, Ages(parts(p, rule.parts, steps.device), steps) if rule.divides else None


def _evaluated(configs: Sequence[Config], batch: Networks) -> tuple[Int64[np.ndarray, " _"], ...]:
    sizes = [(c.seed, rng.EVALUATED, c.network.nodes, c.run.eval_nodes or c.network.nodes) for c in configs]
    return tuple(int(first) + sample(*size) for first, size in zip(batch.offsets[:-1], sizes, strict=True))
