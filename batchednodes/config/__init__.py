"""A `Config` says everything about a run; reading one changes nothing. The only package that knows OmegaConf.

The dataclasses can be made in Python too, `Config(network=Network(nodes=50))`: the checks are the same.
"""

from batchednodes.config.files import Override, assigned, dump, load, to_dict
from batchednodes.config.kinds import KINDS, READER, register
from batchednodes.config.local import Local
from batchednodes.config.messages import has_messages
from batchednodes.config.registry import blamed
from batchednodes.config.run import Every, Run, Staleness
from batchednodes.config.schema import (
    Config,
    Gossip,
    Network,
    Task,
    Update,
    reseeded,
    unswept,
)

__all__ = [
    "KINDS",
    "READER",
    "Config",
    "Every",
    "Gossip",
    "Local",
    "Network",
    "Override",
    "Run",
    "Staleness",
    "Task",
    "Update",
    "assigned",
    "blamed",
    "dump",
    "has_messages",
    "load",
    "register",
    "reseeded",
    "to_dict",
    "unswept",
]
