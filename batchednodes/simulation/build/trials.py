"""Trials of kinds of the user's own whose methods take rows or examples, before a run writes anything.

What an optimizer or a schedule says of a row may depend on that row alone: else waves would not equal single events.

Notation: w rows, p parameters of the trial.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.attacks import Omniscient, OwnRows
from batchednodes.algorithms.compression import Compressor
from batchednodes.algorithms.optim import Optimizer, Schedule
from batchednodes.algorithms.rowwise import Rowwise
from batchednodes.algorithms.state import State
from batchednodes.config import Config
from batchednodes.events.merge import Gathering
from batchednodes.models.criterion import Criterion, FunctionLoss
from batchednodes.models.feed import uniform
from batchednodes.models.problem import Problem
from batchednodes.numerics.targets import is_own

_ROWS, _P = 3, 5

_TAKEN = ("v", "read", "age")
"""Names of what nodes keep for other settings."""


def check(config: Config, targets: Tensor, classes: int | None) -> None:
    """Tries the kinds of the user's own in `task.loss`, `local.optimizer`, `local.schedule` and `gossip.compress`.

    Args:
        config: settings of a network.
        targets: of the training examples.
        classes: number of labels; None: targets are real numbers.

    Raises:
        ValueError: one of them returns what cannot be; what it raises itself goes on as it is.
    """
    local, n, seed = config.local, config.network.nodes, config.seed
    if isinstance(config.task.loss, Criterion):
        _try_loss(config.task.loss, targets[:_ROWS], classes, getattr(torch, config.dtype))
    if is_own(type(local.optimizer)):
        settings = local.optimizer.per_node(n, seed, "local.optimizer", min(n, _ROWS))
        _try_optimizer(local.optimizer, {name: torch.from_numpy(a).unsqueeze(1) for name, a in settings.items()}, n)
    if is_own(type(config.gossip.compress)):
        _try_compressor(config.gossip.compress, getattr(torch, config.dtype))
    if is_own(type(local.schedule)):
        settings = local.schedule.per_node(n, seed, "local.schedule", min(n, _ROWS))
        _try_schedule(local.schedule, {name: torch.from_numpy(a) for name, a in settings.items()}, n)


def check_augmentations(config: Config, problem: Problem) -> None:
    """Tries the augmentations of the user's own in `task.augment`, and a loss of theirs on what augmentations make.

    Raises:
        ValueError: one of them returns what cannot be; what it raises itself goes on as it is.
    """
    loss, soft = config.task.loss, any(type(one).softens for one in config.task.augment)
    if soft and problem.classes is not None and isinstance(loss, Criterion):
        _try_loss(loss, problem.targets[:_ROWS], None, problem.stack.dtype)
    for k, one in enumerate(config.task.augment):
        if is_own(type(one)) and problem.feed is not None:
            some = torch.arange(2 * _ROWS, device=problem.features.device) % len(problem.features)
            x, y = (t[some].unflatten(0, (_ROWS, 2)) for t in (problem.features, problem.targets))
            key, here = f"task.augment[{k}]", torch.ones(_ROWS, 2, dtype=torch.bool, device=x.device)
            keys = torch.arange(1, _ROWS + 1, device=x.device)
            whole, alone = (one.change(x[:m], y[:m], here[:m], uniform(keys[:m], 2, k)) for m in (_ROWS, 1))
            for new, first, old in zip(whole, alone, (x, y), strict=True):
                if not _is(new, tuple(old.shape)) or new.dtype != old.dtype or not _is(first, tuple(old[:1].shape)):
                    rule = f"return features and targets of the shapes and types that they had, got {_shape(new)}"
                    raise _refuse(key, one, "change", f"{rule} for {list(old.shape)} of {old.dtype}")
                if not torch.equal(new[:1], first):
                    raise _refuse(key, one, "change", "change each minibatch by itself, got what depends on others")


def check_algorithm(rowwise: Rowwise, state: State, problem: Problem) -> None:
    """Tries an update and an emission of a node by an algorithm of the user's own; the state stays as it is.

    Raises:
        ValueError: it makes rows of other shapes; what it raises itself goes on as it is.
    """
    if is_own(type(rowwise.algorithm)):
        first = torch.zeros(1, dtype=torch.int64, device=state.x.device)
        examples = problem.draw(np.zeros(1, np.int64), np.zeros(1, np.int64))
        rowwise.updated(state, first, first, first.double(), first, examples)
        edges = None if rowwise.edges is None else rowwise.edges.keys[:1]
        if not rowwise.algorithm.linear() and "events" in rowwise.algorithm.timing and (edges is None or edges.numel()):
            node = first if edges is None else edges // state.nodes  # of the first edge
            r = rowwise.rows(state, node, first)
            rowwise.emitted(r, rowwise.contact(r, node, node.double()))


def check_robust(rowwise: Rowwise) -> None:
    """Tries merge rules for neighbourhoods, and attacks on rows, of the user's own.

    Raises:
        ValueError: one of them makes rows of other shapes, or by other rows; what it raises itself goes on as it is.
    """
    if rowwise.robust is None:
        return
    own = torch.linspace(-1, 1, _ROWS * _P, dtype=torch.float64).view(_ROWS, _P)
    others, weights = torch.stack([own.flip(0), 2 * own, own.flip(1)], 1), torch.full((_ROWS, 3), 0.2).to(own)
    here = torch.ones(_ROWS, 3, dtype=torch.bool)
    bad = torch.tensor([False, False, True]).expand_as(here)
    for merge in rowwise.robust.merges:
        if isinstance(merge, Gathering) and is_own(type(merge)):
            _try_rows("gossip.merge", merge, "gather", (own, others, weights, here, bad))
    for attack in rowwise.robust.attacks:
        if isinstance(attack, Omniscient) and is_own(type(attack)):
            _try_rows("network.attack", attack, "told", (own, others, weights, ~bad, bad))
        if isinstance(attack, OwnRows) and is_own(type(attack)):
            where = rowwise.seeds.device
            k = rowwise.contact({}, torch.zeros(_ROWS, dtype=torch.int64, device=where), own[:, 0].to(where))
            found = attack.sent(own.to(rowwise.rates.lr), k, 0)
            if not _is(found, (_ROWS, _P)):
                rule = f"return rows of shape {[_ROWS, _P]}, got {_shape(found)}"
                raise _refuse("network.attack", attack, "sent", rule)


def _try_rows(key: str, kind: object, method: str, rows: tuple[Tensor, ...]) -> None:
    """Tries a method that makes new rows of neighbourhoods, each by itself."""
    whole, alone = (getattr(kind, method)(*(t[:k] for t in rows)) for k in (_ROWS, 1))
    for found, size in ((whole, _ROWS), (alone, 1)):
        if not _is(found, (size, _P)):
            raise _refuse(key, kind, method, f"return rows of shape {[size, _P]}, got {_shape(found)}")
    if not torch.allclose(whole[:1], alone, rtol=1e-9, atol=1e-12, equal_nan=True):
        raise _refuse(key, kind, method, "make each row by itself, got what depends on other rows")


def _shape(found: object) -> str:
    return f"{list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__


def _refuse(key: str, kind: object, method: str, rule: str) -> ValueError:
    name = f"{type(kind).__module__}:{type(kind).__qualname__}"
    return ValueError(f"{key} must be a kind that works, got {name}, {method}() of which must {rule}")


def _is(value: object, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and tuple(value.shape) == shape


def _try_loss(criterion: Criterion, targets: Tensor, classes: int | None, dtype: torch.dtype) -> None:
    shape = targets.shape if classes is None else (*targets.shape, classes)
    try:
        each = criterion.each(torch.zeros(shape, dtype=dtype, device=targets.device), targets)
    except Exception as error:  # whatever a function of the user's raises
        if not isinstance(criterion, FunctionLoss):
            raise
        rule = f"task.loss.target must take outputs of shape {[*shape]} and targets of shape {[*targets.shape]}"
        raise ValueError(f"{rule}, got {type(error).__name__}: {error}, by {criterion.target}") from error
    if not _is(each, (len(targets),)):
        got = f"a tensor of shape {list(each.shape)}" if isinstance(each, Tensor) else type(each).__name__
        raise _refuse("task.loss", criterion, "each", f"return a loss for each of {len(targets)} examples, got {got}")


def _try_optimizer(optimizer: Optimizer, settings: Mapping[str, Tensor], n: int) -> None:
    fields = type(optimizer).fields
    if taken := [name for name in fields if name in _TAKEN]:
        raise _refuse(
            "local.optimizer", optimizer, "step", f"keep fields of other names than {', '.join(_TAKEN)}, got {taken}"
        )
    w = min(n, _ROWS)
    x = torch.linspace(-1, 1, w * _P, dtype=torch.float64).view(w, _P)
    kept = {
        name: torch.full((w, one.numbers(_P)), float(one.start == "one"), dtype=x.dtype) for name, one in fields.items()
    }
    whole, alone = (
        _step(
            optimizer, x[:k], {name: t[:k] for name, t in kept.items()}, {name: t[:k] for name, t in settings.items()}
        )
        for k in (w, 1)
    )
    for name, found in whole.items():
        if not torch.allclose(found[:1], alone[name], rtol=1e-9, atol=0.0, equal_nan=True):
            raise _refuse(
                "local.optimizer",
                optimizer,
                "step",
                f"compute each row by itself, got {name} that depend on other rows",
            )


def _step(optimizer: Optimizer, x: Tensor, kept: dict[str, Tensor], settings: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the models after one step, and what is kept, each of the shape that it must have."""
    after, more = dict(kept), {"decay": torch.zeros_like(x[:, :1])} if type(optimizer).decays else {}
    before = x.clone()
    new = optimizer.step(x, 2 * x.flip(1), after, torch.full_like(x[:, :1], 0.1), **settings, **more)
    if not torch.equal(x, before):
        raise _refuse("local.optimizer", optimizer, "step", "return new models, got one that writes into x")
    if {*after} != {*kept}:
        raise _refuse("local.optimizer", optimizer, "step", f"keep its fields {[*kept]}, got {[*after]}")
    for name, found, shape in (("models", new, x.shape), *((key, t, kept[key].shape) for key, t in after.items())):
        if not _is(found, tuple(shape)):
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise _refuse("local.optimizer", optimizer, "step", f"make {name} of shape {list(shape)}, got {got}")
    return {"models": new, **after}


def _try_compressor(compressor: Compressor, dtype: torch.dtype) -> None:
    v = torch.linspace(-1, 2, _ROWS * _P, dtype=dtype).view(_ROWS, _P)

    def draws(size: int) -> Tensor:
        return torch.linspace(0.1, 0.9, size, dtype=dtype).expand(_ROWS, size)

    whole, alone = compressor.compress(v, draws), compressor.compress(v[:1], lambda size: draws(size)[:1])
    if not _is(whole, (_ROWS, _P)):
        got = list(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
        raise _refuse("gossip.compress", compressor, "compress", f"return rows of shape {[_ROWS, _P]}, got {got}")
    if not torch.allclose(whole[:1], alone, rtol=1e-9, atol=0.0, equal_nan=True):
        raise _refuse(
            "gossip.compress", compressor, "compress", "compress each row by itself, got what depends on other rows"
        )
    size: object = compressor.size(_P, 4)
    if not isinstance(size, int) or size < 0:
        raise _refuse("gossip.compress", compressor, "size", f"return a whole number of bytes, at least 0, got {size}")


def _try_schedule(schedule: Schedule, settings: Mapping[str, Tensor], n: int) -> None:
    w = min(n, _ROWS)
    counts, times = torch.arange(w), torch.arange(w, dtype=torch.float64) / 2
    whole, alone = (schedule.at(counts[:k], times[:k], {name: t[:k] for name, t in settings.items()}) for k in (w, 1))
    if not _is(whole, (w,)) or not _is(alone, (1,)):
        raise _refuse(
            "local.schedule", schedule, "factor", f"return a factor of each of {w} nodes, got {list(whole.shape)}"
        )
    if not torch.allclose(whole[:1], alone, rtol=1e-9, atol=0.0, equal_nan=True):
        raise _refuse(
            "local.schedule", schedule, "factor", "compute each node by itself, got what depends on other nodes"
        )
