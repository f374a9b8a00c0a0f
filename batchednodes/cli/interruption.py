"""Interruption: signals and a time limit that ask a command to halt, and what it says and returns then.

Nothing is imported here that takes time, so that a Ctrl-C is met from the beginning.
"""

import os
import re
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from batchednodes.numerics import ranks
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes.numerics import values
else:
    values = deferred("batchednodes.numerics.values")

TIMED_OUT = 124
"""Exit code of a command that halted at its time limit; the same as that of `timeout`."""

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_SPAN = r"(?<![\d.])(\d+(?:\.\d+)?)\s*(s|min|m|h|d)"
"""A number with its unit."""

_CURSOR = b"\x1b[?25h"
"""Lets a terminal show its cursor again, which progress bars hide."""

_MOMENT = 0.02
"""Time after which an exception is tried again [s]."""

_DEAF = ("importlib", "llvmlite", "numba")
"""Packages in whose calls an exception that comes from outside is lost, or does harm."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Halt:
    """Handles SIGINT while a command has nothing to save: it ends in one line, and at a second one at once.

    Modules that are imported may take the exception for one of their own, and where C++ calls Python it is lost, or
    ends the process in a heap of words: it comes once nothing is being imported or compiled.
    """

    def __init__(self) -> None:
        """Begins to handle SIGINT, and SIGALRM, by which it comes again."""
        self.asked = False
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raises KeyboardInterrupt, now or in a moment."""
        if number == signal.SIGINT and self.asked:
            os._exit(128 + number)
        if number == signal.SIGINT:
            self.asked = True
            if not ranks.number():
                _say("interrupted; nothing that was there has changed")
        if _deaf(frame):
            signal.setitimer(signal.ITIMER_REAL, _MOMENT)
        else:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if it has not come yet, or was lost."""
        if self.asked:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    def close(self) -> None:
        """Lets nothing interrupt what is left to do at the end of a process."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)


def _deaf(frame: FrameType | None) -> bool:
    """Returns whether some module is being imported, or a kernel compiled."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _DEAF:
            return True
        frame = frame.f_back
    return False


class Interruption:
    """While it is entered, signals that ask to halt are noted; a SIGINT after another one ends the process at once.

    One that is ignored, as SIGHUP is under `nohup`, stays so.
    """

    def __init__(self, limit: float | None) -> None:
        """Begins to count; limit: seconds from now after which to halt, None: never."""
        self.deadline = None if limit is None else time.monotonic() + limit
        self.signal: int | None = None

    def __enter__(self) -> "Interruption":
        heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._note) for number in heard}
        first = self.before.get(signal.SIGINT)
        if isinstance(first, Halt):
            first.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self.before.items():  # a rank that fails says why before torchrun's signal ends it
            signal.signal(number, handler if kind is None or not ranks.several() else signal.SIG_IGN)

    def __call__(self) -> bool:
        """Returns whether to halt."""
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    @property
    def code(self) -> int:
        """Exit code of a command that halted; where nothing asked it to, another rank has got a signal."""
        if self.signal is None:
            return TIMED_OUT if self() else 128 + signal.SIGTERM
        return 128 + self.signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            _say("stopped at once; the last checkpoint is as it was")
            if os.isatty(1):
                os.write(1, _CURSOR)
            os._exit(128 + number)
        self.signal = self.signal or number
        if number == signal.SIGINT and not ranks.number():
            _say("halting with a checkpoint; once more, and it stops at once")


def _say(text: str) -> None:
    """Writes a line where a signal may come while Python's own stream is being written, or nobody reads any more."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def seconds(text: str | None) -> float | None:
    """Returns a span of time, as "2h", "90min" or "1h30m", in seconds; a number alone is seconds; None: no limit.

    Raises:
        ValueError: it is none, or not positive.
    """
    if text is None:
        return None
    named = text if any(letter.isalpha() for letter in text) else f"{text}s"
    parts, rest = re.findall(_SPAN, named), re.sub(rf"{_SPAN}|\s", "", named)
    if rest or not any(float(number) for number, _ in parts):
        raise ValueError(f"--time-limit must be a positive time such as 2h, 90min or 1h30m, got {values.shown(text)}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
