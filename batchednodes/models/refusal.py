"""What is said where a user's model fails: the rule, what PyTorch says, the module that was running, and a remedy."""

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from torch import nn

from batchednodes.numerics import memory

REMEDY = "; see docs/how-to/model.md for what a stacked model may hold"
"""End of the message about a module that rows cannot hold."""


def refusal(rule: str, error: BaseException, place: str | None = None) -> BaseException:
    """Returns the error to raise for one that a user's model raised.

    Args:
        rule: what the model must do.
        error: that it raised instead.
        place: the module that raised it, in words; None: the innermost one that was running.
    """
    if memory.exhausted(error):
        return MemoryError(memory.reason(error))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    for long, short in _SHORTER:
        reason = long.sub(short, reason)
    frames = reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)])
    place = running(frames) if place is None else place
    within = f" (in {place})" if place else ""
    kind = RangeError if _RANGE.search(str(error)) else ValueError
    return kind(f"task.model must {rule}, got: {reason[:300]}{within}{REMEDY}")


class RangeError(ValueError):
    """A user's model refuses an index of the data, which a check of all examples names."""


_RANGE = re.compile(r"out of (range|bounds)|smaller than num_classes|not in the valid range|found idx to be")
"""How PyTorch says that an index is out of range."""


_SHORTER = (
    (re.compile(r"\s*Please (file|open) an issue.*"), ""),  # what PyTorch asks of its users, which concerns nobody here
    (
        re.compile(r"It looks like you're either .*"),
        "a value decides what is done: .item(), or data-dependent control flow",
    ),
)
"""What is put in place of some words of PyTorch."""


def running(frames: Iterable[FrameType]) -> str:
    """Returns the class of the module that runs in some frames, the innermost one first; nothing where none does."""
    selves = (frame.f_locals.get("self") for frame in frames)
    return next((type(m).__name__ for m in selves if isinstance(m, nn.Module)), "")


@contextmanager
def named_faults() -> Iterator[None]:
    """Raises what a user's model raises during a run, of values that training came to, as one message.

    Raises:
        ValueError: for that.
    """
    try:
        yield
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if memory.exhausted(error) or not running(frames):
            raise
        raise refusal("take what training makes of its parameters", error) from error
