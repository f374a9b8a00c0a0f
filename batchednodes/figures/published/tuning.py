r"""Tuning of step sizes: the searches by which RelaySGD was compared on quadratics, many of them side by side.

A trial of a step size is a curve: the error after each of some numbers of steps, log-spaced. It ends

    too high     where the error is above that of the first test or not a number, where it rises above the target, or
                 where it stands still above the target;
    low          where its budget of steps is spent, or ten times the steps of the best trial;
    reached      where it is what the search wants.

Both searches halve the step size until a trial says that it is low enough, then bisect; at most thirty trials.
`fastest` wants an error below the target, as early as possible; `plateau` one that stands still below it, and a step
size as large as that allows. An error stands still where three in a row are near their mean.

The published search for the fastest goes on from half of a step size that is faster than all before, and reports that
half with the steps of the whole; so does this one, or its numbers could not be compared.

Notation: k tested numbers of steps.

Reference:
    T. Vogels et al., "RelaySum for decentralized deep learning on heterogeneous data", NeurIPS 2021; its public code.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

TRIALS = 30
"""The most trials of a search."""

_POINTS = 1000
"""Numbers of steps after which the error is tested, before those that are equal are taken as one."""

_AHEAD = 5
"""Step sizes, each half of the one before, that are tried at once where a search begins."""

_FIRST, _LONGER, _TOGETHER = 64, 2, 4
"""Steps of a first trial, how many times longer the next is that goes on where it has not ended, and how many times
longer the longest of a batch may be than the shortest."""

Ending = tuple[Literal["too high", "low", "reached"], int, float]
"""How a trial ends, after how many steps, at which error; of a plateau its mean."""

Trial = tuple[float, Callable[["Curve"], Ending | None]]
"""A step size, and what says how its trial ends; None: it must go on."""


@dataclass(frozen=True)
class Curve:
    """Errors of a trial so far."""

    steps: Int64[np.ndarray, " k"]
    """After which they are, rising."""
    errors: Float64[np.ndarray, " k"]
    """NaN where they are no numbers."""
    length: int
    """Steps that the trial has run."""
    whole: bool
    """Whether its budget is spent."""


@dataclass(frozen=True)
class Tuned:
    """What a search found."""

    steps: int | None
    """Steps of the best trial; None: no trial reached what was wanted."""
    lr: float | None
    """The step size that is reported."""
    tried: float | None
    """The step size of that trial."""


Search = Generator[Trial, Ending, Tuned]
"""Yields trials, takes their ends, returns what it found."""


def points(budget: int) -> Int64[np.ndarray, " k"]:
    """Returns the numbers of steps after which errors are tested: log-spaced, below a budget.

    Example:
        >>> from batchednodes.figures.published.tuning import points
        >>> found = points(70000)
        >>> len(found), found[:4].tolist(), found[-2:].tolist()
        (685, [1, 2, 3, 4], [68454, 69223])
    """
    spaced = np.unique(np.rint(2.0 ** np.linspace(0.0, math.log2(budget), _POINTS)).astype(np.int64))
    return spaced[spaced < budget]


def fastest(start: float, target: float) -> Search:
    """Searches for the step size at which the error first is below the target in the fewest steps.

    Args:
        start: half of the first step size.
        target: error to reach.
    """
    low: float | None = None
    high, lr, best = 2 * start, 2 * start, Tuned(None, None, None)
    for _ in range(TRIALS):
        lr = lr if low is None else (low + high) / 2
        end, steps, _ = yield lr, lambda curve, best=best: _fast(curve, target, best.steps)
        if end == "too high":
            high = lr if low is None else max(low, lr)
            lr /= 2
        elif end == "reached" and (best.steps is None or steps < best.steps):
            lr, best = lr / 2, Tuned(steps, lr / 2, lr)
        else:
            low = min(lr, high)
            high = min(4 * lr, high) if end == "reached" else high
        if low is not None and high - low <= 1e-4:
            break
    return best


def plateau(start: float, target: float) -> Search:
    """Searches for the step size with which the error stands still below the target in the fewest steps.

    Args:
        start: the first step size.
        target: error to stand below; a plateau within a tenth of it ends the search.
    """
    low: float | None = None
    high, best = 2 * start, Tuned(None, None, None)
    for _ in range(TRIALS):
        lr = high / 2 if low is None else (low + high) / 2
        end, steps, error = yield lr, lambda curve, best=best: _still(curve, target, best.steps)
        if end == "reached":
            best = Tuned(steps, lr, lr) if best.steps is None or steps < best.steps else best
            if error > target / 1.1:
                break
        if end == "too high":
            high = lr if low is None else max(low, lr)
        else:
            low = min(lr, high)
        if low is not None and high - low <= 1e-6:
            break
    return best


def _fast(curve: Curve, target: float, best: int | None) -> Ending | None:
    """Returns how a trial ends that wants an error below the target."""
    return _end(curve, target, best, target / 10, below=True)


def _still(curve: Curve, target: float, best: int | None) -> Ending | None:
    """Returns how a trial ends that wants an error which stands still below the target."""
    return _end(curve, target, best, target / 100, below=False)


def _end(curve: Curve, target: float, best: int | None, near: float, *, below: bool) -> Ending | None:
    """Returns how a trial ends; None: it goes on.

    Args:
        curve: of the trial so far.
        target: see `fastest`, `plateau`.
        best: steps of the best trial so far.
        near: how far from their mean errors are that stand still.
        below: whether any error below the target is what is wanted.
    """
    errors = curve.errors.tolist()
    for k, (step, error) in enumerate(zip(curve.steps.tolist(), errors, strict=True)):
        if below and error < target:
            return "reached", step, error
        if best is not None and step > 10 * best:
            return "low", step, error
        if math.isnan(error) or error > errors[0] or (k and target < error > errors[k - 1]):
            return "too high", step, error
        three = errors[k - 2 : k + 1]
        mean = sum(three) / 3
        if k >= 2 and all(abs(one - mean) < near for one in three):
            return ("too high" if mean > target or below else "reached"), step, mean
    return ("low", int(curve.steps[-1]), errors[-1]) if curve.whole else None


def settle(
    searches: Mapping[str, Search],
    budget: int,
    run: Callable[[Sequence[tuple[str, float]], Sequence[int]], Sequence[Float64[np.ndarray, " k"]]],
) -> dict[str, Tuned]:
    """Returns what each search found; the trials that they want at one time run in one batch.

    A trial runs for a few steps, and again for more where it has not ended, so that a batch lasts no longer than the
    trials in it.

    Args:
        searches: by a name each.
        budget: the most steps of a trial.
        run: returns the errors of trials, each the search's name and a step size, after given numbers of steps.
    """
    tested, curves = points(budget), dict[tuple[str, float], Curve]()
    wanted = {key: next(search) for key, search in searches.items()}
    lengths, found = dict.fromkeys(searches, _FIRST), dict[str, Tuned]()
    while wanted:
        for key in list(wanted):
            _advance_(key, searches[key], wanted, lengths, found, curves)
        missing = {(key, lr): _length(curves.get((key, lr)), lengths[key], budget) for key, (lr, _) in wanted.items()}
        if not missing:
            break
        length = max(most for most in missing.values() if most <= _TOGETHER * min(missing.values()))
        trials = [trial for trial, most in missing.items() if most <= length]
        if length == _FIRST:
            trials += [(key, lr / 2**k) for key, lr in trials if lr <= _least(key, curves) for k in range(1, _AHEAD)]
        steps = tested[tested <= length]
        for trial, errors in zip(trials, run(trials, steps.tolist()), strict=True):
            curves[trial] = Curve(steps, errors, length, length == budget)
    return found


def _advance_(
    key: str,
    search: Search,
    wanted: dict[str, Trial],
    lengths: dict[str, int],
    found: dict[str, Tuned],
    curves: Mapping[tuple[str, float], Curve],
) -> None:
    """Takes a search as far as the curves that are known allow."""
    while key in wanted:
        lr, ends = wanted[key]
        curve = curves.get((key, lr))
        end = None if curve is None else ends(curve)
        if end is None:
            return
        lengths[key] = int(1.2 * end[1])
        try:
            wanted[key] = search.send(end)
        except StopIteration as stop:
            found[key] = stop.value
            del wanted[key]


def _length(curve: Curve | None, usual: int, budget: int) -> int:
    """Returns how many steps a trial runs next: about as many as the one before it took, or more than it has run."""
    least = usual if curve is None else curve.length + 1
    length = _FIRST
    while length < least:
        length *= _LONGER
    return min(length, budget)


def _least(key: str, curves: Mapping[tuple[str, float], Curve]) -> float:
    """Returns the smallest step size of a search that has run; infinite where none has."""
    return min((lr for known, lr in curves if known == key), default=math.inf)
