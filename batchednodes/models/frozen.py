r"""Frozen parts: what no trainable parameter feeds is computed once for the data, not at each step of each node.

A module whose forward gives its features to a frozen part and to nothing else, a trunk before a head, gives the same
outputs for what the trunk makes of them where the trunk is left out.

Notation: S examples, b of them in a block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from batchednodes.models.problem import Problem
from batchednodes.models.stacked import Stack, apart
from batchednodes.models.stand_ins import StandIns

_BLOCK = 64
"""Examples that a trunk sees at once."""

_TRIED = 4
"""Examples with which a model is followed."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """The frozen modules that features go through first, one after the other."""

    training: tuple[nn.Module, ...]
    """As in training."""
    scoring: tuple[nn.Module, ...]
    """In evaluation mode."""
    head: Stack
    """The model without them."""
    shape: tuple[int, ...]
    """Of what they make of one example."""

    def of(self, features: Tensor, scoring: bool = False) -> Tensor:
        """Returns what they make of some examples [S, ...]."""
        made = features.new_empty(len(features), *self.shape, dtype=self.head.dtype)
        with torch.no_grad():
            for some, out in zip(features.split(_BLOCK), made.split(_BLOCK), strict=True):
                out.copy_(_through(self.scoring if scoring else self.training, some))
        return made


def _through(parts: Sequence[nn.Module], features: Tensor) -> Tensor:
    for part in parts:
        features = part(features)
    return features


def trunk(stack: Stack, features: Tensor) -> Trunk | None:
    """Returns the longest trunk of a model whose outputs are no larger than its features; None: it has none.

    Args:
        stack: layout of the model.
        features: some examples [b, ...], to follow them with; b at least 2.
    """
    if stack.kept:  # statistics that change belong to nodes
        return None
    if features.is_floating_point():  # examples that are equal say nothing of what depends on others
        features = features + 0.1 * torch.arange(len(features)).to(features).view(-1, *[1] * (features.ndim - 1))
    modules, parts, best = [apart(m) for m in (stack.skeleton, stack.scorer)], ([], []), None
    with torch.no_grad():
        x = features
        while True:
            names = [_first(stack, module, x) for module in modules]
            if names[0] is None or names[0] != names[1]:
                break
            for module, found in zip(modules, parts, strict=True):
                found.append(module.get_submodule(names[0]))
                _leave_out_(module, found[-1])
            x = _one_by_one(parts[0][-1], x)
            if x is None or x.dtype != stack.dtype:
                break
            if x.nbytes <= features.nbytes and any(True for part in parts[0] for _ in part.parameters()):
                head = replace(stack, skeleton=apart(modules[0]), scorer=apart(modules[1]))
                best = Trunk(tuple(parts[0]), tuple(parts[1]), head, tuple(x.shape[1:]))
        return best if best is None or _agrees(stack, best, features) else None


def _agrees(stack: Stack, found: Trunk, features: Tensor) -> bool:
    """Returns whether a model without its trunk puts out what it puts out with it."""
    row = stack.start(features.device)
    return torch.allclose(found.head.call(row, found.of(features)), stack.call(row, features), equal_nan=True)


def without_trunk(problem: Problem) -> Problem:
    """Returns a problem whose features have gone through the model's trunk already, where it has one."""
    if problem.feed is not None:  # no example is seen twice, or they are more than memory holds
        return problem
    found = trunk(problem.stack, problem.features[:_TRIED]) if len(problem.features) > 1 else None
    if found is None:
        return problem
    tests = tuple(
        replace(t, features=found.of(t.features.flatten(0, 1), scoring=True).unflatten(0, t.features.shape[:2]))
        for t in problem.tests
    )
    shape = tuple(problem.features.shape[1:])
    own = problem.own and replace(problem.own, features=found.of(problem.own.features, scoring=True))
    return replace(problem, stack=found.head, features=found.of(problem.features), tests=tests, own=own, given=shape)


def _leave_out_(module: nn.Module, part: nn.Module) -> None:
    """Puts what does nothing in all places of a part of a module."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if child is part:
                parent.register_module(name, nn.Identity())


class _Watch(TorchFunctionMode):
    """Takes note of which module takes some features, and whether anything else does."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.inside, self.alone = features, list[nn.Module](), True
        self.calls, self.taker = list[nn.Module](), list[nn.Module]()

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Is called before a frozen module is."""
        self.calls.append(module)
        if not self.inside and len(args) == 1 and not kwargs and args[0] is self.features:
            self.inside.append(module)
            self.taker.append(module)

    def leave(self, module: nn.Module, _: object, __: object) -> None:
        """Is called after a frozen module was."""
        if self.inside == [module]:
            self.inside.clear()

    def __torch_function__(self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if not self.inside and any(a is self.features for a in tree_leaves((args, kwargs))):
            self.alone = False
        return func(*args, **(kwargs or {}))


def _first(stack: Stack, module: nn.Module, features: Tensor) -> str | None:
    """Returns the name of the frozen part that takes the features, where nothing else does; None: there is none."""
    frozen = {
        name: part
        for name, part in module.named_modules()
        if not any(w.requires_grad for w in part.parameters()) and not isinstance(part, nn.Identity)
    }
    watch = _Watch(features)
    hooks = [part.register_forward_pre_hook(watch.enter, with_kwargs=True) for part in frozen.values()]
    hooks += [part.register_forward_hook(watch.leave) for part in frozen.values()]
    parameters = stack.views(stack.start(features.device))
    try:
        with watch:
            stack.forward(module, parameters, features)
    except (Exception, SystemExit):  # whatever the user's forward raises, who hears of it elsewhere
        return None
    finally:
        for hook in hooks:
            hook.remove()
    if not watch.alone or len(watch.taker) != 1 or watch.calls.count(watch.taker[0]) != 1:
        return None
    return next(name for name, part in frozen.items() if part is watch.taker[0])


def _one_by_one(part: nn.Module, features: Tensor) -> Tensor | None:
    """Returns what a part makes of some examples; None where it does not make it of each by itself, or draws."""
    half = len(features) // 2
    modes = [StandIns(None, stacked=False) for _ in range(2)]
    with modes[0]:
        whole = part(features)
    with modes[1]:
        alone = part(features[:half])
    if not isinstance(whole, Tensor) or len(whole) != len(features) or any(mode.masks for mode in modes):
        return None
    close = 1e3 * torch.finfo(whole.dtype).eps * float(whole.abs().max()) if whole.is_floating_point() else 0.0
    same = alone.shape == whole[:half].shape and torch.allclose(alone, whole[:half], 0.0, close)
    return whole if same and math.isfinite(close) else None
