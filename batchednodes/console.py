"""Console: what is printed, where it can be, and what is said on standard error.

Letters: none.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.markup import escape


class Output:
    """Standard output that notes, and does not raise, that it cannot be written: a full disk, a reader that is gone."""

    def __init__(self) -> None:
        """Writes to standard output as it is then."""
        self.stream, self.error = sys.stdout, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes a text, unless an error came before."""
        self._do(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hands what was written to the operating system, unless an error came before."""
        self._do(self.stream.flush)

    def _do(self, what: Callable[[], object]) -> None:
        try:
            if self.error is None:
                what()
        except OSError as error:
            self.error = error

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        """Keeps Python from trying again, at its end, what could not be written."""
        if self.error is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def check(self, left: object) -> None:
        """Checks that all was written.

        Args:
            left: where the results are.

        Raises:
            OSError: something could not be.
        """
        if self.error is not None:
            reason = self.error.strerror or self.error
            raise OSError(f"standard output cannot be written: {reason}; the results are in {left}")


def say(label: str, message: object) -> None:
    """Prints a line on standard error, whatever signs the message has."""
    with suppress(OSError):  # of a terminal that is closed
        Console(stderr=True, soft_wrap=True).print(f"{label} {escape(str(message))}", highlight=False)
