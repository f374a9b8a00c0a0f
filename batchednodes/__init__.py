"""Asynchronous decentralized learning of many nodes, simulated exactly and at scale on one GPU or a CPU."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchednodes.caches import forget_stale
from batchednodes.imports import deferred

if TYPE_CHECKING:
    from batchednodes import gossip, training
    from batchednodes.config import Config, load
    from batchednodes.gossip import GossipMatrix
    from batchednodes.training import Result, resume, train
else:
    gossip = deferred("batchednodes.gossip")
    training = deferred("batchednodes.training")
    _HOMES = {
        "Config": "batchednodes.config",
        "load": "batchednodes.config",
        "GossipMatrix": "batchednodes.gossip",
        "Result": "batchednodes.training",
        "resume": "batchednodes.training",
        "train": "batchednodes.training",
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

__version__ = version("batchednodes")

__all__ = ["Config", "GossipMatrix", "Result", "__version__", "load", "resume", "train"]
