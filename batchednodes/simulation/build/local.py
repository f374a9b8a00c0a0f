"""From the settings of local SGD to what runs: coefficients of all nodes, and the way to make minibatch steps."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.local_sgd import LocalSGD, Uneven
from batchednodes.algorithms.optim import SGD, Constant
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.config import Config, Local
from batchednodes.data import Sampler
from batchednodes.models.problem import Problem
from batchednodes.numerics import devices
from batchednodes.numerics.fx_program import UntraceableError
from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.values import per_node
from batchednodes.simulation.build import learning

_LOG = logging.getLogger(__name__)
"""Says on level INFO which way minibatch steps are made, and why no faster one."""

_LARGE = 8 << 20
"""Temporaries of a row [B] from which on a step is traced without its numbers."""


def descent(config: Config, problem: Problem, rates: Hyperparameters, chunks: Chunks) -> LocalSGD:
    """Returns the way to make minibatch steps.

    Args:
        config: settings that all networks share.
        problem: what is learned.
        rates: coefficients of all nodes.
        chunks: rows that descend at once, at most, and whether by a tape or a program.

    Raises:
        ValueError: a compiled program is asked for, and cannot be made.
    """
    local, sampler, made = config.local, problem.sampler, plain_descent(config, problem, rates)
    if problem.stack.kept:
        if local.compile == "on":
            raise ValueError("local.compile must be auto or off where task.model keeps running statistics, got 'on'")
        return replace(made, refused=("the model keeps running statistics, which no tape or program writes",))
    if made.private is not None:
        made = replace(made, private=replace(made.private, rows=chunks.update))
    if local.compile == "off" or made.divides or (local.compile == "auto" and not chunks.traced):
        return replace(made, refused=(_untraced(made.divides, local.compile),))
    batch, compiled, cuda = sampler.shape[1], local.compile == "on", devices.is_cuda(rates.lr.device)
    large = not cuda and (chunks.update_row or 0) >= _LARGE
    if not compiled:
        try:
            return made.taped(problem.stack.p, batch, rates, large)
        except UntraceableError as error:
            made = _without(made, "tape", error)
    try:
        program = made.traced(problem.stack.p, batch, rates, compiled, large)
    except UntraceableError as error:
        if not compiled:
            return _without(made, "program", error)
        raise ValueError(
            f"local.compile must be auto or off where torch.compile cannot compile the update, got 'on': "
            f"{_first_line(error)}"
        ) from error
    return program.recorded(chunks.update) if cuda else program


def _untraced(divides: bool, compile: str) -> str:
    """Returns why nothing is traced."""
    if divides:
        return "step sizes are divided by ages, which no program does"
    return "local.compile is off" if compile == "off" else "tracing would take longer than the run saves by it"


def _without(made: LocalSGD, way: str, error: UntraceableError) -> LocalSGD:
    """Returns a way to make minibatch steps that knows why there is no faster one, and logs it."""
    _LOG.info("local.compile=auto: no %s makes minibatch steps: %s", way, _first_line(error))
    return replace(made, refused=(*made.refused, f"no {way}: {_first_line(error)}"))


def _first_line(error: UntraceableError) -> str:
    return (str(error).strip().splitlines() or ["it says nothing"])[0][:300]


def plain_descent(config: Config, problem: Problem, rates: Hyperparameters) -> LocalSGD:
    """Returns the way to make minibatch steps by vmap, operation by operation."""
    sampler = problem.sampler
    data = (problem.features, problem.targets, sampler.padded, _uneven(sampler, rates.lr.device))
    divides = config.gossip.merge.weighing(np.zeros(1)).divides
    stack, kept = problem.stack, tuple(problem.stack.kept)
    return LocalSGD.of(problem.objective, stack.views, rates, *data, divides, stack.ways.draws, kept, sampler.expected)


def _uneven(sampler: Sampler, where: torch.device) -> Uneven:
    """Returns what becomes of the steps that some nodes do not have."""
    if not sampler.uneven:
        return "none"
    return "skip" if where.type == "cpu" else "mask"


def hyperparameters(configs: Sequence[Config], dtype: torch.dtype, where: torch.device) -> Hyperparameters:
    """Returns the coefficients of all nodes, on a device."""
    parts = [(c.local, c.network.nodes, c.seed) for c in configs]
    lr, momentum, decay, proximal = (
        np.concatenate([per_node(getattr(local, key), n, seed, f"local.{key}", high=high) for local, n, seed in parts])
        for key, high in (("lr", math.inf), ("momentum", 1.0), ("weight_decay", math.inf), ("proximal", math.inf))
    )
    send = learning.Sender(dtype, where)
    optimizer, own = _alike(configs, "optimizer")
    schedule, scheduling = _alike(configs, "schedule")
    clips = [math.inf if local.clip is None else local.clip for local, *_ in parts]
    clip = [
        np.full(n, math.inf) if c == math.inf else per_node(c, n, seed, "local.clip", open_low=True)
        for c, (_, n, seed) in zip(clips, parts, strict=True)
    ]
    example_clip, noise = _private(parts)
    idle = isinstance(schedule, Constant) and not scheduling["warmup"].any()
    return Hyperparameters(
        send(lr),
        send(momentum) if momentum.any() else None,
        send(decay) if decay.any() else None,
        configs[0].local.nesterov,
        clip=send(np.concatenate(clip)) if any(c != math.inf for c in clips) else None,
        example_clip=None if example_clip is None else send(example_clip),
        noise=None if noise is None else send(noise),
        proximal=send(proximal) if proximal.any() else None,
        optimizer=None if isinstance(optimizer, SGD) else optimizer,
        own={name: send(value) for name, value in own.items()},
        schedule=None if idle else schedule,
        scheduling={name: torch.from_numpy(value).to(where) for name, value in scheduling.items()},
    )


def _private(parts: Sequence[tuple[Local, int, int]]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the largest norm of an example's gradient, and the noise in their sum, of each node; None: of none.

    Args:
        parts: settings, number of nodes and seed of each network.
    """
    if all(local.privacy is None for local, *_ in parts):
        return None, None
    clips, noises = list[np.ndarray](), list[np.ndarray]()
    for local, n, seed in parts:
        if local.privacy is None:
            clips.append(np.full(n, math.inf))
            noises.append(np.zeros(n))
        else:
            clips.append(per_node(local.privacy.clip, n, seed, "local.privacy.clip", open_low=True))
            noises.append(clips[-1] * per_node(local.privacy.noise, n, seed, "local.privacy.noise"))
    noise = np.concatenate(noises)
    return np.concatenate(clips), noise if noise.any() else None


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


def weight(configs: Sequence[Config], dtype: torch.dtype, where: torch.device) -> Tensor:
    """Returns w of each node, that of the contacts it makes, on a device."""
    weights = [
        per_node(c.gossip.weight, c.network.nodes, c.seed, "gossip.weight", high=1.0, open_high=False) for c in configs
    ]
    return learning.Sender(dtype, where)(np.concatenate(weights))
