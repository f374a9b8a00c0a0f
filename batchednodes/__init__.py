"""Asynchronous decentralized learning of many nodes, simulated exactly and at scale on one GPU or a CPU."""

from importlib.metadata import version

from batchednodes.config import Config, load
from batchednodes.gossip import GossipMatrix
from batchednodes.training import Result, resume, train

__version__ = version("batchednodes")

__all__ = ["Config", "GossipMatrix", "Result", "__version__", "load", "resume", "train"]
