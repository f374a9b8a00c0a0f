"""What must hold of the nodes, their graph and the executor, and of what may differ from node to node.

Notation: n nodes, c the settings, a `Config`.
"""

from typing import Any

import numpy as np

from batchednodes import topology as graphs
from batchednodes.config.kinds import READER
from batchednodes.config.laws import laws
from batchednodes.config.personal import check_personal
from batchednodes.config.robust import check_attackers
from batchednodes.config.rules import refuse
from batchednodes.events import schemes
from batchednodes.events.links import delay
from batchednodes.events.merge import MergeLaw
from batchednodes.events.rounds import Rounds
from batchednodes.numerics.targets import returned
from batchednodes.numerics.values import per_node, shown

CHECKED = 1_000_000
"""Nodes whose quantities are checked when settings are read; those of later nodes are checked when they are made."""


def check_together(c: Any) -> None:
    """Checks the number of nodes, the graph and the executor against other settings.

    Raises:
        ValueError: they do not fit together.
    """
    n, evaluated, track = c.network.nodes, c.run.eval_nodes, c.staleness.track
    refuse((
        (f"run.eval_nodes must be at most network.nodes = {n}, got {evaluated}", evaluated is not None and
         evaluated > n, "null means all"),
        (f"staleness.track must be at most network.nodes = {n}, got {track}", isinstance(track, int) and track > n,
         "use 'all'"),
    ))  # fmt: skip
    check_graph(c.network.topology, c.network.weights, c.gossip.scheme, n, c.run.until)
    batching = {"local.chunk": c.local.chunk, "local.compile": c.local.compile, "run.mixing": c.run.mixing}
    for key in [key for key, value in batching.items() if c.executor == "serial" and value not in (None, "auto")]:
        raise ValueError(
            f"{key} must be left out with executor=serial, which has no batches, got {shown(batching[key])}"
        )


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
    check_weights(topology, weights, stored=not isinstance(topology, graphs.Changing | graphs.Complete))
    shape = READER.plain(topology, "network.topology")["kind"]
    kind = READER.plain(weights, "network.weights")["kind"]
    reason = f"network.topology.kind={shape}, a graph that changes" if changes else f"network.weights.kind={kind}"
    if not scheme.independent:
        got = READER.plain(scheme, "gossip.scheme")["kind"]
        raise ValueError(f"gossip.scheme.kind must be uniform with {reason}, got {got!r}")
    if isinstance(topology, graphs.Changing):
        _check_rounds(topology, n, until)


def check_weights(topology: graphs.Topology, weights: graphs.Weights, *, stored: bool) -> None:
    """Checks that weights have neighbours to belong to.

    Args:
        topology: whom a node may contact.
        weights: how likely each is.
        stored: whether its graph lists neighbours once for all: what a kind of the user's own makes says that.

    Raises:
        ValueError: they have none.
    """
    if stored or isinstance(weights, graphs.UniformWeights):
        return
    shape = READER.plain(topology, "network.topology")["kind"]
    kind = READER.plain(weights, "network.weights")["kind"]
    raise ValueError(
        f"network.weights.kind must be uniform with network.topology.kind={shape}, whose neighbours are not stored "
        f"or change, got {kind!r}"
    )


def _check_rounds(topology: graphs.Changing, n: int, until: float) -> None:
    try:
        seconds = topology.seconds(n)
    except ValueError as error:
        raise ValueError(f"network.topology.{error}") from None
    if until > graphs.ROUNDS * seconds:
        least = f"at least run.until / {graphs.ROUNDS:,} = {until / graphs.ROUNDS:g} [s]"
        raise ValueError(f"network.topology.period must be {least}, got {seconds:g}")


def check_nodes(c: Any) -> None:
    """Checks what may differ from node to node, of the first nodes.

    Raises:
        ValueError: a setting is out of range for some node.
    """
    n, seed, size = c.network.nodes, c.seed, min(c.network.nodes, CHECKED)
    if not c.gossip.delay.reads_files:
        _check_delays(c, size)
    laws(c.gossip.loss, "losses", "gossip.loss", n, seed, size)
    if not c.network.availability.reads_files:
        laws(c.network.availability, "presence", "network.availability", n, seed, size)
    c.network.churn.times(n, seed, "network.churn", size)
    check_attackers(c)
    check_personal(c)
    laws(c.update.clock, "gaps", "update.clock", n, seed, size)
    gaps = laws(c.gossip.clock, "gaps", "gossip.clock", n, seed, size)
    if not (gaps.is_memoryless() or c.gossip.scheme.independent):
        raise ValueError("gossip.scheme.kind must be uniform where gaps of gossip.clock are not exponential")
    c.gossip.scheme.check(n, c.gossip.exchange)
    weight, merge = (
        per_node(c.gossip.weight, n, seed, "gossip.weight", high=1.0, open_high=False, size=size),
        c.gossip.merge,
    )
    returned(merge.weighing(weight), (MergeLaw,), merge, "weighing", "gossip.merge", a=(size,), b=(size,))
    c.local.check(n, seed, size)


def _check_delays(c: Any, size: int) -> None:
    """Checks delays, which of a uniform law must allow a whole number of steps where time goes by steps."""
    late = laws(c.gossip.delay, "delays", "gossip.delay", c.network.nodes, c.seed, size, 1)
    uniform = isinstance(c.timing, Rounds) and late.law == delay.UNIFORM
    bad = np.flatnonzero(np.ceil(late.a) > np.floor(late.b)) if uniform else []
    if len(bad):
        ends = f"{late.a[bad[0]]:g} .. {late.b[bad[0]]:g} [s]"
        raise ValueError(f"gossip.delay must allow a whole number of steps with timing.kind=rounds, got {ends}")
