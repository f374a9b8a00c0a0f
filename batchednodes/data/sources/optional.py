"""Packages that only some kinds of data need: imported where they are used, and named where they are missing."""

from importlib import import_module
from typing import Any

from batchednodes.numerics.quiet import filtered


def extra(module: str, name: str, kind: str) -> Any:
    """Returns a module that an extra of the package brings.

    Args:
        module: its full name.
        name: of the extra.
        kind: of data that needs it.

    Raises:
        ValueError: it is not installed.
    """
    try:
        with filtered("ignore"):  # a package may warn of what it imports
            return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(
            f"kind must be one whose packages are installed, got {kind}, which needs {package}: "
            f"pip install 'batchednodes[{name}]'"
        ) from None
