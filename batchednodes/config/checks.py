"""What must hold of graphs that change, and of weights, with other settings; and of what kinds say of nodes.

Notation: n nodes.
"""

from typing import Any

import numpy as np

from batchednodes import topology as graphs
from batchednodes.config.kinds import READER
from batchednodes.events import schemes
from batchednodes.events.availability import AvailabilityLaw
from batchednodes.events.clocks import Gaps
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


def check_graph(
    topology: graphs.Topology,
    weights: graphs.Weights,
    scheme: schemes.Scheme,
    n: int,
    until: float,
) -> None:
    """Checks what concerns graphs that change, and weights, together with other settings.

    Args:
        topology: whom a node may contact.
        weights: how likely each is.
        scheme: who may transmit, when.
        n: number of nodes.
        until: end of the run [s].

    Raises:
        ValueError: they do not fit together.
    """
    changes, weighted = isinstance(topology, graphs.Changing), not isinstance(weights, graphs.UniformWeights)
    if not changes and not weighted:
        return
    shape = READER.plain(topology, "network.topology")["kind"]
    kind = READER.plain(weights, "network.weights")["kind"]
    if weighted and isinstance(topology, graphs.Changing | graphs.Complete):
        raise ValueError(
            f"network.weights.kind must be uniform with network.topology.kind={shape}, whose neighbours are not stored "
            f"or change, got {kind!r}"
        )
    reason = f"network.topology.kind={shape}, a graph that changes" if changes else f"network.weights.kind={kind}"
    if not isinstance(scheme, schemes.Uniform):
        got = READER.plain(scheme, "gossip.scheme")["kind"]
        raise ValueError(f"gossip.scheme.kind must be uniform with {reason}, got {got!r}")
    if isinstance(topology, graphs.Changing):
        _check_rounds(topology, n, until)


def _check_rounds(topology: graphs.Changing, n: int, until: float) -> None:
    try:
        seconds = topology.seconds(n)
    except ValueError as error:
        raise ValueError(f"network.topology.{error}") from None
    if until > graphs.ROUNDS * seconds:
        least = f"at least run.until / {graphs.ROUNDS:,} = {until / graphs.ROUNDS:g} [s]"
        raise ValueError(f"network.topology.period must be {least}, got {seconds:g}")
