"""The way back: the latest state of a run that can be read.

A damaged one is named, and the one before it is taken. Over ranks each looks for damage in its share of the files, and
they agree on what they found.
"""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from batchednodes.algorithms.share import Share
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.header import DamageError, newest_first
from batchednodes.results.checkpoints.snapshot import Snapshot
from batchednodes.results.folder.inside import Inside

T = TypeVar("T")

_KINDS = (DamageError, ValueError, OSError)
"""Errors of reading, the first that fits; of several ranks, the last of these counts."""


def newest(
    folder: Inside, device: torch.device, check: Callable[[Snapshot], object], share: Share | None = None
) -> Snapshot | None:
    """Returns the latest state of a run that is whole and passes a check; None where there is none.

    A damaged file is named in a warning, and renamed, so that it does not count as a checkpoint any more. What does not
    pass the check is named too, and left.

    Args:
        folder: of the run.
        device: where the state goes.
        check: raises ValueError if the run cannot go on from a snapshot; over ranks the first one is asked.
        share: what this rank holds, and reads; all ranks must call this. None: there are no others.

    Raises:
        ValueError: another version of batchednodes wrote a file; nothing has changed.
        OSError: a file cannot be read, which may pass; nothing has changed.
    """
    first, paths = share is None or share.first, _agreed(lambda: newest_first(folder), share)
    for path in paths:
        try:
            snapshot = _agreed(lambda path=path: checkpoint.load(path, device, share), share, every=True)
        except DamageError as error:
            if first:
                path.rename(f"{path.name}.unusable")
                _warn(f"{error}; renamed to {path.name}.unusable, going on from the one before")
            continue
        try:
            _agreed(lambda snapshot=snapshot: _checked(check, snapshot), share)
            return snapshot
        except ValueError as error:
            if first:
                _warn(f"{error}, so {path.name} is of no use; going on from the one before")
    if paths and first:
        _warn("there is no one before: the run begins again at t = 0; what is left of it stays")
    return None


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def _checked(check: Callable[[Snapshot], object], snapshot: Snapshot) -> None:
    check(snapshot)


def _agreed(found: Callable[[], T], share: Share | None, every: bool = False) -> T:
    """Returns what the first rank finds, or where every rank looks, what this one does; what one fails with, all do.

    Raises:
        DamageError, ValueError, OSError: a rank does.
    """
    if share is None:
        return found()
    result: T | None = None
    failure: tuple[int, str] | None = None
    if every or share.first:
        try:
            result = found()
        except (OSError, ValueError) as error:
            kind = next(k for k, one in enumerate(_KINDS) if isinstance(error, one))
            failure = kind, str(error)
    failures = share.world.all.collected(failure)
    some = [one for one in failures or () if one is not None]
    told = share.world.all.told((max(some, default=None), None if every else result))
    if told[0] is not None:
        raise _KINDS[told[0][0]](told[0][1])
    return result if every else told[1]  # pyright: ignore[reportReturnType]


def latest(folder: Inside, device: torch.device) -> Snapshot:
    """Returns the latest state of a run that can be read and is finite; changes nothing.

    Example:
        >>> import torch
        >>> import batchednodes
        >>> from batchednodes.results.checkpoints.finding import latest
        >>> from batchednodes.results.folder.inside import Inside
        >>> run = batchednodes.train({"network.nodes": 3, "run": {"until": 2, "mark_every": 1}}, out="run")
        >>> snapshot = latest(Inside(run.folder), torch.device("cpu"))
        >>> snapshot.clocks.time, bool((snapshot.state.x == run.x).all())
        (2.0, True)

    Raises:
        ValueError: there is none.
    """
    reasons = []
    for path in newest_first(folder):
        try:
            snapshot = checkpoint.load(path, device)
        except (ValueError, OSError) as error:  # a run that goes on may have removed it
            reasons.append(str(error))
            continue
        if snapshot.journal.status != "diverged":
            return snapshot
        reasons.append(f"{path} diverged")
    raise ValueError(f"got {str(folder)!r} without a state to start from{': ' if reasons else ''}{'; '.join(reasons)}")
