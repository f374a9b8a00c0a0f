"""Notes on labels and real targets that may be a mistake, as sentences that a user is shown."""

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from batchednodes.numerics.values import shown

_NAMED = 5
"""Labels that a sentence names, at most."""

_SEARCHED = 1000
"""Labels among which one like another is looked for, at most."""

_LARGEST, _DISTINCT = 1000, 100
"""The largest size, and the most different ones, of real targets that look like labels."""


def unseen(
    labels: Sequence[Int64[np.ndarray, " ..."]], key: str, names: Sequence[object] | None = None
) -> tuple[str, ...]:
    """Returns a sentence on labels that test samples have and training samples lack; none where there are none.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data.sources.labels import unseen
        >>> unseen([np.array([0, 1, 1]), np.array([1, 2])], "task.data.test_path")
        ('test rows have labels that no training row has, and no model learns: 2 (1 time)',)

    Args:
        labels: of the training samples and, if the user gave these, of the test samples.
        key: the setting that gave the latter.
        names: of labels 0, 1, ...; None: their numbers.

    Raises:
        ValueError: training samples lack all labels of the test samples.
    """
    if len(labels) == 1:
        return ()
    known, (held, counts) = np.unique(labels[0]), np.unique(labels[1], return_counts=True)
    new = ~np.isin(held, known)
    if not new.any():
        return ()
    called = [str(k) if names is None else _word(names[k]) for k in held[new][:_NAMED]]
    hints = [""] * len(called) if names is None else [_like(names[k], known, names) for k in held[new][:_NAMED]]
    times = [f"{count:,} time{'s' if count > 1 else ''}" for count in counts[new]]
    some = (f"{name} ({often}{hint})" for name, often, hint in zip(called, times, hints, strict=False))
    listed = ", ".join(some) + (f" and {new.sum() - _NAMED:,} more" if new.sum() > _NAMED else "")
    if new.all():
        raise ValueError(f"{key} must hold test labels that training rows have, got only others: {listed}")
    return (f"test rows have labels that no training row has, and no model learns: {listed}",)


def _word(name: object) -> str:
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    return shown(name) if isinstance(name, str) else str(name)


def _like(name: object, known: Int64[np.ndarray, " _"], names: Sequence[object]) -> str:
    """Returns what to say of the training label whose name is most like that of another."""
    if not isinstance(name, str) or name[-1:].isdigit():
        return ""
    near = difflib.get_close_matches(name, [str(names[i]) for i in known[:_SEARCHED]], 1, 0.7)
    return f"; did you mean {shown(near[0])}?" if near else ""


def from_one(parts: Sequence[Int64[np.ndarray, " _"]]) -> tuple[str, ...]:
    """Returns a sentence on labels that begin at 1; none where they do not."""
    if min(part.min() for part in parts) != 1:
        return ()
    most = max(part.max() for part in parts)
    return (f"labels are 1 to {most}, and no row has label 0, for which models put out a number too; subtract 1",)


def whole(targets: np.ndarray) -> tuple[str, ...]:
    """Returns a sentence on real targets that look like labels; none where they do not."""
    if targets.size != len(targets) or not (np.abs(targets) <= _LARGEST).all():
        return ()
    values = np.unique(targets)
    if not (values == np.rint(values)).all() or not 2 <= len(values) <= min(_DISTINCT, len(targets) // 2):
        return ()
    ends = f"{values[0]:g} to {values[-1]:g}"
    return (f"regression on whole numbers, {ends}; set task.data.classes=true if they are labels",)
