r"""Trial: a model is tried on a few examples before a run, by exactly what will run: an update, and an evaluation.

What cannot be carried is refused here, in one message, and the plainest way that works is chosen.

Notation: b examples.
"""

import itertools
import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from batchednodes.models.problem import Problem, Tests
from batchednodes.models.refusal import REMEDY, refusal, running
from batchednodes.models.stacked import Stack, Ways
from batchednodes.models.stand_ins import StandIns
from batchednodes.numerics import devices, torch_modes
from batchednodes.numerics.quiet import slow_functions

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

    @property
    def row(self) -> Float[Tensor, " p"]:
        """Parameters of the model that is tried."""
        return self.problem.stack.start(self.features.device)

    def ways(self) -> Ways:
        """Returns the plainest way in which vmap carries the model; warns where updates take one row at a time.

        Raises:
            ValueError: the module changes its state or its input, draws at random, gives outputs of a wrong shape, or
                cannot be carried.
        """
        found, errors, best = self._alone(), list[BaseException](), None
        for tried in self._possible(found, errors):
            best = tried if best is None or tried.cost < best.cost else best
            if best.cost == (0, 0):
                break
        if best is None:
            raise refusal("run under torch.func.vmap", errors[0]) from errors[0]
        if best.slow:
            warnings.warn(
                f"task.model calls {', '.join(sorted(best.slow))}, which PyTorch runs for one row of a wave after the "
                "other: exact, but slow",
                stacklevel=2,
            )
        self._serial(best.ways)
        self._score_whole(best.ways)
        return best.ways

    def _alone(self) -> Ways:
        """Runs the module by itself, in training and in evaluation mode, and returns what the passes say."""
        stack = self.problem.stack
        with torch_modes.generators():
            training, scoring = (self._passes(module) for module in (stack.skeleton, stack.scorer))
        if scoring.masks:
            warnings.warn(
                "task.model draws dropout in evaluation mode too, by the same mask at each mark; give "
                "training=self.training to the function that draws it",
                stacklevel=3,
            )
        used = training.used or scoring.used or stack.ways.guarded
        return replace(stack.ways, stand_ins=used, draws=training.masks > 0)

    def _passes(self, module: nn.Module) -> StandIns:
        """Runs a module forward twice, and returns the stand-ins of the second pass.

        Raises:
            ValueError: see `ways`.
        """
        stack, features = self.problem.stack, self.features.clone()
        rows, key = (self.row, self.row), torch.zeros((), dtype=torch.int64, device=self.row.device)
        before, state = _constants(module), _state(self.row)
        modes, outputs = [StandIns(key, stacked=False) for _ in range(2)], list[Any]()
        try:
            with torch.no_grad(), _Draws() as drawing:
                for mode, row in zip(modes, rows, strict=True):  # a pass may write running statistics into its own
                    with mode:
                        outputs.append(stack.forward(module, stack.views(row), features))
        except (Exception, SystemExit) as error:  # whatever the user's forward raises
            raise refusal(f"take features of shape {list(features.shape)}", error) from error
        _check_state(module, before)
        if module is stack.scorer:
            self._check_scoring(rows[0])
        if not _same(features, self.features):
            raise ValueError(f"task.model must not change its input, got a forward that writes features{REMEDY}")
        soft = self.problem.classes is not None and self.targets.is_floating_point()  # probabilities of labels
        check_outputs(outputs[0], self.targets[..., 0].long() if soft else self.targets, self.problem.classes)
        if _state(self.row) != state:
            names = ", ".join(sorted(drawing.names)) or "a random draw"
            raise ValueError(f"task.model must draw nothing but dropout in forward, got {names}{REMEDY}")
        if not _same(*outputs):
            raise ValueError(f"task.model must be a function of its input, got two different outputs for one{REMEDY}")
        return modes[1]

    def _check_scoring(self, row: Float[Tensor, " p"]) -> None:
        """Refuses a module that writes running statistics into the row of a pass in evaluation mode."""
        views = self.problem.stack.views
        written = [name for name, t in views(self.row).items() if not _same(t, views(row)[name])]
        if written:
            raise ValueError(
                f"task.model must not write buffers in evaluation mode, got a forward that writes {written}; write "
                f"them `if self.training`{REMEDY}"
            )

    def _possible(self, found: Ways, errors: list[BaseException]) -> Iterator["_Tried"]:
        """Yields the ways that work, the plainest first, and takes note of what others raise."""
        for anchored in (False, True):
            ways = replace(found, stand_ins=found.stand_ins or anchored, anchored=anchored)
            slow = _noted(self._update, ways, errors)
            for composed in (False, True) if slow is not None else ():
                ways = replace(ways, composed=composed)
                behind = _noted(self._score, ways, errors)
                if slow is not None and behind is not None:
                    yield _Tried(ways, slow, (len(slow), len(behind)))

    def _serial(self, ways: Ways) -> None:
        """Makes the gradient of one model, as one event at a time does.

        Raises:
            ValueError: there is none.
        """
        row = self.row.clone().requires_grad_()
        try:
            loss = self._going(ways).loss(row, self.features, self.targets, None, **self._drawn(ways))
            if loss.requires_grad:
                loss.backward()
        except (Exception, SystemExit) as error:  # whatever the user's forward raises, and autograd of it
            raise refusal("have a gradient", error) from error
        if row.grad is None:
            raise ValueError(
                f"task.model must put out what its parameters decide, got outputs that no parameter reaches{REMEDY}"
            )

    def _drawn(self, ways: Ways) -> dict[str, Tensor]:
        """Returns what a minibatch comes with."""
        drawn = {"key": torch.zeros((), dtype=torch.int64, device=self.row.device)} if ways.draws else {}
        if self.problem.sampler.padded:
            drawn["weights"] = self.row.new_full(self.targets.shape[:1], 1 / len(self.targets))
        return drawn

    def _update(self, ways: Ways) -> None:
        """Makes an update of two models, whose result is thrown away."""
        problem, drawn, row = self._going(ways), self._drawn(ways), self.row
        rows, features, targets = (torch.stack([t, t]) for t in (row, self.features, self.targets))
        two = {name: torch.stack([t, t]) for name, t in drawn.items()}
        views = problem.stack.views(rows)
        kept = {name: views.pop(name) for name in problem.stack.kept}

        def loss(p: dict, statistics: dict, x: Tensor, y: Tensor, more: dict) -> tuple[Tensor, dict]:
            written = {name: t.clone() for name, t in statistics.items()}
            return problem.objective(p | written, x, y, **more), written

        vmap(grad(loss, has_aux=True))(views, kept, features, targets, two)

    def _score(self, ways: Ways) -> None:
        """Scores two models of each network on a few examples, for one network and for several if there are such."""
        problem = self._going(ways)
        kinds = {len(tests.networks) > 1: tests for tests in problem.tests}
        for tests in kinds.values():
            few = Tests(tests.networks[:2], tests.features[:2, :_EXAMPLES], tests.targets[:2, :_EXAMPLES])
            with torch.no_grad():
                problem.scores(self.row.expand(len(few.networks), 2, -1), few)

    def _score_whole(self, ways: Ways) -> None:
        """Runs one model on a whole test set of each size, which a forward for minibatches of one size may not take.

        Raises:
            ValueError: it does not.
        """
        problem = self._going(ways)
        for tests in {tests.targets.shape[1]: tests for tests in problem.tests}.values():
            features, targets = tests.features[0], tests.targets[0]
            try:
                with torch.no_grad():
                    outputs = problem.stack.score(self.row, features, stacked=False)
            except (Exception, SystemExit) as error:  # whatever the user's forward raises
                raise refusal(f"take test features of shape {list(features.shape)}", error) from error
            check_outputs(outputs, targets, problem.classes)
            if ways.block and ways.block < len(features):
                self._check_parts(features[: min(ways.block, _EXAMPLES) // 2 or 1], outputs)

    def _check_parts(self, few: Tensor, outputs: Tensor) -> None:
        """Checks that test examples, which are scored a part after the other, do not depend on each other.

        Raises:
            ValueError: they do.
        """
        stack = self.problem.stack
        with torch.no_grad():
            alone = stack.score(self.row, few, stacked=False)
        close = 1e3 * torch.finfo(stack.dtype).eps * outputs.abs().max()
        if bool(((outputs[: len(few)] - alone).abs() > close).any()):
            raise ValueError(
                "task.model must compute each example by itself where memory does not hold all test examples at once, "
                f"got outputs that depend on the others; use GroupNorm or LayerNorm, or fewer test examples{REMEDY}"
            )

    def _going(self, ways: Ways) -> Problem:
        """Returns the problem with a model that is carried in some way."""
        return replace(self.problem, stack=replace(self.problem.stack, ways=ways))


@dataclass(frozen=True)
class _Tried:
    """A way that works."""

    ways: Ways
    slow: set[str]
    """Functions of an update that take one row at a time."""
    cost: tuple[int, int]
    """How many these are, and how many of scoring."""


def _noted(run: Callable[[Ways], None], ways: Ways, errors: list[BaseException]) -> set[str] | None:
    """Returns the functions that vmap runs one row at a time; None, with the error added, where it runs not at all.

    Other warnings are dropped: the model by itself has given them.
    """
    try:
        with slow_functions() as names:
            run(ways)
    except (Exception, SystemExit) as error:  # vmap's refusals are of many types
        errors.append(error)
        return None
    return names


class _Draws(TorchDispatchMode):
    """Takes note of the functions that draw from a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Says that no compiler need be told to leave this out: to load one takes longer than to load PyTorch."""
        return False

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            place = running(frame for frame, _ in traceback.walk_stack(None))
            self.names.add(f"{func.overloadpacket.__name__} (in {place})")
        return func(*args, **(kwargs or {}))


def _state(t: Tensor) -> tuple[object, ...]:
    """Returns the states of the generators that functions of a tensor, Python and NumPy draw from."""
    state = devices.generator_state(t.device)
    _, words, *rest = np.random.get_state()  # noqa: NPY002  (that of the model's own code)
    return state.numpy().tobytes(), random.getstate(), np.asarray(words).tobytes(), *rest


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """Returns what tells by name whether constants of a module changed, and its trained parameters as they are.

    Of buffers that is a copy, of frozen parameters, which may be large, the sum of their bits.
    """
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {
        name: t if t.is_meta else _bits(t) if isinstance(t, nn.Parameter) else t.detach().clone() for name, t in named
    }


def _bits(t: Tensor) -> Tensor:
    """Returns the sum of the bits of numbers; copies of those that no integers are as long as."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds.get(t.itemsize)
    return t.detach().clone() if kind is None else t.detach().view(kind).sum(dtype=kind)  # of its own type: no copy


def _check_state(module: nn.Module, before: dict[str, Tensor]) -> None:
    """Refuses a module whose forward changed a constant, or made one."""
    now = _constants(module)
    made = [name for name in now if name not in before]
    if made:
        raise ValueError(
            f"task.model must make all that it holds when it is made, got a forward that makes {made}{REMEDY}"
        )
    changed = [name for name, t in now.items() if not t.is_meta and not _same(t, before[name])]
    if changed:
        raise ValueError(f"task.model must not change its state, got a forward that writes buffers {changed}{REMEDY}")


def check_apart(stack: Stack, features: Tensor) -> None:
    """Checks, on some examples, that a module computes each of them by itself.

    Raises:
        ValueError: outputs depend on the other examples of the minibatch.
    """
    if stack.kept:
        raise ValueError(
            "task.model must compute each example by itself with local.epochs, where minibatches differ in size, got "
            f"running statistics {next(iter(stack.kept))}, ...; use local.steps, or GroupNorm or LayerNorm{REMEDY}"
        )
    parameters, half = stack.views(stack.start(features.device)), len(features) // 2 or 1
    try:
        with StandIns(None, stacked=False):  # masks of minibatches of other sizes differ, so that nothing is dropped
            whole, part = (stack.forward(stack.skeleton, parameters, some) for some in (features, features[:half]))
    except (Exception, SystemExit) as error:  # whatever the user's forward raises
        raise refusal("take minibatches of any size with local.epochs", error) from error
    # Products of another size round otherwise; statistics of other examples differ by as much as the outputs.
    close = 1e3 * torch.finfo(stack.dtype).eps * whole.abs().max()
    if bool(((whole[:half] - part).abs() > close).any()):
        raise ValueError(
            "task.model must compute each example by itself with local.epochs, where minibatches differ in size, got "
            f"outputs that depend on the rest of the minibatch; use local.steps, or GroupNorm or LayerNorm{REMEDY}"
        )


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
