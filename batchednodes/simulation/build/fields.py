"""What each node keeps besides its model: declared once, by settings of local SGD, messages and the algorithm."""

from collections.abc import Sequence

from batchednodes.algorithms.fields import Field
from batchednodes.config import Config

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
    if type(configs[0].algorithm).descends:
        found |= type(optimizer).fields
    if ages:
        found["age"] = Field(width=ages, dtype="int64", travels=True)
    return found | configs[0].algorithm.declared()
