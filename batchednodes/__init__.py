"""Asynchronous decentralized learning of many nodes, simulated exactly and at scale on GPUs or CPUs."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchednodes.numerics.compile_cache import forget_stale
from batchednodes.numerics.release import release

if TYPE_CHECKING:
    from batchednodes.algorithms.mixing.matrix import GossipMatrix
    from batchednodes.config import Config, load, register
    from batchednodes.figures.python import compare, plan, plot, race, resume, train
    from batchednodes.figures.result import Result
    from batchednodes.results.callbacks import Callback
else:
    _HOMES = {
        "Config": "batchednodes.config",
        "load": "batchednodes.config",
        "register": "batchednodes.config",
        "GossipMatrix": "batchednodes.algorithms.mixing.matrix",
        "Callback": "batchednodes.results.callbacks",
        "Result": "batchednodes.figures.result",
        **dict.fromkeys(("compare", "plan", "plot", "race", "resume", "train"), "batchednodes.figures.python"),
    }

    def __getattr__(name: str) -> Any:
        """Returns a public name, or a module of the package, which is imported then: settings need no PyTorch."""
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        try:
            return import_module(f"batchednodes.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"batchednodes.{name}":
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


forget_stale(Path(__file__).parent)

__version__ = release()

__all__ = [
    "Callback",
    "Config",
    "GossipMatrix",
    "Result",
    "__version__",
    "compare",
    "load",
    "plan",
    "plot",
    "race",
    "register",
    "resume",
    "train",
]
