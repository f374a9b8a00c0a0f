"""What must hold of a network whose peers are not simply uniform among the neighbours in one graph.

Notation: n nodes.
"""

from batchednodes import topology as graphs
from batchednodes.config.kinds import READER
from batchednodes.events import schemes


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
