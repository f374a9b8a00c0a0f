"""What must hold of an algorithm together with other settings: where it is sound, and what would have no effect."""

from typing import Any

from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.algorithms.optim import SGD
from batchednodes.events.clocks import AtUpdate
from batchednodes.events.links.delay import Instant
from batchednodes.events.merge import Fixed, Mean
from batchednodes.events.rounds import Continuous
from batchednodes.events.schemes import Uniform
from batchednodes.events.synchronous import Synchronous
from batchednodes.topology import Changing


def check_algorithm(c: Any, kind: str, plain: Any) -> None:
    """Checks an algorithm, the timing and the clock of contacts against the other settings.

    Args:
        c: the settings, a `Config`.
        kind: of the algorithm, as it is written.
        plain: the settings that a run has which says nothing.

    Raises:
        ValueError: they do not fit together.
    """
    g, a, local, rounds = c.gossip, type(c.algorithm), c.local, isinstance(c.timing, Synchronous)
    at_update, which = isinstance(g.clock, AtUpdate), f"algorithm.kind={kind}"
    own, column, simple = a is not GossipSGD, a.mixing == "column", isinstance(c.timing, Continuous)
    sgd, edges = isinstance(local.optimizer, SGD), bool(a.living("edge"))
    placed = edges or bool(a.living("inbox"))
    settings = {name: getattr(local, name) != getattr(plain.local, name) for name in ("momentum", "nesterov")}
    idle = [f"local.{name}" for name, given in (settings | {"optimizer": not sgd}).items() if given and not a.descends]
    rules = (
        (f"timing.kind must be continuous or rounds with {which}, which is sound at single contacts only",
         rounds and "rounds" not in a.timing, "leave out timing"),
        (f"timing.kind must be synchronous with {which}, which is sound in rounds only",
         not rounds and "events" not in a.timing, "set timing.kind=synchronous"),
        (f"timing.kind must be continuous or synchronous with {which}", own and not rounds and not simple,
         "leave out timing"),
        (f"gossip.clock.kind must be at_update with {which}, which meets a neighbour at each update",
         a.contact == "at_update" and not at_update and not rounds,
         "set gossip.clock.kind=at_update and gossip.exchange=meet"),
        ("gossip.scheme.kind must be uniform with gossip.clock.kind=at_update or timing.kind=synchronous",
         (at_update or rounds) and not isinstance(g.scheme, Uniform), "use kind uniform"),
        (f"gossip.exchange must be meet with {which}, which needs doubly stochastic mixing",
         a.mixing == "double" and not rounds and g.exchange != "meet", "set gossip.exchange=meet"),
        (f"gossip.exchange must be push with {which}, whose pushes take from their senders what they bring",
         column and not rounds and g.exchange != "push", "leave it out"),
        (f"gossip.on_receipt must be merge with {which}", own and g.on_receipt != "merge", "leave it out"),
        (f"gossip.merge.kind must be fixed or mean with {which}", own and not isinstance(g.merge, Fixed | Mean),
         "leave it out"),
        (f"network.churn.start must be fresh with {which}", own and c.network.churn.start != "fresh", "leave it out"),
        (f"update.applies must be at_completion with {which}", own and c.update.applies != "at_completion",
         "use algorithm.kind=ad_psgd for stale gradients"),
        (f"timing.kind must be continuous with {which}, which keeps state for edges, or what has come",
         placed and rounds, "leave out timing"),
        (f"network.topology.kind must be one that does not change with {which}, which keeps state for each edge",
         edges and isinstance(c.network.topology, Changing), "use another graph"),
        (f"gossip.delay.kind must be none with {which}, which keeps state for each edge, as it is when a message comes",
         edges and not isinstance(g.delay, Instant), "leave it out"),
        (f"gossip.reply must be after with {which}, which keeps state for each edge", edges and g.reply == "before",
         "leave it out"),
        (f"{' and '.join(idle)} must be left out with {which}, which makes its own steps", idle, "leave out"),
        *((f"{key} must be left out with timing.kind=synchronous, in whose rounds all nodes update, then mix", rounds
           and given, "leave it out") for key, given in _without_rounds(c, plain).items()),
    )  # fmt: skip
    for rule, broken, remedy in rules:
        if broken:
            raise ValueError(f"{rule}; {remedy}")


def _without_rounds(c: Any, plain: Any) -> dict[str, bool]:
    """Returns by key whether settings are given that mean nothing in synchronous rounds."""
    g, u, n = c.gossip, c.update, c.network
    names = ("clock", "reply", "delay", "fifo", "loss", "merge", "on_receipt", "flow", "weight")
    return {
        **{f"gossip.{name}": getattr(g, name) != getattr(plain.gossip, name) for name in names},
        **{
            f"update.{name}": getattr(u, name) != getattr(plain.update, name)
            for name in ("clock", "applies", "while_off")
        },
        **{f"network.{name}": getattr(n, name) != getattr(plain.network, name) for name in ("availability", "churn")},
        "gossip.exchange": g.exchange not in ("push", "pull"),
        "run.on_divergence": c.run.on_divergence == "quarantine",
        "run.baseline": c.run.baseline != "none",
    }
