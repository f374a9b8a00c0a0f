"""Console: what is printed, where it can be, and what is said on standard error.

What is printed is text as it is: names, settings and messages are a user's, and may hold what Rich takes for markup, so
that it reads none. What has a style is a `Text`.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

_WIDE = 10_000
"""Width of what goes into a file or another program, where no line is broken."""

_STYLES = {"error": "bold red", "warning": "yellow", "interrupted": "yellow"}


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """Returns a console of a standard stream as it is when something is printed; wide where that is no terminal."""
    width = None if stderr or "COLUMNS" in os.environ or sys.stdout.isatty() else _WIDE
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, soft_wrap=stderr, width=width)


@contextmanager
def loading(what: str, quiet: bool) -> Iterator[None]:
    """Says at once, on a terminal, what is loaded before a run can show how far it is; the line goes away then."""
    shown = sys.stdout.isatty() and not quiet
    if shown:
        sys.stdout.write(f"loading {what} ...")
        sys.stdout.flush()
    try:
        yield
    finally:
        if shown:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


class Output:
    """A standard stream that notes, and does not raise, that it cannot be written: a disk is full, a reader gone."""

    def __init__(self, stream: Any) -> None:
        """Writes to a stream."""
        self.stream, self.error = stream, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes a text, unless an error came before."""
        try:
            if self.error is None:
                self.stream.write(text)
        except OSError as error:
            self.error = error
        return len(text)

    def flush(self) -> None:
        """Hands what was written to the operating system, unless an error came before."""
        try:
            if self.error is None:
                self.stream.flush()
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Keeps Python from trying again, at its end, what could not be written."""
        self.flush()
        if self.error is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def check_written(left: object = None) -> None:
    """Checks that standard output was written as far as somebody reads it.

    Args:
        left: where the results are; None: they are what is printed.

    Raises:
        OSError: a disk is full, or the like.
    """
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if error is not None and error.errno != errno.EPIPE:
        where = "" if left is None else f"; the results are in {left}"
        raise OSError(f"standard output cannot be written: {error.strerror or error}{where}")


def say(kind: str, message: object) -> None:
    """Prints a line on standard error; kind: error, warning or interrupted."""
    line = Text.assemble((f"{kind}:", _STYLES[kind]), " ", str(message))
    console(stderr=True).print(line, highlight=False)
