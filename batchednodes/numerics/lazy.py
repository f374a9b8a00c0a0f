"""Imports that wait: a command that refuses what it was given loads nothing that it does not need for that.

PyTorch takes longer to import than a command may take to refuse, so settings are read and checked without it. A module
that needs it, pandas, or a part of this package that imports them, in some of its functions only, names them so:

    if TYPE_CHECKING:
        import torch
    else:
        torch = deferred("torch")

Type checkers, and the test of the order of modules, read the first import. SciPy's subpackages wait by themselves:
`import scipy`, then `scipy.special`.
"""

from importlib import import_module
from typing import Any


class _Deferred:
    """Stands for a module; it is not among `sys.modules`, where other packages would take it for one that is loaded."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def deferred(name: str) -> Any:
    """Returns what stands for a module, which is imported when one of its names is first used.

    Example:
        >>> from batchednodes.numerics.lazy import deferred
        >>> statistics = deferred("statistics")  # imported at the next line, not here
        >>> statistics.median([1, 5, 2])
        2

    Args:
        name: in full, as "batchednodes.simulation.training".
    """
    return _Deferred(name)
