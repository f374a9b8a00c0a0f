"""What each node keeps besides its model: declared once, by settings of local SGD, messages and the algorithm."""

from collections.abc import Sequence

import numpy as np

from batchednodes.algorithms.fields import Field
from batchednodes.config import Config

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}
"""Bytes of one number of a model, by its type [B]."""

LABELS = {"v": "momentum", "read": "models read (delta)", "age": "ages"}
"""What a plan calls some fields; others by their names."""


def declared(configs: Sequence[Config], momentum: bool, ages: int) -> dict[str, Field]:
    """Returns the fields of the state of networks in one batch, by name.

    Args:
        configs: settings of each network.
        momentum: whether any node has momentum.
        ages: parts of a model by whose ages step sizes are divided; 0: they are not.
    """
    found = dict[str, Field]()
    if momentum:
        found["v"] = Field(travels=True)
    if configs[0].update.applies == "delta":
        found["read"] = Field(start="model")
    optimizer = configs[0].local.optimizer
    if type(configs[0].method).descends:
        found |= type(optimizer).fields
    if ages:
        found["age"] = Field(width=ages, dtype="int64", travels=True)
    return found | configs[0].method.declared()


def message(config: Config, p: int) -> int:
    """Returns the bytes of a message of a network that brings p parameters of models; of parts of these, their mean."""
    rule = config.gossip.merge.weighing(np.zeros(1))
    return round(config.method.payload(p, BYTES[config.dtype]) * rule.share / rule.parts)
