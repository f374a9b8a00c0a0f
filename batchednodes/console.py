"""Console: what is said on standard error.

Letters: none.
"""

from rich.console import Console
from rich.markup import escape


def say(label: str, message: object) -> None:
    """Prints a line on standard error, whatever signs the message has."""
    Console(stderr=True, soft_wrap=True).print(f"{label} {escape(str(message))}", highlight=False)
