r"""Trial: a model is tried on a few examples before a run, by exactly what will run: an update, and an evaluation.

What cannot be carried is refused here, in one message, and the plainest way that works is chosen.

Letters: b examples.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from batchednodes.stack import REMEDY, Stack, Ways, refusal
from batchednodes.stand_ins import StandIns
from batchednodes.tasks.problem import Problem, Tests

_SLOW = re.compile(r"There is a performance drop .*?batching rule for aten::(\w+)")
"""How PyTorch says that vmap runs a function one row at a time."""

_EXAMPLES = 4
"""The most test examples that a model is tried on."""


@dataclass(frozen=True)
class Trial:
    """What a model is tried with."""

    problem: Problem
    """What is learned."""
    features: Tensor
    """Inputs of a minibatch [b, ...]."""
    targets: Tensor
    """Its labels [b, ...] or values [b, k]."""
    serial: bool
    """Whether the run makes one event at a time."""

    def ways(self) -> Ways:
        """Returns the plainest way in which vmap carries the model; warns where it takes one row at a time.

        Raises:
            ValueError: the module changes its state or its input, draws at random, gives outputs of a wrong shape, or
                cannot be carried.
        """
        found, errors, slow = self._alone(), list[BaseException](), list[tuple[set[str], Ways]]()
        for anchored in (False, True):
            for composed in (False, True):
                more = {"stand_ins": found.stand_ins or anchored, "anchored": anchored, "composed": composed}
                ways = replace(found, **more)
                names = set[str]()
                try:
                    with _noting(names):
                        self._try(ways)
                except (Exception, SystemExit) as error:  # vmap's refusals are of many types
                    errors.append(error)
                    continue
                if not names:
                    return ways
                slow.append((names, ways))
        if not slow:
            raise refusal("run under torch.func.vmap", errors[0]) from errors[0]
        names, ways = min(slow, key=lambda pair: len(pair[0]))
        warnings.warn(
            f"task.model calls {', '.join(sorted(names))}, which PyTorch runs for one row of a wave after the other: "
            "exact, but slow",
            stacklevel=2,
        )
        return ways

    def _alone(self) -> Ways:
        """Runs the module by itself, in training and in evaluation mode, and returns what the passes say."""
        stack, draws, used = self.problem.stack, False, False
        for module in (stack.skeleton, stack.scorer):
            with torch.random.fork_rng(devices=_devices(self.features)):
                mode = self._passes(module)
            used |= mode.used
            draws |= module is stack.skeleton and mode.masks > 0
        return replace(stack.ways, stand_ins=used or stack.ways.stand_ins, draws=draws)

    def _passes(self, module: nn.Module) -> StandIns:
        """Runs a module forward twice, and returns the stand-ins of the second pass.

        Raises:
            ValueError: see `ways`.
        """
        row, features = _probe(self.problem.stack, self.features), self.features.clone()
        parameters = self.problem.stack.views(row)
        key = torch.zeros((), dtype=torch.int64, device=row.device)
        before, state = {name: b.clone() for name, b in module.named_buffers()}, _state(row)
        try:
            with torch.no_grad(), _Draws() as drawing:
                outputs = []
                for _ in range(2):
                    with StandIns(key, stacked=False) as mode:
                        outputs.append(functional_call(module, parameters, (features,)))
        except (Exception, SystemExit) as error:  # whatever the user's forward raises
            raise refusal(f"take features of shape {list(features.shape)}", error) from error
        _check_state(module, before)
        if not _same(features, self.features):
            raise ValueError(f"task.model must not change its input, got a forward that writes features{REMEDY}")
        check_outputs(outputs[0], self.targets, self.problem.classes)
        if _state(row) != state:
            names = ", ".join(sorted(drawing.names)) or "a random draw"
            raise ValueError(f"task.model must draw nothing but dropout in forward, got {names}{REMEDY}")
        if not _same(*outputs):
            raise ValueError(f"task.model must be a function of its input, got two different outputs for one{REMEDY}")
        return mode

    def _try(self, ways: Ways) -> None:
        """Makes an update of two models, whose result is thrown away, and scores them."""
        problem = replace(self.problem, stack=replace(self.problem.stack, ways=ways))
        row = _probe(problem.stack, self.features)
        drawn = {"key": torch.zeros((), dtype=torch.int64, device=row.device)} if ways.draws else {}
        if problem.sampler.padded:
            drawn["weights"] = row.new_full(self.targets.shape[:1], 1 / len(self.targets))
        rows, features, targets = (torch.stack([t, t]) for t in (row, self.features, self.targets))
        two = {name: torch.stack([t, t]) for name, t in drawn.items()}
        gradient = vmap(grad(lambda p, x, y, more: problem.objective(p, x, y, **more)))
        gradient(problem.stack.views(rows), features, targets, two)
        if self.serial:
            problem.loss(row.requires_grad_(), self.features, self.targets, **drawn).backward()
            row = row.detach()
        tests = problem.tests[0]
        few = Tests(tests.networks[:2], tests.features[:2, :_EXAMPLES], tests.targets[:2, :_EXAMPLES])
        with torch.no_grad():
            problem.scores(row.expand(len(few.networks), 2, -1), few)


class _Draws(TorchDispatchMode):
    """Takes note of the functions that draw from a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def _noting(names: set[str]) -> Iterator[None]:
    """Adds the functions that vmap runs one row at a time; other warnings of the model go on."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for warning in told:
        found = _SLOW.search(str(warning.message))
        if found:
            names.add(found[1])


def _devices(t: Tensor) -> list[torch.device]:
    return [t.device] if t.is_cuda else []


def _state(t: Tensor) -> bytes:
    """Returns the state of the generator that functions of a tensor draw from."""
    state = torch.cuda.get_rng_state(t.device) if t.is_cuda else torch.get_rng_state()
    return state.numpy().tobytes()


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _check_state(module: nn.Module, before: dict[str, Tensor]) -> None:
    """Refuses a module whose forward changed a buffer, or made one."""
    now = dict(module.named_buffers())
    changed = [name for name, b in now.items() if name not in before or not _same(b, before[name])]
    if changed:
        raise ValueError(f"task.model must not change its state, got a forward that writes buffers {changed}{REMEDY}")


def check_apart(stack: Stack, features: Float[Tensor, "b ..."]) -> None:
    """Checks, on some examples, that a module computes each of them by itself.

    Raises:
        ValueError: outputs depend on the other examples of the minibatch.
    """
    row, half = _probe(stack, features), len(features) // 2 or 1
    try:
        # Masks differ for minibatches of other sizes, but nothing is padded that they are drawn for.
        run = partial(stack.score, stacked=False) if stack.ways.draws else stack.call
        whole, part = (run(row, some) for some in (features, features[:half]))
    except (Exception, SystemExit) as error:  # whatever the user's forward raises
        raise refusal("take minibatches of any size with local.epochs", error) from error
    # Products of another size round otherwise; statistics of other examples differ by as much as the outputs.
    close = 1e3 * torch.finfo(stack.dtype).eps * whole.abs().max()
    if bool(((whole[:half] - part).abs() > close).any()):
        raise ValueError(
            "task.model must compute each example by itself with local.epochs, where minibatches differ in size, got "
            f"outputs that depend on the rest of the minibatch; use local.steps, or GroupNorm or LayerNorm{REMEDY}"
        )


def _probe(stack: Stack, features: Tensor) -> Float[Tensor, " p"]:
    """Returns a row to try a module with."""
    return torch.linspace(-0.1, 0.1, stack.p, dtype=stack.dtype, device=features.device)


def check_outputs(outputs: object, targets: Tensor, classes: int | None) -> None:
    """Checks the shape of what a module puts out for some examples.

    Raises:
        ValueError: it is no tensor, or does not fit the targets.
    """
    shape = list(outputs.shape) if isinstance(outputs, Tensor) else [-1]
    wanted, fits = list(targets.shape), shape == list(targets.shape)
    if classes:
        wanted, fits = [*wanted, f"at least {classes}"], shape[:-1] == wanted and shape[-1] >= classes
    if not fits:
        got = shape if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"task.model must put out a tensor of shape [{', '.join(map(str, wanted))}] for {len(targets)} examples, "
            f"got {got}{_shape_hint(shape, targets, classes) if classes else ''}"
        )


def _shape_hint(shape: list[int], targets: Tensor, classes: int) -> str:
    """Returns what may help where outputs of a shape do not fit labels."""
    own = list(targets.shape)
    if targets.ndim > 1 and [*shape[:1], *shape[2:]] == own and shape[1] >= classes - 1:
        return "; classes come last here: put .movedim(1, -1) after the model"
    if shape == [*own, classes - 1] and targets.min() > 0:
        return "; labels count from 0: if yours begin at 1, subtract 1 from them"
    return ""
