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
        """Returns a public name from where it is defined, which is imported then: settings are read without PyTorch."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


forget_stale(Path(__file__).parent)

__version__ = version("batchednodes")

__all__ = ["Config", "GossipMatrix", "Result", "__version__", "load", "resume", "train"]
