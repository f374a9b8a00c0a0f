"""What clocks, delays, availability and losses say of nodes; kinds of the user's own are checked as they say it."""

from typing import Any

import numpy as np

from batchednodes.events.availability import AvailabilityLaw
from batchednodes.events.gaps import Gaps
from batchednodes.events.links.delay import DelayLaw
from batchednodes.numerics.targets import is_own, returned

_LAWS: dict[str, tuple[type, tuple[str, ...]]] = {
    "gaps": (Gaps, ("shift", "scale")),
    "delays": (DelayLaw, ("a", "b", "latency", "transfer")),
    "presence": (AvailabilityLaw, ("a", "b")),
    "losses": (np.ndarray, ()),
}
"""Method of a kind -> what it returns, and the columns of that which have an entry for each node."""


def laws(kind: Any, method: str, key: str, n: int, seed: int, size: int, *more: Any) -> Any:
    """Returns what a kind says of the first nodes of a network.

    Args:
        kind: a clock, delay, availability or loss.
        method: of it, that says so.
        key: section where it stands.
        n: number of nodes.
        seed: of the network.
        size: number of the first nodes.
        more: what else the method takes.

    Raises:
        ValueError: a setting is out of range for some node, or a kind of the user's own returns something else.
    """
    returns, columns = _LAWS[method]
    shapes = dict.fromkeys(columns, (size,))
    found = returned(getattr(kind, method)(n, seed, key, size, *more), (returns,), kind, method, key, **shapes)
    if (
        method == "losses"
        and is_own(type(kind))
        and (found.shape != (4, size) or not ((found >= 0) & (found <= 1)).all())
    ):
        rule = f"four rows of probabilities of {size} nodes, in [0, 1]"
        off = found[~((found >= 0) & (found <= 1))]
        got = f"shape {list(found.shape)}" if found.shape != (4, size) else f"{off[0]:g}"
        said = f"{type(kind).__module__}:{type(kind).__qualname__}, losses() of which must return {rule}, got {got}"
        raise ValueError(f"{key} must be a kind that works, got {said}")
    return found
